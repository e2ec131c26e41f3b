/*
 * What the passes of a convolution (conv_gemm.cuh) have in common: its output positions in the
 * order in which all of them take them, and the gradient there.
 */
#ifndef DTRAIN_CUDA_CONV_PARTS_CUH
#define DTRAIN_CUDA_CONV_PARTS_CUH

#include "kernels.h"

#include <stdint.h>

/* An output position of the convolution itself. With a pool the four of a window follow one
 * another, and those in no window are left out: nothing depends on them. */
struct dtr_conv_position {
    int64_t image;
    int y, x;
};

static __host__ __device__ inline int64_t dtr_conv_positions(const dtr_cuda_conv &conv)
{
    return conv.pool ? conv.n * (conv.oh / 2) * (conv.ow / 2) * 4 : conv.n * conv.oh * conv.ow;
}

static __device__ __forceinline__ dtr_conv_position dtr_conv_position_at(
    const dtr_cuda_conv &conv, int64_t number)
{
    int64_t cell = conv.pool ? number / 4 : number;
    int64_t h = conv.pool ? conv.oh / 2 : conv.oh, w = conv.pool ? conv.ow / 2 : conv.ow;
    int64_t image = cell / (h * w);
    int inside = static_cast<int>(cell - image * (h * w));
    int y = inside / static_cast<int>(w), x = inside % static_cast<int>(w);
    if (conv.pool) {
        y = 2 * y + static_cast<int>(number % 4 / 2);
        x = 2 * x + static_cast<int>(number % 2);
    }
    return {image, y, x};
}

/* A coordinate so far outside that no tap or position reaches the image from it. */
enum { dtr_conv_nowhere = -(1 << 30) };

/* The gradient of the convolution's result before relu and pool. */
struct dtr_conv_gradient {
    const float *dst, *diff_dst;
    const uint8_t *winners;

    /* At element `at` of dst, for the window's member `member` (0 without pool). */
    __device__ __forceinline__ float value(const dtr_cuda_conv &conv, int64_t at, int member) const
    {
        if (conv.pool && winners[at] != member)
            return 0;
        if (conv.relu && dst[at] <= 0)
            return 0;
        return diff_dst[at];
    }
};

/* Where in dst a position's channel 0 is, -1 outside, and which member of its window it is. */
struct dtr_conv_place {
    int64_t at;
    int member;
};

static __device__ __forceinline__ dtr_conv_place dtr_conv_place_of(
    const dtr_cuda_conv &conv, int64_t image, int y, int x)
{
    int h = static_cast<int>(conv.oh), w = static_cast<int>(conv.ow), member = 0;
    if (conv.pool) {
        member = 2 * (y & 1) + (x & 1);
        y >>= 1;
        x >>= 1;
        h /= 2;
        w /= 2;
    }
    if (y < 0 || y >= h || x < 0 || x >= w)
        return {-1, 0};
    return {((image * h + y) * w + x) * conv.out, member};
}

#endif
