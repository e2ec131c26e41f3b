#include "dtrain/optimizer.h"

#include "dtrain/random.h"
#include "unit_main.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Momentum SGD. */

enum { COUNT = 1003 };

struct slabs {
    float gradient[COUNT], momentum[COUNT], weights[COUNT];
};

static struct slabs *random_slabs(void)
{
    struct dtr_random random = dtr_random_at(1, DTR_RANDOM_INIT, 0, 0, 0);
    struct slabs *slabs = malloc(sizeof *slabs);
    ck_assert_ptr_nonnull(slabs);
    for (int i = 0; i < COUNT; i++) {
        slabs->gradient[i] = (float)(dtr_random_uniform(&random) - 0.5);
        slabs->momentum[i] = (float)(dtr_random_uniform(&random) - 0.5);
        slabs->weights[i] = (float)(dtr_random_uniform(&random) - 0.5);
    }
    return slabs;
}

struct numbers {
    float rate, mu, decay;
};

static const struct numbers settings[] = {
    {0.01F, 0.9F, 5e-4F}, {0.3F, 0.9F, 0}, {0.1F, 0, 0.01F}, {0, 0.9F, 0.1F}, {1, 1, 1}};

static void update(struct slabs *slabs, struct numbers numbers, int64_t begin, int64_t end)
{
    dtr_sgd_update(end - begin, numbers.rate, numbers.mu, numbers.decay, slabs->gradient + begin,
        slabs->momentum + begin, slabs->weights + begin);
}

START_TEST(test_update_follows_the_formula)
{
    struct numbers numbers = settings[_i];
    struct slabs *before = random_slabs(), *after = random_slabs();
    update(after, numbers, 0, COUNT);
    for (int i = 0; i < COUNT; i++) {
        double weight = before->weights[i];
        double gradient = (double)before->gradient[i] + (double)numbers.decay * weight;
        double momentum = (double)numbers.mu * (double)before->momentum[i] + gradient;
        ck_assert_double_eq_tol((double)after->momentum[i], momentum, 3e-7);
        weight -= (double)numbers.rate * momentum;
        ck_assert_double_eq_tol((double)after->weights[i], weight, 3e-7);
    }
    ck_assert_mem_eq(after->gradient, before->gradient, sizeof after->gradient);
    free(before);
    free(after);
}
END_TEST

/* Each operation rounds to float: what is volatile is neither fused nor kept wider. */
START_TEST(test_update_rounds_each_operation)
{
    struct numbers numbers = settings[_i];
    struct slabs *before = random_slabs(), *after = random_slabs();
    update(after, numbers, 0, COUNT);
    for (int i = 0; i < COUNT; i++) {
        volatile float decayed = numbers.decay * before->weights[i];
        volatile float gradient = before->gradient[i] + decayed;
        volatile float kept = numbers.mu * before->momentum[i];
        volatile float momentum = kept + gradient;
        volatile float step = numbers.rate * momentum;
        volatile float weight = before->weights[i] - step;
        if (after->momentum[i] != momentum || after->weights[i] != weight)
            ck_abort_msg("element %d", i);
    }
    free(before);
    free(after);
}
END_TEST

/* Numbers that leave nothing to round, over two steps. */
START_TEST(test_update_by_hand)
{
    float gradient[] = {1, -2}, momentum[] = {4, 0}, weights[] = {8, 16};
    dtr_sgd_update(2, 0.5F, 0.5F, 0.25F, gradient, momentum, weights);
    ck_assert(momentum[0] == 5 && momentum[1] == 2);
    ck_assert(weights[0] == 5.5F && weights[1] == 15);
    dtr_sgd_update(2, 0.5F, 0.5F, 0, gradient, momentum, weights);
    ck_assert(momentum[0] == 3.5F && momentum[1] == -1);
    ck_assert(weights[0] == 3.75F && weights[1] == 15.5F);
}
END_TEST

