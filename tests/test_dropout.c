/*
 * Which units dropout keeps: a function of (seed, layer, epoch, sample, unit) alone.
 */
#include "kernel_fixture.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The factors of `units` units for each of the samples, through a forward pass of ones. */
static float *dropout_factors(
    double rate, int line, int64_t units, struct dtr_dropout_key key, int64_t n)
{
    struct dtr_random random = fixture_random(1);
    struct fixture fixture = {.layer = fixture_dropout((struct dtr_shape){1, 1, units}, rate),
        .n = n,
        .run = {0, 1, 1},
        .dropout = &key};
    fixture.layer.number = line;
    fixture_fill(&fixture, 1, &random);
    for (int64_t i = 0; i < fixture.src_count; i++)
        fixture.src[i] = 1;
    struct fixture_result result;
    fixture_run(&fixture, &dtr_dropout, &result);
    float *factors = result.dst;
    result.dst = NULL;
    fixture_result_free(&result);
    fixture_free(&fixture);
    return factors;
}

START_TEST(test_words)
{
    static const int64_t counts[] = {1, 5, 127, 128, 129, 300};
    const int64_t sample = 0x123456789;
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        struct dtr_dropout_key key = {42, 7, &sample};
        float *factors = dropout_factors(0.3, 8, counts[k], key, 1);
        struct dtr_random random = dtr_random_at(42, DTR_RANDOM_DROPOUT, 8, 7, 0x123456789);
        for (int64_t u = 0; u < counts[k]; u++) {
            bool kept = dtr_random_u32(&random) >= 0.3 * 0x1p32;
            ck_assert_float_eq(factors[u], kept ? (float)(1 / 0.7) : 0);
        }
        free(factors);
    }
}
END_TEST

START_TEST(test_share)
{
    enum { N = 20, UNITS = 1000 };
    static const double rates[] = {0, 0.1, 0.5, 0.9};
    int64_t samples[N];
    for (int64_t i = 0; i < N; i++)
        samples[i] = 1000 * i;
    for (size_t k = 0; k < sizeof rates / sizeof *rates; k++) {
        float *factors = dropout_factors(
            rates[k], 3, UNITS, (struct dtr_dropout_key){1, 1, samples}, N);
        int64_t kept = 0;
        for (int64_t i = 0; i < N * UNITS; i++)
            kept += factors[i] != 0;
        double sigma = sqrt(N * UNITS * rates[k] * (1 - rates[k]));
        ck_assert_double_le(fabs((double)kept - N * UNITS * (1 - rates[k])), 5 * sigma);
        free(factors);
    }
}
END_TEST

START_TEST(test_key)
{
    enum { UNITS = 64, BYTES = UNITS * sizeof(float) };
    const int64_t samples[] = {5, 6, -1, 9}, others[] = {9, 5};
    struct dtr_dropout_key key = {1, 2, samples};
    float *base = dropout_factors(0.5, 4, UNITS, key, 4);
    float *moved = dropout_factors(0.5, 4, UNITS, (struct dtr_dropout_key){1, 2, others}, 2);
    ck_assert_mem_eq(moved, base + 3 * UNITS, BYTES);
    ck_assert_mem_eq(moved + UNITS, base, BYTES);
    ck_assert_mem_ne(base, base + UNITS, BYTES);
    for (int64_t u = 0; u < UNITS; u++)
        ck_assert_float_eq(base[2 * UNITS + u], 0);
    float *different[] = {
        dropout_factors(0.5, 4, UNITS, (struct dtr_dropout_key){2, 2, samples}, 1),
        dropout_factors(0.5, 4, UNITS, (struct dtr_dropout_key){1, 3, samples}, 1),
        dropout_factors(0.5, 5, UNITS, key, 1),
    };
    for (size_t i = 0; i < 3; i++) {
        ck_assert_mem_ne(different[i], base, BYTES);
        free(different[i]);
    }
    free(base);
    free(moved);
}
END_TEST

START_TEST(test_inference)
{
    struct dtr_random random = fixture_random(2);
    struct fixture fixture = {.layer = fixture_dropout((struct dtr_shape){3, 2, 5}, 0.5),
        .n = 2,
        .run = {0, 2, 2},
        .inference = true};
    struct fixture_result result;
    fixture_fill(&fixture, 0x1p-20, &random);
    fixture_run(&fixture, &dtr_dropout, &result);
    ck_assert_mem_eq(result.dst, fixture.src, (size_t)fixture.dst_count * sizeof(float));
    fixture_result_free(&result);
    fixture_free(&fixture);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("dropout");
    TCase *tcase = add_case(suite, "masks");
    tcase_add_test(tcase, test_words);
    tcase_add_test(tcase, test_share);
    tcase_add_test(tcase, test_key);
    tcase_add_test(tcase, test_inference);
    return suite;
}
