/*
 * How the first ranks of the hosts' boards tell rank 0's watch, and it them, that they are there.
 * Small messages among these ranks alone, from the watches' threads. Private to mpi/.
 */
#ifndef DTRAIN_MPI_WATCH_LINK_H
#define DTRAIN_MPI_WATCH_LINK_H

#include "comm.h"
#include "watch.h"

struct watch_peer {
    struct watch_word said, told; /* the last word from it, and to it */
    double heard_s;               /* when it came, by dtr_clock_s() */
    MPI_Request request;          /* of `told` */
};

struct watch_link {
    MPI_Comm comm;
    int index;
    int peers; /* rank 0's are all others, theirs is rank 0; 0: there is nobody, or no link */
    struct watch_peer *peer; /* [peers] */
};

/* Collective; `leads` says whether this rank takes part, with its first word. Without
 * MPI_THREAD_MULTIPLE nobody does. False when a rank has no memory (that rank knows why). */
bool watch_link_create(struct dtr_world *world, bool leads, const struct watch_word *word,
    struct watch_link *link_out, struct dtr_error *error);

/* After all watches of the job have stopped. */
void watch_link_free(struct watch_link *link);

/* Tells whoever has got the last word already, and takes what has come. Never waits. */
void watch_link_exchange(struct watch_link *link, const struct watch_word *word, double now_s);

#endif
