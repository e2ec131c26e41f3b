/* A GPU runs the kernels. */
#include "machine.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Asked by a process of its own: one that has used CUDA must not fork, and tests do. */
bool machine_is_there(void)
{
    int status = 0, count = 0;
    pid_t asker = fork();
    if (asker == 0) {
        cudaError_t result = cudaGetDeviceCount(&count);
        if (result != cudaSuccess)
            fprintf(stderr, "no GPU can be used: %s\n", cudaGetErrorString(result));
        _exit(result != cudaSuccess || count == 0);
    }
    return asker > 0 && waitpid(asker, &status, 0) == asker && status == 0;
}

void *machine_alloc(size_t bytes)
{
    void *memory = NULL;
    return cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal) == cudaSuccess ? memory : NULL;
}

void machine_free(void *memory)
{
    cudaFree(memory);
}

cudaError_t machine_finish(cudaError_t started)
{
    return started != cudaSuccess ? started : cudaDeviceSynchronize();
}

void machine_order_threads(const char *order)
{
    (void)order;
}

void machine_order_streams(uint64_t seed)
{
    (void)seed;
}

const char *machine_fault(void)
{
    cudaError_t result = cudaDeviceSynchronize();
    return result == cudaSuccess ? NULL : cudaGetErrorString(result);
}

/* Tensor cores align the terms of a sum to the largest and cut off what is below its last place
 * (Fasi, Higham, Mikaitis, Pranesh: "Numerical behavior of NVIDIA tensor cores", 2021): up to 2^-23
 * a term, where rounding to nearest is wrong by half of that. */
double machine_rounding(enum dtr_precision precision)
{
    return precision == DTR_FP32 ? 0x1p-24 : 0x1p-23;
}