START_TEST(test_update_in_ranges)
{
    struct slabs *whole = random_slabs();
    update(whole, settings[0], 0, COUNT);
    for (int64_t cut = 0; cut <= COUNT; cut++) {
        struct slabs *split = random_slabs();
        update(split, settings[0], cut, COUNT);
        update(split, settings[0], 0, cut);
        if (memcmp(split, whole, sizeof *split) != 0)
            ck_abort_msg("cut at %lld", (long long)cut);
        free(split);
    }
    free(whole);
}
END_TEST

START_TEST(test_update_stays_in_its_range)
{
    struct slabs *before = random_slabs(), *after = random_slabs();
    update(after, settings[0], 11, 11);
    ck_assert_mem_eq(after, before, sizeof *after);
    update(after, settings[0], 11, 29);
    for (int i = 0; i < COUNT; i++) {
        bool inside = i >= 11 && i < 29;
        ck_assert_int_eq(after->momentum[i] != before->momentum[i], inside);
        ck_assert_int_eq(after->weights[i] != before->weights[i], inside);
    }
    free(before);
    free(after);
}
END_TEST

/* Wherever the lines of the caches begin and end: the same bits, and nothing else is touched. */
START_TEST(test_shared_update_gives_the_same_bits)
{
    struct numbers numbers = settings[_i];
    for (int64_t begin = 0; begin < 20; begin++) {
        for (int64_t end = begin; end <= COUNT; end += end < 120 ? 1 : 71) {
            struct slabs *expected = random_slabs(), *shared = random_slabs();
            update(expected, numbers, begin, end);
            dtr_sgd_update_shared(end - begin, numbers.rate, numbers.mu, numbers.decay,
                shared->gradient + begin, shared->momentum + begin, shared->weights + begin);
            if (memcmp(shared, expected, sizeof *shared) != 0)
                ck_abort_msg("elements %lld to %lld", (long long)begin, (long long)end);
            free(expected);
            free(shared);
        }
    }
}
END_TEST

/* Sums of squares. */

START_TEST(test_sum_of_squares)
{
    struct slabs *slabs = random_slabs();
    long double expected = 0;
    for (int i = 0; i <= COUNT; i++) {
        double sum = dtr_sum_of_squares(i, slabs->weights);
        ck_assert_double_eq_tol(sum, (double)expected, 1e-12);
        if (i < COUNT)
            expected += (long double)slabs->weights[i] * (long double)slabs->weights[i];
    }
    free(slabs);
}
END_TEST

/* In double: in float, ones would stop adding at 2^24. */
START_TEST(test_sum_of_squares_is_wide)
{
    static float weights[] = {16777216, 1, 1e25F, -3};
    ck_assert(dtr_sum_of_squares(0, weights) == 0);
    ck_assert(dtr_sum_of_squares(2, weights) == 0x1p48 + 1);
    ck_assert_double_eq_tol(dtr_sum_of_squares(3, weights), 1e50, 1e43);
    ck_assert(dtr_sum_of_squares(1, weights + 3) == 9);
}
END_TEST

/* The order of additions is the same wherever the weights lie. */
START_TEST(test_sum_of_squares_ignores_alignment)
{
    struct slabs *slabs = random_slabs();
    float shifted[COUNT + 16];
    for (int64_t count = COUNT - 20; count <= COUNT; count++) {
        double sum = dtr_sum_of_squares(count, slabs->weights);
        for (int shift = 0; shift < 16; shift++) {
            memcpy(shifted + shift, slabs->weights, sizeof slabs->weights);
            ck_assert(dtr_sum_of_squares(count, shifted + shift) == sum);
        }
    }
    free(slabs);
}
END_TEST

/* Schedules. */

static struct dtr_schedule schedule_of(enum dtr_schedule_kind kind, double factor)
{
    return (struct dtr_schedule){
        .kind = kind, .factor = factor, .rate = 0.02, .steps_per_epoch = 100, .total_steps = 1000};
}

