#include "failure.h"

#include <string.h>

/* A call's name, without what it was called with. */
static int name_length(const char *call)
{
    return (int)strcspn(call, "(");
}

enum dtr_status dtr_cuda_failed(struct dtr_error *error, cudaError_t result, const char *call)
{
    cudaGetLastError(); /* it would be found again by the next call */
    return dtr_error_set(error, DTR_FAILED, "%.*s: %s (%s)", name_length(call), call,
        cudaGetErrorString(result), cudaGetErrorName(result));
}

enum dtr_status dtr_cublas_failed(struct dtr_error *error, cublasStatus_t result, const char *call)
{
    return dtr_error_set(error, DTR_FAILED, "%.*s: %s (cuBLAS)", name_length(call), call,
        cublasGetStatusString(result));
}
