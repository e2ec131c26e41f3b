/*
 * The exchange: sums the ranks' gradients bucket by bucket while the backward pass is still
 * running, lets each rank update the parameters of a share of every bucket, and brings the updated
 * parameters back to everyone, who waits for a layer's only where the next forward pass needs them.
 * Knows no models.
 *
 * --reduce tree: sums in the order of the shard tree, so the bits do not depend on the number of
 * ranks. Ranks of a host work in memory that they share (a *window*): each reads the others'
 * gradients where they are, and all read the same parameters. Between such groups of ranks a bucket
 * takes a reduce-scatter by recursive halving and an allgather by recursive doubling (Thakur,
 * Rabenseifner, Gropp: "Optimization of collective communication operations in MPICH", 2005), in
 * at most 2 log2(groups) + 1 messages a rank.
 *
 * --reduce allreduce: one MPI_Iallreduce per bucket, and every rank updates everything; equal bits
 * for the same number of ranks.
 *
 * Where all ranks share one window, the gradients of large dense layers are not summed: the
 * replicas share what they are products of, and each makes the part of the sum that it updates
 * (*factors*, dtrain/kernel.h). The bits are the same.
 *
 * Buckets are contiguous ranges of the slab, numbered from its end, since backward completes the
 * last layers first. Collective: all ranks make the same calls in the same order; only arrived()
 * and wait() may be called with other ranges and at other times. One thread calls.
 */
#ifndef DTRAIN_GRADSYNC_H
#define DTRAIN_GRADSYNC_H

#include "dtrain/exchange.h"
#include "dtrain/status.h"
#include "dtrain/threads.h"
#include "dtrain/tree.h"
#include "dtrain/world.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_gradsync;

/* auto is the tree. */
enum dtr_reduce { DTR_REDUCE_AUTO, DTR_REDUCE_TREE, DTR_REDUCE_ALLREDUCE };

/* Elements of the slab that this rank updates: [first, first + count). `place` is the first one's
 * number among all that this rank updates, where it may keep what belongs to them. */
struct dtr_share {
    int64_t first, count, place;
};

/* Updates a share's parameters by its gradient [count]. Called for parts of shares, by any thread
 * and by several at a time. */
typedef void dtr_apply(void *context, struct dtr_share share, const float *gradient);

struct dtr_gradsync_config {
    int64_t count;            /* floats of a slab */
    struct dtr_shard_run run; /* this rank's: dtr_shard_run_of(shards, place, size) */
    enum dtr_reduce reduce;
    int64_t bucket_bytes; /* of gradients, > 0; the lowest bucket may be smaller */
    bool overlap;         /* send while the backward pass is running */
    int64_t window_ranks; /* ranks of a host that share a window, at most; 0: all; 1: no windows */
    struct dtr_threads *threads; /* add and update where nobody else computes */
    dtr_apply *apply;
    void *context; /* of apply */
    bool take;     /* a rank that is alone gives gradients to dtr_exchange.take */
    bool alone;    /* the replica itself sums over ranks: this is memory for the parameters */
    /* Layers whose gradients ranks can make from shared factors; so they do where all ranks share
     * one window. May be given up after create. */
    const struct dtr_factored *factored;
    int factored_count;
};

/* One exchange of a world runs a step at a time: their messages look alike. Fails on all ranks
 * together; those to blame have the reason in `error`, so dtr_world_agree() is due. */
enum dtr_status dtr_gradsync_create(struct dtr_world *world,
    const struct dtr_gradsync_config *config, struct dtr_gradsync **sync_out,
    struct dtr_error *error);
void dtr_gradsync_free(struct dtr_gradsync *sync);

/* How a replica takes part, with functions that are declared below. Memory is the exchange's own
 * until it is freed; other ranks may share the parameters: what is written there, all write alike.
 */
struct dtr_exchange dtr_gradsync_exchange(struct dtr_gradsync *sync);

/* Begins a step, before its backward pass: waits for all parameters of the last one. */
void dtr_gradsync_begin(struct dtr_gradsync *sync);

/* Gradients at or above `first` are final on this rank, and the parameters there are no longer
 * read in this step: starts what can be started, and goes on with what is under way. The last call
 * of a step is for 0; without overlap it does the whole exchange. */
void dtr_gradsync_ready(void *sync, int64_t first);

/* Whether the parameters [first, first + count) are those of the last step that was begun and
 * ended; wait() waits until they are. */
bool dtr_gradsync_arrived(void *sync, int64_t first, int64_t count);
void dtr_gradsync_wait(void *sync, int64_t first, int64_t count);

/* Those of dtr_exchange that serve layers whose gradients are not summed by the exchange. */
void dtr_gradsync_take(void *sync, int64_t first, int64_t count, const float *gradient);
bool dtr_gradsync_owns(void *sync, int64_t first, int64_t count);
void dtr_gradsync_publish(void *sync, int layer);
void dtr_gradsync_gather_factors(void *sync, int layer);

/* Puts what the ranks keep for their shares, `mine` [share_count], together to a slab on rank 0
 * (slab_out is NULL elsewhere; elements that belong to no tensor become anything). Between steps.
 */
void dtr_gradsync_gather(struct dtr_gradsync *sync, const float *mine, float *slab_out);

/* The other way, locally: what this rank keeps for its shares, from a slab of everything. */
void dtr_gradsync_keep(const struct dtr_gradsync *sync, const float *slab, float *mine_out);

/* What it has done on this rank since it was made, and what it takes. */
struct dtr_gradsync_stats {
    int64_t buckets;
    int64_t groups, group_size; /* windows of the job, ranks of this one */
    int64_t messages;           /* sent; MPI_Iallreduce's own are not seen */
    int64_t bytes;              /* in them (allreduce: bytes handed to MPI) */
    int64_t memory_bytes;       /* parameters, gradients and buffers that this rank allocated */
    bool windows_failed;        /* memory to share was wanted but could not be had */
    bool progress;              /* a thread moves messages while others compute */
};
struct dtr_gradsync_stats dtr_gradsync_stats(const struct dtr_gradsync *sync);

#endif
