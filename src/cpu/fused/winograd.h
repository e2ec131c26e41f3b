/*
 * Convolutions with blocked sources (conv.h) and kernels of 3x3 or 5x5 by Winograd's method: tiles
 * of 4x4 outputs, 36 or 64 multiplications each instead of 144 or 400; or, with kernels of 5 where
 * that takes fewer, of 7x7 outputs, 141 instead of 1225. The forward pass, with all that belongs to
 * the block; and the gradient of the source where there is no pool, which is the same with the
 * kernel turned round.
 *
 *     a batch of tiles:  source  -> values of each tile at each point, per input channel
 *                        values * transformed kernel -> products, per output channel
 *                        products -> outputs, which are pooled, biased, rectified, stored
 *
 * The bits of an output depend on the shape alone, not on the tiles that share its batch. A
 * window's largest output is chosen, then the bias added, then ReLU. A NaN in the source reaches
 * all outputs that depend on it, and others of the same tile.
 *
 * The largest error in parts of the largest value is, of independent random numbers, 1.4e-6 with
 * kernels of 3 and 3e-6 to 5e-6 with kernels of 5, for any number of channels and both sizes of
 * tiles.
 *
 * Private to src/cpu/fused/. Local.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_H
#define DTRAIN_CPU_FUSED_WINOGRAD_H

#include "conv.h"

/* One pass, forward or backward: a plain value. */
struct winograd {
    /* What the pass itself convolves: the backward pass's `in` is the layer's out. */
    struct conv_shape shape;
    int kernel;                     /* 3 or 5 */
    int outputs;                    /* of a tile's row and column: 4, or 7 */
    int64_t rows, columns;          /* tiles of a sample */
    bool narrow_row, narrow_column; /* the last ones have two outputs only, or one */
    int64_t batch;                  /* tiles at a time */
    int64_t together;               /* pairs of vectors of output channels at a time */
    int64_t transformed_floats;     /* of the kernel */
    int64_t scratch_floats;         /* per thread */
};

bool ISA(winograd_suits)(const struct conv_shape *shape);
bool ISA(winograd_suits_backward)(const struct conv_shape *shape);

/* The layouts of the source, and of the gradient of the convolution's outputs in the backward pass:
 * blocks of VEC, zeros around the image as far as tiles reach. */
struct dtr_layout ISA(winograd_layout)(const struct conv_shape *shape);
struct dtr_layout ISA(winograd_backward_layout)(const struct conv_shape *shape);

/* shape->src (and dst) have to be set. */
struct winograd ISA(winograd_of)(const struct conv_shape *shape);
struct winograd ISA(winograd_backward_of)(const struct conv_shape *shape);

/* Part `part` of `parts` of the transformed kernel, from [in.c / VEC][out.c][kernel][kernel][VEC],
 * in the layer's channels in both passes. */
void ISA(winograd_pack)(
    const struct winograd *forward, int part, int parts, const float *kernel, float *transformed);
void ISA(winograd_pack_backward)(
    const struct winograd *backward, int part, int parts, const float *kernel, float *transformed);

/* `count` samples. Of dst the results are written, not the border; winners is NULL in inference and
 * where there is no pool. Scratch memory may hold anything. */
void ISA(winograd_forward)(const struct winograd *forward, int64_t count, const float *transformed,
    const float *bias, const float *src, float *dst, uint8_t *winners, float *scratch);

/* diff: the gradient of the convolution's outputs, zero where ReLU made them so, in the layout of
 * winograd_backward_layout(). diff_src has the layer's layout `src`; its border is not written. */
void ISA(winograd_backward_data)(const struct winograd *backward, int64_t count,
    const float *transformed, const float *diff, float *diff_src, float *scratch);

#endif