static void check_rate(const struct dtr_schedule *schedule, int64_t step, double expected)
{
    double rate = dtr_schedule_rate(schedule, step);
    ck_assert_msg(fabs(rate - expected) <= 1e-14 * schedule->rate, "step %lld: %.17g, not %.17g",
        (long long)step, rate, expected);
}

START_TEST(test_constant)
{
    struct dtr_schedule schedule = schedule_of(DTR_SCHEDULE_CONSTANT, 1);
    for (int64_t step = 0; step < 2000; step += 7)
        ck_assert(dtr_schedule_rate(&schedule, step) == 0.02);
}
END_TEST

START_TEST(test_exp_is_a_staircase)
{
    struct dtr_schedule schedule = schedule_of(DTR_SCHEDULE_EXP, 0.95);
    for (int64_t epoch = 0; epoch < 30; epoch++) {
        double expected = 0.02 * pow(0.95, (double)epoch);
        check_rate(&schedule, epoch * 100, expected);
        check_rate(&schedule, epoch * 100 + 1, expected);
        check_rate(&schedule, epoch * 100 + 99, expected);
    }
    schedule.factor = 1;
    check_rate(&schedule, 12345, 0.02);
    schedule.factor = 0.5;
    ck_assert(dtr_schedule_rate(&schedule, 300) == 0.02 / 8);
}
END_TEST

START_TEST(test_cosine)
{
    struct dtr_schedule schedule = schedule_of(DTR_SCHEDULE_COSINE, 1);
    ck_assert(dtr_schedule_rate(&schedule, 0) == 0.02);
    check_rate(&schedule, 500, 0.01);
    check_rate(&schedule, 1000, 0);
    for (int64_t step = 0; step <= 1000; step++) {
        check_rate(&schedule, step, 0.01 * (1 + cos(acos(-1) * (double)step / 1000)));
        ck_assert(dtr_schedule_rate(&schedule, step) >= 0);
        if (step > 0)
            ck_assert(dtr_schedule_rate(&schedule, step) < dtr_schedule_rate(&schedule, step - 1));
    }
}
END_TEST

START_TEST(test_warmup)
{
    struct dtr_schedule schedule = schedule_of(DTR_SCHEDULE_CONSTANT, 1);
    schedule.warmup_epochs = 2;
    check_rate(&schedule, 0, 0.02 / 200);
    check_rate(&schedule, 99, 0.01);
    check_rate(&schedule, 198, 0.02 * 199 / 200);
    for (int64_t step = 0; step < 199; step++)
        check_rate(&schedule, step, 0.02 * (double)(step + 1) / 200);
    ck_assert(dtr_schedule_rate(&schedule, 199) == 0.02);
    ck_assert(dtr_schedule_rate(&schedule, 200) == 0.02);
}
END_TEST

START_TEST(test_warmup_of_odd_lengths)
{
    struct dtr_schedule schedule = schedule_of(DTR_SCHEDULE_CONSTANT, 1);
    schedule.warmup_epochs = 0.025; /* two and a half steps */
    check_rate(&schedule, 0, 0.02 * 1 / 2.5);
    check_rate(&schedule, 1, 0.02 * 2 / 2.5);
    ck_assert(dtr_schedule_rate(&schedule, 2) == 0.02);
    schedule.warmup_epochs = 0.001; /* less than a step */
    ck_assert(dtr_schedule_rate(&schedule, 0) == 0.02);
}
END_TEST

START_TEST(test_warmup_scales_the_schedule)
{
    struct dtr_schedule schedule = schedule_of(DTR_SCHEDULE_EXP, 0.9);
    schedule.warmup_epochs = 4;
    check_rate(&schedule, 150, 0.02 * 0.9 * 151 / 400);
    check_rate(&schedule, 400, 0.02 * pow(0.9, 4));
    schedule.kind = DTR_SCHEDULE_COSINE;
    check_rate(&schedule, 249, 0.01 * (1 + cos(acos(-1) * 0.249)) * 250 / 400);
    check_rate(&schedule, 750, 0.01 * (1 - sqrt(0.5)));
}
END_TEST

