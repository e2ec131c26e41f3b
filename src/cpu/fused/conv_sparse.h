/*
 * The backward pass of conv + bias + ReLU [+ 2x2 max-pool, stride 2] by lists of the outputs that
 * have a gradient: after the pool one output in four, of which ReLU leaves about half. It leaves
 * out nothing but terms that are zero.
 *
 * For conv.h's shapes where conv_sparse_suits() says so, with a source whose border covers all that
 * taps reach: for a blocked source pad_top, pad_left and as much below and right, for a thin one so
 * much that the thin_row() floats from a row's first tap on lie in the sample.
 *
 * Private to src/cpu/fused/. Local, no allocation.
 */
#ifndef DTRAIN_CPU_FUSED_CONV_SPARSE_H
#define DTRAIN_CPU_FUSED_CONV_SPARSE_H

#include "conv.h"

bool ISA(conv_sparse_suits)(const struct conv_shape *shape);

/* The kernel as the gradient of a blocked source reads it, from the slab's order; needs packing
 * when the kernel has changed. Part `part` of `parts` writes its share. */
int64_t ISA(conv_sparse_packed_floats)(const struct conv_shape *shape);
void ISA(conv_sparse_pack)(
    const struct conv_shape *shape, int part, int parts, const float *kernel, float *packed);

/* Of each thread. */
int64_t ISA(conv_sparse_scratch_bytes)(const struct conv_shape *shape);

/* A slice: `count` samples, one after another. */
struct conv_sparse_slice {
    int64_t count;
    const float *src, *dst, *diff_dst; /* as in the forward pass; diff_dst's border is not read */
    const uint8_t *winners;            /* NULL without a pool */
};

/*
 * Part `part` of `parts`: disjoint, together everything, the same bits for any number.
 * diff_kernel and diff_bias are those of the slice, in the form that conv.h describes (what fills
 * up a thin row is undefined). A gradient passes where the result is not <= 0: where it is NaN,
 * too. An element is the sum of its terms in the order of samples, rows, columns.
 * diff_src, layout src, gets its image written, and its border spoiled. NULL where it is not
 * needed, and for thin sources, and then `packed` may be NULL.
 */
void ISA(conv_sparse_backward)(const struct conv_shape *shape,
    const struct conv_sparse_slice *slice, const float *packed, int part, int parts, void *scratch,
    float *diff_src, float *diff_kernel, float *diff_bias);

#endif
