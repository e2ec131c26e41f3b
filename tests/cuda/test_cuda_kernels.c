/*
 * The CUDA kernels beside the convolutions: against the CPU's own functions (head, update, random
 * numbers) and plain loops, four schedules each, with the same bits where the header promises them.
 */
#include "cuda_fixture.h"

#include "dtrain/kernel.h"
#include "dtrain/optimizer.h"

#include "../unit_main.h"

enum { IMAGES = 11 };

/* About every fifth sample is padding. */
struct table {
    struct dtr_cuda_step step;
    struct dtr_cuda_batch batch;
    uint8_t *images, *labels;
    int32_t *places, *samples;
};

static struct table *table_make(
    struct dtr_random *random, int64_t n, int64_t image_count, int64_t classes, bool padding)
{
    struct table *t = guarded(sizeof *t);
    t->step = (struct dtr_cuda_step){.weight = (float)dtr_random_uniform(random),
        .rate = (float)dtr_random_uniform(random),
        .epoch = (uint32_t)pick(random, 0, 1000)};
    t->images = guarded(IMAGES * image_count);
    for (int64_t i = 0; i < IMAGES * image_count; i++)
        t->images[i] = (uint8_t)pick(random, 0, 255);
    t->labels = guarded(IMAGES);
    for (int64_t i = 0; i < IMAGES; i++)
        t->labels[i] = (uint8_t)pick(random, 0, classes - 1);
    t->places = guarded(n * (int64_t)sizeof(int32_t));
    t->samples = guarded(n * (int64_t)sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) {
        bool padded = padding && pick(random, 0, 4) == 0;
        t->places[i] = padded ? -1 : (int32_t)pick(random, 0, IMAGES - 1);
        t->samples[i] = padded ? -1 : (int32_t)pick(random, 0, 70000);
    }
    t->batch = (struct dtr_cuda_batch){&t->step, n, t->images, t->labels, t->places, t->samples};
    return t;
}

static void table_free(struct table *t)
{
    release(t->images);
    release(t->labels);
    release(t->places);
    release(t->samples);
    release(t);
}

static float *random_floats(struct dtr_random *random, int64_t count)
{
    float *values = floats(count);
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(4 * dtr_random_uniform(random) - 2);
    return values;
}

static float *copy_of(const float *values, int64_t count)
{
    float *copy = floats(count);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

START_TEST(gathers_and_advances)
{
    struct dtr_random random = seeded(1);
    int64_t counts[] = {1, 27, 300};
    machine_order_threads(schedules[_i]);
    for (int j = 0; j < 3; j++) {
        int64_t n = pick(&random, 1, 9), count = counts[j];
        struct table *t = table_make(&random, n, count, 10, true);
        float *dst = floats(n * count);
        RUN(dtr_cuda_gather(&t->batch, count, dst, NULL));
        check_written(dst, n * count);
        for (int64_t i = 0; i < n * count; i++) {
            int64_t place = t->places[i / count];
            float value = 0;
            if (place >= 0)
                value = ((float)t->images[place * count + i % count] - 127.5f) / 255;
            ck_assert_mem_eq(&dst[i], &value, sizeof value);
        }
        release(dst);
        table_free(t);
    }
}
END_TEST

/* What dropout multiplies values by; as src/cpu/dropout.c, a word at a time. */
static float *factors_of(const struct dtr_cuda_activation *a, const struct table *t)
{
    float *factors = floats(a->n * a->units);
    for (int64_t i = 0; i < a->n; i++) {
        int32_t sample = t->samples[i];
        struct dtr_random words = dtr_random_at(a->seed, DTR_RANDOM_DROPOUT, a->layer,
            t->step.epoch, (uint64_t)(sample < 0 ? 0 : sample));
        for (int64_t u = 0; u < a->units; u++) {
            bool keep = a->scale == 0 || (dtr_random_u32(&words) >= a->threshold && sample >= 0);
            factors[i * a->units + u] = keep ? (a->scale == 0 ? 1 : a->scale) : 0;
        }
    }
    return factors;
}

static void check_activation(
    const struct dtr_cuda_activation *a, struct table *t, struct dtr_random *random, bool bias)
{
    int64_t count = a->n * a->units;
    float *before = random_floats(random, count), *factors = factors_of(a, t);
    float *b = random_floats(random, a->units), *diff_dst = random_floats(random, count);
    before[pick(random, 0, count - 1)] = NAN;
    float *values = copy_of(before, count), *diff = copy_of(diff_dst, count);
    float *diff_bias = floats(a->units);
    RUN(dtr_cuda_activate(a, &t->batch, bias ? b : NULL, values, NULL));
    check_written(values, count);
    RUN(dtr_cuda_activate_backward(a, &t->batch, values, diff, bias ? diff_bias : NULL, NULL));
    check_written(diff, count);
    check_guards(diff_bias, a->units * (int64_t)sizeof(float));
    for (int64_t u = 0; u < a->units; u++) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < a->n; i++) {
            int64_t at = i * a->units + u;
            bool padded = a->scale != 0 && t->samples[i] < 0;
            float value = before[at] + (bias ? b[u] : 0);
            if (a->relu && value < 0)
                value = 0;
            value = padded ? 0 : value * factors[at];
            ck_assert_msg(same((double)values[at], (double)value), "value %lld", (long long)at);
            bool none = padded || (a->relu && values[at] <= 0);
            float gradient = none ? 0 : diff_dst[at] * factors[at];
            ck_assert_msg(same((double)diff[at], (double)gradient), "diff %lld", (long long)at);
            sum += (double)diff[at];
            size += fabs((double)diff[at]);
        }
        if (bias)
            ck_assert_double_le(
                fabs((double)diff_bias[u] - sum), size * (double)(a->n + 1) * 0x1p-24 * 1.01);
    }
    release(before);
    release(factors);
    release(b);
    release(diff_dst);
    release(values);
    release(diff);
    release(diff_bias);
}