/* Parsing. */

START_TEST(test_parse)
{
    static const struct {
        const char *text;
        enum dtr_schedule_kind kind;
        double factor;
    } cases[] = {
        {"constant", DTR_SCHEDULE_CONSTANT, 1},
        {"cosine", DTR_SCHEDULE_COSINE, 1},
        {"exp:0.95", DTR_SCHEDULE_EXP, 0.95},
        {"exp:.5", DTR_SCHEDULE_EXP, 0.5},
        {"exp:1", DTR_SCHEDULE_EXP, 1},
        {"exp:1e-3", DTR_SCHEDULE_EXP, 1e-3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dtr_error error = DTR_ERROR_NONE;
        struct dtr_schedule schedule = {.rate = 3, .steps_per_epoch = 5};
        ck_assert_msg(dtr_schedule_parse(cases[i].text, &schedule, &error) == DTR_OK, "%s: %s",
            cases[i].text, error.message);
        ck_assert_int_eq(schedule.kind, cases[i].kind);
        ck_assert(schedule.factor == cases[i].factor);
        ck_assert(schedule.rate == 3 && schedule.steps_per_epoch == 5);
    }
}
END_TEST

START_TEST(test_parse_errors)
{
    static const char *const wrong[] = {"", "Constant", "constant ", "cosine:2", "linear", "exp",
        "exp:", "exp:x", "exp:0", "exp:-0.5", "exp:1.01", "exp:nan", "exp:inf", "exp:0.95x",
        "exp:0.95 ", "exp:0,95", "exp:1e-999", "exp 0.95"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct dtr_error error = DTR_ERROR_NONE;
        struct dtr_schedule schedule;
        ck_assert_msg(dtr_schedule_parse(wrong[i], &schedule, &error) == DTR_USAGE,
            "'%s' was taken", wrong[i]);
        ck_assert_int_eq(error.status, DTR_USAGE);
        ck_assert_ptr_nonnull(strstr(error.message, "--lr-schedule"));
        ck_assert_ptr_nonnull(strstr(error.message, wrong[i]));
        ck_assert_ptr_nonnull(strstr(error.message, "constant, exp:FACTOR"));
    }
}
END_TEST

static Suite *make_suite(void)
{
    const int setting_count = sizeof settings / sizeof *settings;
    Suite *suite = suite_create("optimizer");
    TCase *sgd = add_case(suite, "sgd");
    tcase_add_loop_test(sgd, test_update_follows_the_formula, 0, setting_count);
    tcase_add_loop_test(sgd, test_update_rounds_each_operation, 0, setting_count);
    tcase_add_test(sgd, test_update_by_hand);
    tcase_add_test(sgd, test_update_in_ranges);
    tcase_add_test(sgd, test_update_stays_in_its_range);
    tcase_add_loop_test(sgd, test_shared_update_gives_the_same_bits, 0, setting_count);

    TCase *squares = add_case(suite, "sum of squares");
    tcase_add_test(squares, test_sum_of_squares);
    tcase_add_test(squares, test_sum_of_squares_is_wide);
    tcase_add_test(squares, test_sum_of_squares_ignores_alignment);

    TCase *schedule = add_case(suite, "schedule");
    tcase_add_test(schedule, test_constant);
    tcase_add_test(schedule, test_exp_is_a_staircase);
    tcase_add_test(schedule, test_cosine);
    tcase_add_test(schedule, test_warmup);
    tcase_add_test(schedule, test_warmup_of_odd_lengths);
    tcase_add_test(schedule, test_warmup_scales_the_schedule);
    tcase_add_test(schedule, test_parse);
    tcase_add_test(schedule, test_parse_errors);
    return suite;
}
