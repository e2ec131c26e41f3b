/*
 * Runs CUDA kernels on the CPU, for tests: every thread of a block is a fiber (fiber.h), blocks run
 * one after the other, all on the host thread that calls. A kernel's file is compiled as C++,
 * unchanged, with this header before it:
 *
 *     g++ -std=c++17 -x c++ -include tests/simt/simt.h -Icuda -Iinclude -c file.cu
 *
 * A thread runs until it waits for others. Who goes first is the schedule's choice, and what a
 * correct kernel computes does not depend on it: tests run a kernel with several and compare bits.
 * Shared memory holds NaNs when a block starts.
 *
 * What cannot go on, or would be undefined on a device, ends the process with status 99 and a line
 * with kernel, block, thread and cause. With ASan accesses outside of shared memory are found; with
 * TSan every access that no barrier orders (or, between blocks, nothing at all) is a race.
 *
 * Not imitated: speed, memory order, warps in lockstep, spinning on what another thread will do.
 */
#ifndef DTRAIN_TESTS_SIMT_SIMT_H
#define DTRAIN_TESTS_SIMT_SIMT_H

#define DTR_SIMT 1

/* What kernels may use without including it. CUDA's headers make nothing of __global__ and the
 * like for a C++ compiler, except that this one is missing. */
#include <cuda_runtime_api.h>
#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <utility>
#include <vector_functions.h>

#define __launch_bounds__(...)

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* Who gets the processor first: "forward" (the default), "reverse", or a number, the seed of a
 * random order. NULL: what DTRAIN_SIMT_SCHEDULE says, as if never called. */
extern "C" void dtr_simt_set_schedule(const char *schedule);

/* How a kernel gets to a stream: to be provided by whoever stands for the CUDA runtime, which calls
 * `work` when the stream comes to it. What a launch gives: cudaSuccess, or why it could not be. */
cudaError_t dtr_simt_enqueue(cudaStream_t stream, std::function<void()> work);

/* Ends the process unless a device would take such a launch. */
void dtr_simt_check(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes);

/* Runs body(argument) as every thread of every block. */
void dtr_simt_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
    void (*body)(const void *), const void *argument);

/* The running block's shared memory. */
void *dtr_simt_shared(void);

#define DTR_SHARED(type, name) type *name = static_cast<type *>(dtr_simt_shared())

#define DTR_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    dtr_simt_launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)

template <typename... Parameters> struct dtr_simt_call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;

    static void body(const void *argument)
    {
        const dtr_simt_call *call = static_cast<const dtr_simt_call *>(argument);
        std::apply(call->kernel, call->parameters);
    }
};

template <typename... Parameters, typename... Arguments>
cudaError_t dtr_simt_launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
    size_t shared_bytes, cudaStream_t stream, Arguments &&...arguments)
{
    dtr_simt_check(name, grid, block, shared_bytes);
    dtr_simt_call<Parameters...> call{kernel, {std::forward<Arguments>(arguments)...}};
    return dtr_simt_enqueue(stream, [=] {
        dtr_simt_run(name, grid, block, shared_bytes, dtr_simt_call<Parameters...>::body, &call);
    });
}

#include "simt_device.h"
#include "simt_tensor_core.h"

#endif
