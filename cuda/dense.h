/* Products of a dense layer, by cuBLAS: kernel [in, out], n samples. On the handle's stream. */
#ifndef DTRAIN_CUDA_DENSE_H
#define DTRAIN_CUDA_DENSE_H

#include "dtrain/status.h"
#include "kernels.h"

#include <cublas_v2.h>
#include <stdint.h>

struct dtr_cuda_dense {
    cublasHandle_t blas;
    int64_t n, in, out;
    enum dtr_precision precision;
};

/* dst [n, out] = src [n, in] kernel */
enum dtr_status dtr_cuda_dense_forward(const struct dtr_cuda_dense *dense, const float *src,
    const float *kernel, float *dst, struct dtr_error *error);

/* diff_src [n, in] = diff_dst [n, out] kernel^T */
enum dtr_status dtr_cuda_dense_backward_source(const struct dtr_cuda_dense *dense,
    const float *kernel, const float *diff_dst, float *diff_src, struct dtr_error *error);

/* diff_kernel = src^T diff_dst */
enum dtr_status dtr_cuda_dense_backward_kernel(const struct dtr_cuda_dense *dense, const float *src,
    const float *diff_dst, float *diff_kernel, struct dtr_error *error);

#endif
