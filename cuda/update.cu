/*
 * SGD with momentum and weight decay: each operation rounded by itself and in the order of
 * dtr_sgd_update(), so that both give the same bits. A thread does four elements.
 */
#include "kernels.h"
#include "launch.cuh"

namespace
{
enum { threads = 256, wide = 4, decay_group = 16 };

__device__ __forceinline__ void update_one(
    float rate, float mu, float decay, float gradient, float *momentum, float *weight)
{
    float m = __fadd_rn(__fmul_rn(mu, *momentum), __fadd_rn(gradient, __fmul_rn(decay, *weight)));
    *momentum = m;
    *weight = __fsub_rn(*weight, __fmul_rn(rate, m));
}

__global__ void __launch_bounds__(threads) update(dtr_cuda_sgd sgd, const dtr_cuda_step *step,
    int64_t count, const float4 *gradient, float4 *momentum, float4 *weights)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i * wide >= count)
        return;
    float rate = step->rate;
    float decay = sgd.decayed[i * wide / decay_group] != 0 ? sgd.decay : 0;
    float4 g = gradient[i], m = momentum[i], w = weights[i];
    update_one(rate, sgd.mu, decay, g.x, &m.x, &w.x);
    update_one(rate, sgd.mu, decay, g.y, &m.y, &w.y);
    update_one(rate, sgd.mu, decay, g.z, &m.z, &w.z);
    update_one(rate, sgd.mu, decay, g.w, &m.w, &w.w);
    momentum[i] = m;
    weights[i] = w;
}
} // namespace

cudaError_t dtr_cuda_update(const struct dtr_cuda_sgd *sgd, const struct dtr_cuda_step *step,
    int64_t count, const float *gradient, float *momentum, float *weights, cudaStream_t stream)
{
    unsigned blocks = static_cast<unsigned>((count / wide + threads - 1) / threads);
    if (blocks == 0)
        return cudaSuccess;
    return DTR_LAUNCH(update, blocks, threads, 0, stream, *sgd, step, count,
        reinterpret_cast<const float4 *>(gradient), reinterpret_cast<float4 *>(momentum),
        reinterpret_cast<float4 *>(weights));
}
