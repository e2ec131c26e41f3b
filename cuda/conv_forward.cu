/*
 * Forward pass of a convolution: rows are output positions, columns output channels, k is a tap and
 * an input channel (conv_gemm.cuh). Bias, relu and pool happen before anything is written.
 */
#include "conv_gemm.cuh"
#include "conv_parts.cuh"

namespace
{
struct Forward {
    static constexpr bool a_by_row = false, b_by_column = true;
    dtr_cuda_conv conv;
    const float *src, *kernel, *bias;
    float *dst;
    uint8_t *winners;

    struct Row {
        int64_t image; /* its first element */
        int y, x;      /* of the first tap */
    };
    struct Inner {
        int64_t channel;
        int y, x;
    };

    __device__ int64_t part_begin(unsigned part) const
    {
        return part * (conv.kh * conv.kw * conv.in);
    }
    __device__ Row row(int64_t m) const
    {
        if (m >= dtr_conv_positions(conv))
            return {0, dtr_conv_nowhere, 0};
        dtr_conv_position at = dtr_conv_position_at(conv, m);
        return {at.image * conv.h * conv.w * conv.in,
            at.y * static_cast<int>(conv.stride) - static_cast<int>(conv.pad_top),
            at.x * static_cast<int>(conv.stride) - static_cast<int>(conv.pad_left)};
    }
    __device__ Inner inner(int64_t k, int64_t end) const
    {
        if (k >= end)
            return {0, dtr_conv_nowhere, 0};
        int64_t tap = k / conv.in;
        return {
            k - tap * conv.in, static_cast<int>(tap / conv.kw), static_cast<int>(tap % conv.kw)};
    }
    __device__ __forceinline__ float a(const Row &row, const Inner &inner) const
    {
        int y = row.y + inner.y, x = row.x + inner.x;
        if (y < 0 || y >= conv.h || x < 0 || x >= conv.w)
            return 0;
        return src[row.image + (y * conv.w + x) * conv.in + inner.channel];
    }
    __device__ __forceinline__ float b(const Inner &inner, int64_t k, int64_t n) const
    {
        return inner.y < 0 || n >= conv.out ? 0 : kernel[k * conv.out + n];
    }
    __device__ __forceinline__ float activated(float sum, int64_t n) const
    {
        float value = sum + bias[n];
        return conv.relu && value < 0 ? 0 : value; /* a NaN is not less */
    }

    template <int columns>
    __device__ __forceinline__ void finish(const float *tile, int64_t m, int64_t n) const
    {
        constexpr int stride = columns + conv_gemm::beside;
        int members = conv.pool ? 4 : 1, cells = conv_gemm::rows / members;
        int64_t count = dtr_conv_positions(conv) / members, first = m / members;
        for (int i = static_cast<int>(threadIdx.x); i < cells * columns; i += conv_gemm::threads) {
            int cell = i / columns, column = i % columns, winner = 0;
            if (first + cell >= count || n + column >= conv.out)
                continue;
            const float *sums = tile + cell * members * stride + column;
            float best = activated(sums[0], n + column);
            for (int member = 1; member < members; member++) {
                float value = activated(sums[member * stride], n + column);
                if (value > best || (value != value && best == best)) {
                    best = value;
                    winner = member;
                }
            }
            int64_t at = (first + cell) * conv.out + n + column;
            dst[at] = best;
            if (winners != nullptr)
                winners[at] = static_cast<uint8_t>(winner);
        }
    }
};
} // namespace

cudaError_t dtr_cuda_conv_forward(const struct dtr_cuda_conv *conv, const float *src,
    const float *kernel, const float *bias, float *dst, uint8_t *winners, cudaStream_t stream)
{
    Forward pass = {*conv, src, kernel, bias, dst, conv->pool ? winners : nullptr};
    return conv_gemm::launch(
        pass, dtr_conv_positions(*conv), conv->out, 1, conv->precision, stream);
}
