/*
 * The instructions of sm_80 and later that C++ has no words for: copies from global to shared
 * memory that go on in the background, and products of small matrices by a warp. Tests compile
 * kernels with a C++ compiler, where tests/simt/simt_tensor_core.h has the same functions.
 *
 * Fragments, with row = lane / 4 and column = lane % 4 of the lane that holds them:
 *
 *     m16n8k8 TF32, a value per register        m16n8k16 BF16, two per register, the lower first
 *     a[0]  A[row    ][column    ]              A[row    ][2 column     + 0, 1]
 *     a[1]  A[row + 8][column    ]              A[row + 8][2 column     + 0, 1]
 *     a[2]  A[row    ][column + 4]              A[row    ][2 column + 8 + 0, 1]
 *     a[3]  A[row + 8][column + 4]              A[row + 8][2 column + 8 + 0, 1]
 *     b[0]  B[column    ][row]                  B[2 column     + 0, 1][row]
 *     b[1]  B[column + 4][row]                  B[2 column + 8 + 0, 1][row]
 *     c[0], c[1]  C[row    ][2 column + 0, 1]   the same
 *     c[2], c[3]  C[row + 8][2 column + 0, 1]   the same
 */
#ifndef DTRAIN_CUDA_TENSOR_CORE_CUH
#define DTRAIN_CUDA_TENSOR_CORE_CUH

#include <stdint.h>

/* x rounded to TF32, to nearest even, as the bits that dtr_mma_tf32() takes. Infinities stay, any
 * NaN becomes 0x7fffffff. The same code on the device and in tests, so the same bits: cvt.rna,
 * which sm_80 has, rounds ties away from zero, cvt.rn is not there before sm_90. */
static __device__ __forceinline__ uint32_t dtr_tf32_round(float x)
{
    uint32_t bits = __float_as_uint(x);
    uint32_t rounded = (bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu;
    return x == x ? rounded : 0x7fffffffu;
}

#ifndef DTR_SIMT

/* Starts a copy of 4, 8 or 16 bytes to shared memory, both addresses aligned to that. The first
 * `source_bytes` are read, the others become zero. It belongs to the next dtr_async_commit(). */
template <int bytes>
static __device__ __forceinline__ void dtr_async_copy(
    void *shared, const void *global, int source_bytes = bytes)
{
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    if constexpr (bytes ==
                  16) /* past the first-level cache: what is copied is read from shared memory */
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
                     "r"(source_bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global),
                     "n"(bytes), "r"(source_bytes)
                     : "memory");
}

/* Ends a group of this thread's copies. */
static __device__ __forceinline__ void dtr_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until all but the `pending` newest groups of this thread have arrived. Other threads see
 * them after a barrier. */
template <int pending> static __device__ __forceinline__ void dtr_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* Two values as bfloat16, each rounded to nearest even (a NaN becomes 0x7fff), `low` in the lower
 * half. */
static __device__ __forceinline__ uint32_t dtr_bf16_pack(float low, float high)
{
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

/* c += a b, by all 32 lanes of a warp. */
static __device__ __forceinline__ void dtr_mma_tf32(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void dtr_mma_bf16(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

#endif
