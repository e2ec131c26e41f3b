#include "dtrain/math.h"

#include "dtrain/random.h"
#include "unit_main.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static const double limit = 1e-15; /* what math.h promises */

static struct dtr_random arguments(void)
{
    return dtr_random_at(1, DTR_RANDOM_INIT, 0, 0, 0);
}

static uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double from_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* exp. The reference is libm's long double. */

static void check_exp(double x)
{
    long double true_value = expl((long double)x);
    long double error = fabsl((long double)dtr_exp(x) - true_value) / true_value;
    if (!(error <= (long double)limit))
        ck_abort_msg("exp(%a): %.17g, error %Lg", x, dtr_exp(x), error);
}

static void check_exp_around(double x)
{
    for (int i = 0; i < 10; i++)
        x = nextafter(x, -INFINITY);
    for (int i = 0; i < 20; i++, x = nextafter(x, INFINITY))
        check_exp(x);
}

START_TEST(test_exp_random)
{
    static const double scales[] = {708, 40, 1, 1e-3, 1e-9, 1e-18};
    struct dtr_random random = arguments();
    for (size_t scale = 0; scale < sizeof scales / sizeof *scales; scale++) {
        for (int i = 0; i < 50000; i++)
            check_exp(scales[scale] * (2 * dtr_random_uniform(&random) - 1));
    }
}
END_TEST

/* Every power of two, its border to the next one, and every whole number. */
START_TEST(test_exp_awkward)
{
    for (int i = -1020; i <= 1023; i++) {
        check_exp_around(i * log(2));
        check_exp_around((i + 0.5) * log(2) <= 709 ? (i + 0.5) * log(2) : 709);
    }
    for (int i = -708; i <= 709; i++)
        check_exp_around(i);
    for (double x = 1; x > 0; x /= 2) {
        check_exp(x);
        check_exp(-x);
    }
}
END_TEST

START_TEST(test_exp_special)
{
    ck_assert(dtr_exp(0.0) == 1);
    ck_assert(dtr_exp(-0.0) == 1);
    ck_assert(isnan(dtr_exp(NAN)));
    ck_assert(dtr_exp(INFINITY) == INFINITY);
    ck_assert(dtr_exp(-INFINITY) == 0);
    ck_assert(isfinite(dtr_exp(709)));
    ck_assert(dtr_exp(710) == INFINITY);
    ck_assert(dtr_exp(1e300) == INFINITY);
    ck_assert(dtr_exp(-745) == 0x1p-1074);
    ck_assert(dtr_exp(-746) == 0);
    ck_assert(dtr_exp(-1e300) == 0);
    ck_assert(!signbit(dtr_exp(-1e300)));
}
END_TEST

/* Below 2^-1022 doubles are 2^-1074 apart, so no relative error can be promised. */
START_TEST(test_exp_subnormal)
{
    for (double x = -746; x < -708.4; x += 1.0 / 4096) {
        long double error = fabsl((long double)dtr_exp(x) - expl((long double)x));
        if (!(error <= 0x1p-1074L))
            ck_abort_msg("exp(%a): error of %Lg steps", x, error * 0x1p1074L);
    }
}
END_TEST

static void check_ascending(double (*function)(double), double x)
{
    for (int i = 0; i < 100; i++)
        x = nextafter(x, -INFINITY);
    double before = function(x);
    for (int i = 0; i < 200; i++) {
        x = nextafter(x, INFINITY);
        double value = function(x);
        if (!(value >= before))
            ck_abort_msg("%a: %.17g after %.17g", x, value, before);
        before = value;
    }
}

START_TEST(test_exp_ascends_across_borders)
{
    for (int i = -1075; i <= 1022; i++)
        check_ascending(dtr_exp, (i + 0.5) * log(2));
    check_ascending(dtr_exp, 0);
    check_ascending(dtr_exp, 709.7);
    check_ascending(dtr_exp, -745.2);
}
END_TEST

