/* See sample_kernels.h. Compiled by nvcc too: what tests run on the CPU must be CUDA. */
#include "sample_kernels.h"

#include "launch.cuh"
#include "tensor_core.cuh"

static __global__ void number_threads(uint32_t *dst)
{
    uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    uint32_t thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    uint32_t number = block * (blockDim.x * blockDim.y * blockDim.z) + thread;

    dst[number] = number;
}

cudaError_t sample_number(dim3 grid, dim3 block, uint32_t *dst, cudaStream_t stream)
{
    return DTR_LAUNCH(number_threads, grid, block, 0, stream, dst);
}

/* One template parameter too many for a macro without parentheses. */
template <int lanes, unsigned all>
static __global__ void __launch_bounds__(1024)
    sum_block(const float *__restrict__ src, float *__restrict__ dst)
{
    DTR_SHARED(float, warp_sums);
    unsigned warp = threadIdx.x / lanes, lane = threadIdx.x % lanes;
    float sum = __ldg(&src[blockIdx.x * blockDim.x + threadIdx.x]);

    for (int distance = lanes / 2; distance > 0; distance /= 2)
        sum = __fadd_rn(sum, __shfl_down_sync(all, sum, distance));
    if (lane == 0)
        warp_sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned i = 1; i < blockDim.x / lanes; i++)
            sum = __fadd_rn(sum, warp_sums[i]);
        dst[blockIdx.x] = sum;
    }
}

cudaError_t sample_sum(int blocks, int threads, const float *src, float *dst, cudaStream_t stream)
{
    size_t shared_bytes = (size_t)threads / 32 * sizeof(float);

    return DTR_LAUNCH(
        (sum_block<32, 0xffffffffu>), blocks, threads, shared_bytes, stream, src, dst);
}

static __global__ void use_warp(const uint32_t *src, uint32_t *dst)
{
    const unsigned all = 0xffffffffu, even = 0x55555555u;
    unsigned lane = threadIdx.x;
    uint32_t value = src[lane];
    uint32_t result[SAMPLE_WARP_COUNT];

    result[SAMPLE_SHUFFLE_1] = __shfl_sync(all, value, 5);
    result[SAMPLE_SHUFFLE_HALF] = __shfl_sync(all, value, 3, 16);
    result[SAMPLE_XOR] = __shfl_xor_sync(all, value, 9);
    result[SAMPLE_UP] = __shfl_up_sync(all, value, 3);
    result[SAMPLE_DOWN] = __shfl_down_sync(all, value, 2, 8);
    double both = __shfl_xor_sync(all, (double)value, 1);
    result[SAMPLE_DOUBLE] = (uint32_t)((unsigned long long)__double_as_longlong(both) >> 32);
    result[SAMPLE_BALLOT] = __ballot_sync(all, value & 1);
    result[SAMPLE_BALLOT_EVEN] = 0;
    if (lane % 2 == 0)
        result[SAMPLE_BALLOT_EVEN] = __ballot_sync(even, value & 1);
    __syncwarp();
    result[SAMPLE_ANY] = (uint32_t)(__any_sync(all, value == 7) != 0);
    result[SAMPLE_ALL] = (uint32_t)(__all_sync(all, value < 1000) != 0);
    for (int i = 0; i < SAMPLE_WARP_COUNT; i++)
        dst[i * 32 + lane] = result[i];
}

cudaError_t sample_warp(const uint32_t *src, uint32_t *dst, cudaStream_t stream)
{
    return DTR_LAUNCH(use_warp, 1, 32, 0, stream, src, dst);
}

static __global__ void count_values(
    int n, const uint32_t *src, int buckets, unsigned *counts, unsigned *last)
{
    DTR_SHARED(unsigned, local);
    int thread = (int)threadIdx.x, threads = (int)blockDim.x;

    for (int i = thread; i < buckets; i += threads)
        local[i] = 0;
    __syncthreads();
    for (int i = (int)blockIdx.x * threads + thread; i < n; i += (int)gridDim.x * threads)
        atomicAdd(&local[src[i] % (unsigned)buckets], 1u);
    __syncthreads();
    for (int i = thread; i < buckets; i += threads)
        atomicAdd(&counts[i], local[i]);
    __threadfence();
    __syncthreads();
    if (thread == 0)
        atomicMax(&last[1], atomicAdd(&last[0], 1u));
}

cudaError_t sample_count(int blocks, int threads, int n, const uint32_t *src, int buckets,
    unsigned *counts, unsigned *last, cudaStream_t stream)
{
    return DTR_LAUNCH(count_values, blocks, threads, (size_t)buckets * sizeof(unsigned), stream, n,
        src, buckets, counts, last);
}

static __global__ void copy_words(const uint32_t *src, uint32_t *dst)
{
    DTR_SHARED(uint32_t, words);
    int lane = (int)threadIdx.x;

    if (lane < 4) {
        dtr_async_copy<16>(&words[4 * lane], &src[4 * lane], 4 * (lane + 1));
    } else if (lane < 8) {
        dtr_async_copy<8>(&words[16 + 2 * (lane - 4)], &src[16 + 2 * (lane - 4)]);
    } else if (lane < 16) {
        dtr_async_copy<4>(
            &words[24 + lane - 8], lane % 2 == 0 ? src : &src[24 + lane - 8], lane % 2 * 4);
    }
    dtr_async_commit();
    dtr_async_wait<0>();
    __syncthreads();
    dst[lane] = words[lane];
}

