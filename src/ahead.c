#include "ahead.h"

#include "dtrain/memory.h"
#include "dtrain/optimizer.h"
#include "dtrain/pulse.h"

/* Multiplications of a sample's forward pass. */
static double forward_products(const struct dtr_model *model)
{
    double products = 0;
    for (int i = 0; i < model->layer_count; i++) {
        const struct dtr_layer *layer = &model->layers[i];
        if (layer->kernel >= 0)
            products += (double)model->tensors[layer->kernel].count *
                        (double)(layer->out.h * layer->out.w);
    }
    return products;
}

/* As many as a slow device can do in a second: an early end waits for them. Long steps need no
 * more than two, one of which keeps the device busy while the host prepares the other. */
static int64_t steps_ahead(const struct dtr_trainer *trainer)
{
    const double slow = 1e12; /* operations per second */
    double samples = (double)trainer->options.batch_size / trainer->world->size;
    double most = slow / (3 * 2 * forward_products(trainer->model) * samples + 1);
    return most < 2 ? 2 : most > DTR_STEPS_AHEAD ? DTR_STEPS_AHEAD : (int64_t)most;
}

enum dtr_status dtr_ahead_create(struct dtr_trainer *trainer, struct dtr_error *error)
{
    if (trainer->replica->ops->start_step == NULL)
        return DTR_OK;
    trainer->ahead = dtr_alloc(1, sizeof *trainer->ahead, "steps ahead", error);
    if (trainer->ahead != NULL)
        trainer->ahead->most = steps_ahead(trainer);
    return error->status;
}

static void hear(struct dtr_trainer *trainer)
{
    struct dtr_ahead *ahead = trainer->ahead;
    struct dtr_step_result mine;
    dtr_pulse_phase(DTR_PHASE_DEVICE);
    trainer->replica->ops->finish_step(trainer->replica, &mine);
    ahead->sum.loss.tree = mine.loss.tree;
    for (int i = 0; i < mine.loss.tree.depth; i++)
        ahead->sum.loss.sums[i] += mine.loss.sums[i];
    ahead->sum.errors += mine.errors;
    ahead->samples += ahead->real[ahead->heard % DTR_STEPS_AHEAD];
    ahead->steps++;
    ahead->heard++;
}

/* Everyone's steps that were combined last, and reasons to stop. */
static void take_up(struct dtr_trainer *trainer)
{
    struct dtr_ahead *ahead = trainer->ahead;
    struct dtr_control all;
    if (!ahead->combining)
        return;
    dtr_world_finish_control(trainer->world, &all);
    ahead->combining = false;
    ahead->last.loss = all.loss.sums[0] / (double)ahead->combining_samples;
    ahead->last.errors = all.errors;
    if (all.stop != 0)
        trainer->stop = all.stop;
}

static void combine(struct dtr_trainer *trainer)
{
    struct dtr_ahead *ahead = trainer->ahead;
    take_up(trainer);
    ahead->sum.stop = ahead->stop;
    dtr_world_start_control(trainer->world, &ahead->sum);
    ahead->combining = true;
    ahead->combining_samples = ahead->samples;
    ahead->sum = (struct dtr_control){.stop = 0};
    ahead->steps = ahead->samples = 0;
}

static void finish_all(struct dtr_trainer *trainer)
{
    struct dtr_ahead *ahead = trainer->ahead;
    while (ahead->heard < ahead->given)
        hear(trainer);
    if (ahead->steps > 0)
        combine(trainer);
    take_up(trainer);
    trainer->replica->ops->settle(trainer->replica);
}

struct dtr_batch_report dtr_ahead_step(
    struct dtr_trainer *trainer, const struct dtr_batch *batch, int64_t stop, bool due)
{
    struct dtr_ahead *ahead = trainer->ahead;
    double rate = dtr_schedule_rate(&trainer->schedule, batch->step);
    if (ahead->given - ahead->heard == ahead->most)
        hear(trainer);
    dtr_pulse_phase(DTR_PHASE_FORWARD);
    ahead->stop = stop;
    ahead->real[ahead->given % DTR_STEPS_AHEAD] = batch->real;
    ahead->last.step = batch->step;
    ahead->last.samples = batch->real;
    ahead->last.rate = rate;
    trainer->replica->ops->start_step(trainer->replica, batch, (float)rate);
    ahead->given++;
    if (ahead->steps >= ahead->most / 2)
        combine(trainer);
    if (due || trainer->stop != 0)
        finish_all(trainer);
    return ahead->last;
}
