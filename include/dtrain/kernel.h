/*
 * How the CPU replica computes a layer, or two that are fused: a table of functions per
 * implementation (plain C reference, oneDNN, our own fused kernels). The reference is the truth
 * that every other is tested against.
 *
 * A *plan* is a layer (or two) compiled for slices of n samples. Activations lie as its layouts
 * say; the replica converts where neighbours differ (dtr_layout_convert).
 *
 * The work of an operation is divided into *pieces*: by slices, and where the plan can, each slice
 * among several threads; or all slices together among the threads. However it is divided, the bits
 * are the same.
 *
 * Gradients: `backward` leaves what a slice contributes in the plan's own partial sums; once all of
 * a rank's slices are through, `reduce` adds them in the order of the shard tree.
 */
#ifndef DTRAIN_KERNEL_H
#define DTRAIN_KERNEL_H

#include "dtrain/model.h"
#include "dtrain/replica.h"
#include "dtrain/status.h"
#include "dtrain/tree.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where a sample's values lie: [ceil(c / block)][top + h + bottom][left + w + right][block]. Block
 * c is plain [h, w, c], 1 is [c, h, w]. Channels beyond c in the last block are zero. Around the
 * image are pixels of zeros, so that a convolution can read beyond its edge. */
struct dtr_layout {
    int64_t block;
    int64_t top, left, bottom, right;
};

/* Floats from a row, a block of channels, a sample to the next, and to the image's first pixel. */
static inline int64_t dtr_layout_row(struct dtr_shape shape, struct dtr_layout layout)
{
    return (layout.left + shape.w + layout.right) * layout.block;
}
static inline int64_t dtr_layout_plane(struct dtr_shape shape, struct dtr_layout layout)
{
    return (layout.top + shape.h + layout.bottom) * dtr_layout_row(shape, layout);
}
static inline int64_t dtr_layout_sample(struct dtr_shape shape, struct dtr_layout layout)
{
    return (shape.c + layout.block - 1) / layout.block * dtr_layout_plane(shape, layout);
}
static inline int64_t dtr_layout_origin(struct dtr_shape shape, struct dtr_layout layout)
{
    return layout.top * dtr_layout_row(shape, layout) + layout.left * layout.block;
}

struct dtr_plan;

/* How the work of a pass may be divided among threads. */
enum dtr_division {
    DTR_BY_SLICE,     /* a slice is one piece */
    DTR_WITHIN_SLICE, /* a slice is one piece or more */
    DTR_TOGETHER,     /* pieces of all slices together */
};

/* One thread's work. `src`, `dst` and their gradients are the slice's; where a pass takes all
 * slices together, `slice` is 0 and they are the first slice's, the others follow: activations at
 * once, gradients plan->diff_stride floats apart. */
struct dtr_piece {
    int64_t slice;
    int part, parts; /* part 0 .. parts-1 of it: disjoint, together everything */
    int thread;      /* 0 .. plan->threads - 1: nobody else works with that number */
};

/* Where a plan's gradients go: into the slab, from a tensor's place on and for each open node k of
 * plan->sum k * stride floats further; or, where `take` is not NULL (there is one open node then),
 * to whoever updates the parameters while the gradient is in the cache. */
struct dtr_gradient_sink {
    float *slab;
    int64_t stride;
    int64_t kernel, bias; /* places of the plan's tensors in the slab */
    dtr_take *take;
    bool (*owns)(void *context, int64_t first, int64_t count); /* NULL: everything */
    void *context;
};

/* Whether a gradient of slab elements is of use to the sink: others need not be computed. */
static inline bool dtr_sink_wants(
    const struct dtr_gradient_sink *sink, int64_t first, int64_t count)
{
    return sink->owns == NULL || sink->owns(sink->context, first, count);
}

struct dtr_kernel {
    const char *name; /* "reference", "onednn", "fused" */

    /* How many layers it computes of `layer` and `next`, which follows it (NULL: none does): 0, 1
     * or both. NULL stands for 1. */
    int (*covers)(const struct dtr_layer *layer, const struct dtr_layer *next);

    /* The layout of the source that it wants, for the layer below to produce. NULL: any. */
    struct dtr_layout (*wants)(const struct dtr_layer *layer, const struct dtr_layer *next);

    /* Bytes of the layer's *factors*: what reduce() makes the gradient of so many slices from. With
     * few samples they are far smaller than a large kernel's gradient, so where ranks share memory
     * they share factors (Xie et al., "Distributed machine learning via sufficient factor
     * broadcasting", 2014), and each rank makes its share of the whole gradient instead of all of
     * its own samples'. Before create. 0, or NULL: that does not pay, or cannot be done. */
    int64_t (*factor_bytes)(const struct dtr_plan *plan, int64_t slices);

    /* Fills what is marked so in dtr_plan; everything else is set. On entry plan->src is what the
     * layer below produces, plan->dst what the layer above wants (block 0: anything); both are
     * hints. */
    enum dtr_status (*create)(struct dtr_plan *plan, struct dtr_error *error);
    void (*destroy)(struct dtr_plan *plan);

