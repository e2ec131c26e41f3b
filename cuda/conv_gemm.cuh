/*
 * The matrix product that all passes of a convolution are: C[m, n] = sum over k of A[m, k] B[k, n],
 * where neither A nor B is anywhere in memory. A pass says by a small struct, its `Pass`, what the
 * elements are and what becomes of C:
 *
 *     Row, Inner          what is known of a row m, and of a k, once for the whole tile
 *     Row row(m)          also beyond the last row
 *     Inner inner(k, end) from `end` on a k with which a() and b() are 0
 *     float a(Row, Inner), b(Inner, k, n)
 *     a_by_row, b_by_column   neighbours in memory are neighbouring rows (columns), not k
 *     part_begin(part)        k from part_begin(p) to part_begin(p + 1) are part p
 *     void finish(tile, m, n) the sums of this block, by all threads, from row m and column n on
 *
 * A block of 128 threads makes `rows` x `columns` sums in steps of `depth`. What a step needs
 * is loaded to registers while the step before it is computed, then goes rounded to the other half
 * of the shared memory: through registers and not by cp.async, as most elements are looked up,
 * masked or rounded on the way. The sums pass through shared memory in the end, so that finish()
 * sees rows and columns whatever computed them.
 *
 * Every sum is added up in the order of k by one thread or one warp's tensor core, so its bits do
 * not depend on where in a grid it is. Before sm_80 all precisions are float32.
 */
#ifndef DTRAIN_CUDA_CONV_GEMM_CUH
#define DTRAIN_CUDA_CONV_GEMM_CUH

#include "kernels.h"
#include "launch.cuh"
#include "tensor_core.cuh"

#include <stddef.h>
#include <stdint.h>

namespace conv_gemm
{
enum { threads = 128, warps = threads / 32, rows = 64, depth = 16, beside = 8 };

#if defined(DTR_SIMT) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
constexpr bool has_tensor_cores = true;
#else
constexpr bool has_tensor_cores = false;
#endif

/* A tile of an operand in shared memory: 32 bits for each k and row (or column), for bfloat16 for
 * each two k. Rows are 8 words longer than they have to be: then a fragment is in 32 banks. */
template <dtr_precision precision, int width> struct Operand {
    static constexpr int stride = width + beside;
    static constexpr int words = depth * stride;
    uint32_t *at;

    __device__ __forceinline__ void put(int k, int i, float value) const
    {
        if constexpr (precision == DTR_BF16) {
            uint16_t *halves = reinterpret_cast<uint16_t *>(at);
            halves[2 * (k / 2 * stride + i) + k % 2] = static_cast<uint16_t>(
                dtr_bf16_pack(value, 0) & 0xffffu);
        } else if constexpr (precision == DTR_TF32) {
            at[k * stride + i] = dtr_tf32_round(value);
        } else {
            at[k * stride + i] = __float_as_uint(value);
        }
    }
    __device__ __forceinline__ uint32_t word(int k, int i) const
    {
        return at[k * stride + i];
    }
    __device__ __forceinline__ float value(int k, int i) const
    {
        return __uint_as_float(at[k * stride + i]);
    }
};

/* A thread's sums by float32 multiply-adds: `high` rows of four columns. */
template <int columns> struct Scalar {
    static constexpr int wide = 4, across = columns / wide, high = rows * across / threads;
    float sums[high][wide] = {};

    static __device__ __forceinline__ int first_row()
    {
        return static_cast<int>(threadIdx.x) / across * high;
    }
    static __device__ __forceinline__ int first_column()
    {
        return static_cast<int>(threadIdx.x) % across * wide;
    }
    __device__ __forceinline__ void add(
        Operand<DTR_FP32, rows> a_tile, Operand<DTR_FP32, columns> b_tile)
    {
#pragma unroll
        for (int k = 0; k < depth; k++) {
            float a[high], b[wide];
#pragma unroll
            for (int i = 0; i < high; i++)
                a[i] = a_tile.value(k, first_row() + i);
#pragma unroll
            for (int j = 0; j < wide; j++)
                b[j] = b_tile.value(k, first_column() + j);
#pragma unroll
            for (int i = 0; i < high; i++) {
#pragma unroll
                for (int j = 0; j < wide; j++)
                    sums[i][j] = __fmaf_rn(a[i], b[j], sums[i][j]);
            }
        }
    }
    __device__ __forceinline__ void store(float *tile) const
    {
#pragma unroll
        for (int i = 0; i < high; i++) {
#pragma unroll
            for (int j = 0; j < wide; j++)
                tile[(first_row() + i) * (columns + beside) + first_column() + j] = sums[i][j];
        }
    }
};

/* A warp's sums by its tensor core: `high` times 16 rows, four times 8 columns. */
template <dtr_precision precision, int columns> struct Tensor {
    static constexpr int across = columns / 32, down = warps / across, high = rows / down / 16;
    static constexpr int step = 8; /* words of k in a product: 8 values of TF32, 16 of bfloat16 */
    static constexpr int words = precision == DTR_BF16 ? depth / 2 : depth;
    float sums[high][4][4] = {};

    static __device__ __forceinline__ int first_row()
    {
        return static_cast<int>(threadIdx.x) / 32 / across * (16 * high) +
               static_cast<int>(threadIdx.x) % 32 / 4;
    }
    static __device__ __forceinline__ int first_column()
    {
        return static_cast<int>(threadIdx.x) / 32 % across * 32;
    }
    __device__ __forceinline__ void add(
        Operand<precision, rows> a_tile, Operand<precision, columns> b_tile)
    {
        int row = static_cast<int>(threadIdx.x) % 32 / 4,
            column = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
        for (int k = 0; k < words; k += step) {
            uint32_t b[4][2];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                b[j][0] = b_tile.word(k + column, first_column() + 8 * j + row);
                b[j][1] = b_tile.word(k + column + 4, first_column() + 8 * j + row);
            }
#pragma unroll
            for (int i = 0; i < high; i++) {
                int m = first_row() + 16 * i;
                uint32_t a[4] = {a_tile.word(k + column, m), a_tile.word(k + column, m + 8),
                    a_tile.word(k + column + 4, m), a_tile.word(k + column + 4, m + 8)};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if constexpr (precision == DTR_BF16)
                        dtr_mma_bf16(sums[i][j], a, b[j]);
                    else
                        dtr_mma_tf32(sums[i][j], a, b[j]);
                }
            }
        }
    }
    __device__ __forceinline__ void store(float *tile) const
    {
        int column = 2 * (static_cast<int>(threadIdx.x) % 4);
#pragma unroll
        for (int i = 0; i < high; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int c = 0; c < 4; c++)
                    tile[(first_row() + 16 * i + c / 2 * 8) * (columns + beside) + first_column() +
                         8 * j + column + c % 2] = sums[i][j][c];
            }
        }
    }
};

