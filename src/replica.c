/* What the backends' replicas share. */
#include "dtrain/replica.h"

#include "dtrain/memory.h"
#include "dtrain/optimizer.h"
#include "dtrain/pulse.h"

#include <stdio.h>

static void ignore_ready(void *context, int64_t first)
{
    (void)context;
    (void)first;
}

static bool always_arrived(void *context, int64_t first, int64_t count)
{
    (void)context;
    (void)first;
    (void)count;
    return true;
}

static void ignore_wait(void *context, int64_t first, int64_t count)
{
    (void)always_arrived(context, first, count);
}

enum dtr_status dtr_replica_stay_alone(
    struct dtr_replica_config *config, float **own_out, struct dtr_error *error)
{
    int64_t stride = dtr_align_floats(config->model->slab_count);
    int64_t slabs = config->run.count > 0 ? 1 + dtr_tree_of(config->run).depth : 1;
    *own_out = dtr_alloc(slabs * stride, sizeof **own_out, "parameters", error);
    config->exchange = (struct dtr_exchange){.ready = ignore_ready,
        .arrived = always_arrived,
        .wait = ignore_wait,
        .weights = *own_out,
        .gradients = *own_out + stride,
        .stride = stride,
        .share_count = config->run.count > 0 ? config->model->slab_count : 0};
    return error->status;
}

bool dtr_replica_decays(const struct dtr_replica_config *config, const struct dtr_tensor *tensor)
{
    return tensor->dense || (config->decay_all_kernels && tensor->dims > 1);
}

static int64_t min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void dtr_replica_update(const struct dtr_replica_config *config, int64_t first, int64_t count,
    const float *gradient, float rate, float *momenta)
{
    dtr_pulse_update(1);
    for (int i = 0; i < config->model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &config->model->tensors[i];
        int64_t begin = max(first, tensor->offset);
        int64_t end = min(first + count, tensor->offset + tensor->count);
        if (begin < end)
            (config->exchange.shared ? dtr_sgd_update_shared : dtr_sgd_update)(end - begin, rate,
                config->momentum, dtr_replica_decays(config, tensor) ? config->weight_decay : 0,
                gradient + (begin - first), momenta + (begin - first),
                config->exchange.weights + begin);
    }
    dtr_pulse_update(-1);
}

double dtr_replica_decay_loss(const struct dtr_replica_config *config)
{
    const struct dtr_model *model = config->model;
    double sum = 0;
    for (int i = 0; i < model->tensor_count; i++) {
        if (dtr_replica_decays(config, &model->tensors[i]))
            sum += dtr_sum_of_squares(
                model->tensors[i].count, config->exchange.weights + model->tensors[i].offset);
    }
    return 0.5 * (double)config->weight_decay * sum;
}

void dtr_replica_describe(const struct dtr_layer *layer, const struct dtr_layer *next,
    const char *kernel, const char *detail, char *line_out, int64_t line_bytes)
{
    const struct dtr_shape out = next != NULL ? next->out : layer->out;
    char name[64], shape[64];
    snprintf(name, sizeof name, "%s%s%s", layer->name, next != NULL ? " " : "",
        next != NULL ? next->name : "");
    if (out.h * out.w > 1)
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)out.h, (long long)out.w,
            (long long)out.c);
    else
        snprintf(shape, sizeof shape, "%lld", (long long)out.c);
    snprintf(line_out, (size_t)line_bytes, "%-16s %-12s %s %s", name, shape, kernel, detail);
}
