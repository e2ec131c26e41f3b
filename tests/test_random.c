#include "dtrain/random.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Samples of a statistical test. Seeds are fixed, so no test fails by chance. */
enum { SAMPLES = 1000000 };

static struct dtr_random sequence(uint64_t index)
{
    return dtr_random_at(66478, DTR_RANDOM_DROPOUT, 3, 5, index);
}

/* A sequence whose next two words are given. */
static struct dtr_random crafted(uint32_t first, uint32_t second)
{
    return (struct dtr_random){.block = {0, 0, first, second}, .used = 2};
}

static double mean(const double *values)
{
    double sum = 0;
    for (int i = 0; i < SAMPLES; i++)
        sum += values[i];
    return sum / SAMPLES;
}

static double variance(const double *values)
{
    double sum = 0, center = mean(values);
    for (int i = 0; i < SAMPLES; i++)
        sum += (values[i] - center) * (values[i] - center);
    return sum / (SAMPLES - 1);
}

static double *draw(double (*number)(struct dtr_random *))
{
    double *values = malloc(SAMPLES * sizeof *values);
    struct dtr_random random = sequence(1);
    ck_assert_ptr_nonnull(values);
    for (int i = 0; i < SAMPLES; i++)
        values[i] = number(&random);
    return values;
}

static double largest_of(const double *values)
{
    double largest = values[0];
    for (int i = 1; i < SAMPLES; i++)
        largest = fmax(largest, values[i]);
    return largest;
}

static double smallest_of(const double *values)
{
    double smallest = values[0];
    for (int i = 1; i < SAMPLES; i++)
        smallest = fmin(smallest, values[i]);
    return smallest;
}

/* The block function. */