template <dtr_precision precision, int columns> struct Sums {
    typedef Tensor<precision, columns> type;
};
template <int columns> struct Sums<DTR_FP32, columns> {
    typedef Scalar<columns> type;
};

/* How a block's shared memory is divided: two tiles of each operand, later the sums; rows; two
 * times what is known of each k. */
template <class Pass, int columns> struct Shared {
    static constexpr size_t operands = sizeof(uint32_t) * 2 *
                                       (Operand<DTR_FP32, rows>::words +
                                           Operand<DTR_FP32, columns>::words);
    static constexpr size_t sums = sizeof(float) * rows * (columns + beside);
    static constexpr size_t tiles = operands > sums ? operands : sums;
    static constexpr size_t bytes = tiles + rows * sizeof(typename Pass::Row) +
                                    2 * depth * sizeof(typename Pass::Inner);
};

/* One step's elements on their way from global to shared memory. */
template <class Pass, dtr_precision precision, int columns> struct Stage {
    static constexpr int a_count = rows * depth / threads, b_count = columns * depth / threads;
    float a[a_count], b[b_count];

    template <int width, bool by_width>
    static __device__ __forceinline__ void place(int i, int *k_out, int *other_out)
    {
        int number = static_cast<int>(threadIdx.x) + i * threads;
        *k_out = by_width ? number / width : number % depth;
        *other_out = by_width ? number % width : number / depth;
    }
    __device__ __forceinline__ void load(const Pass &pass, const typename Pass::Row *row_of,
        const typename Pass::Inner *inner_of, int64_t first_k, int64_t first_column)
    {
        int k, other;
#pragma unroll
        for (int i = 0; i < a_count; i++) {
            place<rows, Pass::a_by_row>(i, &k, &other);
            a[i] = pass.a(row_of[other], inner_of[k]);
        }
#pragma unroll
        for (int i = 0; i < b_count; i++) {
            place<columns, Pass::b_by_column>(i, &k, &other);
            b[i] = pass.b(inner_of[k], first_k + k, first_column + other);
        }
    }
    __device__ __forceinline__ void store(
        Operand<precision, rows> a_tile, Operand<precision, columns> b_tile) const
    {
        int k, other;
#pragma unroll
        for (int i = 0; i < a_count; i++) {
            place<rows, Pass::a_by_row>(i, &k, &other);
            a_tile.put(k, other, a[i]);
        }
#pragma unroll
        for (int i = 0; i < b_count; i++) {
            place<columns, Pass::b_by_column>(i, &k, &other);
            b_tile.put(k, other, b[i]);
        }
    }
};

