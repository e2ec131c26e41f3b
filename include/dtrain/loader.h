/*
 * Batches: which samples a step uses, on which shard. Local; any rank can compute it for any shard.
 *
 * The training set (what is left after the first `validation_size` samples) is cut into S shards of
 * consecutive samples, sizes differing by at most one. Step k of an epoch takes the next slice of
 * batch_size / S samples from every shard, in an order that is a function of (seed, epoch, shard).
 * An epoch is ceil(largest shard / slice) steps; where a shard runs out, its slice is padded with
 * samples of weight zero, so that every sample counts exactly once.
 */
#ifndef DTRAIN_LOADER_H
#define DTRAIN_LOADER_H

#include "dtrain/dataset.h"
#include "dtrain/status.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_loader_config {
    int64_t train_count; /* samples, validation left out */
    int64_t shards, slice;
    int64_t first_shard, shard_count; /* the run of shards that this rank owns */
    bool shuffle;
    uint64_t seed;
};

/* One shard's part of a batch: `slice` places. Arrays belong to the loader and live until the next
 * call of dtr_loader_step(). */
struct dtr_slice {
    const uint8_t **images; /* [slice] pixels [h, w, c]; NULL where padded */
    const uint8_t *labels;  /* [slice] */
    const int64_t *samples; /* [slice] index in the training set, -1 where padded */
};

struct dtr_batch {
    int64_t step, epoch;
    int64_t slice_count, slice_size; /* this rank's slices, in the order of their shards */
    const struct dtr_slice *slices;
    int64_t real; /* samples of the global batch that are not padding: the divisor of the loss */
};

/* Samples of shard s are [first, end) of the training set. */
int64_t dtr_shard_first(int64_t train_count, int64_t shards, int64_t shard);

/* ceil(largest shard / slice). */
int64_t dtr_steps_per_epoch(int64_t train_count, int64_t shards, int64_t slice);

struct dtr_loader;

/* `samples` holds this rank's shards' samples (their indices counted as in the training split of
 * the file, of which the training set begins at `train_first`); its images and labels must outlive
 * the loader. */
enum dtr_status dtr_loader_create(const struct dtr_loader_config *config,
    const struct dtr_samples *samples, int64_t train_first, struct dtr_loader **loader_out,
    struct dtr_error *error);
void dtr_loader_free(struct dtr_loader *loader);

/* The batch of step 0, 1, 2, ...; any order works, ascending order is fast. */
const struct dtr_batch *dtr_loader_step(struct dtr_loader *loader, int64_t step);

#endif
