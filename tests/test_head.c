/*
 * The softmax head: loss and gradient against libm in long double and against finite differences,
 * huge and equal logits, NaN, and who counts as an error.
 */
#include "dtrain/kernel.h"
#include "dtrain/random.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 6, CLASSES_MAX = 1000 };

struct batch {
    int64_t classes;
    float logits[N * CLASSES_MAX], diff[N * CLASSES_MAX];
    uint8_t labels[N];
    int64_t samples[N];
    struct dtr_head_result result;
};

static void run_head(struct batch *batch, int64_t n, float weight)
{
    for (int64_t i = 0; i < n * batch->classes; i++)
        batch->diff[i] = NAN;
    batch->result = dtr_softmax_head(
        n, batch->classes, batch->logits, batch->labels, batch->samples, weight, batch->diff);
}

/* Logits are multiples of 2^-6 in [-scale, scale]. */
static struct batch *random_batch(struct dtr_random *random, int64_t classes, double scale)
{
    struct batch *batch = malloc(sizeof *batch);
    ck_assert_ptr_nonnull(batch);
    batch->classes = classes;
    for (int64_t i = 0; i < N * classes; i++)
        batch->logits[i] = (float)(nearbyint((2 * dtr_random_uniform(random) - 1) * scale * 64) /
                                   64);
    for (int64_t i = 0; i < N; i++) {
        batch->labels[i] = (uint8_t)dtr_random_below(
            random, classes < 256 ? (uint32_t)classes : 256);
        batch->samples[i] = i;
    }
    return batch;
}

/* The loss of sample i; its softmax goes to softmax_out. */
static long double true_loss(const struct batch *batch, int64_t i, long double *softmax_out)
{
    const float *logits = batch->logits + i * batch->classes;
    float largest = -INFINITY;
    long double sum = 0;
    for (int64_t c = 0; c < batch->classes; c++)
        largest = fmaxf(largest, logits[c]);
    for (int64_t c = 0; c < batch->classes; c++)
        sum += expl((long double)logits[c] - (long double)largest);
    for (int64_t c = 0; c < batch->classes; c++)
        softmax_out[c] = expl((long double)logits[c] - (long double)largest) / sum;
    return logl(sum) - ((long double)logits[batch->labels[i]] - (long double)largest);
}

static const int64_t class_counts[] = {1, 2, 3, 10, 257, CLASSES_MAX};
enum { CLASS_COUNTS = sizeof class_counts / sizeof *class_counts };

