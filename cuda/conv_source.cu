/*
 * Gradient of a convolution's source: rows are source positions, columns input channels, k is a tap
 * and an output channel (conv_gemm.cuh). Each position gathers from the outputs that used it, so
 * nothing is added to by two threads.
 */
#include "conv_gemm.cuh"
#include "conv_parts.cuh"

namespace
{
struct Source {
    static constexpr bool a_by_row = false, b_by_column = false;
    dtr_cuda_conv conv;
    dtr_conv_gradient gradient;
    const float *kernel;
    float *diff_src;

    struct Row {
        int64_t image;
        int y, x; /* with padding */
    };
    struct Inner {
        int64_t channel;
        int y, x;
    };

    __device__ int64_t part_begin(unsigned part) const
    {
        return part * (conv.kh * conv.kw * conv.out);
    }
    __device__ Row row(int64_t m) const
    {
        if (m >= conv.n * conv.h * conv.w)
            return {0, dtr_conv_nowhere, 0};
        int64_t image = m / (conv.h * conv.w), inside = m - image * (conv.h * conv.w);
        return {image, static_cast<int>(inside / conv.w + conv.pad_top),
            static_cast<int>(inside % conv.w + conv.pad_left)};
    }
    __device__ Inner inner(int64_t k, int64_t end) const
    {
        if (k >= end)
            return {0, -dtr_conv_nowhere, 0};
        int64_t tap = k / conv.out;
        return {
            k - tap * conv.out, static_cast<int>(tap / conv.kw), static_cast<int>(tap % conv.kw)};
    }
    __device__ __forceinline__ float a(const Row &row, const Inner &inner) const
    {
        int y = row.y - inner.y, x = row.x - inner.x, stride = static_cast<int>(conv.stride);
        if (y < 0 || x < 0)
            return 0;
        if (stride > 1) {
            if (y % stride != 0 || x % stride != 0)
                return 0;
            y /= stride;
            x /= stride;
        }
        dtr_conv_place place = dtr_conv_place_of(conv, row.image, y, x);
        return place.at < 0 ? 0 : gradient.value(conv, place.at + inner.channel, place.member);
    }
    __device__ __forceinline__ float b(const Inner &inner, int64_t, int64_t n) const
    {
        if (inner.y >= conv.kh || n >= conv.in)
            return 0;
        return kernel[((inner.y * conv.kw + inner.x) * conv.in + n) * conv.out + inner.channel];
    }

    template <int columns>
    __device__ __forceinline__ void finish(const float *tile, int64_t m, int64_t n) const
    {
        constexpr int count = conv_gemm::rows * columns, stride = columns + conv_gemm::beside;
        for (int i = static_cast<int>(threadIdx.x); i < count; i += conv_gemm::threads) {
            int row = i / columns, column = i % columns;
            if (m + row < conv.n * conv.h * conv.w && n + column < conv.in)
                diff_src[(m + row) * conv.in + n + column] = tile[row * stride + column];
        }
    }
};
} // namespace

cudaError_t dtr_cuda_conv_backward_source(const struct dtr_cuda_conv *conv, const float *kernel,
    const float *dst, const uint8_t *winners, const float *diff_dst, float *diff_src,
    cudaStream_t stream)
{
    Source pass = {*conv, {dst, diff_dst, winners}, kernel, diff_src};
    return conv_gemm::launch(
        pass, conv->n * conv->h * conv->w, conv->in, 1, conv->precision, stream);
}
