#include "dtrain/optimizer.h"

#include "stream.h"
#include "wide.h"

#include <stdlib.h>
#include <string.h>

WIDE void dtr_sgd_update(int64_t count, float rate, float mu, float decay,
    const float *restrict gradient, float *restrict momentum, float *restrict weights)
{
    for (int64_t i = 0; i < count; i++) {
        float m = mu * momentum[i] + (gradient[i] + decay * weights[i]);
        momentum[i] = m;
        weights[i] -= rate * m;
    }
}

enum { LINE = 16, EIGHT = 8 }; /* floats of a line of a cache, of a vector */
typedef float eight __attribute__((vector_size(EIGHT * sizeof(float)), aligned(4), may_alias));

WIDE void dtr_sgd_update_shared(int64_t count, float rate, float mu, float decay,
    const float *restrict gradient, float *restrict momentum, float *restrict weights)
{
    int64_t before = (int64_t)(-(uintptr_t)weights / sizeof *weights % LINE);
    int64_t first = before < count ? before : count, end = first + (count - first) / LINE * LINE;
    dtr_sgd_update(first, rate, mu, decay, gradient, momentum, weights);
    for (int64_t i = first; i < end; i += EIGHT) {
        eight weight = *(const eight *)(weights + i), *m = (eight *)(momentum + i);
        *m = mu * *m + (*(const eight *)(gradient + i) + decay * weight);
        weight -= rate * *m;
        stream_floats(weights + i, (const float *)&weight, EIGHT);
    }
    stream_end();
    dtr_sgd_update(count - end, rate, mu, decay, gradient + end, momentum + end, weights + end);
}

double dtr_sum_of_squares(int64_t count, const float *weights)
{
    enum { LANES = 8 }; /* so that the compiler may use vectors without changing the order */
    double lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++)
            lanes[j] += (double)weights[i + j] * (double)weights[i + j];
    }
    double sum = 0;
    for (; i < count; i++)
        sum += (double)weights[i] * (double)weights[i];
    for (int j = 0; j < LANES; j++)
        sum += lanes[j];
    return sum;
}

enum dtr_status dtr_schedule_parse(
    const char *text, struct dtr_schedule *schedule_out, struct dtr_error *error)
{
    schedule_out->factor = 1;
    if (strcmp(text, "constant") == 0) {
        schedule_out->kind = DTR_SCHEDULE_CONSTANT;
        return DTR_OK;
    }
    if (strcmp(text, "cosine") == 0) {
        schedule_out->kind = DTR_SCHEDULE_COSINE;
        return DTR_OK;
    }
    if (strncmp(text, "exp:", 4) == 0) {
        char *end;
        schedule_out->kind = DTR_SCHEDULE_EXP;
        schedule_out->factor = strtod(text + 4, &end);
        if (end != text + 4 && *end == '\0' && schedule_out->factor > 0 &&
            schedule_out->factor <= 1)
            return DTR_OK;
    }
    return dtr_error_set(error, DTR_USAGE,
        "--lr-schedule %s: takes constant, exp:FACTOR (0 < FACTOR <= 1, each epoch) or cosine",
        text);
}

/* cos(pi x) for 0 <= x <= 1 as a series, without libm. */
static double cos_pi(double x)
{
    if (x > 0.5)
        return -cos_pi(1 - x);
    double square = (x * 3.141592653589793) * (x * 3.141592653589793), sum = 1;
    for (int i = 20; i >= 2; i -= 2)
        sum = 1 - sum * square / (i * (i - 1));
    return sum;
}

static double power(double base, int64_t exponent)
{
    double result = 1;
    for (; exponent > 0; exponent--)
        result *= base;
    return result;
}

double dtr_schedule_rate(const struct dtr_schedule *schedule, int64_t step)
{
    double rate = schedule->rate;
    if (schedule->kind == DTR_SCHEDULE_EXP)
        rate *= power(schedule->factor, step / schedule->steps_per_epoch);
    if (schedule->kind == DTR_SCHEDULE_COSINE)
        rate *= 0.5 * (1 + cos_pi((double)step / (double)schedule->total_steps));
    double warmup_steps = schedule->warmup_epochs * (double)schedule->steps_per_epoch;
    if ((double)step + 1 < warmup_steps)
        rate *= ((double)step + 1) / warmup_steps;
    return rate;
}
