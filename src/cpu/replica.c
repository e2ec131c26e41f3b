/* The CPU backend: slabs in canonical layout, a training and an inference network on them. */
#include "dtrain/replica.h"

#include "dtrain/memory.h"
#include "dtrain/optimizer.h"
#include "network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cpu_replica {
    struct dtr_replica base;
    struct dtr_replica_config config;
    struct dtr_threads *threads;
    float *weights, *gradients, *momentum; /* [slab_count] */
    struct network training, inference;
    bool training_stale, inference_stale; /* the networks have not seen the newest weights */
    int64_t *errors;                      /* [threads] of an evaluation */
};

static struct cpu_replica *cpu(struct dtr_replica *replica)
{
    return (struct cpu_replica *)replica;
}

static void weights_changed(struct cpu_replica *replica)
{
    replica->training_stale = replica->inference_stale = true;
}

static void refresh(struct network *network, const float *weights, bool *stale)
{
    if (*stale)
        network_update(network, weights);
    *stale = false;
}

static struct dtr_step_result forward(struct cpu_replica *replica, const struct dtr_batch *batch)
{
    struct network *network = &replica->training;
    refresh(network, replica->weights, &replica->training_stale);
    network_forward(network, batch, replica->config.seed);
    struct dtr_step_result result = {
        .loss = dtr_tree_sum_scalars(replica->config.run, network->losses)};
    for (int64_t i = 0; i < network->lanes; i++)
        result.errors += network->errors[i];
    return result;
}

static void cpu_measure(
    struct dtr_replica *base, const struct dtr_batch *batch, struct dtr_step_result *result_out)
{
    *result_out = forward(cpu(base), batch);
}

static void cpu_step(struct dtr_replica *base, const struct dtr_batch *batch,
    dtr_gradients_ready *ready, void *context, struct dtr_step_result *result_out)
{
    struct cpu_replica *replica = cpu(base);
    *result_out = forward(replica, batch);
    network_backward(&replica->training, batch, replica->gradients, ready, context);
}

static float *cpu_gradients(struct dtr_replica *base)
{
    return cpu(base)->gradients;
}

static bool is_decayed(const struct cpu_replica *replica, const struct dtr_tensor *tensor)
{
    return tensor->dense || (replica->config.decay_all_kernels && tensor->dims > 1);
}

/* A range to update, cut into pieces for the threads. */
struct update {
    struct cpu_replica *replica;
    int64_t first, count;
    float rate;
};
enum { UPDATE_PIECE = 1 << 15 };

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void update_piece(void *context, int64_t piece, int thread)
{
    const struct update *update = context;
    struct cpu_replica *replica = update->replica;
    const struct dtr_replica_config *config = &replica->config;
    int64_t first = update->first + piece * UPDATE_PIECE;
    int64_t end = min(first + UPDATE_PIECE, update->first + update->count);
    (void)thread;
    for (int i = 0; i < config->model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &config->model->tensors[i];
        int64_t begin = max(first, tensor->offset);
        int64_t count = min(end, tensor->offset + tensor->count) - begin;
        if (count > 0)
            dtr_sgd_update(count, update->rate, config->momentum,
                is_decayed(replica, tensor) ? config->weight_decay : 0, replica->gradients + begin,
                replica->momentum + begin, replica->weights + begin);
    }
}

static void cpu_apply(struct dtr_replica *base, int64_t first, int64_t count, float rate)
{
    struct update update = {cpu(base), first, count, rate};
    dtr_threads_run(
        update.replica->threads, (count + UPDATE_PIECE - 1) / UPDATE_PIECE, update_piece, &update);
    weights_changed(update.replica);
}

static double cpu_decay_loss(struct dtr_replica *base)
{
    const struct cpu_replica *replica = cpu(base);
    const struct dtr_model *model = replica->config.model;
    double sum = 0;
    for (int i = 0; i < model->tensor_count; i++) {
        if (is_decayed(replica, &model->tensors[i]))
            sum += dtr_sum_of_squares(
                model->tensors[i].count, replica->weights + model->tensors[i].offset);
    }
    return 0.5 * (double)replica->config.weight_decay * sum;
}

struct evaluation {
    struct cpu_replica *replica;
    const struct dtr_samples *samples;
};

static void evaluate_block(void *context, int64_t block, int thread)
{
    const struct evaluation *evaluation = context;
    struct cpu_replica *replica = evaluation->replica;
    const struct dtr_samples *samples = evaluation->samples;
    int64_t first = block * DTR_EVALUATION_BLOCK;
    int64_t count = min(DTR_EVALUATION_BLOCK, samples->count - first);
    const float *logits = network_infer(
        &replica->inference, thread, samples->images + first * samples->image_bytes, count);
    replica->errors[thread] += dtr_count_errors(
        count, replica->config.model->classes, logits, samples->labels + first);
}

