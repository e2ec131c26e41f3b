/* A network's making: which kernel computes what, where everything lies, and in what order. */
#include "network.h"

#include "dtrain/memory.h"
#include "fused/fused.h"

#include <stdlib.h>
#include <string.h>

static int covers(
    const struct dtr_kernel *kernel, const struct dtr_layer *layer, const struct dtr_layer *next)
{
    if (kernel == NULL)
        return 0;
    return kernel->covers == NULL ? 1 : kernel->covers(layer, next);
}

/* The kernel for a layer (and the next one, NULL if there is none), by rule: the same everywhere.
 */
static const struct dtr_kernel *choose_kernel(const struct network_config *config,
    const struct dtr_layer *layer, const struct dtr_layer *next)
{
    bool reference = config->kernels == DTR_KERNELS_REFERENCE;
    const struct dtr_kernel *fused = NULL;
    if (config->kernels == DTR_KERNELS_AUTO || config->kernels == DTR_KERNELS_FUSED)
        fused = fused_kernel(layer->kind, config->isa);
    if (covers(fused, layer, next) > 0)
        return fused;
    switch (layer->kind) {
    case DTR_LAYER_CONV:
        return reference ? &dtr_reference_conv : &dtr_onednn_conv;
    case DTR_LAYER_DENSE:
        return reference ? &dtr_reference_dense : &dtr_onednn_dense;
    case DTR_LAYER_MAXPOOL:
        return &dtr_maxpool;
    case DTR_LAYER_DROPOUT:
        return &dtr_dropout;
    }
    return NULL;
}

/* The plan that begins with a layer, and how many layers it computes. */
static struct dtr_plan plan_from(const struct network_config *config, int number, int *covered_out)
{
    const struct dtr_model *model = config->model;
    const struct dtr_layer *layer = &model->layers[number];
    const struct dtr_layer *next = number + 1 < model->layer_count ? layer + 1 : NULL;
    const struct dtr_kernel *kernel = choose_kernel(config, layer, next);
    *covered_out = covers(kernel, layer, next);
    return (struct dtr_plan){.kernel = kernel,
        .layer = layer,
        .next = *covered_out > 1 ? next : NULL,
        .n = config->n,
        .run = config->run,
        .sum = config->run,
        .isa = config->isa,
        .training = config->training};
}

/* A plan's factors of all ranks' slices. */
static struct dtr_factored factors_of(
    const struct network_config *config, const struct dtr_plan *plan)
{
    if (!config->training || plan->kernel->factor_bytes == NULL)
        return (struct dtr_factored){0};
    const struct dtr_tensor *kernel = &config->model->tensors[plan->layer->kernel];
    const struct dtr_tensor *bias = &config->model->tensors[plan->layer->bias];
    int64_t bytes = plan->kernel->factor_bytes(plan, config->run.shards);
    return (struct dtr_factored){
        kernel->offset, bias->offset + bias->count - kernel->offset, (bytes + 63) / 64 * 64};
}

int network_factors(const struct network_config *config, struct dtr_factored *factored_out)
{
    int count = 0;
    for (int i = 0, covered; i < config->model->layer_count; i += covered) {
        struct dtr_plan plan = plan_from(config, i, &covered);
        factored_out[count] = factors_of(config, &plan);
        count += factored_out[count].bytes > 0;
    }
    return count;
}

/* Lets the stages with factors sum those of all ranks. */
static void share_factors(struct network *network)
{
    const struct network_config *config = &network->config;
    char *factors = config->exchange->factors;
    int count = 0;
    for (int i = 0; i < network->count; i++) {
        struct network_stage *stage = &network->stages[i];
        int64_t bytes = factors == NULL ? 0 : factors_of(config, &stage->plan).bytes;
        stage->factored = bytes > 0 ? count++ : -1;
        if (bytes > 0) {
            stage->plan.sum = (struct dtr_shard_run){0, config->run.shards, config->run.shards};
            stage->plan.factors = factors;
            factors += bytes;
        }
    }
}

