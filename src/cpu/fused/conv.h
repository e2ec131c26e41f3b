/*
 * Convolutions of stride 1 with bias and ReLU, and a 2x2 max-pool of stride 2 if one follows: what
 * their parts share. A *result* is what the block leaves: pooled, or else the convolution's own.
 *
 * Two forms of the source, by its channels:
 * - blocked, in.c a multiple of VEC: layout block VEC. The kernel (and its gradient) lies as
 *   [in.c / VEC][out.c][kernel_h][kernel_w][VEC]: the form in which gradients are made, an order of
 *   the canonical [kernel_h][kernel_w][in.c][out.c] without holes, so it is the slab's too.
 * - thin, few channels (images): layout block in.c, that is [h, w, c]. The kernel lies canonical;
 * its gradient is made as [out.c][kernel_h][thin_row(shape)], with rows of kernel_w * in.c floats
 *   filled up to whole vectors.
 * out.c is a multiple of VEC, and the destination's block is VEC; its border is the caller's wish.
 *
 * *winners* say for each result which of its four outputs was the largest, the first of equals, a
 * NaN always: 2 * row + column, as bytes [out.c / VEC][result.h][result.w][VEC] of a sample. They
 * are noted in training, where there is a pool.
 *
 * Private to src/cpu/fused/. Local.
 */
#ifndef DTRAIN_CPU_FUSED_CONV_H
#define DTRAIN_CPU_FUSED_CONV_H

#include "dtrain/kernel.h"
#include "isa.h"
#include "vec.h"

struct conv_shape {
    struct dtr_shape in, out; /* of the convolution, before the pool */
    int64_t kernel_h, kernel_w, pad_top, pad_left;
    bool pool;
    struct dtr_shape result; /* [out.h / 2, out.w / 2] with a pool, else out */
    struct dtr_layout src, dst;
};

static inline bool conv_is_thin(const struct conv_shape *shape)
{
    return shape->src.block != VEC;
}

/* Floats of a row of a thin kernel's gradient. */
static inline int64_t thin_row(const struct conv_shape *shape)
{
    return (shape->kernel_w * shape->in.c + VEC - 1) / VEC * VEC;
}

#endif
