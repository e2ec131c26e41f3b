/*
 * Forward pass of convolutions with thin sources (conv.h), of one or three channels, and kernels of
 * 3x3 or 5x5 by Winograd's method: tiles of 4x4 outputs as in winograd.h. But there is hardly a sum
 * over channels, so a tile goes from the values at its points to its results in registers.
 *
 * The source's transform has a row of tiles at a time, along vectors of neighbouring pixels: each
 * pixel's value as if a tile began there. So a row's last tile can end with the row; outputs that
 * it shares with the one before are computed twice, and the last one's stay.
 *
 * Bits, the order of pool, bias and ReLU, and NaNs are as in winograd.h. The largest error in parts
 * of the largest value is, of independent random numbers, 4.1e-6 with kernels of 5 and 6e-7 with
 * kernels of 3.
 *
 * Private to src/cpu/fused/. Local.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_THIN_H
#define DTRAIN_CPU_FUSED_WINOGRAD_THIN_H

#include "conv.h"

/* Whether it can be computed in this way, and faster than directly. */
bool ISA(winograd_thin_suits)(const struct conv_shape *shape);

/* The source's layout: [h, w, c], zeros around the image as far as tiles and vectors reach. */
struct dtr_layout ISA(winograd_thin_layout)(const struct conv_shape *shape);

/* Of the transformed kernel, and of scratch memory per thread. */
int64_t ISA(winograd_thin_kernel_floats)(const struct conv_shape *shape);
int64_t ISA(winograd_thin_scratch_floats)(const struct conv_shape *shape);

/* From the canonical order. */
void ISA(winograd_thin_pack)(
    const struct conv_shape *shape, const float *kernel, float *transformed);

/* `count` samples. Of dst the results are written, not the border; winners is NULL in inference and
 * where there is no pool. Scratch memory may hold anything. */
void ISA(winograd_thin_forward)(const struct conv_shape *shape, int64_t count,
    const float *transformed, const float *bias, const float *src, float *dst, uint8_t *winners,
    float *scratch);

#endif
