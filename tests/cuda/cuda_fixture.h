/*
 * What tests of CUDA kernels, on the CPU or on a GPU (machine.h), share: random numbers with a
 * printed seed (DTRAIN_TEST_SEED repeats one), and arrays between guards. Outputs hold a NaN that
 * no kernel makes until they are written; what surrounds any array is that NaN too, so who reads
 * it, spreads it.
 */
#ifndef DTRAIN_TESTS_CUDA_FIXTURE_H
#define DTRAIN_TESTS_CUDA_FIXTURE_H

#include "dtrain/random.h"
#include "kernels.h"
#include "machine.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CAN_RUN machine_is_there()

/* Runs a kernel. */
#define RUN(call) ck_assert_int_eq(machine_finish(call), cudaSuccess)

static const char *const schedules[] = {"forward", "reverse", "1", "2"};
enum { SCHEDULES = 4, GUARD = 64 };

static inline struct dtr_random seeded(uint32_t test)
{
    const char *text = getenv("DTRAIN_TEST_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    printf("DTRAIN_TEST_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return dtr_random_at(seed, DTR_RANDOM_SYNTHETIC, test, 0, 0);
}

/* From first to last. */
static inline int64_t pick(struct dtr_random *random, int64_t first, int64_t last)
{
    return first + dtr_random_below(random, (uint32_t)(last - first + 1));
}

/* `size` bytes of 0xff between guards of 0xff: as float a NaN, as byte no number of a winner. */
static inline void *guarded(int64_t size)
{
    uint8_t *memory = machine_alloc((size_t)size + 2 * GUARD);
    ck_assert_ptr_nonnull(memory);
    memset(memory, 0xff, (size_t)size + 2 * GUARD);
    return memory + GUARD;
}

static inline float *floats(int64_t count)
{
    return guarded(count * (int64_t)sizeof(float));
}

static inline void release(void *array)
{
    machine_free((uint8_t *)array - GUARD);
}

/* Nothing beside the array was written. */
static inline void check_guards(const void *array, int64_t size)
{
    const uint8_t *bytes = array;
    for (int64_t i = -GUARD; i < size + GUARD; i++) {
        if (i == 0)
            i = size;
        ck_assert_msg(
            bytes[i] == 0xff, "byte %lld of %lld was written", (long long)i, (long long)size);
    }
}

static inline void check_written(const float *array, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &array[i], sizeof bits);
        ck_assert_msg(bits != UINT32_MAX, "element %lld of %lld was not written", (long long)i,
            (long long)count);
    }
    check_guards(array, count * (int64_t)sizeof *array);
}

/* Equal, or both NaN. */
static inline bool same(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

#endif
