/*
 * How the CPU replica computes a layer: a table of functions per implementation (plain C reference,
 * oneDNN, our own). The reference is the truth that every other is tested against.
 *
 * A *plan* is one layer compiled for slices of n samples. Activations of a slice are
 * [n, ceil(c / b), h, w, b] with a channel block b that each plan chooses: b = c is plain
 * [n, h, w, c], b = 1 is [n, c, h, w], b = 8 what AVX2 convolutions like. Channels beyond c in the
 * last block are zero. The replica converts where neighbours differ (dtr_layout_convert).
 *
 * Gradients: `backward` leaves what a slice contributes in the plan's own partial sums; once all of
 * a rank's slices are through, `reduce` adds them in the order of the shard tree.
 */
#ifndef DTRAIN_KERNEL_H
#define DTRAIN_KERNEL_H

#include "dtrain/model.h"
#include "dtrain/status.h"
#include "dtrain/tree.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_plan;

struct dtr_kernel {
    const char *name; /* "reference", "onednn" */

    /* Fills plan->src_block, dst_block, detail and state; everything else is set. On entry
     * src_block is the block that the layer below produces, a hint. */
    enum dtr_status (*create)(struct dtr_plan *plan, struct dtr_error *error);
    void (*destroy)(struct dtr_plan *plan);

    /* New parameters: kernel and bias in canonical layout, which stay where they are and keep
     * their values until the layer's backward pass has ended. Called by one thread. NULL for layers
     * without. */
    void (*update)(struct dtr_plan *plan, const float *kernel, const float *bias);

    /* One slice. Reads src, writes all of dst. Called by many threads, each with its own slice. */
    void (*forward)(struct dtr_plan *plan, int64_t slice, const float *src, float *dst);

    /* One slice: src and dst as in forward, diff_dst (may be changed) the gradient of dst. Writes
     * all of diff_src unless it is NULL (the first layer), and keeps partial gradients. */
    void (*backward)(struct dtr_plan *plan, int64_t slice, const float *src, const float *dst,
        float *diff_dst, float *diff_src);

    /* Part `part` of `parts` (disjoint, together everything; any number gives the same bits) of the
     * gradients of kernel and bias, canonical layout, summed over the rank's slices as far as the
     * tree allows: those of open node k lie k * sum_stride floats further on. src_all and
     * diff_dst_all are the slices' buffers, one after another. NULL for layers without parameters.
     */
    void (*reduce)(struct dtr_plan *plan, int part, int parts, const float *src_all,
        const float *diff_dst_all, float *diff_kernel, float *diff_bias);
};

/* What a dropout layer needs to know about the slice at hand. */
struct dtr_dropout_key {
    uint64_t seed;
    uint32_t epoch;
    const int64_t *samples; /* [n] index in the training set, -1 where padded */
};

struct dtr_plan {
    const struct dtr_kernel *kernel;
    const struct dtr_layer *layer;
    int64_t n;                /* samples of a slice */
    struct dtr_shard_run run; /* training: slice i belongs to shard run.first + i */
    int64_t lanes;            /* `slice` is below this: run.count, for inference the threads */
    int threads;              /* `parts` is at most this */
    int64_t sum_stride;       /* floats from an open node's gradients to the next one's */
    bool training;            /* inference plans only do forward, and keep nothing for backward */
    bool first;               /* no diff_src is needed */
    int64_t src_block, dst_block;
    char detail[48];                       /* which implementation a library chose */
    const struct dtr_dropout_key *dropout; /* [run.count], set before forward in training */
    void *state;
};

/* The tables. */
extern const struct dtr_kernel dtr_reference_conv, dtr_reference_dense, dtr_maxpool, dtr_dropout;
extern const struct dtr_kernel dtr_onednn_conv, dtr_onednn_dense;

/* Floats of n samples of a shape in blocks of b channels. */
int64_t dtr_layout_count(struct dtr_shape shape, int64_t block, int64_t n);

/* Copies n samples from one channel block to another; padding channels become zero. */
void dtr_layout_convert(struct dtr_shape shape, int64_t n, const float *src, int64_t src_block,
    float *dst, int64_t dst_block);

/*
 * The head: softmax cross-entropy of logits [n, classes].
 * diff_out [n, classes] = (softmax - one-hot) * weight, zero rows where samples[i] < 0.
 * Adds up the loss (natural log, not yet weighted) in the order of i, and the errors: samples whose
 * largest logit (the first of equals) is not their label's. A row with a NaN is an error, and its
 * loss and gradient are NaN.
 */
struct dtr_head_result {
    double loss;
    int64_t errors;
};
struct dtr_head_result dtr_softmax_head(int64_t n, int64_t classes, const float *logits,
    const uint8_t *labels, const int64_t *samples, float weight, float *diff_out);

/* Errors alone, of the first `count` samples. */
int64_t dtr_count_errors(
    int64_t count, int64_t classes, const float *logits, const uint8_t *labels);

/* pixels [h, w, c] to floats in block b, (p - 127.5) / 255 as in the tutorial; NULL gives zeros. */
void dtr_scale_pixels(struct dtr_shape shape, const uint8_t *pixels, int64_t block, float *dst);

#endif
