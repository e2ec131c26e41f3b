/*
 * Dense layers, alone or with ReLU, dropout or both behind them: what their parts share. A unit
 * that dropout removes is not computed for that sample, and only kept units that are positive after
 * a ReLU take part in the backward pass: less work, the same result.
 *
 * The inputs are cut into chunks of DENSE_CHUNK, the last one may be shorter, so that a block of
 * DENSE_BLOCK rows of a chunk fits the first-level cache. The kernel (and its gradient) lies as
 * [chunk][unit][length of the chunk]: an order of the canonical [in][out] without holes, so it is
 * the slab's too. The samples are *packed* alike, [chunk][sample][length of the chunk]. Inputs are
 * in the order of the source's memory.
 *
 * Every element is computed by one sequence of operations, given by the shape and the instruction
 * set, however the work is divided and whatever else is computed beside it.
 *
 * Private to src/cpu/fused/. Local. Buffers do not overlap.
 */
#ifndef DTRAIN_CPU_FUSED_DENSE_MATH_H
#define DTRAIN_CPU_FUSED_DENSE_MATH_H

#include "dtrain/tree.h"
#include "isa.h"
#include "vec.h"

#include <stdbool.h>

enum {
    DENSE_CHUNK = 112, /* inputs: 7 vectors of AVX-512, 14 of AVX2 */
    DENSE_BLOCK = 64,  /* samples or units: 28 KB of a chunk */
};

struct dense_shape {
    int64_t in, out; /* `in` is a multiple of VEC */
    /* The source's memory is [in / (pixels * block)][pixels][block], canonically it is
     * [pixels][in / pixels]. Where that is the same, 1 and `in` will do. */
    int64_t pixels, block;
    bool relu, dropout;
    float scale; /* of the units that dropout keeps */
};

/* Samples that are handed over together: `count` slices of n. */
struct dense_slices {
    int64_t count, n;
};

static inline int64_t dense_chunks(const struct dense_shape *shape)
{
    return (shape->in + DENSE_CHUNK - 1) / DENSE_CHUNK;
}

static inline int64_t dense_chunk_length(const struct dense_shape *shape, int64_t chunk)
{
    int64_t left = shape->in - chunk * DENSE_CHUNK;
    return left < DENSE_CHUNK ? left : DENSE_CHUNK;
}

static inline int64_t dense_blocks(int64_t units)
{
    return (units + DENSE_BLOCK - 1) / DENSE_BLOCK;
}

/* The kernel from [in][out] to the slab's order, and back. */
void ISA(dense_order)(const struct dense_shape *shape, const float *canonical, float *slab);
void ISA(dense_canonical)(const struct dense_shape *shape, const float *slab, float *canonical);

/* Packs samples [first, first + count) of `samples`, src [count][in] being the first of them.
 * shared: other cores read them, too (src/stream.h). */
void ISA(dense_load)(const struct dense_shape *shape, int64_t samples, int64_t first, int64_t count,
    const float *src, bool shared, float *packed);

/* Units [unit, unit + units) of samples [sample, sample + samples). */
struct dense_part {
    int64_t unit, units, sample, samples;
};

/*
 * A part of dst [samples][out] = max(inputs * kernel + bias, 0) (without ReLU: the same without
 * max) times the scale where keep [samples][out] is 1, and 0 where it is 0. Without `keep`, NULL,
 * all units count, unscaled. `samples` are those of `packed`.
 *
 * An element's order: the lanes of a vector over a chunk, their sum, the chunks one after another.
 * It is the same with `keep` and without.
 */
void ISA(dense_forward)(const struct dense_shape *shape, int64_t samples,
    const struct dense_part *part, const float *packed, const float *kernel, const float *bias,
    const uint8_t *keep, void *scratch, float *dst);

/* Bytes of scratch for that. */
int64_t ISA(dense_forward_bytes)(const struct dense_part *part);

/* The gradient of a unit before ReLU and dropout, of the `index`-th sample or of the `index`-th
 * unit for a sample. */
struct dense_entry {
    int32_t index;
    float gradient;
};

/* Who takes part in the backward pass. A slice has less than 2^31 pairs of a sample and a unit. */
struct dense_lists {
    /* By sample: its units in rising order from [sample * out] on, and how many there are up to the
     * end of each block of units, ends[sample * dense_blocks(out) + block]. */
    struct dense_entry *by_sample;
    int32_t *sample_ends;
    /* By unit, for each slice: its samples of that slice in rising order, numbered over all slices.
     * Slice i has the entries from [i * n * out] on; after the first ends[i * (out + 2) + unit] of
     * them are the unit's, ending before ends[i * (out + 2) + unit + 1]. */
    struct dense_entry *by_unit;
    int32_t *unit_ends;
};

/* Bytes of memory that lists need, and the lists in it. */
int64_t ISA(dense_lists_bytes)(const struct dense_shape *shape, struct dense_slices slices);
struct dense_lists ISA(dense_lists_in)(
    const struct dense_shape *shape, struct dense_slices slices, void *memory);

/* The same lists by sample, of the slices from `slice` on. */
struct dense_lists ISA(dense_lists_from)(const struct dense_shape *shape,
    struct dense_slices slices, int64_t slice, const struct dense_lists *lists);

/* Lists what takes part of a slice, by sample and by unit: with ReLU the units where dst is
 * positive or NaN, with dropout alone where `keep` is 1 (it is read only then), else all. dst,
 * keep, diff_dst [n][out] are the slice's. diff_bias [out] = their sum over the samples, in their
 * order. */
void ISA(dense_collect)(const struct dense_shape *shape, struct dense_slices slices, int64_t slice,
    const float *dst, const uint8_t *keep, const float *diff_dst, const struct dense_lists *lists,
    float *diff_bias);

/* The inputs' gradients, for chunks [chunk, chunk + chunks) of all samples: the sum over a sample's
 * list in its order. diff_src [slices][n][in], diff_stride floats from slice to slice. */
void ISA(dense_backward)(const struct dense_shape *shape, struct dense_slices slices, int64_t chunk,
    int64_t chunks, const struct dense_lists *lists, const float *kernel, float *diff_src,
    int64_t diff_stride);

/* The order in which a run's slices are added: groups of slices that are whole subtrees, of 1, 2, 4
 * or 8; after each of them the two topmost sums are added `merges` times. */
struct dense_group {
    uint8_t slices, merges;
};
struct dense_run {
    int64_t slices, groups, nodes; /* nodes: open ones that remain */
    const struct dense_group *group;
};

/* The groups of a run, in memory for run.count of them. */
struct dense_run ISA(dense_run_of)(struct dtr_shard_run run, struct dense_group *groups);

/* The kernel's gradient for units [unit, unit + units) of a chunk: a sum from +0 for each slice of
 * n samples, which are all that is packed, these added as the tree says. gradient [units][length of
 * the chunk] is that of the first open node, the others' lie `stride` floats further on each. */
void ISA(dense_gradient)(const struct dense_shape *shape, const struct dense_run *run, int64_t n,
    int64_t chunk, int64_t unit, int64_t units, const struct dense_lists *lists,
    const float *packed, float *gradient, int64_t stride);

#endif
