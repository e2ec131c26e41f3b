/* Results of CUDA and cuBLAS calls as errors: one line with the call and what the library says. */
#ifndef DTRAIN_CUDA_FAILURE_H
#define DTRAIN_CUDA_FAILURE_H

#include "dtrain/status.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

enum dtr_status dtr_cuda_failed(struct dtr_error *error, cudaError_t result, const char *call);
enum dtr_status dtr_cublas_failed(struct dtr_error *error, cublasStatus_t result, const char *call);

/* Returns from a function that has `struct dtr_error *error`, if the call has failed. */
#define CUDA(...)                                                                                  \
    do {                                                                                           \
        cudaError_t result_ = (__VA_ARGS__);                                                       \
        if (result_ != cudaSuccess)                                                                \
            return dtr_cuda_failed(error, result_, #__VA_ARGS__);                                  \
    } while (0)
#define CUBLAS(...)                                                                                \
    do {                                                                                           \
        cublasStatus_t result_ = (__VA_ARGS__);                                                    \
        if (result_ != CUBLAS_STATUS_SUCCESS)                                                      \
            return dtr_cublas_failed(error, result_, #__VA_ARGS__);                                \
    } while (0)

#endif
