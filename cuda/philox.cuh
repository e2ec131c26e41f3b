/*
 * The words of dtr_random_at() on the device (dtrain/random.h, src/random.c): block b of a sequence
 * is Philox4x32-10 of its counter with b in the lowest word.
 */
#ifndef DTRAIN_CUDA_PHILOX_CUH
#define DTRAIN_CUDA_PHILOX_CUH

#include <stdint.h>

struct dtr_philox_block {
    uint32_t word[4];
};

/* Of purpose DTR_RANDOM_DROPOUT, words 4 b to 4 b + 3; samples are below 2^31. */
static __device__ __forceinline__ dtr_philox_block dtr_dropout_words(
    uint64_t seed, uint32_t layer, uint32_t epoch, uint32_t sample, uint32_t b)
{
    const uint32_t purpose = 3; /* DTR_RANDOM_DROPOUT */
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    dtr_philox_block c = {{b, sample, epoch, purpose << 24 | (layer & 0xffu) << 16}};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c.word[0]), low0 = 0xD2511F53u * c.word[0];
        uint32_t high1 = __umulhi(0xCD9E8D57u, c.word[2]), low1 = 0xCD9E8D57u * c.word[2];
        c = {{high1 ^ c.word[1] ^ k0, low1, high0 ^ c.word[3] ^ k1, low0}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

#endif
