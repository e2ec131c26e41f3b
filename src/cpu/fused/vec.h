/*
 * Vectors of VEC floats, on the vector types of gcc and clang: arithmetic and comparisons are the
 * language's operators, what they lack is here. A comparison gives an `ivec` of -1 and 0.
 *
 * A kernel may keep VEC_REGISTERS vectors live, operands that are read from memory in the same
 * instruction not counted. Everything is inlined: no vector crosses a call. Private to
 * src/cpu/fused/.
 */
#ifndef DTRAIN_CPU_FUSED_VEC_H
#define DTRAIN_CPU_FUSED_VEC_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VEC 16
#define VEC_REGISTERS 32
#elif defined(__AVX2__)
#define VEC 8
#define VEC_REGISTERS 16
#else
#define VEC 8 /* two of 128 bits */
#define VEC_REGISTERS 8
#endif

#define INLINE static inline __attribute__((always_inline))

/* Loops over a few registers: UNROLL for (...). */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

typedef float vec __attribute__((vector_size(VEC * 4)));
typedef int32_t ivec __attribute__((vector_size(VEC * 4)));

/* Elements of two vectors, b's numbered on from a's last; `itype` has as many integers. */
#if defined(__clang__)
#define SHUFFLE(itype, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(itype, a, b, ...) __builtin_shuffle(a, b, (itype){__VA_ARGS__})
#endif

INLINE vec vec_load(const float *from)
{
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void vec_store(float *to, vec v)
{
    memcpy(to, &v, sizeof v);
}

/* Has `count` floats brought into the first-level cache. */
INLINE void vec_fetch(int64_t count, const float *from)
{
    enum { LINE = 16 };
    for (int64_t i = 0; i < count; i += LINE)
        __builtin_prefetch(from + i);
}

INLINE vec vec_zero(void)
{
    return (vec){0};
}

/* All elements x. */
INLINE vec vec_all(float x)
{
    return x - vec_zero();
}

/* a * b + c and c - a * b, rounded once where the instruction set can. */
INLINE vec vec_fma(vec a, vec b, vec c)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE vec vec_fnma(vec a, vec b, vec c)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vec)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return c - a * b;
#endif
}

/* where ? a : b, element by element. */
INLINE vec vec_select(ivec where, vec a, vec b)
{
    return (vec)((where & (ivec)a) | (~where & (ivec)b));
}

INLINE ivec ivec_select(ivec where, ivec a, ivec b)
{
    return (where & a) | (~where & b);
}

/* a > b ? a : b, so it is b where one of them is a NaN. */
INLINE vec vec_max(vec a, vec b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_select(a > b, a, b);
#endif
}

/* max(v, 0), but a NaN stays: a training that diverges shall show. */
INLINE vec vec_relu(vec v)
{
    return vec_max(vec_zero(), v);
}

/* Bit i is set where element i of a comparison is true. */
INLINE uint32_t vec_bits(ivec where)
{
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)where);
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)where);
#else
    uint32_t bits = 0;
    for (int i = 0; i < VEC; i++)
        bits |= (uint32_t)(where[i] & 1) << i;
    return bits;
#endif
}

INLINE bool vec_any_nan(vec v)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q) != 0;
#else
    return vec_bits(v != v) != 0;
#endif
}

/* Elements 0..255 as bytes. */
INLINE void ivec_store_bytes(uint8_t *to, ivec v)
{
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__)
    __m128i low = _mm256_castsi256_si128((__m256i)v);
    __m128i words = _mm_packs_epi32(low, _mm256_extracti128_si256((__m256i)v, 1));
    _mm_storeu_si64(to, _mm_packus_epi16(words, words));
#else
    typedef uint8_t bytes __attribute__((vector_size(VEC)));
    bytes narrow = __builtin_convertvector(v, bytes);
    memcpy(to, &narrow, sizeof narrow);
#endif
}