/* Divides the layers into stages. */
static void choose_stages(struct network *network)
{
    const struct network_config *config = &network->config;
    for (int i = 0, covered; i < config->model->layer_count; i += covered) {
        struct dtr_plan *plan = &network->stages[network->count++].plan;
        *plan = plan_from(config, i, &covered);
        plan->lanes = network->lanes;
        plan->threads = dtr_threads_count(config->threads);
        plan->dropout = network->dropout;
    }
    while (network->stages[network->first_trained].plan.layer->kernel < 0)
        network->first_trained++;
    share_factors(network);
}

static struct dtr_layout wanted(const struct dtr_plan *plan)
{
    if (plan->kernel->wants == NULL)
        return (struct dtr_layout){0};
    return plan->kernel->wants(plan->layer, plan->next);
}

static enum dtr_status create_stage(struct network *network, int number, struct dtr_error *error)
{
    struct network_stage *stage = &network->stages[number];
    struct dtr_plan *plan = &stage->plan;
    const struct dtr_kernel *kernel = plan->kernel;
    plan->first = number <= network->first_trained;
    plan->src = number > 0 ? stage[-1].plan.dst
                           : (struct dtr_layout){.block = network->config.model->input.c};
    plan->dst = number + 1 < network->count ? wanted(&stage[1].plan) : (struct dtr_layout){0};
    plan->kernel = NULL; /* until there is something to destroy */
    if (kernel->create(plan, error) != DTR_OK)
        return error->status;
    plan->kernel = kernel;
    stage->stale = plan->layer->kernel >= 0;
    stage->source_count = plan->n * dtr_layout_sample(plan->layer->in, plan->src);
    stage->result_count = plan->n * dtr_layout_sample(dtr_plan_out(plan), plan->dst);
    return DTR_OK;
}

static enum dtr_status create_stages(struct network *network, struct dtr_error *error)
{
    /* After a failure the later stages have nothing to destroy. */
    enum dtr_status status = DTR_OK;
    for (int i = 0; i < network->count; i++) {
        if (status == DTR_OK)
            status = create_stage(network, i, error);
        else
            network->stages[i].plan.kernel = NULL;
    }
    return status;
}

/* Memory [lanes][count]. */
struct lanes_memory {
    float *floats;
    int64_t count;
};

static void clear_lane(void *context, int64_t lane, int thread)
{
    const struct lanes_memory *memory = context;
    (void)thread;
    memset(memory->floats + lane * memory->count, 0, (size_t)memory->count * sizeof(float));
}

/* Zeroed by the threads that use it, so that it is near them. */
static enum dtr_status alloc_lanes(
    struct network *network, int64_t count, float **floats_out, struct dtr_error *error)
{
    struct lanes_memory memory = {.count = count};
    memory.floats = dtr_alloc_unset(network->lanes * count, sizeof(float), "activations", error);
    *floats_out = memory.floats;
    if (memory.floats == NULL)
        return error->status;
    network->memory_bytes += network->lanes * count * (int64_t)sizeof(float);
    dtr_threads_run(network->config.threads, network->lanes, clear_lane, &memory);
    return DTR_OK;
}

/* Every activation has memory of its own: backward reads them all. */
static enum dtr_status place_activations(struct network *network, struct dtr_error *error)
{
    float *below = network->images;
    for (int i = 0; i < network->count; i++) {
        struct network_stage *stage = &network->stages[i];
        stage->source = below;
        if (i > 0 && !dtr_layout_equal(stage->plan.src, stage[-1].plan.dst) &&
            alloc_lanes(network, stage->source_count, &stage->source, error) != DTR_OK)
            return error->status;
        if (alloc_lanes(network, stage->result_count, &stage->result, error) != DTR_OK)
            return error->status;
        below = stage->result;
    }
    return DTR_OK;
}