/* Three roundings to float: the exponential, the quotient minus one-hot, and nothing else. */
START_TEST(test_against_libm)
{
    struct dtr_random random = dtr_random_at(1, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    static const double scales[] = {0.5, 4, 50, 1000};
    for (int k = 0; k < 4 * CLASS_COUNTS; k++) {
        struct batch *batch = random_batch(&random, class_counts[k / 4], scales[k % 4]);
        const float weight = 0.3f;
        long double loss = 0, softmax[CLASSES_MAX];
        run_head(batch, N, weight);
        for (int64_t i = 0; i < N; i++) {
            loss += true_loss(batch, i, softmax);
            for (int64_t c = 0; c < batch->classes; c++) {
                double expected = (double)((softmax[c] - (c == batch->labels[i])) *
                                           (long double)weight);
                double bound = 1.5 * 0x1p-24 * fabs(expected) + 0x1p-24 * (double)softmax[c];
                ck_assert_double_le(
                    fabs((double)batch->diff[i * batch->classes + c] - expected), bound + 1e-44);
            }
        }
        ck_assert_double_le(fabs(batch->result.loss - (double)loss), 1e-13 * (1 + (double)loss));
        free(batch);
    }
}
END_TEST

/* Central differences err by step^2 / 6 times the third derivative, which is below 1/4; the
 * gradient by float's rounding. */
START_TEST(test_finite_differences)
{
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    const float step = 0x1p-10f;
    for (int k = 0; k < CLASS_COUNTS; k++) {
        struct batch *batch = random_batch(&random, class_counts[k], 3);
        float diff[CLASSES_MAX];
        run_head(batch, 1, 1);
        memcpy(diff, batch->diff, (size_t)batch->classes * sizeof *diff);
        for (int64_t c = 0; c < batch->classes; c++) {
            float logit = batch->logits[c];
            batch->logits[c] = logit + step;
            run_head(batch, 1, 1);
            double above = batch->result.loss;
            batch->logits[c] = logit - step;
            run_head(batch, 1, 1);
            double slope = (above - batch->result.loss) / (2 * (double)step);
            batch->logits[c] = logit;
            ck_assert_double_le(fabs(slope - (double)diff[c]), 0x1p-20 / 24 + 0x1p-23);
        }
        free(batch);
    }
}
END_TEST

static struct batch *batch_of(int64_t classes, const float *logits, uint8_t label)
{
    struct batch *batch = calloc(1, sizeof *batch);
    ck_assert_ptr_nonnull(batch);
    batch->classes = classes;
    memcpy(batch->logits, logits, (size_t)classes * sizeof *logits);
    batch->labels[0] = label;
    return batch;
}

static void check_row(const float *logits, uint8_t label, double loss, int errors)
{
    struct batch *batch = batch_of(3, logits, label);
    run_head(batch, 1, 1);
    if (isnan(loss))
        ck_assert_double_nan(batch->result.loss);
    else
        ck_assert(batch->result.loss == loss || fabs(batch->result.loss - loss) <= 1e-15 * loss);
    for (int64_t c = 0; c < 3; c++)
        ck_assert_int_eq(isnan(batch->diff[c]) != 0, isnan(loss) != 0);
    ck_assert_int_eq(batch->result.errors, errors);
    ck_assert_int_eq(dtr_count_errors(1, 3, logits, batch->labels), errors);
    free(batch);
}

START_TEST(test_huge_logits)
{
    const float high[] = {1e30f, -1e30f, 0}, max[] = {-3e38f, 3e38f, 3e38f};
    const float low[] = {-INFINITY, 1, -1e30f};
    check_row(high, 0, 0, 0);
    check_row(high, 1, 2 * (double)1e30f, 1);
    check_row(high, 2, (double)1e30f, 1);
    check_row(max, 1, log(2), 0);
    check_row(max, 2, log(2), 1);
    check_row(low, 1, 0, 0);
    check_row(low, 0, INFINITY, 1);
}
END_TEST

START_TEST(test_first_of_equals)
{
    const float equal[] = {2, 2, 2}, tie[] = {-1, 5, 5};
    check_row(equal, 0, log(3), 0);
    check_row(equal, 1, log(3), 1);
    check_row(tie, 1, log(2 + exp(-6)), 0);
    check_row(tie, 2, log(2 + exp(-6)), 1);
}
END_TEST

/* No prediction comes from a row with NaN, not even where the label's logit is the largest. */
START_TEST(test_nan)
{
    for (int at = 0; at < 3; at++) {
        for (uint8_t label = 0; label < 3; label++) {
            float logits[] = {1, 1, 1};
            logits[label] = 9;
            logits[at] = NAN;
            check_row(logits, label, NAN, 1);
        }
    }
    const float all[] = {NAN, NAN, NAN}, infinite[] = {INFINITY, 0, 0};
    check_row(all, 0, NAN, 1);
    check_row(infinite, 0, NAN, 0);
}
END_TEST

/* Padded samples give zero rows and nothing else; the rest does not notice them. */
START_TEST(test_padding)
{
    struct dtr_random random = dtr_random_at(3, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    struct batch *whole = random_batch(&random, 10, 3), *part = malloc(sizeof *part);
    memcpy(part, whole, sizeof *part);
    run_head(whole, 3, 0.5f);
    for (int64_t i = 3; i < N; i++) {
        part->samples[i] = -1;
        part->labels[i] = 255;
        part->logits[i * 10] = NAN;
    }
    run_head(part, N, 0.5f);
    ck_assert_double_eq(part->result.loss, whole->result.loss);
    ck_assert_int_eq(part->result.errors, whole->result.errors);
    ck_assert_mem_eq(part->diff, whole->diff, 30 * sizeof(float));
    for (int64_t i = 30; i < N * 10; i++)
        ck_assert_float_eq(part->diff[i], 0);
    free(whole);
    free(part);
}
END_TEST

START_TEST(test_errors)
{
    struct dtr_random random = dtr_random_at(4, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    int64_t seen = 0;
    for (int k = 0; k < 50; k++) {
        struct batch *batch = random_batch(&random, 3, 2);
        int64_t errors = 0;
        for (int64_t i = 0; i < N; i++) {
            const float *logits = batch->logits + 3 * i;
            int best = logits[1] > logits[0] ? 1 : 0;
            best = logits[2] > logits[best] ? 2 : best;
            errors += best != batch->labels[i];
            ck_assert_int_eq(dtr_count_errors(i + 1, 3, batch->logits, batch->labels), errors);
        }
        run_head(batch, N, 1);
        ck_assert_int_eq(batch->result.errors, errors);
        seen += errors;
        free(batch);
    }
    ck_assert_int_gt(seen, 0);
    ck_assert_int_eq(dtr_count_errors(0, 3, NULL, NULL), 0);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("head");
    TCase *tcase = add_case(suite, "softmax");
    tcase_add_test(tcase, test_against_libm);
    tcase_add_test(tcase, test_finite_differences);
    tcase_add_test(tcase, test_huge_logits);
    tcase_add_test(tcase, test_first_of_equals);
    tcase_add_test(tcase, test_nan);
    tcase_add_test(tcase, test_padding);
    tcase_add_test(tcase, test_errors);
    return suite;
}
