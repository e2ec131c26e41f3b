#include "device_memory.h"

#include <cuda_runtime_api.h>
#include <string.h>

static void *refuse(
    struct dtr_error *error, cudaError_t result, double bytes, const char *where, const char *what)
{
    cudaGetLastError(); /* it would be found again by the next call */
    dtr_error_set(error, DTR_FAILED, "%.1f MB of %s memory for %s: %s (%s)", bytes / 1e6, where,
        what, cudaGetErrorString(result), cudaGetErrorName(result));
    return NULL;
}

void *dtr_cuda_alloc(struct dtr_cuda_memory *memory, int64_t count, int64_t size, const char *what,
    struct dtr_error *error)
{
    void *block = NULL;
    size_t bytes = (size_t)(count > 0 ? count * size : 1);
    cudaError_t result = cudaErrorMemoryAllocation;
    if (memory->device_count < DTR_CUDA_BLOCKS_MOST)
        result = cudaMalloc(&block, bytes);
    if (result == cudaSuccess) {
        memory->device[memory->device_count++] = block;
        memory->device_bytes += (int64_t)bytes;
        result = cudaMemsetAsync(block, 0, bytes, NULL);
        if (result == cudaSuccess) /* other streams do not wait for this one */
            result = cudaStreamSynchronize(NULL);
    }
    return result == cudaSuccess ? block : refuse(error, result, (double)bytes, "device", what);
}

void *dtr_cuda_alloc_host(struct dtr_cuda_memory *memory, int64_t count, int64_t size,
    const char *what, struct dtr_error *error)
{
    void *block = NULL;
    size_t bytes = (size_t)(count > 0 ? count * size : 1);
    cudaError_t result = cudaErrorMemoryAllocation;
    if (memory->host_count < DTR_CUDA_BLOCKS_MOST)
        result = cudaMallocHost(&block, bytes);
    if (result != cudaSuccess)
        return refuse(error, result, (double)bytes, "pinned", what);
    memory->host[memory->host_count++] = block;
    return memset(block, 0, bytes);
}

void dtr_cuda_memory_free(struct dtr_cuda_memory *memory)
{
    while (memory->device_count > 0)
        cudaFree(memory->device[--memory->device_count]);
    while (memory->host_count > 0)
        cudaFreeHost(memory->host[--memory->host_count]);
}
