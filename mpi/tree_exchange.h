/*
 * --reduce tree: what it consists of. Made in tree_setup.c, runs in tree_exchange.c. Private to
 * mpi/.
 *
 * Each rank's segment of the window holds two flags per bucket, numbers of steps: its gradients of
 * that step are final; the parameters of its column are those of that step's end. Whoever waits
 * reads them. A rank that has no column only raises the first.
 *
 * Where everybody is in one window, ranks share the factors of large layers. These gradients are
 * not summed here but given to take(), complete, by the rank whose column they are in; a third flag
 * tells that a rank's factors of a layer are those of a step. Nobody overwrites factors before all
 * parameters of the layer have arrived.
 *
 * Where groups are linked by messages, one thread (progress.h) advances the transfers while the
 * others compute, at most LANE_TRANSFERS of a lane at a time. Buckets of a lane go in the same
 * order on all ranks, so that two ranks never wait for each other's later ones. The lowest buckets
 * have a lane of their own: backward completes them last and the next forward pass needs them
 * first, so they must not stand in line behind the large layers' ones.
 */
#ifndef DTRAIN_MPI_TREE_EXCHANGE_H
#define DTRAIN_MPI_TREE_EXCHANGE_H

#include "exchange.h"
#include "progress.h"
#include "window.h"

#include <mpi.h>

enum { LANES = 2, LANE_TRANSFERS = 4 };

/* What a rank of the group lets the others see. */
struct member {
    _Atomic int64_t *ready, *done; /* [buckets] */
    _Atomic int64_t *published;    /* [layers with factors] */
    const float *gradients;
    struct dtr_tree open;
};

/* A bucket on its way. */
struct transfer {
    int64_t bucket;
    struct span column;
    enum { WAITING, SWAPPING, DONE } state;
    int next;                           /* swap, of the sums' and then of the weights' */
    MPI_Request *requests;              /* two, of the swap at hand */
    struct dtr_tree open;               /* what the sums at hand cover, ... */
    const float *nodes[DTR_TREE_DEPTH]; /* ... and where they are, from the column's start on */
    float *sums, *received, *packed;    /* memory for them, swaps received, swaps to send */
};

/* Buckets [first, end) in order: those below `oldest` are done, those below `next` started. */
struct lane {
    int64_t first, end, oldest, next;
    struct transfer transfers[LANE_TRANSFERS];
};

struct tree_exchange {
    struct dtr_gradsync base;
    struct window window;
    struct member *members; /* [window.size] */
    struct schedule schedule;
    int64_t sum_stride; /* floats of a transfer's open node in memory: the largest column */
    struct lane lanes[LANES];
    MPI_Request requests[2 * LANES * LANE_TRANSFERS];
    struct progress *progress;
};

/* As in struct exchange_ops. */
bool tree_create(struct dtr_gradsync *sync, struct dtr_error *error);
void tree_free(struct dtr_gradsync *sync);

/* For the thread: goes on with all transfers. */
bool tree_advance_all(void *context);

/* No bucket has been started. */
void tree_rewind(struct tree_exchange *exchange);

#endif