/* Block (x, y, z) computes tile (x, y) over the k of part z. */
template <class Pass, dtr_precision wanted, int columns>
static __global__ void __launch_bounds__(threads) multiply(Pass pass)
{
    constexpr dtr_precision precision = has_tensor_cores ? wanted : DTR_FP32;
    typedef typename Pass::Row Row;
    typedef typename Pass::Inner Inner;
    constexpr int a_words = Operand<precision, rows>::words;
    constexpr int b_words = Operand<precision, columns>::words;

    DTR_SHARED(unsigned char, shared);
    uint32_t *tiles = reinterpret_cast<uint32_t *>(shared);
    Row *row_of = reinterpret_cast<Row *>(shared + Shared<Pass, columns>::tiles);
    Inner *inner_of = reinterpret_cast<Inner *>(row_of + rows);
    const Operand<precision, rows> a_tiles[2] = {{tiles}, {tiles + a_words}};
    const Operand<precision, columns> b_tiles[2] = {
        {tiles + 2 * a_words}, {tiles + 2 * a_words + b_words}};

    int thread = static_cast<int>(threadIdx.x);
    int64_t m = static_cast<int64_t>(blockIdx.x) * rows;
    int64_t n = static_cast<int64_t>(blockIdx.y) * columns;
    int64_t begin = pass.part_begin(blockIdx.z), end = pass.part_begin(blockIdx.z + 1);
    Stage<Pass, precision, columns> stage;
    typename Sums<precision, columns>::type sums;

    if (thread < rows)
        row_of[thread] = pass.row(m + thread);
    if (thread < 2 * depth)
        inner_of[thread] = pass.inner(begin + thread, end);
    __syncthreads();
    if (begin < end) {
        stage.load(pass, row_of, inner_of, begin, n);
        stage.store(a_tiles[0], b_tiles[0]);
    }
    __syncthreads();
    int half = 0;
    for (int64_t k = begin; k < end; k += depth, half ^= 1) {
        bool more = k + depth < end;
        if (more)
            stage.load(pass, row_of, inner_of + (half ^ 1) * depth, k + depth, n);
        sums.add(half == 0 ? a_tiles[0] : a_tiles[1], half == 0 ? b_tiles[0] : b_tiles[1]);
        if (more) {
            stage.store(half == 0 ? a_tiles[1] : a_tiles[0], half == 0 ? b_tiles[1] : b_tiles[0]);
            if (thread < depth)
                inner_of[half * depth + thread] = pass.inner(k + 2 * depth + thread, end);
        }
        __syncthreads();
    }
    float *tile = reinterpret_cast<float *>(tiles);
    sums.store(tile);
    __syncthreads();
    pass.template finish<columns>(tile, m, n);
}

template <class Pass, int columns>
cudaError_t launch_columns(
    const Pass &pass, dim3 grid, dtr_precision precision, cudaStream_t stream)
{
    constexpr size_t bytes = Shared<Pass, columns>::bytes;
    if (precision == DTR_TF32)
        return DTR_LAUNCH((multiply<Pass, DTR_TF32, columns>), grid, threads, bytes, stream, pass);
    if (precision == DTR_BF16)
        return DTR_LAUNCH((multiply<Pass, DTR_BF16, columns>), grid, threads, bytes, stream, pass);
    return DTR_LAUNCH((multiply<Pass, DTR_FP32, columns>), grid, threads, bytes, stream, pass);
}

/* Columns of a tile: few where a pass has only few. */
static inline int columns_for(int64_t n)
{
    return n <= 32 ? 32 : 64;
}

static inline int64_t tiles_for(int64_t count, int64_t size)
{
    return (count + size - 1) / size;
}

/* Puts a pass with m rows, n columns and `parts` parts on a stream. */
template <class Pass>
cudaError_t launch(const Pass &pass, int64_t m, int64_t n, int64_t parts, dtr_precision precision,
    cudaStream_t stream)
{
    if (m == 0 || n == 0)
        return cudaSuccess;
    int columns = columns_for(n);
    dim3 grid(static_cast<unsigned>(tiles_for(m, rows)),
        static_cast<unsigned>(tiles_for(n, columns)), static_cast<unsigned>(parts));
    if (columns == 32)
        return launch_columns<Pass, 32>(pass, grid, precision, stream);
    return launch_columns<Pass, 64>(pass, grid, precision, stream);
}

} // namespace conv_gemm

#endif
