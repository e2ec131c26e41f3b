/* The training loop. Read train_step() first: a step in the order in which it happens. */
#include "dtrain/trainer.h"

#include "ahead.h"
#include "dtrain/clock.h"
#include "dtrain/evaluate.h"
#include "dtrain/log.h"
#include "dtrain/optimizer.h"
#include "dtrain/pulse.h"
#include "report.h"
#include "stop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What an early end needs besides a checkpoint and a report: a step, the end of all processes. */
static const double MARGIN_S = 1;

/* This rank's reason to end before something that takes so long, 0 for none. Rank 0 has an eye on
 * the clock. */
static int64_t reason_to_stop(const struct dtr_trainer *trainer, double next_s)
{
    double left_s = trainer->deadline_s - dtr_clock_s();
    double needed_s = 2 * trainer->checkpoint_s + next_s + MARGIN_S;
    if (trainer->unwritten)
        return DTR_STOP_UNWRITTEN;
    if (trainer->world->rank == 0 && left_s < needed_s)
        return DTR_STOP_TIME;
    return dtr_stop_signal();
}

static void start_combining(struct dtr_trainer *trainer, const struct dtr_step_result *mine)
{
    struct dtr_control control = {.loss = mine->loss,
        .errors = mine->errors,
        .stop = reason_to_stop(trainer, trainer->report_s)};
    dtr_world_start_control(trainer->world, &control);
}

/* Everyone's loss and errors, and reasons to stop. */
static struct dtr_batch_report combined(struct dtr_trainer *trainer, const struct dtr_batch *batch)
{
    struct dtr_control all;
    dtr_world_finish_control(trainer->world, &all);
    trainer->stop = all.stop;
    return (struct dtr_batch_report){.step = batch->step,
        .loss = all.loss.sums[0] / (double)batch->real,
        .errors = all.errors,
        .samples = batch->real,
        .rate = dtr_schedule_rate(&trainer->schedule, batch->step)};
}

/* Whether a batch is passed over: --on-nan skip has to know the loss before the backward pass. */
static bool is_skipped(
    struct dtr_trainer *trainer, const struct dtr_batch *batch, struct dtr_batch_report *report_out)
{
    if (trainer->options.on_nan != DTR_NAN_SKIP)
        return false;
    *report_out = combined(trainer, batch);
    bool skipped = !isfinite(report_out->loss);
    trainer->skipped = skipped ? trainer->skipped + 1 : 0;
    if (skipped)
        dtr_warn("the loss of step %lld is %g: no update by this batch", (long long)batch->step,
            report_out->loss);
    return skipped;
}

/* What is still under way at its end, the next step's forward pass waits for. A GPU takes steps
 * alone, and is waited for where something else is due after the step. */
static struct dtr_batch_report train_step(struct dtr_trainer *trainer, int64_t step, bool due)
{
    struct dtr_replica *replica = trainer->replica;
    dtr_pulse_step(step);
    dtr_pulse_phase(DTR_PHASE_DATA);
    const struct dtr_batch *batch = dtr_loader_step(trainer->loader, step);
    if (trainer->ahead != NULL)
        return dtr_ahead_step(trainer, batch, reason_to_stop(trainer, trainer->report_s), due);

    dtr_pulse_phase(DTR_PHASE_FORWARD);
    struct dtr_step_result mine;
    replica->ops->forward(replica, batch, &mine);
    start_combining(trainer, &mine);
    struct dtr_batch_report report;
    if (is_skipped(trainer, batch, &report))
        return report;

    dtr_pulse_phase(DTR_PHASE_BACKWARD);
    dtr_gradsync_begin(trainer->sync);
    trainer->rate = (float)dtr_schedule_rate(&trainer->schedule, step);
    replica->ops->backward(replica, batch);

    return trainer->options.on_nan == DTR_NAN_SKIP ? report : combined(trainer, batch);
}

/* What the tutorial reports: the batch's loss, with the decay term, after its update. */
static struct dtr_batch_report measure_batch(struct dtr_trainer *trainer, int64_t step)
{
    struct dtr_replica *replica = trainer->replica;
    const struct dtr_batch *batch = dtr_loader_step(trainer->loader, step);
    struct dtr_step_result mine;
    replica->ops->forward(replica, batch, &mine);
    start_combining(trainer, &mine);
    struct dtr_batch_report report = combined(trainer, batch);
    report.loss += replica->ops->decay_loss(replica);
    return report;
}

