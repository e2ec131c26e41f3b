/*
 * Softmax cross-entropy and who counts as an error, as src/cpu/head.c has them. A warp does a
 * sample, a lane every 32nd class. Sums are in double and in an order that is always the same.
 */
#include "kernels.h"
#include "launch.cuh"

#include <math.h>

namespace
{
enum { warps = 4, sum_threads = 256, sum_warps = sum_threads / 32 };
constexpr unsigned all_lanes = 0xffffffffu;

/* The first of the largest logits; -1, nobody's label, when one is NaN. For the whole warp. */
__device__ int64_t predicted_class(int64_t classes, const float *logits)
{
    int lane = static_cast<int>(threadIdx.x) % 32;
    float best = 0;
    int place = -1; /* of best; none yet */
    bool nan = false;
    for (int c = lane; c < classes; c += 32) {
        float value = logits[c];
        nan |= value != value;
        if (place < 0 || value > best) {
            best = value;
            place = c;
        }
    }
    if (__any_sync(all_lanes, nan))
        return -1;
    for (int distance = 16; distance > 0; distance /= 2) {
        float other = __shfl_xor_sync(all_lanes, best, distance);
        int other_place = __shfl_xor_sync(all_lanes, place, distance);
        if (other_place < 0)
            continue;
        if (place < 0 || other > best || (other == best && other_place < place)) {
            best = other;
            place = other_place;
        }
    }
    return place;
}

/* The same sum in all lanes: each adds the same pairs, and a + b is b + a. */
__device__ double warp_sum(double value)
{
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(all_lanes, value, distance);
    return value;
}

/* The exponentials are kept as floats in between, as dtr_softmax_head() does: the largest is
 * exactly 1, so nothing cancels where one-hot is subtracted from a sure softmax. */
__global__ void __launch_bounds__(32 * warps) softmax(dtr_cuda_batch batch, int64_t classes,
    const float *logits, dtr_cuda_result *losses, float *diff)
{
    int lane = static_cast<int>(threadIdx.x) % 32;
    int64_t i = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    if (i >= batch.n)
        return;
    logits += i * classes;
    diff += i * classes;
    int32_t place = batch.places[i];
    if (place < 0) {
        for (int c = lane; c < classes; c += 32)
            diff[c] = 0;
        if (lane == 0)
            losses[i] = {0, 0};
        return;
    }
    int64_t label = batch.labels[place], predicted = predicted_class(classes, logits);
    /* With a NaN any shift does: the sum becomes NaN and with it loss and gradient. */
    double largest = static_cast<double>(logits[predicted < 0 ? 0 : predicted]), sum = 0;
    for (int c = lane; c < classes; c += 32) {
        double exponential = exp(static_cast<double>(logits[c]) - largest);
        diff[c] = static_cast<float>(exponential);
        sum += exponential;
    }
    sum = warp_sum(sum);
    double weight = static_cast<double>(batch.step->weight);
    for (int c = lane; c < classes; c += 32) {
        double hot = c == label ? 1 : 0;
        diff[c] = static_cast<float>((static_cast<double>(diff[c]) / sum - hot) * weight);
    }
    if (lane == 0) {
        double shifted = static_cast<double>(logits[label]) - largest;
        losses[i] = {log(sum) - shifted, predicted == label ? 0.0 : 1.0};
    }
}

/* One block: a thread adds every 256th sample, lanes by pairs, then warps in their order. */
__global__ void __launch_bounds__(sum_threads)
    sum_losses(int64_t n, const dtr_cuda_result *losses, dtr_cuda_result *result)
{
    DTR_SHARED(dtr_cuda_result, sums);
    int thread = static_cast<int>(threadIdx.x);
    dtr_cuda_result sum = {0, 0};
    for (int64_t i = thread; i < n; i += sum_threads) {
        sum.loss += losses[i].loss;
        sum.errors += losses[i].errors;
    }
    sum = {warp_sum(sum.loss), warp_sum(sum.errors)};
    if (thread % 32 == 0)
        sums[thread / 32] = sum;
    __syncthreads();
    if (thread != 0)
        return;
    for (int warp = 1; warp < sum_warps; warp++) {
        sum.loss += sums[warp].loss;
        sum.errors += sums[warp].errors;
    }
    *result = sum;
}

__global__ void __launch_bounds__(sum_threads) count_errors(
    dtr_cuda_batch batch, int64_t count, int64_t classes, const float *logits, int64_t *errors)
{
    DTR_SHARED(int64_t, sums);
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    int64_t sum = 0;
    for (int64_t i = warp; i < count; i += sum_warps) {
        int64_t label = batch.labels[batch.places[i]];
        sum += predicted_class(classes, logits + i * classes) != label;
    }
    if (lane == 0)
        sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int other = 1; other < sum_warps; other++)
        sum += sums[other];
    *errors += sum;
}
} // namespace

cudaError_t dtr_cuda_head(const struct dtr_cuda_batch *batch, int64_t classes, const float *logits,
    struct dtr_cuda_result *losses, float *diff, struct dtr_cuda_result *result_out,
    cudaStream_t stream)
{
    unsigned blocks = static_cast<unsigned>((batch->n + warps - 1) / warps);
    cudaError_t error = DTR_LAUNCH(
        softmax, blocks, 32 * warps, 0, stream, *batch, classes, logits, losses, diff);
    if (error != cudaSuccess)
        return error;
    return DTR_LAUNCH(sum_losses, 1, sum_threads, sum_warps * sizeof(dtr_cuda_result), stream,
        batch->n, static_cast<const dtr_cuda_result *>(losses), result_out);
}

cudaError_t dtr_cuda_count_errors(const struct dtr_cuda_batch *batch, int64_t count,
    int64_t classes, const float *logits, int64_t *errors, cudaStream_t stream)
{
    return DTR_LAUNCH(count_errors, 1, sum_threads, sum_warps * sizeof(int64_t), stream, *batch,
        count, classes, logits, errors);
}
