/*
 * What the tests of src/cpu/fused/ share, each of which is compiled once per instruction set;
 * main() returns 77, skipped, where the CPU lacks it. Include it, and define make_suite().
 */
#ifndef DTRAIN_TESTS_FUSED_TEST_H
#define DTRAIN_TESTS_FUSED_TEST_H

#include "dtrain/random.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define CAN_RUN __builtin_cpu_supports("avx512f")
#elif defined(__AVX2__)
#define CAN_RUN __builtin_cpu_supports("avx2")
#else
#define CAN_RUN 1
#endif

#include "unit_main.h"

/* What outputs begin as: a NaN that no arithmetic gives. */
static const uint32_t POISON = 0xffc0beef;

static inline bool is_poison(float value)
{
    return memcmp(&value, &POISON, sizeof POISON) == 0;
}

static inline bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* `count` floats in a block of exactly their size, so that a sanitizer finds what reaches beyond.
 */
static inline float *poisoned_floats(int64_t count)
{
    float *floats = malloc((size_t)(count > 0 ? count : 1) * sizeof *floats);
    ck_assert_ptr_nonnull(floats);
    for (int64_t i = 0; i < count; i++)
        memcpy(&floats[i], &POISON, sizeof POISON);
    return floats;
}

struct array {
    int64_t count;
    float *values;
};

static inline struct array array_of(int64_t count)
{
    return (struct array){count, poisoned_floats(count)};
}

static inline int64_t between(struct dtr_random *random, int64_t first, int64_t last)
{
    return first + (int64_t)dtr_random_below(random, (uint32_t)(last - first + 1));
}

static inline bool chance(struct dtr_random *random, double p)
{
    return dtr_random_uniform(random) < p;
}

/* ck_assert() writes to a file every time, which is too slow for every element. */
static inline void require(bool holds, const char *what)
{
    if (!holds)
        ck_abort_msg("%s", what);
}

#endif
