/*
 * The optimizer and the learning rate. Local, element by element, so any range of the slab can be
 * updated as soon as its gradient is complete.
 */
#ifndef DTRAIN_OPTIMIZER_H
#define DTRAIN_OPTIMIZER_H

#include "dtrain/status.h"

#include <stdint.h>

/* Momentum SGD as in TensorFlow and PyTorch:
 *     g = gradient + decay * weight;  momentum = mu * momentum + g;  weight -= rate * momentum. */
void dtr_sgd_update(int64_t count, float rate, float mu, float decay, const float *gradient,
    float *momentum, float *weights);

/* The same, with the same bits, for weights that other cores read too: they are written past the
 * caches (src/stream.h). */
void dtr_sgd_update_shared(int64_t count, float rate, float mu, float decay, const float *gradient,
    float *momentum, float *weights);

/* Sum of squares in double, in an order that depends on count alone. */
double dtr_sum_of_squares(int64_t count, const float *weights);

enum dtr_schedule_kind { DTR_SCHEDULE_CONSTANT, DTR_SCHEDULE_EXP, DTR_SCHEDULE_COSINE };

/* constant | exp:FACTOR (rate * FACTOR^epoch, a staircase) | cosine (to zero at the end). */
struct dtr_schedule {
    enum dtr_schedule_kind kind;
    double factor;
    double rate; /* the base rate, scaled already */
    double warmup_epochs;
    int64_t steps_per_epoch, total_steps;
};

/* Parses the text of --lr-schedule into kind and factor. DTR_USAGE with the reason. */
enum dtr_status dtr_schedule_parse(
    const char *text, struct dtr_schedule *schedule_out, struct dtr_error *error);

/* The rate of step 0, 1, ...; it rises linearly from rate / warm-up steps over the warm-up. */
double dtr_schedule_rate(const struct dtr_schedule *schedule, int64_t step);

#endif
