/* The CPU backend: slabs whose tensors lie as their kernels like them, a training and an inference
 * network on them. */
#include "dtrain/replica.h"

#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cpu_replica {
    struct dtr_replica base;
    struct dtr_replica_config config;
    float *own;     /* slabs, where there is no exchange to have them */
    float *momenta; /* [share_count] */
    struct network training, inference;
    int64_t *errors; /* [threads] of an evaluation */
};

static struct cpu_replica *cpu(struct dtr_replica *replica)
{
    return (struct cpu_replica *)replica;
}

static void weights_change(struct cpu_replica *replica)
{
    network_forget(&replica->training);
    network_forget(&replica->inference);
}

static void wait_for_all(const struct cpu_replica *replica)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    exchange->wait(exchange->context, 0, replica->config.model->slab_count);
}

static void cpu_forward(
    struct dtr_replica *base, const struct dtr_batch *batch, struct dtr_step_result *result_out)
{
    struct cpu_replica *replica = cpu(base);
    struct network *network = &replica->training;
    network_forward(network, batch, replica->config.seed);
    result_out->loss = dtr_tree_sum_scalars(replica->config.run, network->losses);
    result_out->errors = 0;
    for (int64_t i = 0; i < network->lanes; i++)
        result_out->errors += network->errors[i];
}

static void cpu_backward(struct dtr_replica *base, const struct dtr_batch *batch)
{
    weights_change(cpu(base)); /* from now on, layer by layer */
    network_backward(&cpu(base)->training, batch);
}

static const float *cpu_gradients(struct dtr_replica *base)
{
    return cpu(base)->config.exchange.gradients;
}

static float *cpu_momenta(struct dtr_replica *base)
{
    return cpu(base)->momenta;
}

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void cpu_apply(struct dtr_replica *base, int64_t first, int64_t count, int64_t place,
    const float *gradient, float rate)
{
    struct cpu_replica *replica = cpu(base);
    dtr_replica_update(&replica->config, first, count, gradient, rate, replica->momenta + place);
}

static double cpu_decay_loss(struct dtr_replica *base)
{
    wait_for_all(cpu(base));
    return dtr_replica_decay_loss(&cpu(base)->config);
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
    dtr_pulse_beat();
}

static int64_t cpu_evaluate(struct dtr_replica *base, const struct dtr_samples *samples)
{
    struct evaluation evaluation = {cpu(base), samples};
    struct cpu_replica *replica = evaluation.replica;
    int threads = dtr_threads_count(replica->config.threads);
    network_wait(&replica->inference);
    memset(replica->errors, 0, (size_t)threads * sizeof *replica->errors);
    dtr_threads_run(replica->config.threads,
        (samples->count + DTR_EVALUATION_BLOCK - 1) / DTR_EVALUATION_BLOCK, evaluate_block,
        &evaluation);
    int64_t errors = 0;
    for (int i = 0; i < threads; i++)
        errors += replica->errors[i];
    return errors;
}

static void cpu_get(struct dtr_replica *base, float *weights_out)
{
    const struct cpu_replica *replica = cpu(base);
    wait_for_all(replica);
    network_canonical(&replica->inference, replica->config.exchange.weights, weights_out);
}

static void cpu_canonical(struct dtr_replica *base, const float *slab, float *canonical_out)
{
    network_canonical(&cpu(base)->inference, slab, canonical_out);
}

static void cpu_order(struct dtr_replica *base, const float *canonical, float *slab_out)
{
    network_order(&cpu(base)->inference, canonical, slab_out);
}

static void cpu_set(struct dtr_replica *base, const float *weights)
{
    struct cpu_replica *replica = cpu(base);
    wait_for_all(replica);
    network_order(&replica->inference, weights, replica->config.exchange.weights);
    weights_change(replica);
}

static bool cpu_describe(struct dtr_replica *base, int stage, char *line_out, int64_t line_bytes)
{
    const struct cpu_replica *replica = cpu(base);
    const struct network *network = replica->config.run.count > 0 ? &replica->training
                                                                  : &replica->inference;
    if (stage >= network->count)
        return false;
    const struct dtr_plan *plan = &network->stages[stage].plan;
    dtr_replica_describe(
        plan->layer, plan->next, plan->kernel->name, plan->detail, line_out, line_bytes);
    return true;
}