/* Bytes as elements. */
INLINE ivec ivec_load_bytes(const uint8_t *from)
{
#if defined(__AVX512F__)
    return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
    return (ivec)_mm256_cvtepu8_epi32(_mm_loadu_si64(from));
#else
    typedef uint8_t bytes __attribute__((vector_size(VEC)));
    bytes narrow;
    memcpy(&narrow, from, sizeof narrow);
    return __builtin_convertvector(narrow, ivec);
#endif
}

/* The sum of the elements: halves are added to halves. */
INLINE float vec_sum(vec v)
{
    float x[VEC];
    vec_store(x, v);
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}

/* Has v computed here. Compilers else put off an addition, and keep both of its operands. */
INLINE vec vec_settle(vec v)
{
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#elif defined(__AVX2__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

/* Loads to a register, for an instruction whose other operand is vec_all() of a float in memory:
 * with AVX-512 it reads that itself, at half of a vector's cost. */
INLINE vec vec_load_apart(const float *from)
{
#if defined(__AVX512F__)
    return vec_settle(vec_load(from));
#else
    return vec_load(from);
#endif
}

typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec4 __attribute__((vector_size(16)));

INLINE vec4 vec4_load(const float *from)
{
    vec4 v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void vec4_store(float *to, vec4 v)
{
    memcpy(to, &v, sizeof v);
}

/* The sums of the elements of four vectors: as of a transposed 4 x 4 matrix in each 128 bits, then
 * halves are added to halves. Without AVX halves come first. */
INLINE vec4 vec_sums(vec a, vec b, vec c, vec d)
{
#if defined(__AVX512F__)
    vec ab = (vec)_mm512_unpacklo_ps((__m512)a, (__m512)b) +
             (vec)_mm512_unpackhi_ps((__m512)a, (__m512)b);
    vec cd = (vec)_mm512_unpacklo_ps((__m512)c, (__m512)d) +
             (vec)_mm512_unpackhi_ps((__m512)c, (__m512)d);
    vec abcd = (vec)_mm512_shuffle_ps((__m512)ab, (__m512)cd, 0x44) +
               (vec)_mm512_shuffle_ps((__m512)ab, (__m512)cd, 0xee);
    __m256 half = _mm512_castps512_ps256((__m512)abcd) + _mm512_extractf32x8_ps((__m512)abcd, 1);
    return (vec4)(_mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
    vec ab = (vec)_mm256_unpacklo_ps((__m256)a, (__m256)b) +
             (vec)_mm256_unpackhi_ps((__m256)a, (__m256)b);
    vec cd = (vec)_mm256_unpacklo_ps((__m256)c, (__m256)d) +
             (vec)_mm256_unpackhi_ps((__m256)c, (__m256)d);
    vec abcd = (vec)_mm256_shuffle_ps((__m256)ab, (__m256)cd, 0x44) +
               (vec)_mm256_shuffle_ps((__m256)ab, (__m256)cd, 0xee);
    return (vec4)(_mm256_castps256_ps128((__m256)abcd) + _mm256_extractf128_ps((__m256)abcd, 1));
#else
    vec4 rows[4];
    const vec from[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        vec4 halves[2];
        memcpy(halves, &from[i], sizeof halves);
        rows[i] = halves[0] + halves[1];
    }
    vec4 ab = SHUFFLE(ivec4, rows[0], rows[1], 0, 4, 1, 5) +
              SHUFFLE(ivec4, rows[0], rows[1], 2, 6, 3, 7);
    vec4 cd = SHUFFLE(ivec4, rows[2], rows[3], 0, 4, 1, 5) +
              SHUFFLE(ivec4, rows[2], rows[3], 2, 6, 3, 7);
    return SHUFFLE(ivec4, ab, cd, 0, 1, 4, 5) + SHUFFLE(ivec4, ab, cd, 2, 3, 6, 7);
#endif
}

#endif
