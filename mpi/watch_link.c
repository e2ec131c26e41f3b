#include "watch_link.h"

#include "dtrain/clock.h"
#include "dtrain/memory.h"

#include <stdlib.h>

enum { TAG_WORD, TAG_END };
enum { BYTES = sizeof(struct watch_word) };

/* The number of a peer in the communicator. */
static int number_of(const struct watch_link *link, int peer)
{
    return link->index == 0 ? peer + 1 : 0;
}

/* Everybody is known before somebody can be missed. */
static void introduce(struct watch_link *link, const struct watch_word *word)
{
    for (int i = 0; i < link->peers; i++) {
        struct watch_peer *peer = &link->peer[i];
        int number = number_of(link, i);
        MPI_Sendrecv(word, BYTES, MPI_BYTE, number, TAG_WORD, &peer->said, BYTES, MPI_BYTE, number,
            TAG_WORD, link->comm, MPI_STATUS_IGNORE);
        peer->heard_s = dtr_clock_s();
        peer->request = MPI_REQUEST_NULL;
    }
}

bool watch_link_create(struct dtr_world *world, bool leads, const struct watch_word *word,
    struct watch_link *link_out, struct dtr_error *error)
{
    int size = 1;
    *link_out = (struct watch_link){.comm = MPI_COMM_NULL};
    leads = leads && world->comm->threads;
    dtr_comm_check(world,
        MPI_Comm_split(world->comm->all, leads ? 0 : MPI_UNDEFINED, world->rank, &link_out->comm),
        "MPI_Comm_split");
    if (link_out->comm != MPI_COMM_NULL) {
        MPI_Comm_set_errhandler(link_out->comm, MPI_ERRORS_RETURN);
        MPI_Comm_rank(link_out->comm, &link_out->index);
        MPI_Comm_size(link_out->comm, &size);
    }
    int peers = link_out->index == 0 ? size - 1 : 1;
    link_out->peer = dtr_alloc(peers, sizeof *link_out->peer, "the watchdog", error);
    if (!dtr_comm_all(world, link_out->peer != NULL))
        return false;
    link_out->peers = peers;
    introduce(link_out, word);
    return true;
}

/* The last message of each pair; what came before it is dropped. */
static void part(struct watch_link *link, int peer)
{
    struct watch_peer *other = &link->peer[peer];
    int number = number_of(link, peer);
    MPI_Status status = {.MPI_TAG = TAG_WORD};
    MPI_Wait(&other->request, MPI_STATUS_IGNORE);
    MPI_Isend(NULL, 0, MPI_BYTE, number, TAG_END, link->comm, &other->request);
    while (status.MPI_TAG != TAG_END)
        MPI_Recv(&other->said, BYTES, MPI_BYTE, number, MPI_ANY_TAG, link->comm, &status);
    MPI_Wait(&other->request, MPI_STATUS_IGNORE);
}

void watch_link_free(struct watch_link *link)
{
    for (int i = 0; i < link->peers; i++)
        part(link, i);
    free(link->peer);
    if (link->comm != MPI_COMM_NULL)
        MPI_Comm_free(&link->comm);
}

static void tell(struct watch_link *link, int peer, const struct watch_word *word)
{
    struct watch_peer *other = &link->peer[peer];
    int sent = 0;
    MPI_Test(&other->request, &sent, MPI_STATUS_IGNORE);
    if (!sent)
        return;
    other->told = *word;
    MPI_Isend(&other->told, BYTES, MPI_BYTE, number_of(link, peer), TAG_WORD, link->comm,
        &other->request);
}

static void listen(struct watch_link *link, int peer, double now_s)
{
    struct watch_peer *other = &link->peer[peer];
    int number = number_of(link, peer), there = 0;
    while (MPI_Iprobe(number, TAG_WORD, link->comm, &there, MPI_STATUS_IGNORE) == MPI_SUCCESS &&
           there) {
        MPI_Recv(&other->said, BYTES, MPI_BYTE, number, TAG_WORD, link->comm, MPI_STATUS_IGNORE);
        other->heard_s = now_s;
    }
}

void watch_link_exchange(struct watch_link *link, const struct watch_word *word, double now_s)
{
    for (int i = 0; i < link->peers; i++) {
        tell(link, i, word);
        listen(link, i, now_s);
    }
}
