/*
 * The lists of a convolution's outputs that have a gradient, as conv_sparse.c wants them: by output
 * channel for the kernel's gradient, by position for the source's. Private to src/cpu/fused/.
 */
#ifndef DTRAIN_CPU_FUSED_CONV_LISTS_H
#define DTRAIN_CPU_FUSED_CONV_LISTS_H

#include "conv.h"

/* Distances in floats. */
struct conv_sizes {
    const struct conv_shape *shape;
    int64_t blocks;    /* of source channels */
    int64_t columns;   /* vectors in a row of the kernel's gradient */
    int64_t taps;      /* floats of an output channel's kernel in one block */
    int64_t positions; /* outputs of a result: 4 with a pool, else 1 */

    int64_t src_row, src_plane, src_sample;
    int64_t corner;         /* from the sample to the first result's first tap */
    int64_t step_y, step_x; /* in src, from a result's first tap to its neighbours' */
    int64_t dst_row, dst_plane, dst_sample, dst_origin;
    int64_t winners_plane, winners_sample; /* bytes */

    /* For the gradient of the kernel and of the source: rows of results that are worked on at a
     * time, of several samples only if it is all rows; rows of taps whose sums are in registers. */
    int64_t kernel_band, kernel_samples, source_band;
    int64_t kernel_tile, source_tile;
    int64_t capacity; /* of an output channel's list, in entries */
};

/* The entries of many lists: a gradient, and where that lies which it is multiplied with. */
struct conv_entries {
    int32_t *at;
    float *gradients;
};

/* Entries [first, first + count). Their sums belong to taps `to` floats from some base. */
struct conv_list {
    int64_t first, count, to;
};

/* Results of some samples, rows [begin, end). */
struct conv_band {
    int64_t samples, begin, end;
    const float *dst, *diff_dst; /* the first sample's */
    const uint8_t *winners;
};

/* lists_out[c] for the output channels c in blocks [first, end). An entry is `at` the output's
 * first tap: so many floats from the first sample's first block in src. Up to VEC entries behind a
 * list are spoiled, for which `capacity` has room. Adds the gradients to bias. */
void ISA(conv_list_channels)(const struct conv_sizes *sizes, const struct conv_band *band,
    int64_t first_block, int64_t end_block, struct conv_entries entries_out,
    struct conv_list *lists_out, float *bias);

/* Of one sample: a list for each output position, which may be empty, row by row of the outputs. An
 * entry is `at` the output's channel, a list goes `to` the output's first tap, so many floats from
 * a block of the sample in src. VEC entries behind the last list are spoiled. `bits` is memory for
 * [positions][out.c / VEC]. */
void ISA(conv_list_positions)(const struct conv_sizes *sizes, const struct conv_band *band,
    uint32_t *bits, struct conv_entries entries_out, struct conv_list *lists_out);

#endif
