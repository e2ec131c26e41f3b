/*
 * Kernels that use what kernels can: correct ones (sample_kernels.cu), and ones with a bug each
 * (planted_kernels.cu). Arrays are on the device.
 */
#ifndef DTRAIN_TESTS_SIMT_SAMPLE_KERNELS_H
#define DTRAIN_TESTS_SIMT_SAMPLE_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* dst [blocks * threads]: the number of each thread, in a grid and blocks of three dimensions. */
cudaError_t sample_number(dim3 grid, dim3 block, uint32_t *dst, cudaStream_t stream);

/* dst [blocks]: sums of `threads` elements each, a multiple of 32. */
cudaError_t sample_sum(int blocks, int threads, const float *src, float *dst, cudaStream_t stream);

/* What a warp of 32 gets from each kind of shuffle of src [32] and vote, as words. */
enum {
    SAMPLE_SHUFFLE_1,    /* lane 5's */
    SAMPLE_SHUFFLE_HALF, /* of lane 3 in each 16 */
    SAMPLE_XOR,          /* lane ^ 9 */
    SAMPLE_UP,           /* lane - 3 */
    SAMPLE_DOWN,         /* lane + 2 in each 8 */
    SAMPLE_DOUBLE,       /* lane ^ 1, of a double: its upper word */
    SAMPLE_BALLOT,       /* lanes with an odd value */
    SAMPLE_BALLOT_EVEN,  /* the same among lanes with an even number, 0 in the others */
    SAMPLE_ANY,          /* a value of 7 */
    SAMPLE_ALL,          /* all below 1000 */
    SAMPLE_WARP_COUNT
};
cudaError_t sample_warp(const uint32_t *src, uint32_t *dst, cudaStream_t stream);

/* counts [buckets] of n values, and in *last how many blocks had ended before the last one. */
cudaError_t sample_count(int blocks, int threads, int n, const uint32_t *src, int buckets,
    unsigned *counts, unsigned *last, cudaStream_t stream);

/* dst [32 words] from src [32 words]: copies of 4, 8, 16 bytes, some of them in part. */
cudaError_t sample_copy(const uint32_t *src, uint32_t *dst, cudaStream_t stream);

/* c [m, 8] = a [m, k] b [k, 8] in TF32; m and k multiples of 16 and 4, k not of 8 too. */
cudaError_t sample_tf32(
    int m, int k, const float *a, const float *b, float *c, cudaStream_t stream);

/* c [16, 8] = a [16, 16] b [16, 8] in bfloat16. */
cudaError_t sample_bf16(const float *a, const float *b, float *c, cudaStream_t stream);

/* dst [n]: src rounded to TF32, then two words of all as bfloat16 pairs (x, -x). */
cudaError_t sample_round(
    int n, const float *src, uint32_t *tf32, uint32_t *bf16, cudaStream_t stream);

/* dst [blocks * threads]: when each thread of each block ran, from 0, by counter (0 before). */
cudaError_t sample_order(
    int blocks, int threads, unsigned *counter, unsigned *dst, cudaStream_t stream);

/* dst [blocks]: what an element of shared memory is before anything is written to it. */
cudaError_t sample_poison(int blocks, uint32_t *dst, cudaStream_t stream);

/* Kernels with a bug each. The first ones sum over windows of what a block has loaded to shared
 * memory, step by step: src [PLANTED_STEPS * PLANTED_THREADS], dst [PLANTED_THREADS]. */
enum { PLANTED_THREADS = 64, PLANTED_STEPS = 5, PLANTED_SHIFT = 33 };
enum planted_bug {
    PLANTED_NONE,
    PLANTED_NO_BARRIER,         /* others read what was not yet written */
    PLANTED_EARLY_OVERWRITE,    /* a single buffer, where the barriers are for two */
    PLANTED_NO_WAIT,            /* for an asynchronous copy */
    PLANTED_WAIT_FOR_OLDER,     /* for all copies but the newest, which is needed */
    PLANTED_DIVERGENT_SHUFFLE,  /* half of the warp is at another */
    PLANTED_SHUFFLE_OUTSIDE,    /* reads a lane outside its mask */
    PLANTED_NOT_IN_MASK,        /* a lane calls with a mask without it */
    PLANTED_MASKS_DIFFER,       /* lanes do not agree about who takes part */
    PLANTED_SHORT_WARP,         /* a mask of 32 lanes in a warp of 8 */
    PLANTED_EXITED_LANE,        /* waits for a lane that has exited */
    PLANTED_SOME_AT_BARRIER,    /* others exit */
    PLANTED_DIFFERENT_BARRIERS, /* the two sides of an if */
    PLANTED_WARP_AT_BARRIER,    /* half of the warp, the other half shuffles */
    PLANTED_MISALIGNED_COPY,    /* an asynchronous one of 16 bytes */
    PLANTED_COPY_OUTSIDE,       /* one not to shared memory */
    PLANTED_OVERFLOW,           /* past the end of shared memory */
    PLANTED_BLOCK_RACE,         /* blocks write the same element */
    PLANTED_BLOCK_SIZE,         /* more threads than a block can have */
    PLANTED_GRID_SIZE,          /* no block at all */
    PLANTED_SHARED_SIZE         /* more shared memory than a block can have */
};
cudaError_t planted_run(enum planted_bug bug, const float *src, float *dst, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