static int64_t cpu_evaluate(struct dtr_replica *base, const struct dtr_samples *samples)
{
    struct evaluation evaluation = {cpu(base), samples};
    struct cpu_replica *replica = evaluation.replica;
    int threads = dtr_threads_count(replica->threads);
    refresh(&replica->inference, replica->weights, &replica->inference_stale);
    memset(replica->errors, 0, (size_t)threads * sizeof *replica->errors);
    dtr_threads_run(replica->threads,
        (samples->count + DTR_EVALUATION_BLOCK - 1) / DTR_EVALUATION_BLOCK, evaluate_block,
        &evaluation);
    int64_t errors = 0;
    for (int i = 0; i < threads; i++)
        errors += replica->errors[i];
    return errors;
}

static float *slab_of(struct cpu_replica *replica, enum dtr_slab which)
{
    return which == DTR_SLAB_WEIGHTS ? replica->weights : replica->momentum;
}

static void cpu_get(struct dtr_replica *base, enum dtr_slab which, float *slab_out)
{
    struct cpu_replica *replica = cpu(base);
    memcpy(slab_out, slab_of(replica, which),
        (size_t)replica->config.model->slab_count * sizeof *slab_out);
}

static void cpu_set(struct dtr_replica *base, enum dtr_slab which, const float *slab)
{
    struct cpu_replica *replica = cpu(base);
    memcpy(slab_of(replica, which), slab, (size_t)replica->config.model->slab_count * sizeof *slab);
    weights_changed(replica);
}

static bool cpu_describe(struct dtr_replica *base, int layer, char *line_out, int64_t line_bytes)
{
    const struct cpu_replica *replica = cpu(base);
    const struct network *network = replica->config.run.count > 0 ? &replica->training
                                                                  : &replica->inference;
    if (layer >= network->count)
        return false;
    const struct dtr_plan *plan = &network->layers[layer].plan;
    const struct dtr_shape out = plan->layer->out;
    char shape[64];
    if (out.h * out.w > 1)
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)out.h, (long long)out.w,
            (long long)out.c);
    else
        snprintf(shape, sizeof shape, "%lld", (long long)out.c);
    snprintf(line_out, (size_t)line_bytes, "%-10s %-12s %s %s", plan->layer->name, shape,
        plan->kernel->name, plan->detail);
    return true;
}

static void cpu_destroy(struct dtr_replica *base)
{
    struct cpu_replica *replica = cpu(base);
    network_free(&replica->training);
    network_free(&replica->inference);
    dtr_threads_free(replica->threads);
    free(replica->weights);
    free(replica->gradients);
    free(replica->momentum);
    free(replica->errors);
    free(replica);
}

static const struct dtr_replica_ops cpu_ops = {
    .name = "cpu",
    .step = cpu_step,
    .measure = cpu_measure,
    .gradients = cpu_gradients,
    .apply = cpu_apply,
    .decay_loss = cpu_decay_loss,
    .evaluate = cpu_evaluate,
    .get = cpu_get,
    .set = cpu_set,
    .describe = cpu_describe,
    .destroy = cpu_destroy,
};

static enum dtr_status alloc_slab(
    const struct dtr_model *model, const char *what, float **slab_out, struct dtr_error *error)
{
    *slab_out = dtr_alloc(model->slab_count, sizeof **slab_out, what, error);
    return *slab_out == NULL ? error->status : DTR_OK;
}

static enum dtr_status compile(struct cpu_replica *replica, struct dtr_error *error)
{
    const struct dtr_replica_config *config = &replica->config;
    const struct dtr_model *model = config->model;
    struct network_config network = {.model = model, .kernels = config->kernels};
    replica->errors = dtr_alloc(config->threads, sizeof *replica->errors, "threads", error);
    if (replica->errors == NULL ||
        dtr_threads_create(config->threads, &replica->threads, error) != DTR_OK ||
        alloc_slab(model, "parameters", &replica->weights, error) != DTR_OK)
        return error->status;
    network.threads = replica->threads;
    network.n = DTR_EVALUATION_BLOCK;
    if (network_compile(&network, &replica->inference, error) != DTR_OK)
        return error->status;
    if (config->run.count == 0)
        return DTR_OK;
    network.n = config->slice;
    network.training = true;
    network.run = config->run;
    if (alloc_slab(model, "gradients", &replica->gradients, error) != DTR_OK ||
        alloc_slab(model, "momenta", &replica->momentum, error) != DTR_OK)
        return error->status;
    return network_compile(&network, &replica->training, error);
}

enum dtr_status dtr_cpu_replica_compile(const struct dtr_replica_config *config,
    struct dtr_replica **replica_out, struct dtr_error *error)
{
    struct cpu_replica *replica = dtr_alloc(1, sizeof *replica, "the replica", error);
    *replica_out = NULL;
    if (replica == NULL)
        return error->status;
    replica->base.ops = &cpu_ops;
    replica->config = *config;
    weights_changed(replica);
    if (compile(replica, error) != DTR_OK) {
        cpu_destroy(&replica->base);
        return error->status;
    }
    *replica_out = &replica->base;
    return DTR_OK;
}
