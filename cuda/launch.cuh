/*
 * How kernels are started and get their shared memory: the two things that nvcc has a syntax of its
 * own for. Tests compile the same files with a C++ compiler (tests/simt/), which then gives both
 * another meaning, so kernels write
 *
 *     __global__ void scale(const float *src, float *dst) {
 *         DTR_SHARED(float, tile);
 *         ...
 *     }
 *     return DTR_LAUNCH(scale, blocks, threads, bytes, stream, src, dst);
 *
 * All shared memory is dynamic: a test can fill it with NaNs before each block. A kernel that is a
 * template with more than one parameter needs parentheses: DTR_LAUNCH((scale<4, 2>), ...).
 */
#ifndef DTRAIN_CUDA_LAUNCH_CUH
#define DTRAIN_CUDA_LAUNCH_CUH

#ifndef DTR_SIMT

#include <cuda_runtime.h>
#include <utility>

/* `name` points at the block's shared memory, aligned to 16 bytes. */
#define DTR_SHARED(type, name)                                                                     \
    extern __shared__ __align__(16) unsigned char dtr_shared_memory[];                             \
    type *name = reinterpret_cast<type *>(dtr_shared_memory)

/* Starts `kernel` with `shared_bytes` of shared memory: why it could not be, or cudaSuccess. */
#define DTR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    dtr_kernel_launch(kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

template <typename... Parameters, typename... Arguments>
cudaError_t dtr_kernel_launch(void (*kernel)(Parameters...), dim3 grid, dim3 block,
    size_t shared_bytes, cudaStream_t stream, Arguments &&...arguments)
{
    if (shared_bytes > 48 * 1024) { /* what a kernel may have unless it asks for more */
        cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (error != cudaSuccess)
            return error;
    }
    kernel<<<grid, block, shared_bytes, stream>>>(std::forward<Arguments>(arguments)...);
    return cudaGetLastError();
}

#endif

#endif
