/*
 * Gradient exchange: sums the gradient slabs of all ranks, bucket by bucket, while the backward
 * pass is still running. Collective: all ranks make the same calls with the same arguments in the
 * same order. Knows no models.
 *
 * Buckets are contiguous ranges of the slab, numbered from its end, since backward completes the
 * last layers first. --reduce allreduce: one MPI_Iallreduce per bucket; equal bits for the same
 * number of ranks.
 */
#ifndef DTRAIN_GRADSYNC_H
#define DTRAIN_GRADSYNC_H

#include "dtrain/status.h"
#include "dtrain/world.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_gradsync;

struct dtr_range {
    int64_t first, count;
};

/* `gradients` [count] is summed in place. bucket_bytes > 0 is the size of a bucket (the last one
 * may be smaller). Without overlap nothing is sent before the backward pass has ended. */
enum dtr_status dtr_gradsync_create(struct dtr_world *world, float *gradients, int64_t count,
    int64_t bucket_bytes, bool overlap, struct dtr_gradsync **sync_out, struct dtr_error *error);
void dtr_gradsync_free(struct dtr_gradsync *sync);

/* Gradients at or above `first` are final on this rank: starts their buckets, and lets those under
 * way progress. A dtr_gradients_ready. */
void dtr_gradsync_ready(void *sync, int64_t first);

/* After ready(0): waits for the next bucket and returns it; false when all have been returned,
 * which also ends the step. */
bool dtr_gradsync_next(struct dtr_gradsync *sync, struct dtr_range *bucket_out);

#endif