static enum dtr_status place_gradients(struct network *network, struct dtr_error *error)
{
    int64_t largest = 0;
    for (int i = 0; i < network->count; i++) {
        const struct network_stage *stage = &network->stages[i];
        largest = stage->source_count > largest ? stage->source_count : largest;
        largest = stage->result_count > largest ? stage->result_count : largest;
    }
    network->diff_stride = dtr_align_floats(largest);
    for (int i = 0; i < network->count; i++)
        network->stages[i].plan.diff_stride = network->diff_stride;
    for (int i = 0; i < 3; i++) {
        if (alloc_lanes(network, network->diff_stride, &network->diff[i], error) != DTR_OK)
            return error->status;
    }
    return DTR_OK;
}

static void order_forward(struct network *network)
{
    struct network_action *actions = network->forward;
    int count = 0;
    actions[count++] = (struct network_action){.phase = NETWORK_SCALE};
    for (int i = 0; i < network->count; i++) {
        if (network_converts(network, i))
            actions[count++] = (struct network_action){NETWORK_CONVERT, i, 0};
        if (network->stages[i].plan.kernel->load != NULL)
            actions[count++] = (struct network_action){NETWORK_LOAD, i, 0};
        actions[count++] = (struct network_action){NETWORK_FORWARD, i, 0};
    }
    actions[count++] = (struct network_action){.phase = NETWORK_MEASURE};
    network->forward_count = count;
}

/* Appends an action to the backward pass. */
static void then(struct network *network, enum network_phase phase, int stage, int diff)
{
    network->backward[network->backward_count++] = (struct network_action){phase, stage, diff};
}

static int64_t parameter_floats(const struct network *network, int stage)
{
    const struct dtr_layer *layer = network->stages[stage].plan.layer;
    return layer->kernel < 0 ? 0 : network->config.model->tensors[layer->kernel].count;
}

/* Stages `first` and the `count` - 1 below it, whose gradients are summed together: as long as they
 * fill no bucket of the exchange, that saves waits for all threads and keeps slices in the cache.
 * Shared factors are waited for as late as the next stage with parameters is through. */
struct late {
    int first, count;
    int64_t floats;
};

static void order_late(struct network *network, struct late *late, int diff)
{
    for (int i = late->first; i > late->first - late->count; i--) {
        if (parameter_floats(network, i) > 0)
            then(network, NETWORK_REDUCE, i, diff);
    }
    *late = (struct late){0};
}

/* Whether the last stage with parameters shares factors. */
static bool waits_for_factors(const struct network *network, const struct late *late)
{
    for (int i = late->first - late->count + 1; i <= late->first && late->count > 0; i++) {
        if (parameter_floats(network, i) > 0)
            return network->stages[i].factored >= 0;
    }
    return false;
}

static void order_backward(struct network *network)
{
    struct late late = {0};
    int diff = 0;
    for (int i = network->count - 1; i >= network->first_trained; i--) {
        const struct dtr_plan *plan = &network->stages[i].plan;
        int64_t floats = parameter_floats(network, i);
        bool converts = i > network->first_trained && network_converts(network, i);
        if (late.floats >= network->config.exchange->bucket && !waits_for_factors(network, &late))
            order_late(network, &late, diff);
        if (plan->kernel->collect != NULL)
            then(network, NETWORK_COLLECT, i, diff);
        then(network, NETWORK_BACKWARD, i, diff);
        if (converts)
            then(network, NETWORK_CONVERT_BACK, i, diff);
        late.first = late.count == 0 ? i : late.first;
        late.count++;
        late.floats += floats;
        if (plan->reduce_reads ||
            (plan->divide_backward == DTR_TOGETHER && !waits_for_factors(network, &late)))
            order_late(network, &late, diff);
        diff = (diff + (converts ? 2 : 1)) % 3;
    }
    order_late(network, &late, diff);
}

