/*
 * What the ways of summing gradients share: buckets, and the order of a step. dtr_gradsync
 * (gradsync.c) calls them through a table. Private to mpi/.
 */
#ifndef DTRAIN_MPI_EXCHANGE_H
#define DTRAIN_MPI_EXCHANGE_H

#include "dtrain/gradsync.h"
#include "schedule.h"

#include <stdatomic.h>

struct exchange_ops {
    /* Collective. False when this or another rank failed; the ranks that did know why. */
    bool (*create)(struct dtr_gradsync *sync, struct dtr_error *error);
    void (*free)(struct dtr_gradsync *sync);
    /* Begins a step by exchange_begin(): no bucket has arrived. */
    void (*begin)(struct dtr_gradsync *sync);
    /* The gradients of buckets below sync->announced are final on this rank: goes on with what can
     * go on, and returns at once. */
    void (*advance)(struct dtr_gradsync *sync);
    /* Whether a bucket's parameters are those of the end of step sync->step. */
    bool (*arrived)(struct dtr_gradsync *sync, int64_t bucket);
    /* Where there is sync->factors: tells that this rank's factors of a layer are those of this
     * step; whether all ranks' are. */
    void (*publish)(struct dtr_gradsync *sync, int layer);
    bool (*published)(struct dtr_gradsync *sync, int64_t layer);
};

/* Each implementation embeds this as its first member. */
struct dtr_gradsync {
    const struct exchange_ops *ops;
    struct dtr_world *world;
    struct dtr_gradsync_config config;
    int64_t bucket, buckets; /* floats of a bucket, the lowest one may be smaller; how many */
    struct dtr_tree open;    /* of this rank's run */
    int64_t stride;          /* floats of a slab in memory */
    float *weights, *gradients;
    bool shared;                   /* the weights, with other ranks */
    struct dtr_factored *factored; /* [config.factored_count], the caller's list */
    void *factors;                 /* NULL: they are not shared, all gradients are summed */
    struct dtr_share *shares;      /* [buckets] */
    int64_t share_count;
    int64_t step;              /* begun so far */
    _Atomic int64_t announced; /* buckets that are final on this rank in this step */
    struct dtr_gradsync_stats stats;
};

extern const struct exchange_ops exchange_tree, exchange_allreduce, exchange_alone;
extern const int64_t exchange_tree_bytes, exchange_allreduce_bytes,
    exchange_alone_bytes; /* of their structures */

/* Bucket 0 is the slab's end. */
struct span exchange_bucket(const struct dtr_gradsync *sync, int64_t number);

/* Counts a step and takes all announcements back. */
void exchange_begin(struct dtr_gradsync *sync);

/* Zeroed floats that count in the statistics. */
bool exchange_alloc(struct dtr_gradsync *sync, int64_t count, const char *what, float **floats_out,
    struct dtr_error *error);

#endif
