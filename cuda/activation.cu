/*
 * What follows a dense layer's product, and its gradient: bias, relu and dropout in one pass over
 * the values. A thread does the four units that one block of random words decides on.
 */
#include "kernels.h"
#include "launch.cuh"
#include "philox.cuh"

namespace
{
enum { threads = 256, sum_columns = 32, sum_rows = 8 };

/* What dropout multiplies four units of a sample by; padded samples have no words. */
struct Factors {
    float of[4];
    bool padded;
};

/* The units that a thread does: `count` from this one on, of all values; 0: none. */
struct Units {
    int64_t first;
    int unit, count;
    Factors factors;
};

__device__ __forceinline__ Factors factors_of(
    const dtr_cuda_activation &activation, const dtr_cuda_batch &batch, int64_t i, int64_t quad)
{
    Factors factors = {{1, 1, 1, 1}, false};
    if (activation.scale == 0)
        return factors;
    int32_t sample = batch.samples[i];
    factors.padded = sample < 0;
    if (factors.padded)
        return factors;
    dtr_philox_block words = dtr_dropout_words(activation.seed, activation.layer, batch.step->epoch,
        static_cast<uint32_t>(sample), static_cast<uint32_t>(quad));
#pragma unroll
    for (int j = 0; j < 4; j++)
        factors.of[j] = words.word[j] >= activation.threshold ? activation.scale : 0;
    return factors;
}

__device__ __forceinline__ Units units_of(
    const dtr_cuda_activation &activation, const dtr_cuda_batch &batch)
{
    int64_t quads = (activation.units + 3) / 4;
    int64_t number = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (number >= activation.n * quads)
        return {0, 0, 0, {{0, 0, 0, 0}, false}};
    int64_t i = number / quads, quad = number - i * quads, left = activation.units - 4 * quad;
    return {i * activation.units + 4 * quad, static_cast<int>(4 * quad),
        static_cast<int>(left < 4 ? left : 4), factors_of(activation, batch, i, quad)};
}

__global__ void __launch_bounds__(threads)
    activate(dtr_cuda_activation activation, dtr_cuda_batch batch, const float *bias, float *values)
{
    Units units = units_of(activation, batch);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (j >= units.count)
            break;
        float value = values[units.first + j];
        if (bias != nullptr)
            value += bias[units.unit + j];
        if (activation.relu && value < 0) /* a NaN is not less */
            value = 0;
        values[units.first + j] = units.factors.padded ? 0 : value * units.factors.of[j];
    }
}

__global__ void __launch_bounds__(threads)
    cut(dtr_cuda_activation activation, dtr_cuda_batch batch, const float *values, float *diff)
{
    Units units = units_of(activation, batch);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (j >= units.count)
            break;
        int64_t at = units.first + j;
        bool none = units.factors.padded || (activation.relu && values[at] <= 0);
        diff[at] = none ? 0 : diff[at] * units.factors.of[j];
    }
}

/* A thread adds every eighth sample of its unit, then the eight sums are added in their order. */
__global__ void __launch_bounds__(sum_columns *sum_rows)
    sum_samples(int64_t n, int64_t units, const float *diff, float *diff_bias)
{
    DTR_SHARED(float, sums);
    int column = static_cast<int>(threadIdx.x), first = static_cast<int>(threadIdx.y);
    int64_t unit = static_cast<int64_t>(blockIdx.x) * sum_columns + column;
    float sum = 0;
    for (int64_t i = first; i < n && unit < units; i += sum_rows)
        sum += diff[i * units + unit];
    sums[first * sum_columns + column] = sum;
    __syncthreads();
    if (first != 0 || unit >= units)
        return;
    for (int row = 1; row < sum_rows; row++)
        sum += sums[row * sum_columns + column];
    diff_bias[unit] = sum;
}

unsigned blocks_for(const dtr_cuda_activation &activation)
{
    int64_t quads = (activation.units + 3) / 4;
    return static_cast<unsigned>((activation.n * quads + threads - 1) / threads);
}
} // namespace

cudaError_t dtr_cuda_activate(const struct dtr_cuda_activation *activation,
    const struct dtr_cuda_batch *batch, const float *bias, float *values, cudaStream_t stream)
{
    return DTR_LAUNCH(
        activate, blocks_for(*activation), threads, 0, stream, *activation, *batch, bias, values);
}

cudaError_t dtr_cuda_activate_backward(const struct dtr_cuda_activation *activation,
    const struct dtr_cuda_batch *batch, const float *values, float *diff, float *diff_bias,
    cudaStream_t stream)
{
    cudaError_t error = cudaSuccess;
    if (activation->relu || activation->scale != 0)
        error = DTR_LAUNCH(
            cut, blocks_for(*activation), threads, 0, stream, *activation, *batch, values, diff);
    if (error != cudaSuccess || diff_bias == nullptr)
        return error;
    int64_t units = activation->units;
    unsigned blocks = static_cast<unsigned>((units + sum_columns - 1) / sum_columns);
    return DTR_LAUNCH(sum_samples, blocks, dim3(sum_columns, sum_rows),
        sum_columns * sum_rows * sizeof(float), stream, activation->n, units,
        static_cast<const float *>(diff), diff_bias);
}