static enum dtr_status order_actions(struct network *network, struct dtr_error *error)
{
    static const char what[] = "the network";
    network->forward = dtr_alloc(3 * network->count + 2, sizeof *network->forward, what, error);
    network->backward = dtr_alloc(4 * network->count, sizeof *network->backward, what, error);
    network->time_stride = dtr_align_floats(NETWORK_PHASES * network->count);
    network->seconds = dtr_alloc(dtr_threads_count(network->config.threads) * network->time_stride,
        sizeof *network->seconds, what, error);
    if (network->forward == NULL || network->backward == NULL || network->seconds == NULL)
        return error->status;
    order_forward(network);
    order_backward(network);
    return DTR_OK;
}

static enum dtr_status make(struct network *network, struct dtr_error *error)
{
    static const char what[] = "the network";
    const struct network_config *config = &network->config;
    int64_t lanes = network->lanes;
    network->stages = dtr_alloc(config->model->layer_count, sizeof *network->stages, what, error);
    network->dropout = dtr_alloc(lanes, sizeof *network->dropout, what, error);
    network->losses = dtr_alloc(lanes, sizeof *network->losses, what, error);
    network->errors = dtr_alloc(lanes, sizeof *network->errors, what, error);
    if (network->stages == NULL || network->dropout == NULL || network->losses == NULL ||
        network->errors == NULL)
        return error->status;
    choose_stages(network);
    if (create_stages(network, error) != DTR_OK ||
        alloc_lanes(network, network->stages[0].source_count, &network->images, error) != DTR_OK ||
        place_activations(network, error) != DTR_OK)
        return error->status;
    if (!config->training)
        return DTR_OK;
    if (place_gradients(network, error) != DTR_OK)
        return error->status;
    return order_actions(network, error);
}

enum dtr_status network_compile(
    const struct network_config *config, struct network *network_out, struct dtr_error *error)
{
    *network_out = (struct network){.config = *config};
    network_out->lanes = config->training ? config->run.count : dtr_threads_count(config->threads);
    if (make(network_out, error) == DTR_OK)
        return DTR_OK;
    network_free(network_out);
    return error->status;
}

void network_free(struct network *network)
{
    for (int i = 0; i < network->count; i++) {
        struct network_stage *stage = &network->stages[i];
        if (stage->plan.kernel != NULL)
            stage->plan.kernel->destroy(&stage->plan);
        if (network_converts(network, i))
            free(stage->source);
    }
    for (int i = 0; i < network->count; i++)
        free(network->stages[i].result);
    for (int i = 0; i < 3; i++)
        free(network->diff[i]);
    free(network->images);
    free(network->stages);
    free(network->forward);
    free(network->seconds);
    free(network->backward);
    free(network->dropout);
    free(network->losses);
    free(network->errors);
    *network = (struct network){0};
}

static void copy(const float *from, float *to, int64_t begin, int64_t end)
{
    memcpy(to + begin, from + begin, (size_t)(end - begin) * sizeof *to);
}

/* Other ranks may be reading what they have written alike: nothing else may be there in between. */
static void reorder(
    const struct network *network, bool to_canonical, const float *from, float *slab_out)
{
    const struct dtr_model *model = network->config.model;
    int64_t end = 0; /* of what is done */
    for (int i = 0; i < network->count; i++) {
        const struct dtr_plan *plan = &network->stages[i].plan;
        if (plan->kernel->order == NULL)
            continue;
        const struct dtr_tensor *kernel = &model->tensors[plan->layer->kernel];
        copy(from, slab_out, end, kernel->offset);
        (to_canonical ? plan->kernel->canonical : plan->kernel->order)(
            plan, from + kernel->offset, slab_out + kernel->offset);
        end = kernel->offset + kernel->count;
    }
    copy(from, slab_out, end, model->slab_count);
}

void network_order(const struct network *network, const float *canonical, float *slab_out)
{
    reorder(network, false, canonical, slab_out);
}

void network_canonical(const struct network *network, const float *slab, float *canonical_out)
{
    reorder(network, true, slab, canonical_out);
}