START_TEST(test_philox_known_answers)
{
    static const struct {
        uint32_t counter[4], key[2], block[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
            {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
            {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t block[4];
        dtr_philox(cases[i].key, cases[i].counter, block);
        ck_assert_mem_eq(block, cases[i].block, sizeof block);
    }
}
END_TEST

/* Sequences. */

START_TEST(test_sequence_is_philox)
{
    struct dtr_random random = sequence(7), start = random;
    for (uint32_t block = 0; block < 5; block++) {
        const uint32_t counter[4] = {block, start.counter[1], start.counter[2], start.counter[3]};
        uint32_t expected[4];
        dtr_philox(start.key, counter, expected);
        for (int word = 0; word < 4; word++)
            ck_assert_uint_eq(dtr_random_u32(&random), expected[word]);
    }
}
END_TEST

START_TEST(test_sequence_is_a_function_of_its_arguments)
{
    struct dtr_random random = sequence(7), again = sequence(7);
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(dtr_random_u32(&random), dtr_random_u32(&again));
    struct dtr_random copy = random;
    for (int i = 0; i < 10; i++)
        dtr_random_u32(&again); /* the copy knows nothing of it */
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(dtr_random_u32(&random), dtr_random_u32(&copy));
}
END_TEST

/* Blocks 1 to 32: the rest of block 0 is skipped, and single words go on with block 33. */
START_TEST(test_words_are_whole_blocks)
{
    struct dtr_random random = sequence(7), one_by_one = sequence(7);
    uint32_t words[DTR_RANDOM_WORDS];
    dtr_random_u32(&random);
    dtr_random_words(&random, words);
    for (int i = 0; i < 4; i++)
        dtr_random_u32(&one_by_one);
    for (int i = 0; i < DTR_RANDOM_WORDS; i++)
        ck_assert_uint_eq(words[i], dtr_random_u32(&one_by_one));
    ck_assert_uint_eq(dtr_random_u32(&random), dtr_random_u32(&one_by_one));
}
END_TEST

struct start {
    uint32_t word[4];
};

static struct start start_of(struct dtr_random random)
{
    struct start start;
    for (int i = 0; i < 4; i++)
        start.word[i] = dtr_random_u32(&random);
    return start;
}

static int compare_starts(const void *one, const void *other)
{
    return memcmp(one, other, sizeof(struct start));
}

/* Every bit of every argument leads to a sequence of its own. */
START_TEST(test_every_argument_matters)
{
    const enum dtr_random_purpose purpose = DTR_RANDOM_INIT;
    struct start starts[200];
    size_t count = 0;
    for (int other = DTR_RANDOM_INIT; other <= DTR_RANDOM_SYNTHETIC; other++)
        starts[count++] = start_of(dtr_random_at(0, (enum dtr_random_purpose)other, 0, 0, 0));
    for (int bit = 0; bit < 64; bit++)
        starts[count++] = start_of(dtr_random_at(UINT64_C(1) << bit, purpose, 0, 0, 0));
    for (int bit = 0; bit < 8; bit++)
        starts[count++] = start_of(dtr_random_at(0, purpose, 1U << bit, 0, 0));
    for (int bit = 0; bit < 32; bit++)
        starts[count++] = start_of(dtr_random_at(0, purpose, 0, 1U << bit, 0));
    for (int bit = 0; bit < 48; bit++)
        starts[count++] = start_of(dtr_random_at(0, purpose, 0, 0, UINT64_C(1) << bit));
    ck_assert_uint_eq(count, 4 + 64 + 8 + 32 + 48);
    qsort(starts, count, sizeof *starts, compare_starts);
    for (size_t i = 1; i < count; i++)
        ck_assert_int_ne(compare_starts(&starts[i - 1], &starts[i]), 0);
}
END_TEST

/* Uniform. */

START_TEST(test_uniform_bounds)
{
    struct dtr_random random = crafted(0, UINT32_MAX);
    ck_assert(dtr_random_uniform(&random) == 0.0);
    ck_assert(dtr_random_uniform(&random) == 1 - 0x1p-32);
}
END_TEST

START_TEST(test_uniform_moments)
{
    double *values = draw(dtr_random_uniform);
    ck_assert_double_ge(smallest_of(values), 0);
    ck_assert_double_lt(largest_of(values), 1);
    ck_assert_double_eq_tol(mean(values), 0.5, 5 * sqrt(1.0 / 12 / SAMPLES));
    /* The fourth central moment is 1/80. */
    double deviation = sqrt((1.0 / 80 - 1.0 / 144) / SAMPLES);
    ck_assert_double_eq_tol(variance(values), 1.0 / 12, 5 * deviation);
    free(values);
}
END_TEST

/* Integers below a bound. */

START_TEST(test_below_one)
{
    struct dtr_random random = sequence(2);
    for (int i = 0; i < 1000; i++)
        ck_assert_uint_eq(dtr_random_below(&random, 1), 0);
}
END_TEST

/* Chi-square exceeds this with a probability under 3e-7 (Laurent and Massart's bound). */
static double chi_square_limit(double freedom)
{
    return freedom + 2 * sqrt(15 * freedom) + 30;
}

/* Each class must hold its share of the samples, given in values of the bound. */
static void check_shares(
    uint32_t bound, int classes, const int64_t *hits, double (*share)(uint32_t, int, int))
{
    double sum = 0;
    for (int i = 0; i < classes; i++) {
        double expected = SAMPLES * share(bound, classes, i) / bound;
        sum += ((double)hits[i] - expected) * ((double)hits[i] - expected) / expected;
    }
    ck_assert_msg(sum < chi_square_limit(classes - 1), "bound %u, %d classes: chi-square is %g",
        bound, classes, sum);
}

/* How many values are below bound in class i of classes: of equal ranges, of equal remainders. */
static double range_share(uint32_t bound, int classes, int i)
{
    uint64_t first = ((uint64_t)bound * (uint64_t)i + (uint64_t)classes - 1) / (uint64_t)classes;
    uint64_t end = ((uint64_t)bound * (uint64_t)(i + 1) + (uint64_t)classes - 1) /
                   (uint64_t)classes;
    return (double)(end - first);
}

static double remainder_share(uint32_t bound, int classes, int i)
{
    return bound / (uint32_t)classes + (bound % (uint32_t)classes > (uint32_t)i);
}

/* Three times 2^30 has a value in three drawn twice as often as the others, were it not for the
 * rejection; 2^31 + 1 rejects half of the words. */
START_TEST(test_below_is_unbiased)
{
    static const uint32_t bounds[] = {
        2, 3, 5, 7, 10, 16, 100, 60000, 1U << 31, (1U << 31) + 1, 3U << 30, UINT32_MAX};
    uint32_t bound = bounds[_i];
    int classes = bound < 48 ? (int)bound : 48;
    int64_t ranges[48] = {0}, remainders[48] = {0};
    struct dtr_random random = sequence(bound);
    for (int i = 0; i < SAMPLES; i++) {
        uint32_t value = dtr_random_below(&random, bound);
        if (value >= bound)
            ck_abort_msg("%u is not below %u", value, bound);
        ranges[(uint64_t)value * (uint64_t)classes / bound]++;
        remainders[value % (uint32_t)classes]++;
    }
    check_shares(bound, classes, ranges, range_share);
    check_shares(bound, classes, remainders, remainder_share);
}
END_TEST

START_TEST(test_below_redraws_as_seldom_as_possible)
{
    struct dtr_random random = crafted(0, 5);
    ck_assert_uint_eq(dtr_random_below(&random, 1U << 16), 0); /* divides 2^32: any word is good */
    ck_assert_int_eq(random.used, 3);
    random = crafted(0, 5);
    ck_assert_uint_eq(dtr_random_below(&random, 3U << 30), 3); /* both 0 and 1 would give 0 */
    ck_assert_int_eq(random.used, 4);
}
END_TEST

/* Truncated normal. */

static const double erf_of_2 = 0.95449973610364158; /* P(-2 < x < 2) */

static double truncated_cdf(double x)
{
    return 0.5 + 0.5 * erf(x * sqrt(0.5)) / erf_of_2;
}

static int compare_doubles(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

START_TEST(test_normal_moments)
{
    double *values = draw(dtr_random_truncated_normal);
    double true_variance = 1 - 4 * exp(-2) / sqrt(2 * acos(-1)) / erf_of_2;
    ck_assert_double_eq_tol(true_variance, 0.7737, 5e-5);
    ck_assert_double_ge(smallest_of(values), -2 - 1e-8);
    ck_assert_double_le(largest_of(values), 2 + 1e-8);
    ck_assert_double_eq_tol(mean(values), 0, 5 * sqrt(true_variance / SAMPLES));
    /* The fourth moment is 3 var - 2^3 phi(2) 2 / P. */
    double fourth = 3 * true_variance - 16 * exp(-2) / sqrt(2 * acos(-1)) / erf_of_2;
    double deviation = sqrt((fourth - true_variance * true_variance) / SAMPLES);
    ck_assert_double_eq_tol(variance(values), true_variance, 5 * deviation);
    free(values);
}
END_TEST

/* Kolmogorov and Smirnov's distance exceeds 2.7 / sqrt(n) with a probability under 1e-6. */
START_TEST(test_normal_distribution)
{
    double *values = draw(dtr_random_truncated_normal), distance = 0;
    qsort(values, SAMPLES, sizeof *values, compare_doubles);
    for (int i = 0; i < SAMPLES; i++) {
        double p = truncated_cdf(values[i]);
        distance = fmax(distance, fmax(p - (double)i / SAMPLES, (double)(i + 1) / SAMPLES - p));
    }
    ck_assert_double_lt(distance, 2.7 / sqrt(SAMPLES));
    free(values);
}
END_TEST

static double normal_of(uint32_t word)
{
    struct dtr_random random = crafted(word, 0);
    double value = dtr_random_truncated_normal(&random);
    ck_assert_int_eq(random.used, 3);
    return value;
}

/* Word by word: the inverse of the distribution function, ascending, symmetric, within +-2. */
START_TEST(test_normal_is_the_inverse)
{
    enum { STEP = 1 << 18 };
    double before = -3;
    for (int64_t word = 0; word <= UINT32_MAX; word += STEP) {
        double x = normal_of((uint32_t)word);
        double p = ((double)word + 0.5) * 0x1p-32;
        if (!(fabs(truncated_cdf(x) - p) < 5e-10))
            ck_abort_msg("word %lld: %.12g", (long long)word, x);
        if (!(x > before))
            ck_abort_msg("word %lld: %.12g after %.12g", (long long)word, x, before);
        if (!(fabs(x + normal_of(~(uint32_t)word)) < 1e-12))
            ck_abort_msg("word %lld: %.12g is not symmetric", (long long)word, x);
        before = x;
    }
}
END_TEST

/* Many at a time are the same numbers as one by one, tails included. */
START_TEST(test_many_are_the_same_numbers)
{
    struct dtr_random one = dtr_random_at(1, DTR_RANDOM_INIT, 0, 0, 5), normals = one, words = one;
    struct dtr_random bits = one;
    for (int round = 0; round < 50; round++) {
        double values[DTR_RANDOM_WORDS];
        uint32_t drawn[DTR_RANDOM_WORDS];
        dtr_random_truncated_normals(&normals, values);
        dtr_random_words(&words, drawn);
        for (int i = 0; i < DTR_RANDOM_WORDS; i++) {
            ck_assert_double_eq(values[i], dtr_random_truncated_normal(&one));
            ck_assert_uint_eq(drawn[i], dtr_random_u32(&bits));
        }
    }
}
END_TEST

START_TEST(test_normal_extremes)
{
    ck_assert_double_eq_tol(normal_of(0), -2, 1e-8);
    ck_assert_double_eq_tol(normal_of(UINT32_MAX), 2, 1e-8);
    ck_assert_double_eq_tol(normal_of(UINT32_MAX / 2), 0, 1e-8);
    ck_assert_double_eq_tol(normal_of(UINT32_MAX / 2 + 1), 0, 1e-8);
}
END_TEST

/* Where the approximation for the tails and the one for the center meet. */
START_TEST(test_normal_is_smooth_where_the_tail_begins)
{
    const double below = (1 - erf_of_2) / 2;
    const uint32_t border = (uint32_t)((0.02425 - below) / erf_of_2 * 0x1p32);
    for (uint32_t word = border - 1000; word < border + 1000; word++) {
        /* A word is 2^-32 of probability, 4e-9 at this density; each side errs by 2.3e-9. */
        double step = normal_of(word + 1) - normal_of(word);
        double mirrored = normal_of(~word) - normal_of(~word - 1);
        if (!(step > -1e-9 && step < 1e-8 && mirrored > -1e-9 && mirrored < 1e-8))
            ck_abort_msg("word %u: steps %g and %g", word, step, mirrored);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("random");
    TCase *words = add_case(suite, "words");
    tcase_add_test(words, test_philox_known_answers);
    tcase_add_test(words, test_sequence_is_philox);
    tcase_add_test(words, test_sequence_is_a_function_of_its_arguments);
    tcase_add_test(words, test_words_are_whole_blocks);
    tcase_add_test(words, test_every_argument_matters);

    TCase *uniform = add_case(suite, "uniform");
    tcase_add_test(uniform, test_uniform_bounds);
    tcase_add_test(uniform, test_uniform_moments);
    tcase_add_test(uniform, test_below_one);
    tcase_add_loop_test(uniform, test_below_is_unbiased, 0, 12);
    tcase_add_test(uniform, test_below_redraws_as_seldom_as_possible);

    TCase *normal = add_case(suite, "normal");
    tcase_add_test(normal, test_normal_moments);
    tcase_add_test(normal, test_normal_distribution);
    tcase_add_test(normal, test_normal_is_the_inverse);
    tcase_add_test(normal, test_many_are_the_same_numbers);
    tcase_add_test(normal, test_normal_extremes);
    tcase_add_test(normal, test_normal_is_smooth_where_the_tail_begins);
    return suite;
}
