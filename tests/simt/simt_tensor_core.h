/*
 * What cuda/tensor_core.cuh has in PTX, on the CPU: the same functions, described there.
 *
 * A copy poisons its target with NaNs at once and arrives only at the wait that covers it, whose
 * source is read then: who forgets to wait, or writes to either too early, computes something else.
 *
 * Products add to c in the order of k. A product of two TF32 or bfloat16 values is exact, so it
 * does not matter whether a compiler contracts the addition with it. The tensor cores' own order
 * and rounding of sums is not known, and not imitated.
 */
#ifndef DTRAIN_TESTS_SIMT_SIMT_TENSOR_CORE_H
#define DTRAIN_TESTS_SIMT_SIMT_TENSOR_CORE_H

void dtr_simt_async_copy(void *shared, const void *global, int bytes, int source_bytes, int line);
void dtr_async_commit(void);
void dtr_simt_async_wait(unsigned pending);

template <int bytes>
void dtr_async_copy(
    void *shared, const void *global, int source_bytes = bytes, int line = __builtin_LINE())
{
    static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
    dtr_simt_async_copy(shared, global, bytes, source_bytes, line);
}

template <int pending> void dtr_async_wait()
{
    static_assert(pending >= 0, "a number of groups");
    dtr_simt_async_wait(pending);
}

uint32_t dtr_bf16_pack(float low, float high);

void dtr_mma_tf32(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());
void dtr_mma_bf16(
    float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());

#endif