START_TEST(activates)
{
    struct dtr_random random = seeded(2);
    int64_t units[] = {1, 6, 33, 130};
    machine_order_threads(schedules[_i]);
    for (int j = 0; j < 16; j++) {
        struct dtr_cuda_activation a = {.n = pick(&random, 1, 21),
            .units = units[j % 4],
            .relu = j / 4 % 2 == 1,
            .scale = j / 8 == 1 ? 1.25f : 0,
            .threshold = 0x33333333u,
            .layer = (uint32_t)pick(&random, 0, 255),
            .seed = 0x123456789abcdefu};
        struct table *t = table_make(&random, a.n, 1, 10, true);
        check_activation(&a, t, &random, pick(&random, 0, 3) > 0);
        table_free(t);
    }
}
END_TEST

/* Logits with ties, some of them huge; NaN in some samples. In every second one the label's is one
 * of two largest, the other a class that the same thread or another one looks at. */
static float *random_logits(
    struct dtr_random *random, const struct table *t, int64_t classes, bool nans)
{
    int64_t n = t->batch.n;
    float *logits = floats(n * classes);
    for (int64_t i = 0; i < n * classes; i++)
        logits[i] = (float)pick(random, -3, 3) * (i / classes % 3 == 2 ? 500.0f : 1.0f);
    for (int64_t i = 1; i < n; i += 2) {
        int64_t place = t->places[i], label = place < 0 ? 0 : t->labels[place];
        int64_t other = (label + (i % 4 == 1 ? 32 : pick(random, 0, classes - 1))) % classes;
        logits[i * classes + label] = logits[i * classes + other] = 2000;
    }
    for (int64_t i = 0; i < n && nans; i += 4)
        logits[i * classes + pick(random, 0, classes - 1)] = NAN;
    return logits;
}

/* Exponentials and their sum may differ by a few units of double. What is rounded to float in
 * between, by half of one: 2^-24 of the softmax, which is at most 1, and 2^-24 of the result. */
static void check_head(struct table *t, int64_t classes, const float *logits,
    const struct dtr_cuda_result *result, const float *diff)
{
    int64_t n = t->batch.n, samples[64];
    uint8_t labels[64];
    float *truth = floats(n * classes);
    for (int64_t i = 0; i < n; i++) {
        samples[i] = t->places[i];
        labels[i] = samples[i] < 0 ? 0 : t->labels[samples[i]];
    }
    struct dtr_head_result expected = dtr_softmax_head(
        n, classes, logits, labels, samples, t->step.weight, truth);
    ck_assert_double_eq(result->errors, (double)expected.errors);
    ck_assert_msg(same(result->loss, expected.loss) ||
                      fabs(result->loss - expected.loss) <= 1e-13 * fabs(expected.loss) + 1e-13,
        "loss %.17g, should be %.17g", result->loss, expected.loss);
    check_written(diff, n * classes);
    for (int64_t i = 0; i < n * classes; i++) {
        double bound = 0x1p-23 * ((double)t->step.weight + fabs((double)truth[i]));
        ck_assert_msg(same((double)diff[i], (double)truth[i]) ||
                          fabs((double)diff[i] - (double)truth[i]) <= bound,
            "diff %lld: %.9g, should be %.9g", (long long)i, (double)diff[i], (double)truth[i]);
    }
    release(truth);
}