/* log */

static void check_log(double x)
{
    long double true_value = logl((long double)x), size = fabsl(true_value);
    long double error = fabsl((long double)dtr_log(x) - true_value);
    if (!(error <= (long double)limit * (size < 0.5L ? 1 : size)))
        ck_abort_msg("log(%a): %.17g, error %Lg", x, dtr_log(x), error);
}

static void check_log_around(double x)
{
    for (int i = 0; i < 10; i++)
        x = nextafter(x, 0);
    for (int i = 0; i < 20; i++, x = nextafter(x, INFINITY))
        check_log(x);
}

START_TEST(test_log_random)
{
    struct dtr_random random = arguments();
    for (int i = 0; i < 200000; i++) {
        uint64_t high = dtr_random_u32(&random) >> 1, low = dtr_random_u32(&random);
        double x = from_bits(high << 32 | low);
        if (isnormal(x))
            check_log(x);
    }
    for (int i = 0; i < 200000; i++)
        check_log(0.5 + dtr_random_uniform(&random));
}
END_TEST

/* Every power of two, its border to the next one, and what is close to 1. */
START_TEST(test_log_awkward)
{
    for (int i = -1021; i <= 1023; i++) {
        check_log_around(ldexp(1, i));
        check_log_around(ldexp(sqrt(2), i));
    }
    for (int i = 1; i <= 52; i++) {
        check_log(1 + ldexp(1, -i));
        check_log(1 - ldexp(1, -i));
    }
    check_log(0x1p-1022);
    check_log(0x1.fffffffffffffp1023);
}
END_TEST

START_TEST(test_log_special)
{
    ck_assert(dtr_log(1) == 0);
    ck_assert(dtr_log(0.0) == -INFINITY);
    ck_assert(dtr_log(-0.0) == -INFINITY);
    ck_assert(isnan(dtr_log(-1)));
    ck_assert(isnan(dtr_log(-0x1p-1074)));
    ck_assert(isnan(dtr_log(-INFINITY)));
    ck_assert(isnan(dtr_log(NAN)));
    ck_assert(dtr_log(INFINITY) == INFINITY);
}
END_TEST

START_TEST(test_log_ascends_across_borders)
{
    for (int i = -1021; i <= 1023; i++) {
        check_ascending(dtr_log, ldexp(1, i));
        check_ascending(dtr_log, ldexp(sqrt(2), i));
    }
}
END_TEST

/* The same bits from every compiler on every machine: a checksum of many results. */
START_TEST(test_bits_are_fixed)
{
    struct dtr_random random = arguments();
    uint64_t exp_bits = 0, log_bits = 0;
    for (int i = 0; i < 100000; i++) {
        double x = 1400 * (dtr_random_uniform(&random) - 0.5);
        exp_bits = exp_bits * UINT64_C(6364136223846793005) + bits_of(dtr_exp(x));
        log_bits = log_bits * UINT64_C(6364136223846793005) + bits_of(dtr_log(fabs(x)));
    }
    ck_assert_uint_eq(exp_bits, UINT64_C(15548723491265928047));
    ck_assert_uint_eq(log_bits, UINT64_C(6146567219270297237));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("math");
    TCase *exp_case = add_case(suite, "exp");
    tcase_add_test(exp_case, test_exp_random);
    tcase_add_test(exp_case, test_exp_awkward);
    tcase_add_test(exp_case, test_exp_special);
    tcase_add_test(exp_case, test_exp_subnormal);
    tcase_add_test(exp_case, test_exp_ascends_across_borders);

    TCase *log_case = add_case(suite, "log");
    tcase_add_test(log_case, test_log_random);
    tcase_add_test(log_case, test_log_awkward);
    tcase_add_test(log_case, test_log_special);
    tcase_add_test(log_case, test_log_ascends_across_borders);

    TCase *bits = add_case(suite, "bits");
    tcase_add_test(bits, test_bits_are_fixed);
    return suite;
}
