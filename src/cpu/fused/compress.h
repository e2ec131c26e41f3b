/*
 * More that can be done with vectors: choosing elements, transposing squares. Private to
 * src/cpu/fused/.
 */
#ifndef DTRAIN_CPU_FUSED_COMPRESS_H
#define DTRAIN_CPU_FUSED_COMPRESS_H

#include "vec.h"

/* The first half of the elements; the others are zero. */
INLINE vec vec_load_half(const float *from)
{
#if defined(__AVX512F__)
    return (vec)_mm512_zextps256_ps512(_mm256_loadu_ps(from));
#elif defined(__AVX2__)
    return (vec)_mm256_zextps128_ps256(_mm_loadu_ps(from));
#else
    vec v = vec_zero();
    memcpy(&v, from, sizeof v / 2);
    return v;
#endif
}

/* 0, 1, 2, ... */
INLINE ivec ivec_numbers(void)
{
#if VEC == 8
    return (ivec){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (ivec){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#endif
}

#if VEC == 8
/* For every byte: the numbers of its set bits, ascending, each a byte, then zeros. */
#define BIT_NUMBER(byte, bit)                                                                      \
    ((uint64_t)((byte) >> (bit)&1 ? (bit) : 0)                                                     \
        << 8 * __builtin_popcount((byte) & ((1u << (bit)) - 1)))
#define BIT_NUMBERS(byte)                                                                          \
    (BIT_NUMBER(byte, 1) | BIT_NUMBER(byte, 2) | BIT_NUMBER(byte, 3) | BIT_NUMBER(byte, 4) |       \
        BIT_NUMBER(byte, 5) | BIT_NUMBER(byte, 6) | BIT_NUMBER(byte, 7))
#define BIT_NUMBERS_OF_4(byte)                                                                     \
    BIT_NUMBERS(byte), BIT_NUMBERS((byte) + 1), BIT_NUMBERS((byte) + 2), BIT_NUMBERS((byte) + 3)
#define BIT_NUMBERS_OF_16(byte)                                                                    \
    BIT_NUMBERS_OF_4(byte), BIT_NUMBERS_OF_4((byte) + 4), BIT_NUMBERS_OF_4((byte) + 8),            \
        BIT_NUMBERS_OF_4((byte) + 12)
#define BIT_NUMBERS_OF_64(byte)                                                                    \
    BIT_NUMBERS_OF_16(byte), BIT_NUMBERS_OF_16((byte) + 16), BIT_NUMBERS_OF_16((byte) + 32),       \
        BIT_NUMBERS_OF_16((byte) + 48)
static const uint64_t bit_numbers[256] = {BIT_NUMBERS_OF_64(0u), BIT_NUMBERS_OF_64(64u),
    BIT_NUMBERS_OF_64(128u), BIT_NUMBERS_OF_64(192u)};
#endif

/* The numbers of the bits that are set among the lowest VEC, ascending, then any below VEC. */
INLINE ivec ivec_bit_numbers(uint32_t bits)
{
#if VEC == 8
    return ivec_load_bytes((const uint8_t *)&bit_numbers[bits]);
#else
    return (ivec)_mm512_maskz_compress_epi32((__mmask16)bits, (__m512i)ivec_numbers());
#endif
}

/* Element i is v[from[i]]. */
INLINE vec vec_choose(vec v, ivec from)
{
#if defined(__AVX512F__)
    return (vec)_mm512_permutexvar_ps((__m512i)from, (__m512)v);
#elif defined(__AVX2__)
    return (vec)_mm256_permutevar8x32_ps((__m256)v, (__m256i)from);
#else
    vec chosen = v;
    for (int i = 0; i < VEC; i++)
        chosen[i] = v[from[i]];
    return chosen;
#endif
}

INLINE ivec ivec_choose(ivec v, ivec from)
{
    return (ivec)vec_choose((vec)v, from);
}

/* Two vectors' elements merged, i from 0: those whose number lacks the bit `step` are a's, the
 * others b's. LEFT keeps a's in their places, RIGHT keeps b's; the others are `step` places off. */
#define MERGE_LEFT(i, step) ((i) & (step) ? VEC + (i) - (step) : (i))
#define MERGE_RIGHT(i, step) ((i) & (step) ? VEC + (i) : (i) + (step))
#define MERGE_4(SIDE, i, step)                                                                     \
    SIDE(i, step), SIDE((i) + 1, step), SIDE((i) + 2, step), SIDE((i) + 3, step)
#if VEC == 8
#define MERGE(SIDE, a, b, step) SHUFFLE(ivec, a, b, MERGE_4(SIDE, 0, step), MERGE_4(SIDE, 4, step))
#else
#define MERGE(SIDE, a, b, step)                                                                    \
    SHUFFLE(ivec, a, b, MERGE_4(SIDE, 0, step), MERGE_4(SIDE, 4, step), MERGE_4(SIDE, 8, step),    \
        MERGE_4(SIDE, 12, step))
#endif
#define EXCHANGE_BLOCKS(rows, step)                                                                \
    UNROLL for (int i = 0; i < VEC; i++)                                                           \
    {                                                                                              \
        if ((i & (step)) == 0) {                                                                   \
            vec upper = rows[i], lower = rows[i + (step)];                                         \
            rows[i] = MERGE(MERGE_LEFT, upper, lower, step);                                       \
            rows[i + (step)] = MERGE(MERGE_RIGHT, upper, lower, step);                             \
        }                                                                                          \
    }

/* rows[i][k] becomes rows[k][i]: blocks beside the diagonal change places, ever smaller ones. */
INLINE void vec_transpose(vec rows[VEC])
{
#if VEC == 16
    EXCHANGE_BLOCKS(rows, 8)
#endif
    EXCHANGE_BLOCKS(rows, 4)
    EXCHANGE_BLOCKS(rows, 2)
    EXCHANGE_BLOCKS(rows, 1)
}

#endif