cudaError_t sample_copy(const uint32_t *src, uint32_t *dst, cudaStream_t stream)
{
    return DTR_LAUNCH(copy_words, 1, 32, 32 * sizeof(uint32_t), stream, src, dst);
}

/* A warp per 16 rows, 8 of k at a time, from two buffers of shared memory in turns. */
enum { DEPTH = 8, COLUMNS = 8, TILE_ROWS = 16, STAGE = (TILE_ROWS + COLUMNS) * DEPTH };

static __device__ __forceinline__ void load_stage(
    int k, int from, const float *a, const float *b, float *stage)
{
    int lane = (int)threadIdx.x;

    for (int i = lane; i < TILE_ROWS * DEPTH / 4; i += 32) {
        int row = i / 2, column = from + i % 2 * 4;
        dtr_async_copy<16>(
            &stage[4 * i], column < k ? &a[row * k + column] : a, column < k ? 16 : 0);
    }
    for (int i = lane; i < DEPTH * COLUMNS / 2; i += 32) {
        int row = from + i / 4;
        dtr_async_copy<8>(&stage[TILE_ROWS * DEPTH + 2 * i],
            row < k ? &b[row * COLUMNS + i % 4 * 2] : b, row < k ? 8 : 0);
    }
    dtr_async_commit();
}

static __global__ void multiply_tf32(int k, const float *a, const float *b, float *c)
{
    DTR_SHARED(float, stages);
    int lane = (int)threadIdx.x, row = lane / 4, column = lane % 4;
    float sums[4] = {};

    a += blockIdx.x * TILE_ROWS * k;
    c += blockIdx.x * TILE_ROWS * COLUMNS;
    load_stage(k, 0, a, b, stages);
    for (int from = 0, use = 0; from < k; from += DEPTH, use ^= 1) {
        const float *tile = &stages[use * STAGE], *other = tile + TILE_ROWS * DEPTH;
        uint32_t left[4], right[2];

        load_stage(k, from + DEPTH, a, b, &stages[(use ^ 1) * STAGE]);
        dtr_async_wait<1>();
        __syncthreads();
        for (int i = 0; i < 4; i++)
            left[i] = dtr_tf32_round(tile[(row + i % 2 * 8) * DEPTH + column + i / 2 * 4]);
        for (int i = 0; i < 2; i++)
            right[i] = dtr_tf32_round(other[(column + i * 4) * COLUMNS + row]);
        dtr_mma_tf32(sums, left, right);
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        c[(row + i / 2 * 8) * COLUMNS + 2 * column + i % 2] = sums[i];
}

cudaError_t sample_tf32(int m, int k, const float *a, const float *b, float *c, cudaStream_t stream)
{
    return DTR_LAUNCH(
        multiply_tf32, m / TILE_ROWS, 32, 2 * STAGE * sizeof(float), stream, k, a, b, c);
}

static __global__ void multiply_bf16(const float *a, const float *b, float *c)
{
    int lane = (int)threadIdx.x, row = lane / 4, column = lane % 4 * 2;
    float sums[4] = {};
    uint32_t left[4], right[2];

    for (int i = 0; i < 4; i++) {
        const float *pair = &a[(row + i % 2 * 8) * 16 + column + i / 2 * 8];
        left[i] = dtr_bf16_pack(pair[0], pair[1]);
    }
    for (int i = 0; i < 2; i++) {
        const float *pair = &b[(column + i * 8) * COLUMNS + row];
        right[i] = dtr_bf16_pack(pair[0], pair[COLUMNS]);
    }
    dtr_mma_bf16(sums, left, right);
    for (int i = 0; i < 4; i++)
        c[(row + i / 2 * 8) * COLUMNS + column + i % 2] = sums[i];
}

cudaError_t sample_bf16(const float *a, const float *b, float *c, cudaStream_t stream)
{
    return DTR_LAUNCH(multiply_bf16, 1, 32, 0, stream, a, b, c);
}

static __global__ void round_values(int n, const float *src, uint32_t *tf32, uint32_t *bf16)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);

    if (i < n) {
        tf32[i] = dtr_tf32_round(src[i]);
        bf16[i] = dtr_bf16_pack(src[i], -src[i]);
    }
}

cudaError_t sample_round(
    int n, const float *src, uint32_t *tf32, uint32_t *bf16, cudaStream_t stream)
{
    return DTR_LAUNCH(round_values, (n + 255) / 256, 256, 0, stream, n, src, tf32, bf16);
}

static __global__ void note_order(unsigned *counter, unsigned *dst)
{
    dst[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1u);
}

cudaError_t sample_order(
    int blocks, int threads, unsigned *counter, unsigned *dst, cudaStream_t stream)
{
    return DTR_LAUNCH(note_order, blocks, threads, 0, stream, counter, dst);
}

static __global__ void read_poison(uint32_t *dst)
{
    DTR_SHARED(uint32_t, word);

    dst[blockIdx.x] = *word;
    *word = 0;
}

cudaError_t sample_poison(int blocks, uint32_t *dst, cudaStream_t stream)
{
    return DTR_LAUNCH(read_poison, blocks, 1, sizeof(uint32_t), stream, dst);
}