START_TEST(computes_head)
{
    struct dtr_random random = seeded(3);
    int64_t many[] = {1, 2, 10, 32, 33, 256};
    for (int j = 0; j < 12; j++) {
        int64_t n = j < 2 ? 1 : pick(&random, 1, 40), classes = many[j % 6];
        struct table *t = table_make(&random, n, 1, classes, true);
        float *logits = random_logits(&random, t, classes, j % 2 == 0), *first = NULL;
        struct dtr_cuda_result first_result = {0};
        for (int i = 0; i < SCHEDULES; i++) {
            struct dtr_cuda_result *losses = guarded((n + 1) * (int64_t)sizeof *losses);
            struct dtr_cuda_result *result = losses + n;
            float *diff = floats(n * classes);
            machine_order_threads(schedules[i]);
            RUN(dtr_cuda_head(&t->batch, classes, logits, losses, diff, result, NULL));
            check_guards(losses, (n + 1) * (int64_t)sizeof *losses);
            check_head(t, classes, logits, result, diff);
            if (i == 0) {
                first = copy_of(diff, n * classes);
                first_result = *result;
            }
            ck_assert_mem_eq(result, &first_result, sizeof first_result);
            ck_assert_mem_eq(diff, first, (size_t)(n * classes) * sizeof *diff);
            release(losses);
            release(diff);
        }
        release(first);
        release(logits);
        table_free(t);
    }
}
END_TEST

/* More samples than threads that add their losses. */
START_TEST(sums_many_losses)
{
    struct dtr_random random = seeded(4);
    int64_t n = 600;
    struct table *t = table_make(&random, n, 1, 2, false);
    float *logits = floats(2 * n), *diff = floats(2 * n);
    struct dtr_cuda_result *losses = guarded((n + 1) * (int64_t)sizeof *losses);
    struct dtr_cuda_result *result = losses + n;
    int64_t errors = 0, *counted = guarded(sizeof *counted);
    *counted = 5;
    double loss = 0;
    for (int64_t i = 0; i < n; i++) {
        int label = t->labels[t->places[i]];
        bool wrong = pick(&random, 0, 1) == 1;
        logits[2 * i + label] = wrong ? 0 : 1;
        logits[2 * i + 1 - label] = wrong ? 1 : 0;
        errors += wrong;
        loss += wrong ? log1p(exp(1)) : log1p(exp(-1));
    }
    machine_order_threads(schedules[_i]);
    RUN(dtr_cuda_head(&t->batch, 2, logits, losses, diff, result, NULL));
    ck_assert_double_eq(result->errors, (double)errors);
    ck_assert_double_le(fabs(result->loss - loss), 600 * 0x1p-53 * loss);
    RUN(dtr_cuda_count_errors(&t->batch, n, 2, logits, counted, NULL));
    ck_assert_int_eq(*counted, errors + 5);
    release(counted);
    release(logits);
    release(diff);
    release(losses);
    table_free(t);
}
END_TEST

START_TEST(counts_errors)
{
    struct dtr_random random = seeded(5);
    int64_t many[] = {1, 2, 10, 33, 256};
    machine_order_threads(schedules[_i]);
    for (int j = 0; j < 10; j++) {
        int64_t n = pick(&random, 1, 40), classes = many[j % 5], count = pick(&random, 0, n);
        struct table *t = table_make(&random, n, 1, classes, false);
        float *logits = random_logits(&random, t, classes, true);
        uint8_t labels[64];
        int64_t *errors = guarded(sizeof *errors);
        *errors = 7;
        for (int64_t i = 0; i < n; i++)
            labels[i] = t->labels[t->places[i]];
        RUN(dtr_cuda_count_errors(&t->batch, count, classes, logits, errors, NULL));
        ck_assert_int_eq(*errors, 7 + dtr_count_errors(count, classes, logits, labels));
        release(errors);
        release(logits);
        table_free(t);
    }
}
END_TEST

START_TEST(updates)
{
    struct dtr_random random = seeded(6);
    int64_t count = 16 * pick(&random, 1, 150);
    struct table *t = table_make(&random, 1, 1, 10, false);
    float *gradient = random_floats(&random, count), *momentum = random_floats(&random, count);
    float *weights = random_floats(&random, count);
    float *cpu_momentum = copy_of(momentum, count), *cpu_weights = copy_of(weights, count);
    uint8_t *decayed = guarded(count / 16);
    struct dtr_cuda_sgd sgd = {.mu = 0.9f, .decay = 5e-3f, .decayed = decayed};
    for (int64_t i = 0; i < count / 16; i++) {
        decayed[i] = (uint8_t)pick(&random, 0, 1);
        dtr_sgd_update(16, t->step.rate, sgd.mu, decayed[i] ? sgd.decay : 0, gradient + 16 * i,
            cpu_momentum + 16 * i, cpu_weights + 16 * i);
    }
    machine_order_threads(schedules[_i]);
    RUN(dtr_cuda_update(&sgd, &t->step, count, gradient, momentum, weights, NULL));
    ck_assert_mem_eq(momentum, cpu_momentum, (size_t)count * sizeof(float));
    ck_assert_mem_eq(weights, cpu_weights, (size_t)count * sizeof(float));
    check_guards(momentum, count * (int64_t)sizeof(float));
    check_guards(weights, count * (int64_t)sizeof(float));
    release(gradient);
    release(momentum);
    release(weights);
    release(cpu_momentum);
    release(cpu_weights);
    release(decayed);
    table_free(t);
}
END_TEST