/* All replicas must hold the same parameters; one that does not is named and ends the job. */
static enum dtr_status check_replicas(struct dtr_trainer *trainer, int64_t step)
{
    struct dtr_error error = DTR_ERROR_NONE;
    char what[64];
    uint64_t hash = dtr_model_hash(trainer->model, dtr_gradsync_exchange(trainer->sync).weights);
    snprintf(what, sizeof what, "parameters after step %lld", (long long)step);
    dtr_world_compare(trainer->world, hash, what, &error);
    return dtr_world_agree(trainer->world, &error);
}

static double longer(double a_s, double b_s)
{
    return a_s > b_s ? a_s : b_s;
}

static int64_t reason_to_interrupt(void *trainer)
{
    return reason_to_stop(trainer, 0);
}

/* The misclassified share of a set, unless the training is stopped meanwhile. */
static double evaluate(
    struct dtr_trainer *trainer, const struct dtr_samples *samples, int64_t count)
{
    const struct dtr_interrupt interrupt = {reason_to_interrupt, trainer};
    double share = 0;
    if (trainer->stop == 0 && count > 0)
        trainer->stop = dtr_evaluate(
            trainer->world, trainer->replica, samples, count, &interrupt, &share);
    return share;
}

static enum dtr_status report(
    struct dtr_trainer *trainer, struct dtr_reporter *reporter, int64_t step)
{
    double start_s = dtr_clock_s();
    dtr_pulse_phase(DTR_PHASE_EVALUATION);
    struct dtr_batch_report batch = measure_batch(trainer, step);
    double validation = evaluate(trainer, &trainer->validation, trainer->validation_count);
    if (trainer->stop != 0)
        return DTR_OK;
    dtr_reporter_print(reporter, &batch, validation);
    enum dtr_status status = check_replicas(trainer, step);
    trainer->report_s = longer(trainer->report_s, dtr_clock_s() - start_s);
    return status;
}

/* On rank 0: what has become of the last checkpoint, which is waited for or, if it is not done, is
 * looked at later. A failure is a warning, since the training itself is sound. */
static void note_written(struct dtr_trainer *trainer, bool wait)
{
    struct dtr_error error = DTR_ERROR_NONE;
    if (trainer->writer == NULL)
        return;
    if (wait)
        dtr_checkpoint_finish(trainer->writer, &error);
    else
        dtr_checkpoint_check(trainer->writer, &error);
    if (wait)
        trainer->checkpoint_s = longer(
            trainer->checkpoint_s, dtr_checkpoint_seconds(trainer->writer));
    if (error.status == DTR_OK)
        return;
    trainer->written = error.status;
    if (error.status != DTR_WRITE) {
        dtr_warn(
            "no checkpoint at step %lld: %s", (long long)trainer->snapshot_step, error.message);
        return;
    }
    dtr_warn("no checkpoint: %s", error.message);
    trainer->unwritten = trainer->options.on_checkpoint_failure == DTR_FAILURE_STOP;
}

static bool are_numbers(int64_t count, const float *slab)
{
    return isfinite(dtr_sum_of_squares(count, slab));
}

/* What is left to do with a snapshot, beside the steps that follow: the canonical order, and a look
 * at the weights, as such that are no numbers would take the place of good ones. */
static enum dtr_status prepare_snapshot(void *context, struct dtr_error *error)
{
    struct dtr_trainer *trainer = context;
    struct dtr_replica *replica = trainer->replica;
    int64_t count = trainer->model->slab_count;
    replica->ops->canonical(replica, trainer->weights, trainer->momentum);
    replica->ops->canonical(replica, trainer->own_weights, trainer->weights);
    if (are_numbers(count, trainer->weights) && are_numbers(count, trainer->momentum))
        return DTR_OK;
    return dtr_error_set(error, DTR_FAILED, "weights are no numbers");
}

/* All ranks hand over their momenta and go on with the next step, rank 0 after a copy of the
 * weights. */
static void start_checkpoint(struct dtr_trainer *trainer, int64_t steps_done)
{
    struct dtr_replica *replica = trainer->replica;
    if (!trainer->checkpoints)
        return;
    dtr_pulse_phase(DTR_PHASE_CHECKPOINT);
    note_written(trainer, true); /* the snapshots are free then */
    dtr_gradsync_gather(trainer->sync, replica->ops->momenta(replica), trainer->weights);
    if (trainer->writer == NULL)
        return;
    memcpy(trainer->own_weights, dtr_gradsync_exchange(trainer->sync).weights,
        (size_t)trainer->model->slab_count * sizeof *trainer->own_weights);
    trainer->written = DTR_OK;
    trainer->snapshot_step = steps_done;
    struct dtr_checkpoint snapshot = {.model = trainer->model,
        .options = &trainer->options,
        .step = steps_done,
        .epoch = (double)steps_done / (double)trainer->schedule.steps_per_epoch,
        .data_fingerprint = trainer->data_fingerprint,
        .weights = trainer->weights,
        .momentum = trainer->momentum,
        .prepare = prepare_snapshot,
        .context = trainer};
    dtr_checkpoint_begin(trainer->writer, &snapshot);
}