    /* The kernel tensor's order in the slab, from and to the canonical one: the same elements.
     * NULL: it is canonical. */
    void (*order)(const struct dtr_plan *plan, const float *canonical, float *slab_out);
    void (*canonical)(const struct dtr_plan *plan, const float *slab, float *canonical_out);

    /* New parameters, in the slab's order, which stay where they are and keep their values until
     * the layer's backward pass has ended. Divided among threads. NULL for layers without. */
    void (*update)(
        struct dtr_plan *plan, struct dtr_piece piece, const float *kernel, const float *bias);

    /* A slice, before forward takes all slices together. NULL: not needed. */
    void (*load)(struct dtr_plan *plan, struct dtr_piece piece, const float *src);

    /* Reads src, writes all of dst but the zeros around it. */
    void (*forward)(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst);

    /* A slice, before backward takes all slices together. NULL: not needed. */
    void (*collect)(
        struct dtr_plan *plan, struct dtr_piece piece, const float *dst, const float *diff_dst);

    /* src and dst as in forward, diff_dst (may be changed) the gradient of dst. Writes all of
     * diff_src unless it is NULL (the first layer), and keeps partial gradients. In gradients the
     * border around the image is anything. */
    void (*backward)(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
        const float *dst, float *diff_dst, float *diff_src);

    /* A part of the gradients of kernel and bias, summed over the slices of plan->sum as far as the
     * tree allows, to `sink` (by the functions below). src and diff_dst are all slices' of the
     * rank. Where factors are shared, all ranks' backward passes of the layer have ended. NULL for
     * layers without parameters. */
    void (*reduce)(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
        const float *diff_dst, const struct dtr_gradient_sink *sink);
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
    const struct dtr_layer *next; /* the layer fused with it; NULL */
    int64_t n;                    /* samples of a slice */
    struct dtr_shard_run run;     /* training: slice i belongs to shard run.first + i */
    struct dtr_shard_run sum;     /* training: reduce() sums these, the run or more */
    void *factors; /* of plan->sum, zeroed memory that ranks share; NULL: the plan has its own */
    int64_t lanes; /* `slice` is below this: run.count, for inference the threads */
    int threads;
    enum dtr_isa isa;
    bool training; /* inference plans only do forward, and keep nothing for backward */
    bool first;    /* no diff_src is needed */
    const struct dtr_dropout_key *dropout; /* [run.count], set before forward in training */
    int64_t diff_stride; /* floats from a slice's gradients (diff_dst, diff_src) to the next one's;
                            set before the first backward */

    /* Filled by create. */
    struct dtr_layout src, dst;
    enum dtr_division divide_forward, divide_backward;
    bool reduce_reads; /* reduce looks at src and diff_dst */
    char detail[64];   /* how, in a few words */
    void *state;
};

/* The shape of what a plan produces. */
static inline struct dtr_shape dtr_plan_out(const struct dtr_plan *plan)
{
    return plan->next != NULL ? plan->next->out : plan->layer->out;
}

/* The tables. */
extern const struct dtr_kernel dtr_reference_conv, dtr_reference_dense, dtr_maxpool, dtr_dropout;
extern const struct dtr_kernel dtr_onednn_conv, dtr_onednn_dense;

/* Part of the work of `count` items: [*begin_out, *end_out). */
static inline void dtr_piece_range(
    struct dtr_piece piece, int64_t count, int64_t *begin_out, int64_t *end_out)
{
    *begin_out = count * piece.part / piece.parts;
    *end_out = count * (piece.part + 1) / piece.parts;
}

/* Gives `count` elements of the gradient of the tensor at `place` (sink->kernel or sink->bias),
 * from its element `first` on, to the sink: sums[k * stride] of open node k. */
void dtr_sink_put(const struct dtr_gradient_sink *sink, int64_t place, int64_t first, int64_t count,
    int64_t nodes, const float *sums, int64_t stride);

/* Sums the partials [plan->sum.count][stride] of a tensor in tree order, the piece's part of
 * `count` elements, and gives them to the sink. */
void dtr_reduce_partials(const struct dtr_plan *plan, struct dtr_piece piece, const float *partials,
    int64_t stride, int64_t count, const struct dtr_gradient_sink *sink, int64_t place);

static inline bool dtr_layout_equal(struct dtr_layout a, struct dtr_layout b)
{
    return a.block == b.block && a.top == b.top && a.left == b.left && a.bottom == b.bottom &&
           a.right == b.right;
}

/* Copies n samples from one layout to another. Channels beyond c in the last block become zero; the
 * destination's border is left as it is. */
void dtr_layout_convert(struct dtr_shape shape, int64_t n, const float *src, struct dtr_layout from,
    float *dst, struct dtr_layout to);

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

/* pixels [h, w, c] to floats in a layout, (p - 127.5) / 255 as in the tutorial; NULL gives zeros.
 * The border is left as it is. */
void dtr_scale_pixels(
    struct dtr_shape shape, const uint8_t *pixels, struct dtr_layout layout, float *dst);

#endif
