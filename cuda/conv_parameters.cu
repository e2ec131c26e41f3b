/*
 * Gradients of a convolution's kernel and bias: rows are taps and input channels, columns output
 * channels, k is an output position (conv_gemm.cuh). One row more, of ones, makes the gradient of
 * the bias. There are few tiles but many positions, so these are divided into parts; their sums go
 * to the workspace, and a second kernel adds them in the order of the parts.
 */
#include "conv_gemm.cuh"
#include "conv_parts.cuh"

namespace
{
enum { blocks_wanted = 264, depth_least = 8 * conv_gemm::depth, add_threads = 256 };

/* How positions are divided; from the shape alone. */
struct Parts {
    int64_t positions, each, count;
};

Parts parts_of(const dtr_cuda_conv &conv)
{
    int64_t m = conv.kh * conv.kw * conv.in + 1, columns = conv_gemm::columns_for(conv.out);
    int64_t tiles = conv_gemm::tiles_for(m, conv_gemm::rows) *
                    conv_gemm::tiles_for(conv.out, columns);
    int64_t positions = dtr_conv_positions(conv);
    int64_t each = conv_gemm::tiles_for(positions * tiles, blocks_wanted);
    if (each < depth_least)
        each = depth_least;
    each = conv_gemm::tiles_for(each, conv_gemm::depth) * conv_gemm::depth;
    int64_t count = conv_gemm::tiles_for(positions, each);
    return {positions, each, count < 1 ? 1 : count};
}

struct Parameters {
    static constexpr bool a_by_row = true, b_by_column = true;
    dtr_cuda_conv conv;
    dtr_conv_gradient gradient;
    const float *src;
    Parts parts;
    float *sums; /* [parts, m, out] */

    struct Row {
        int64_t channel; /* -1: the row of ones */
        int y, x;
    };
    struct Inner {
        int64_t image; /* its first element in src */
        int y, x;      /* of the first tap */
        int64_t at;    /* in dst; -1: no position */
        int member;
    };

    __device__ int64_t kernel_rows() const
    {
        return conv.kh * conv.kw * conv.in;
    }
    __device__ int64_t part_begin(unsigned part) const
    {
        int64_t begin = part * parts.each;
        return begin < parts.positions ? begin : parts.positions;
    }
    __device__ Row row(int64_t m) const
    {
        if (m == kernel_rows())
            return {-1, 0, 0};
        if (m > kernel_rows())
            return {0, dtr_conv_nowhere, 0};
        int64_t tap = m / conv.in;
        return {
            m - tap * conv.in, static_cast<int>(tap / conv.kw), static_cast<int>(tap % conv.kw)};
    }
    __device__ Inner inner(int64_t k, int64_t end) const
    {
        if (k >= end)
            return {0, dtr_conv_nowhere, 0, -1, 0};
        dtr_conv_position at = dtr_conv_position_at(conv, k);
        dtr_conv_place place = dtr_conv_place_of(conv, at.image, at.y, at.x);
        return {at.image * conv.h * conv.w * conv.in,
            at.y * static_cast<int>(conv.stride) - static_cast<int>(conv.pad_top),
            at.x * static_cast<int>(conv.stride) - static_cast<int>(conv.pad_left), place.at,
            place.member};
    }
    __device__ __forceinline__ float a(const Row &row, const Inner &inner) const
    {
        if (row.channel < 0)
            return 1;
        int y = row.y + inner.y, x = row.x + inner.x;
        if (y < 0 || y >= conv.h || x < 0 || x >= conv.w)
            return 0;
        return src[inner.image + (y * conv.w + x) * conv.in + row.channel];
    }
    __device__ __forceinline__ float b(const Inner &inner, int64_t, int64_t n) const
    {
        if (inner.at < 0 || n >= conv.out)
            return 0;
        return gradient.value(conv, inner.at + n, inner.member);
    }

    template <int columns>
    __device__ __forceinline__ void finish(const float *tile, int64_t m, int64_t n) const
    {
        constexpr int count = conv_gemm::rows * columns, stride = columns + conv_gemm::beside;
        int64_t all = kernel_rows() + 1;
        float *part = sums + blockIdx.z * all * conv.out;
        for (int i = static_cast<int>(threadIdx.x); i < count; i += conv_gemm::threads) {
            int row = i / columns, column = i % columns;
            if (m + row < all && n + column < conv.out)
                part[(m + row) * conv.out + n + column] = tile[row * stride + column];
        }
    }
};

/* Kernel and bias lie one behind the other in each part. */
__global__ void add_parts(int64_t parts, int64_t kernel_count, int64_t bias_count,
    const float *sums, float *diff_kernel, float *diff_bias)
{
    int64_t i = static_cast<int64_t>(blockIdx.x) * add_threads + threadIdx.x;
    int64_t count = kernel_count + bias_count;
    if (i >= count)
        return;
    float sum = sums[i];
    for (int64_t part = 1; part < parts; part++)
        sum += sums[part * count + i];
    if (i < kernel_count)
        diff_kernel[i] = sum;
    else
        diff_bias[i - kernel_count] = sum;
}
} // namespace

int64_t dtr_cuda_conv_workspace(const struct dtr_cuda_conv *conv)
{
    return parts_of(*conv).count * (conv->kh * conv->kw * conv->in + 1) * conv->out *
           static_cast<int64_t>(sizeof(float));
}

cudaError_t dtr_cuda_conv_backward_parameters(const struct dtr_cuda_conv *conv, const float *src,
    const float *dst, const uint8_t *winners, const float *diff_dst, void *workspace,
    float *diff_kernel, float *diff_bias, cudaStream_t stream)
{
    int64_t m = conv->kh * conv->kw * conv->in;
    Parameters pass = {
        *conv, {dst, diff_dst, winners}, src, parts_of(*conv), static_cast<float *>(workspace)};
    cudaError_t error = conv_gemm::launch(
        pass, m + 1, conv->out, pass.parts.count, conv->precision, stream);
    if (error != cudaSuccess)
        return error;
    unsigned blocks = static_cast<unsigned>(conv_gemm::tiles_for((m + 1) * conv->out, add_threads));
    return DTR_LAUNCH(add_parts, blocks, add_threads, 0, stream, pass.parts.count, m * conv->out,
        conv->out, static_cast<const float *>(pass.sums), diff_kernel, diff_bias);
}
