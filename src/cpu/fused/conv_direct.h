/*
 * Forward pass of convolutions with thin sources (conv.h), any kernel: every product is computed,
 * and a tile of outputs stays in registers until it has been pooled.
 *
 * A sum goes through the taps in canonical order. The largest of a window's sums is chosen, then
 * the bias added, then ReLU. Private to src/cpu/fused/. Local.
 */
#ifndef DTRAIN_CPU_FUSED_CONV_DIRECT_H
#define DTRAIN_CPU_FUSED_CONV_DIRECT_H

#include "conv.h"

/* The source's layout: [h, w, c], its border so wide that no tap leaves the sample, nor do
 * thin_row(shape) floats from a row's first tap on. */
struct dtr_layout ISA(conv_direct_layout)(const struct conv_shape *shape);

/* `count` samples. The kernel is canonical; of dst the results are written, not the border; winners
 * is NULL in inference and where there is no pool. */
void ISA(conv_direct_forward)(const struct conv_shape *shape, int64_t count, const float *kernel,
    const float *bias, const float *src, float *dst, uint8_t *winners);

#endif
