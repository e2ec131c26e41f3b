/* cuBLAS counts columns first, so to it each of our matrices is transposed: it is asked for the
 * transposed product. */
#include "dense.h"

#include "failure.h"

struct operand {
    cublasOperation_t operation;
    const float *values;
    int64_t columns; /* of a row of ours */
};

/* product [rows of right's, m] of ours. */
static enum dtr_status multiply(const struct dtr_cuda_dense *dense, int64_t m, int64_t n, int64_t k,
    struct operand left, struct operand right, float *product, struct dtr_error *error)
{
    static const cublasComputeType_t types[] = {[DTR_FP32] = CUBLAS_COMPUTE_32F,
        [DTR_TF32] = CUBLAS_COMPUTE_32F_FAST_TF32,
        [DTR_BF16] = CUBLAS_COMPUTE_32F_FAST_16BF};
    const float one = 1, zero = 0;
    CUBLAS(cublasGemmEx(dense->blas, left.operation, right.operation, (int)m, (int)n, (int)k, &one,
        left.values, CUDA_R_32F, (int)left.columns, right.values, CUDA_R_32F, (int)right.columns,
        &zero, product, CUDA_R_32F, (int)m, types[dense->precision], CUBLAS_GEMM_DEFAULT));
    return DTR_OK;
}

enum dtr_status dtr_cuda_dense_forward(const struct dtr_cuda_dense *dense, const float *src,
    const float *kernel, float *dst, struct dtr_error *error)
{
    return multiply(dense, dense->out, dense->n, dense->in,
        (struct operand){CUBLAS_OP_N, kernel, dense->out},
        (struct operand){CUBLAS_OP_N, src, dense->in}, dst, error);
}

enum dtr_status dtr_cuda_dense_backward_source(const struct dtr_cuda_dense *dense,
    const float *kernel, const float *diff_dst, float *diff_src, struct dtr_error *error)
{
    return multiply(dense, dense->in, dense->n, dense->out,
        (struct operand){CUBLAS_OP_T, kernel, dense->out},
        (struct operand){CUBLAS_OP_N, diff_dst, dense->out}, diff_src, error);
}

enum dtr_status dtr_cuda_dense_backward_kernel(const struct dtr_cuda_dense *dense, const float *src,
    const float *diff_dst, float *diff_kernel, struct dtr_error *error)
{
    return multiply(dense, dense->out, dense->in, dense->n,
        (struct operand){CUBLAS_OP_N, diff_dst, dense->out},
        (struct operand){CUBLAS_OP_T, src, dense->in}, diff_kernel, error);
}
