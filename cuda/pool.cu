/*
 * Max-pool of any size, where it is not fused with a convolution. A thread does an element; in the
 * backward pass each source element adds what the windows over it give, in their order.
 */
#include "kernels.h"
#include "launch.cuh"

namespace
{
enum { threads = 256 };

struct Size {
    int64_t oh, ow;
};

__host__ __device__ inline Size size_of(const dtr_cuda_pool &pool)
{
    return {(pool.h - pool.k) / pool.stride + 1, (pool.w - pool.k) / pool.stride + 1};
}

struct Place {
    int64_t image, y, x, channel;
};

__device__ __forceinline__ Place place_of(int64_t number, int64_t h, int64_t w, int64_t c)
{
    int64_t pixel = number / c, row = pixel / w;
    return {row / h, row % h, pixel - row * w, number - pixel * c};
}

__global__ void __launch_bounds__(threads)
    forward(dtr_cuda_pool pool, const float *src, float *dst, uint16_t *winners)
{
    Size size = size_of(pool);
    int64_t number = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (number >= pool.n * size.oh * size.ow * pool.c)
        return;
    Place at = place_of(number, size.oh, size.ow, pool.c);
    int64_t top = at.image * pool.h + at.y * pool.stride, left = at.x * pool.stride;
    float best = 0;
    int winner = -1;
    for (int64_t y = 0; y < pool.k; y++) {
        for (int64_t x = 0; x < pool.k; x++) {
            float value = src[((top + y) * pool.w + left + x) * pool.c + at.channel];
            if (winner < 0 || value > best || (value != value && best == best)) {
                best = value;
                winner = static_cast<int>(y * pool.k + x);
            }
        }
    }
    dst[number] = best;
    if (winners != nullptr)
        winners[number] = static_cast<uint16_t>(winner);
}

/* The first window that reaches `place`, and one past the last. */
__device__ __forceinline__ int64_t first_window(const dtr_cuda_pool &pool, int64_t place)
{
    return place < pool.k ? 0 : (place - pool.k) / pool.stride + 1;
}
__device__ __forceinline__ int64_t end_window(
    const dtr_cuda_pool &pool, int64_t place, int64_t count)
{
    int64_t end = place / pool.stride + 1;
    return end < count ? end : count;
}

__global__ void __launch_bounds__(threads)
    backward(dtr_cuda_pool pool, const uint16_t *winners, const float *diff_dst, float *diff_src)
{
    Size size = size_of(pool);
    int64_t number = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (number >= pool.n * pool.h * pool.w * pool.c)
        return;
    Place at = place_of(number, pool.h, pool.w, pool.c);
    int64_t y_end = end_window(pool, at.y, size.oh), x_end = end_window(pool, at.x, size.ow);
    float sum = 0;
    for (int64_t oy = first_window(pool, at.y); oy < y_end; oy++) {
        for (int64_t ox = first_window(pool, at.x); ox < x_end; ox++) {
            int64_t window = ((at.image * size.oh + oy) * size.ow + ox) * pool.c + at.channel;
            int64_t member = (at.y - oy * pool.stride) * pool.k + at.x - ox * pool.stride;
            if (winners[window] == member)
                sum += diff_dst[window];
        }
    }
    diff_src[number] = sum;
}

unsigned blocks_for(int64_t count)
{
    return static_cast<unsigned>((count + threads - 1) / threads);
}
} // namespace

cudaError_t dtr_cuda_pool_forward(const struct dtr_cuda_pool *pool, const float *src, float *dst,
    uint16_t *winners, cudaStream_t stream)
{
    Size size = size_of(*pool);
    return DTR_LAUNCH(forward, blocks_for(pool->n * size.oh * size.ow * pool->c), threads, 0,
        stream, *pool, src, dst, winners);
}

cudaError_t dtr_cuda_pool_backward(const struct dtr_cuda_pool *pool, const uint16_t *winners,
    const float *diff_dst, float *diff_src, cudaStream_t stream)
{
    return DTR_LAUNCH(backward, blocks_for(pool->n * pool->h * pool->w * pool->c), threads, 0,
        stream, *pool, winners, diff_dst, diff_src);
}
