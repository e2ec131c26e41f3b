/*
 * cuBLAS: matrix products of float32 on the stream, with the operands rounded as the compute type
 * says. Matrices are column by column, as cuBLAS has them.
 */
#include "internal.h"

#include <cstring>
#include <cublas_v2.h>

struct cublasContext {
    cudaStream_t stream;
    cublasMath_t math;
};

namespace
{

using namespace fake;

#define BLAS_ENTER()                                                                               \
    std::lock_guard<std::recursive_mutex> guard(lock());                                           \
    if (int code = fault(__func__, CUBLAS_STATUS_EXECUTION_FAILED))                                \
    return static_cast<cublasStatus_t>(code)

/* To nearest even, with the lowest `bits` of the mantissa gone. */
float rounded(float value, int bits)
{
    if (bits == 0 || value - value != 0) /* Inf and NaN stay */
        return value;
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    word += (1U << (bits - 1)) - 1 + ((word >> bits) & 1);
    word &= ~((1U << bits) - 1);
    memcpy(&value, &word, sizeof value);
    return value;
}

struct Matrix {
    const float *values;
    int64_t stride;
    bool transposed;
    /* [rows, columns] after the transposition, column by column. */
    std::vector<float> pack(int64_t rows, int64_t columns, int bits) const
    {
        std::vector<float> packed(static_cast<size_t>(rows * columns));
        for (int64_t j = 0; j < columns; j++)
            for (int64_t i = 0; i < rows; i++)
                packed[static_cast<size_t>(j * rows + i)] = rounded(
                    values[transposed ? i * stride + j : j * stride + i], bits);
        return packed;
    }
    bool inside(int64_t rows, int64_t columns) const
    {
        if (transposed)
            std::swap(rows, columns);
        int64_t count = (columns - 1) * stride + rows;
        return stride >= rows && is_device(values, static_cast<size_t>(count) * sizeof(float));
    }
};

struct Product {
    int64_t m, n, k, stride;
    int bits;
    float alpha, beta;
    Matrix a, b;
    float *c;
    void run() const
    {
        std::vector<float> left = a.pack(m, k, bits), right = b.pack(k, n, bits);
        std::vector<float> sums(static_cast<size_t>(m));
        for (int64_t j = 0; j < n; j++) {
            std::fill(sums.begin(), sums.end(), 0.0F);
            for (int64_t p = 0; p < k; p++) {
                float factor = right[static_cast<size_t>(j * k + p)];
                const float *column = left.data() + p * m;
                for (int64_t i = 0; i < m; i++)
                    sums[static_cast<size_t>(i)] += column[i] * factor;
            }
            for (int64_t i = 0; i < m; i++) {
                float *dst = c + j * stride + i;
                float sum = alpha * sums[static_cast<size_t>(i)];
                *dst = beta == 0 ? sum : sum + beta * *dst; /* then dst may be anything */
            }
        }
    }
};

cublasStatus_t start(cublasHandle_t handle, const Product &product)
{
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (product.m == 0 || product.n == 0)
        return CUBLAS_STATUS_SUCCESS;
    Matrix c{product.c, product.stride, false};
    if (!product.a.inside(product.m, product.k) || !product.b.inside(product.k, product.n) ||
        !c.inside(product.m, product.n)) {
        mistake("a cuBLAS product outside of device memory");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    cudaError_t status = enqueue(handle->stream, [=] { product.run(); });
    return status ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

} /* namespace */

cublasStatus_t cublasCreate(cublasHandle_t *handle_out)
{
    BLAS_ENTER();
    if (forbidden_in_capture())
        return CUBLAS_STATUS_ALLOC_FAILED;
    *handle_out = new cublasContext{nullptr, CUBLAS_DEFAULT_MATH};
    alive(1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    BLAS_ENTER();
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    drain();
    delete handle;
    alive(-1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    BLAS_ENTER();
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *workspace, size_t size)
{
    BLAS_ENTER();
    bool valid = size == 0 || is_device(workspace, size);
    return valid ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    BLAS_ENTER();
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t, int *version_out)
{
    BLAS_ENTER();
    *version_out = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the function failed to launch on the GPU";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    default:
        return "unknown status";
    }
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa,
    cublasOperation_t transb, int m, int n, int k, const float *alpha, const float *a, int lda,
    const float *b, int ldb, const float *beta, float *c, int ldc)
{
    BLAS_ENTER();
    int bits = handle && handle->math == CUBLAS_TF32_TENSOR_OP_MATH ? 13 : 0;
    return start(handle, {m, n, k, ldc, bits, *alpha, *beta, {a, lda, transa != CUBLAS_OP_N},
                             {b, ldb, transb != CUBLAS_OP_N}, c});
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa,
    cublasOperation_t transb, int m, int n, int k, const void *alpha, const void *a,
    cudaDataType atype, int lda, const void *b, cudaDataType btype, int ldb, const void *beta,
    void *c, cudaDataType ctype, int ldc, cublasComputeType_t type, cublasGemmAlgo_t)
{
    BLAS_ENTER();
    int bits = 0;
    if (type == CUBLAS_COMPUTE_32F_FAST_16BF)
        bits = 16;
    else if (type == CUBLAS_COMPUTE_32F_FAST_TF32 ||
             (type == CUBLAS_COMPUTE_32F && handle && handle->math == CUBLAS_TF32_TENSOR_OP_MATH))
        bits = 13;
    else if (type != CUBLAS_COMPUTE_32F && type != CUBLAS_COMPUTE_32F_PEDANTIC)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (atype != CUDA_R_32F || btype != CUDA_R_32F || ctype != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return start(handle,
        {m, n, k, ldc, bits, *static_cast<const float *>(alpha), *static_cast<const float *>(beta),
            {static_cast<const float *>(a), lda, transa != CUBLAS_OP_N},
            {static_cast<const float *>(b), ldb, transb != CUBLAS_OP_N}, static_cast<float *>(c)});
}