static bool cpu_timing(struct dtr_replica *base, int entry, struct dtr_timing *timing_out)
{
    static const char *const names[NETWORK_PHASES] = {
        [NETWORK_SCALE] = "scale images",
        [NETWORK_CONVERT] = "convert",
        [NETWORK_LOAD] = "load",
        [NETWORK_FORWARD] = "forward",
        [NETWORK_MEASURE] = "loss",
        [NETWORK_COLLECT] = "collect",
        [NETWORK_BACKWARD] = "backward",
        [NETWORK_CONVERT_BACK] = "convert back",
        [NETWORK_REDUCE] = "sum of gradients",
        [NETWORK_UPDATE] = "new parameters",
    };
    const struct network *network = &cpu(base)->training;
    int stage = entry / NETWORK_PHASES, phase = entry % NETWORK_PHASES;
    if (stage >= network->count)
        return false;
    const struct dtr_plan *plan = &network->stages[stage].plan;
    *timing_out = (struct dtr_timing){.phase = names[phase],
        .line = stage,
        .first = plan->layer->number,
        .count = plan->next != NULL ? 2 : 1};
    for (int i = 0; i < dtr_threads_count(network->config.threads); i++)
        timing_out->seconds += *network_time(network, i, (enum network_phase)phase, stage);
    return true;
}

static void cpu_destroy(struct dtr_replica *base)
{
    struct cpu_replica *replica = cpu(base);
    network_free(&replica->training);
    network_free(&replica->inference);
    free(replica->own);
    free(replica->momenta);
    free(replica->errors);
    free(replica);
}

static const struct dtr_replica_ops cpu_ops = {
    .name = "cpu",
    .forward = cpu_forward,
    .backward = cpu_backward,
    .apply = cpu_apply,
    .decay_loss = cpu_decay_loss,
    .evaluate = cpu_evaluate,
    .get = cpu_get,
    .set = cpu_set,
    .gradients = cpu_gradients,
    .momenta = cpu_momenta,
    .canonical = cpu_canonical,
    .order = cpu_order,
    .describe = cpu_describe,
    .timing = cpu_timing,
    .destroy = cpu_destroy,
};

static enum dtr_status compile(struct cpu_replica *replica, struct dtr_error *error)
{
    struct dtr_replica_config *config = &replica->config;
    if (config->exchange.weights == NULL &&
        dtr_replica_stay_alone(config, &replica->own, error) != DTR_OK)
        return error->status;
    config->exchange.shared = config->exchange.shared || dtr_threads_count(config->threads) > 1;
    struct network_config network = {.model = config->model,
        .threads = config->threads,
        .kernels = config->kernels,
        .isa = config->isa,
        .exchange = &config->exchange,
        .n = DTR_EVALUATION_BLOCK};
    replica->errors = dtr_alloc(
        dtr_threads_count(config->threads), sizeof *replica->errors, "threads", error);
    replica->momenta = dtr_alloc(
        config->exchange.share_count, sizeof *replica->momenta, "momenta", error);
    if (replica->errors == NULL || replica->momenta == NULL ||
        network_compile(&network, &replica->inference, error) != DTR_OK)
        return error->status;
    if (config->run.count == 0)
        return DTR_OK;
    network.n = config->slice;
    network.training = true;
    network.run = config->run;
    return network_compile(&network, &replica->training, error);
}

int dtr_cpu_replica_factors(
    const struct dtr_replica_config *config, struct dtr_factored *factored_out)
{
    struct network_config network = {.model = config->model,
        .kernels = config->kernels,
        .isa = config->isa,
        .n = config->slice,
        .training = true,
        .run = config->run};
    return network_factors(&network, factored_out);
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
    if (compile(replica, error) != DTR_OK) {
        cpu_destroy(&replica->base);
        return error->status;
    }
    *replica_out = &replica->base;
    return DTR_OK;
}