static void check_pool(const struct dtr_cuda_pool *p, const float *src, const float *diff_dst,
    const float *dst, const uint16_t *winners, const float *diff_src)
{
    int64_t oh = (p->h - p->k) / p->stride + 1, ow = (p->w - p->k) / p->stride + 1;
    int64_t count = p->n * p->h * p->w * p->c;
    double *diff = calloc((size_t)count, sizeof *diff);
    ck_assert_ptr_nonnull(diff);
    for (int64_t at = 0; at < p->n * oh * ow * p->c; at++) {
        int64_t channel = at % p->c, x = at / p->c % ow, y = at / p->c / ow % oh;
        int64_t n = at / p->c / ow / oh, winner = -1, place = 0;
        for (int64_t i = 0; i < p->k * p->k; i++) {
            int64_t sy = y * p->stride + i / p->k, sx = x * p->stride + i % p->k;
            int64_t from = ((n * p->h + sy) * p->w + sx) * p->c + channel;
            if (winner < 0 || src[from] > src[place] || (isnan(src[from]) && !isnan(src[place]))) {
                winner = i;
                place = from;
            }
        }
        ck_assert_int_eq(winners[at], winner);
        ck_assert(same((double)dst[at], (double)src[place]));
        diff[place] += (double)diff_dst[at];
    }
    for (int64_t i = 0; i < count; i++) /* small integers: exact */
        ck_assert_double_eq((double)diff_src[i], diff[i]);
    free(diff);
}

START_TEST(pools)
{
    struct dtr_random random = seeded(7);
    machine_order_threads(schedules[_i]);
    for (int j = 0; j < 20; j++) {
        int64_t k = pick(&random, 1, 4);
        struct dtr_cuda_pool p = {.n = pick(&random, 1, 3),
            .h = pick(&random, k, 9),
            .w = pick(&random, k, 9),
            .c = pick(&random, 1, 5),
            .k = k,
            .stride = pick(&random, 1, 4)};
        int64_t count = p.n * p.h * p.w * p.c;
        int64_t out = p.n * ((p.h - k) / p.stride + 1) * ((p.w - k) / p.stride + 1) * p.c;
        float *src = floats(count), *diff_dst = floats(out);
        for (int64_t i = 0; i < count; i++)
            src[i] = pick(&random, 0, 20) == 0 ? NAN : (float)pick(&random, -3, 3);
        for (int64_t i = 0; i < out; i++)
            diff_dst[i] = (float)pick(&random, -9, 9);
        float *dst = floats(out), *inferred = floats(out), *diff_src = floats(count);
        uint16_t *winners = guarded(2 * out);
        RUN(dtr_cuda_pool_forward(&p, src, dst, winners, NULL));
        RUN(dtr_cuda_pool_forward(&p, src, inferred, NULL, NULL));
        RUN(dtr_cuda_pool_backward(&p, winners, diff_dst, diff_src, NULL));
        check_guards(winners, 2 * out);
        check_guards(dst, 4 * out);
        ck_assert_mem_eq(dst, inferred, (size_t)out * sizeof *dst);
        check_written(diff_src, count);
        check_pool(&p, src, diff_dst, dst, winners, diff_src);
        release(src);
        release(diff_dst);
        release(dst);
        release(inferred);
        release(diff_src);
        release(winners);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("cuda_kernels");
    TCase *tcase = add_case(suite, "kernels");
    tcase_add_loop_test(tcase, gathers_and_advances, 0, SCHEDULES);
    tcase_add_loop_test(tcase, activates, 0, SCHEDULES);
    tcase_add_test(tcase, computes_head);
    tcase_add_loop_test(tcase, sums_many_losses, 0, SCHEDULES);
    tcase_add_loop_test(tcase, counts_errors, 0, SCHEDULES);
    tcase_add_loop_test(tcase, updates, 0, SCHEDULES);
    tcase_add_loop_test(tcase, pools, 0, SCHEDULES);
    return suite;
}
