/* The training loop. Read train_step() first: a step in the order in which it happens. */
#include "dtrain/trainer.h"

#include "dtrain/clock.h"
#include "dtrain/evaluate.h"
#include "dtrain/log.h"
#include "report.h"

#include <stdio.h>

static void start_combining(struct dtr_trainer *trainer, const struct dtr_step_result *mine)
{
    struct dtr_control control = {.loss = mine->loss, .errors = mine->errors};
    dtr_world_start_control(trainer->world, &control);
}

/* Everyone's loss and errors. */
static struct dtr_batch_report combined(struct dtr_trainer *trainer, const struct dtr_batch *batch)
{
    struct dtr_control all;
    dtr_world_finish_control(trainer->world, &all);
    return (struct dtr_batch_report){.step = batch->step,
        .loss = all.loss.sums[0] / (double)batch->real,
        .errors = all.errors,
        .samples = batch->real,
        .rate = dtr_schedule_rate(&trainer->schedule, batch->step)};
}

/* What is still under way at its end, the next step's forward pass waits for. */
static struct dtr_batch_report train_step(struct dtr_trainer *trainer, int64_t step)
{
    struct dtr_replica *replica = trainer->replica;
    const struct dtr_batch *batch = dtr_loader_step(trainer->loader, step);

    struct dtr_step_result mine;
    replica->ops->forward(replica, batch, &mine);
    start_combining(trainer, &mine);

    dtr_gradsync_begin(trainer->sync);
    trainer->rate = (float)dtr_schedule_rate(&trainer->schedule, step);
    replica->ops->backward(replica, batch);

    return combined(trainer, batch);
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

static enum dtr_status report(
    struct dtr_trainer *trainer, struct dtr_reporter *reporter, int64_t step)
{
    struct dtr_batch_report batch = measure_batch(trainer, step);
    double validation = 0;
    if (trainer->validation_count > 0)
        validation = dtr_evaluate(
            trainer->world, trainer->replica, &trainer->validation, trainer->validation_count);
    dtr_reporter_print(reporter, &batch, validation);
    return check_replicas(trainer, step);
}

/* All ranks hand over their momenta, rank 0 writes; a failure is a warning, since the training
 * itself is sound. */
static enum dtr_status write_checkpoint(struct dtr_trainer *trainer, int64_t steps_done)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_replica *replica = trainer->replica;
    if (!trainer->checkpoints)
        return DTR_OK;
    dtr_gradsync_gather(trainer->sync, replica->ops->momenta(replica), trainer->weights);
    if (trainer->writer == NULL)
        return DTR_OK;
    replica->ops->canonical(replica, trainer->weights, trainer->momentum);
    replica->ops->get(replica, trainer->weights);
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
    enum dtr_status written = DTR_OK, agreed = DTR_OK;

    for (int64_t step = trainer->resumed.step; step < options->steps && agreed == DTR_OK; step++) {
        double before_s = dtr_clock_s();
        struct dtr_batch_report batch = train_step(trainer, step);
        dtr_reporter_step(&reporter, &batch, dtr_clock_s() - before_s);

        if (step % options->eval_every == 0)
            agreed = report(trainer, &reporter, step);
        bool last = step + 1 == options->steps;
        if (agreed == DTR_OK && (last || (step + 1) % options->checkpoint_every == 0))
            written = write_checkpoint(trainer, step + 1);
    }
    if (agreed != DTR_OK)
        return agreed;
    double test = dtr_evaluate(world, trainer->replica, &trainer->test, trainer->test_count);
    dtr_reporter_end(&reporter, test);
    /* The result of a training whose last checkpoint failed is lost: say so in the status. */
    dtr_world_broadcast(world, &written, sizeof written);
    return written;
}
