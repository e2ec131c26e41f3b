/* The training loop. Read train_step() first: a step in the order in which it happens. */
#include "dtrain/trainer.h"

#include "dtrain/clock.h"
#include "dtrain/evaluate.h"
#include "dtrain/log.h"
#include "report.h"

/* This rank's share of a batch's loss and errors to everyone's. */
static struct dtr_batch_report combine(
    struct dtr_trainer *trainer, const struct dtr_batch *batch, const struct dtr_step_result *mine)
{
    struct dtr_control all = {.loss = mine->loss, .errors = mine->errors};
    dtr_world_sum_control(trainer->world, &all);
    return (struct dtr_batch_report){.step = batch->step,
        .loss = all.loss / (double)batch->real,
        .errors = all.errors,
        .samples = batch->real,
        .rate = dtr_schedule_rate(&trainer->schedule, batch->step)};
}

static struct dtr_batch_report train_step(struct dtr_trainer *trainer, int64_t step)
{
    struct dtr_replica *replica = trainer->replica;
    float rate = (float)dtr_schedule_rate(&trainer->schedule, step);

    const struct dtr_batch *batch = dtr_loader_step(trainer->loader, step);

    struct dtr_step_result mine;
    replica->ops->step(replica, batch, dtr_gradsync_ready, trainer->sync, &mine);

    struct dtr_range bucket;
    while (dtr_gradsync_next(trainer->sync, &bucket))
        replica->ops->apply(replica, bucket.first, bucket.count, rate);

    return combine(trainer, batch, &mine);
}

/* What the tutorial reports: the batch's loss, with the decay term, after its update. */
static struct dtr_batch_report measure_batch(struct dtr_trainer *trainer, int64_t step)
{
    struct dtr_replica *replica = trainer->replica;
    const struct dtr_batch *batch = dtr_loader_step(trainer->loader, step);
    struct dtr_step_result mine;
    replica->ops->measure(replica, batch, &mine);
    struct dtr_batch_report report = combine(trainer, batch, &mine);
    report.loss += replica->ops->decay_loss(replica);
    return report;
}

static void report(struct dtr_trainer *trainer, struct dtr_reporter *reporter, int64_t step)
{
    struct dtr_batch_report batch = measure_batch(trainer, step);
    double validation = 0;
    if (trainer->validation_count > 0)
        validation = dtr_evaluate(
            trainer->world, trainer->replica, &trainer->validation, trainer->validation_count);
    dtr_reporter_print(reporter, &batch, validation);
}

/* Rank 0 writes; a failure is a warning, since the training itself is sound. */
static enum dtr_status write_checkpoint(struct dtr_trainer *trainer, int64_t steps_done)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_replica *replica = trainer->replica;
    if (trainer->writer == NULL)
        return DTR_OK;
    replica->ops->get(replica, DTR_SLAB_WEIGHTS, trainer->weights);
    replica->ops->get(replica, DTR_SLAB_MOMENTUM, trainer->momentum);
    struct dtr_checkpoint snapshot = {.model = trainer->model,
        .options = &trainer->options,
        .step = steps_done,
        .epoch = (double)steps_done / (double)trainer->schedule.steps_per_epoch,
        .data_fingerprint = trainer->data_fingerprint,
        .weights = trainer->weights,
        .momentum = trainer->momentum};
    if (dtr_checkpoint_write(trainer->writer, &snapshot, &error) != DTR_OK)
        dtr_warn("no checkpoint at step %lld: %s", (long long)steps_done, error.message);
    return error.status;
}

enum dtr_status dtr_trainer_run(struct dtr_trainer *trainer)
{
    const struct dtr_options *options = &trainer->options;
    struct dtr_world *world = trainer->world;
    struct dtr_reporter reporter = dtr_reporter_begin(trainer);
    enum dtr_status written = DTR_OK;

    for (int64_t step = 0; step < options->steps; step++) {
        double before_s = dtr_clock_s();
        struct dtr_batch_report batch = train_step(trainer, step);
        dtr_reporter_step(&reporter, &batch, dtr_clock_s() - before_s);

        if (step % options->eval_every == 0)
            report(trainer, &reporter, step);
        bool last = step + 1 == options->steps;
        if (last || (step + 1) % options->checkpoint_every == 0)
            written = write_checkpoint(trainer, step + 1);
    }
    double test = dtr_evaluate(world, trainer->replica, &trainer->test, trainer->test_count);
    dtr_reporter_end(&reporter, test);
    /* The result of a training whose last checkpoint failed is lost: say so in the status. */
    dtr_world_broadcast(world, &written, sizeof written);
    return written;
}
