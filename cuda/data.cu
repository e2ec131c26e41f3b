/*
 * What the first layer sees: the samples' pixels as floats.
 */
#include "kernels.h"
#include "launch.cuh"

namespace
{
enum { threads = 256 };

/* A block is on one sample (y) and 256 of its pixels (x). */
__global__ void __launch_bounds__(threads)
    scale_pixels(dtr_cuda_batch batch, int64_t image_count, float *dst)
{
    int64_t pixel = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (pixel >= image_count)
        return;
    for (int64_t i = blockIdx.y; i < batch.n; i += gridDim.y) {
        int64_t place = batch.places[i];
        float value = 0;
        if (place >= 0) /* the CPU's bits: dtr_scale_pixels() */
            value = __fdiv_rn(
                static_cast<float>(batch.images[place * image_count + pixel]) - 127.5f, 255);
        dst[i * image_count + pixel] = value;
    }
}
} // namespace

cudaError_t dtr_cuda_gather(
    const struct dtr_cuda_batch *batch, int64_t image_count, float *dst, cudaStream_t stream)
{
    const int64_t most = 65535; /* blocks in y */
    dim3 grid(static_cast<unsigned>((image_count + threads - 1) / threads),
        static_cast<unsigned>(batch->n < most ? batch->n : most));
    return DTR_LAUNCH(scale_pixels, grid, threads, 0, stream, *batch, image_count, dst);
}
