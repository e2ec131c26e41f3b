/* See sample_kernels.h: every kernel here is wrong, unless told not to be. */
#include "sample_kernels.h"

#include "launch.cuh"
#include "tensor_core.cuh"

/* Two buffers in turns, so that a barrier per step is enough. */
static __global__ void add_windows(enum planted_bug bug, const float *src, float *dst)
{
    DTR_SHARED(float, buffers);
    int thread = (int)threadIdx.x;
    float sum = 0;

    for (int step = 0; step < PLANTED_STEPS; step++) {
        float *buffer = &buffers[bug == PLANTED_EARLY_OVERWRITE ? 0 : step % 2 * PLANTED_THREADS];

        dtr_async_copy<4>(&buffer[thread], &src[step * PLANTED_THREADS + thread]);
        dtr_async_commit();
        if (bug == PLANTED_WAIT_FOR_OLDER)
            dtr_async_wait<1>();
        else if (bug != PLANTED_NO_WAIT)
            dtr_async_wait<0>();
        if (bug != PLANTED_NO_BARRIER)
            __syncthreads();
        sum += buffer[(thread + PLANTED_SHIFT) % PLANTED_THREADS];
    }
    dst[thread] = sum;
}

static __global__ void use_warp_wrongly(enum planted_bug bug, const float *src, float *dst)
{
    const unsigned all = 0xffffffffu, lower = 0xffffu, most = 0xfffffffeu;
    unsigned lane = threadIdx.x % 32;
    bool is_lower = lane < 16;
    float x = src[threadIdx.x];

    if (bug == PLANTED_DIVERGENT_SHUFFLE) {
        if (is_lower)
            x += __shfl_xor_sync(all, x, 1);
        else
            x += __shfl_xor_sync(all, x, 2);
    } else if (bug == PLANTED_SHUFFLE_OUTSIDE) {
        if (is_lower)
            x += __shfl_sync(lower, x, 20);
    } else if (bug == PLANTED_NOT_IN_MASK) {
        x += __shfl_xor_sync(lower, x, 1);
    } else if (bug == PLANTED_MASKS_DIFFER) {
        __syncwarp(is_lower ? all : most);
    } else if (bug == PLANTED_SHORT_WARP) {
        __syncwarp();
    } else if (bug == PLANTED_EXITED_LANE) {
        if (lane == 0)
            return;
        __syncwarp();
    }
    dst[threadIdx.x] = x;
}

static __global__ void use_barriers_wrongly(enum planted_bug bug, const float *src, float *dst)
{
    unsigned thread = threadIdx.x;
    float x = src[thread];

    if (bug == PLANTED_SOME_AT_BARRIER) {
        if (thread < 40)
            __syncthreads();
    } else if (bug == PLANTED_DIFFERENT_BARRIERS) {
        if (thread < 32)
            __syncthreads();
        else
            __syncthreads();
    } else if (bug == PLANTED_WARP_AT_BARRIER) {
        if (thread % 32 < 16)
            __syncthreads();
        else
            x += __shfl_xor_sync(0xffffffffu, x, 1);
    }
    dst[thread] = x;
}

static __global__ void use_memory_wrongly(enum planted_bug bug, const float *src, float *dst)
{
    DTR_SHARED(float, shared);
    int thread = (int)threadIdx.x;

    if (bug == PLANTED_MISALIGNED_COPY)
        dtr_async_copy<16>(&shared[4 * thread], &src[1]);
    else if (bug == PLANTED_COPY_OUTSIDE)
        dtr_async_copy<4>(&dst[thread], &src[thread]);
    else if (bug == PLANTED_OVERFLOW)
        shared[thread + 1] = src[thread];
    else if (bug == PLANTED_BLOCK_RACE && thread == (int)blockIdx.x)
        dst[0] = src[thread];
}

cudaError_t planted_run(enum planted_bug bug, const float *src, float *dst, cudaStream_t stream)
{
    const size_t bytes = PLANTED_THREADS * sizeof(float);
    const int threads = PLANTED_THREADS;

    if (bug <= PLANTED_WAIT_FOR_OLDER)
        return DTR_LAUNCH(add_windows, 1, threads, 2 * bytes, stream, bug, src, dst);
    if (bug <= PLANTED_EXITED_LANE)
        return DTR_LAUNCH(use_warp_wrongly, 1, bug == PLANTED_SHORT_WARP ? threads - 24 : threads,
            0, stream, bug, src, dst);
    if (bug <= PLANTED_WARP_AT_BARRIER)
        return DTR_LAUNCH(use_barriers_wrongly, 1, threads, 0, stream, bug, src, dst);
    if (bug == PLANTED_BLOCK_SIZE)
        return DTR_LAUNCH(use_memory_wrongly, 1, 1025, 0, stream, bug, src, dst);
    if (bug == PLANTED_GRID_SIZE)
        return DTR_LAUNCH(use_memory_wrongly, 0, threads, 0, stream, bug, src, dst);
    if (bug == PLANTED_SHARED_SIZE)
        return DTR_LAUNCH(use_memory_wrongly, 1, threads, 227 * 1024 + 1, stream, bug, src, dst);
    return DTR_LAUNCH(use_memory_wrongly, 2, threads, bug == PLANTED_OVERFLOW ? bytes : 4 * bytes,
        stream, bug, src, dst);
}
