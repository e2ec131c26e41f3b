#include "report.h"

#include "dtrain/clock.h"
#include "dtrain/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct dtr_reporter dtr_reporter_begin(struct dtr_trainer *trainer)
{
    int wanted = trainer->options.progress;
    bool shown = wanted == DTR_YES || (wanted == DTR_AUTO && isatty(STDERR_FILENO));
    return (struct dtr_reporter){.trainer = trainer, .bar = shown && trainer->world->rank == 0};
}

static void draw_bar(struct dtr_reporter *reporter)
{
    enum { WIDTH = 30 };
    static const char full[] = "##############################";
    int64_t total = reporter->trainer->options.steps;
    int64_t done = reporter->trainer->resumed.step + reporter->steps;
    double each_s = reporter->steps_s / (double)reporter->steps;
    int64_t left_s = (int64_t)((double)(total - done) * each_s + 0.5);
    int filled = (int)(WIDTH * done / total);
    double now_s = dtr_clock_s();
    if (now_s - reporter->bar_s < 0.2)
        return;
    reporter->bar_s = now_s;
    fprintf(stderr, "\r[%-*.*s] step %lld of %lld, loss %.3f, %.1f ms/step, %lld:%02lld left ",
        WIDTH, filled, full, (long long)done, (long long)total, reporter->loss, 1e3 * each_s,
        (long long)(left_s / 60), (long long)(left_s % 60));
    fflush(stderr);
}

static void clear_bar(const struct dtr_reporter *reporter)
{
    if (reporter->bar)
        fprintf(stderr, "\r\033[K");
}

void dtr_reporter_step(
    struct dtr_reporter *reporter, const struct dtr_batch_report *batch, double seconds)
{
    reporter->steps++;
    reporter->since++;
    reporter->steps_s += seconds;
    reporter->since_s += seconds;
    reporter->samples += batch->samples;
    reporter->loss = batch->loss;
    if (reporter->bar)
        draw_bar(reporter);
}

void dtr_reporter_print(
    struct dtr_reporter *reporter, const struct dtr_batch_report *batch, double validation)
{
    const struct dtr_trainer *trainer = reporter->trainer;
    clear_bar(reporter);
    dtr_print("Step %lld (epoch %.2f), %.1f ms\n", (long long)batch->step,
        (double)batch->step / (double)trainer->schedule.steps_per_epoch,
        1e3 * reporter->since_s / (double)reporter->since);
    dtr_print("Minibatch loss: %.3f, learning rate: %.6f\n", batch->loss, batch->rate);
    dtr_print("Minibatch error: %.1f%%\n", 100.0 * (double)batch->errors / (double)batch->samples);
    if (trainer->validation_count > 0)
        dtr_print("Validation error: %.1f%%\n", 100 * validation);
    reporter->since = 0;
    reporter->since_s = 0;
}

static void print_weights(const struct dtr_model *model, const float *weights)
{
    dtr_print("Weights: %016" PRIx64 "\n", dtr_model_hash(model, weights));
}

void dtr_report_result(const struct dtr_model *model, const float *weights, double test)
{
    dtr_print("Test error: %.1f%%\n", 100 * test);
    print_weights(model, weights);
}

/* GPUs take less than a millisecond. */
static void print_throughput(const struct dtr_reporter *reporter)
{
    double step_ms = 1e3 * reporter->steps_s / (double)reporter->steps;
    if (reporter->steps == 0)
        dtr_print("Trained 0 steps: the run had done all of its %lld\n",
            (long long)reporter->trainer->options.steps);
    else
        dtr_print("Trained %lld steps in %.1f s: %.0f images/s, %.*f ms/step\n",
            (long long)reporter->steps, reporter->steps_s,
            (double)reporter->samples / reporter->steps_s, step_ms < 1 ? 3 : 1, step_ms);
}

void dtr_reporter_end(struct dtr_reporter *reporter, double test)
{
    const struct dtr_trainer *trainer = reporter->trainer;
    clear_bar(reporter);
    if (trainer->world->rank != 0)
        return;
    trainer->replica->ops->get(trainer->replica, trainer->weights);
    dtr_report_result(trainer->model, trainer->weights, test);
    print_throughput(reporter);
}

void dtr_reporter_stop(struct dtr_reporter *reporter, const char *reason, const char *checkpoint)
{
    const struct dtr_trainer *trainer = reporter->trainer;
    int64_t step = trainer->resumed.step + reporter->steps;
    clear_bar(reporter);
    if (trainer->world->rank != 0)
        return;
    trainer->replica->ops->get(trainer->replica, trainer->weights);
    dtr_print("Stopped by %s after %lld of %lld steps (epoch %.2f)\n", reason, (long long)step,
        (long long)trainer->options.steps,
        (double)step / (double)trainer->schedule.steps_per_epoch);
    if (checkpoint != NULL)
        dtr_print("Resume from: %s\n", checkpoint);
    print_weights(trainer->model, trainer->weights);
    print_throughput(reporter);
}