/* A training that goes on has no use for a loss that is no number. */
static enum dtr_status check_loss(struct dtr_trainer *trainer, const struct dtr_batch_report *batch)
{
    enum { SKIPPED_MOST = 20 };
    struct dtr_error error = DTR_ERROR_NONE;
    bool skips = trainer->options.on_nan == DTR_NAN_SKIP && trainer->skipped < SKIPPED_MOST;
    if (isfinite(batch->loss) || skips)
        return DTR_OK;
    note_written(trainer, true);
    const char *path = trainer->writer != NULL ? dtr_checkpoint_written(trainer->writer) : NULL;
    if (trainer->world->rank == 0)
        dtr_error_set(&error, DTR_FAILED,
            "the loss of step %lld is %g: the training has diverged; try a smaller --lr or "
            "--warmup-epochs (last good checkpoint: %s)",
            (long long)batch->step, batch->loss, path != NULL ? path : "none");
    return dtr_world_agree(trainer->world, &error);
}

/* A step and what is due after it. */
static enum dtr_status advance(
    struct dtr_trainer *trainer, struct dtr_reporter *reporter, int64_t step)
{
    const struct dtr_options *options = &trainer->options;
    bool reports = step % options->eval_every == 0;
    bool checkpoints = step + 1 == options->steps || (step + 1) % options->checkpoint_every == 0;
    double before_s = dtr_clock_s();
    struct dtr_batch_report batch = train_step(trainer, step, reports || checkpoints);
    dtr_reporter_step(reporter, &batch, dtr_clock_s() - before_s);
    note_written(trainer, false);

    enum dtr_status status = check_loss(trainer, &batch);
    if (status == DTR_OK && reports && trainer->stop == 0)
        status = report(trainer, reporter, step);
    if (status == DTR_OK && (checkpoints || trainer->stop != 0))
        start_checkpoint(trainer, step + 1);
    return status;
}

/* The end of a training that was stopped. No rank leaves before the checkpoint is safe: launchers
 * end a job whose ranks begin to leave. */
static int end_early(struct dtr_trainer *trainer, struct dtr_reporter *reporter)
{
    const char *path = trainer->writer != NULL ? dtr_checkpoint_written(trainer->writer) : NULL;
    dtr_gradsync_wait(trainer->sync, 0, trainer->model->slab_count); /* on all ranks */
    dtr_reporter_stop(reporter, dtr_stop_name(trainer->stop), path);
    dtr_world_barrier(trainer->world);
    if (trainer->stop == DTR_STOP_UNWRITTEN)
        return DTR_WRITE;
    if (trainer->written != DTR_OK)
        return (int)trainer->written;
    if (trainer->checkpoints)
        return (int)trainer->options.preempt_exit_code;
    return trainer->stop < DTR_STOP_TIME ? 128 + (int)trainer->stop : DTR_OK;
}

int dtr_trainer_run(struct dtr_trainer *trainer)
{
    struct dtr_world *world = trainer->world;
    struct dtr_reporter reporter = dtr_reporter_begin(trainer);
    enum dtr_status status = DTR_OK;
    int64_t step = trainer->resumed.step;
    for (; step < trainer->options.steps && status == DTR_OK && trainer->stop == 0; step++)
        status = advance(trainer, &reporter, step);
    if (status != DTR_OK)
        return (int)status;
    /* The result of a training whose last checkpoint failed is lost: say so in the status. */
    dtr_pulse_phase(DTR_PHASE_CHECKPOINT);
    note_written(trainer, true);
    dtr_world_broadcast(world, &trainer->written, sizeof trainer->written);
    dtr_pulse_phase(DTR_PHASE_EVALUATION);
    double test = evaluate(trainer, &trainer->test, trainer->test_count);
    if (trainer->stop != 0)
        return end_early(trainer, &reporter);
    dtr_reporter_end(&reporter, test);
    return (int)trainer->written;
}
