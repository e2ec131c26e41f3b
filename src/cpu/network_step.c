/* A network's passes: what the threads do in a training step, and in an evaluation. */
#include "network.h"

#include "dtrain/clock.h"
#include "dtrain/pulse.h"

static float *tensor_of(const struct dtr_model *model, float *slab, int tensor)
{
    return tensor < 0 ? NULL : slab + model->tensors[tensor].offset;
}

void network_forget(struct network *network)
{
    for (int i = 0; i < network->count; i++)
        network->stages[i].stale = network->stages[i].plan.layer->kernel >= 0;
}

/* Whether a stage's part of the slab, its kernel and the bias that follows, is the newest. */
static bool arrived(const struct network *network, int number, bool wait)
{
    const struct dtr_exchange *exchange = network->config.exchange;
    const struct dtr_layer *layer = network->stages[number].plan.layer;
    const struct dtr_tensor *kernel = &network->config.model->tensors[layer->kernel];
    const struct dtr_tensor *bias = &network->config.model->tensors[layer->bias];
    int64_t count = bias->offset + bias->count - kernel->offset;
    if (wait)
        exchange->wait(exchange->context, kernel->offset, count);
    return wait || exchange->arrived(exchange->context, kernel->offset, count);
}

/* Stages whose plans are told their new parameters. */
struct refresh {
    struct network *network;
    int first, end;
};

static void update_stages(void *context, int64_t part, int thread)
{
    const struct refresh *refresh = context;
    struct network *network = refresh->network;
    const struct dtr_model *model = network->config.model;
    float *weights = network->config.exchange->weights;
    struct dtr_piece piece = {0, (int)part, dtr_threads_count(network->config.threads), thread};
    for (int i = refresh->first; i < refresh->end; i++) {
        struct dtr_plan *plan = &network->stages[i].plan;
        double start_s = dtr_clock_s();
        if (!network->stages[i].stale)
            continue;
        plan->kernel->update(plan, piece, tensor_of(model, weights, plan->layer->kernel),
            tensor_of(model, weights, plan->layer->bias));
        if (network->config.training)
            *network_time(network, thread, NETWORK_UPDATE, i) += dtr_clock_s() - start_s;
    }
}

/* Waits for the parameters of stages [first, end). */
static void refresh(struct network *network, int first, int end)
{
    struct refresh refresh = {network, first, end};
    bool stale = false;
    for (int i = first; i < end; i++) {
        if (network->stages[i].stale)
            stale = arrived(network, i, true);
    }
    if (!stale)
        return;
    dtr_threads_run(network->config.threads, dtr_threads_count(network->config.threads),
        update_stages, &refresh);
    for (int i = first; i < end; i++)
        network->stages[i].stale = false;
}

void network_wait(struct network *network)
{
    refresh(network, 0, network->count);
}

/* What runs without waiting for all threads: actions [first, end) of a pass. */
struct region {
    struct network *network;
    const struct dtr_batch *batch;
    const struct network_action *actions;
    int first, end;
    bool by_slice;
    int parts; /* of a slice, or of everything */
};

static void scale_images(const struct region *region, struct dtr_piece piece)
{
    const struct network *network = region->network;
    const struct network_stage *first = &network->stages[0];
    struct dtr_shape shape = network->config.model->input;
    int64_t sample = dtr_layout_sample(shape, first->plan.src), begin, end;
    float *source = first->source + piece.slice * first->source_count;
    dtr_piece_range(piece, network->config.n, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        dtr_scale_pixels(shape, region->batch->slices[piece.slice].images[i], first->plan.src,
            source + i * sample);
}

/* Between a stage's source and the result below it, where their layouts differ. */
static void convert(struct network *network, int number, struct dtr_piece piece)
{
    const struct network_stage *stage = &network->stages[number], *below = stage - 1;
    dtr_layout_convert(stage->plan.layer->in, stage->plan.n,
        below->result + piece.slice * below->result_count, below->plan.dst,
        stage->source + piece.slice * stage->source_count, stage->plan.src);
}

static float *diff_of(const struct network *network, int diff, int64_t slice)
{
    return network->diff[diff % 3] + slice * network->diff_stride;
}

static void convert_back(
    struct network *network, struct network_action action, struct dtr_piece piece)
{
    const struct network_stage *stage = &network->stages[action.stage], *below = stage - 1;
    dtr_layout_convert(stage->plan.layer->in, stage->plan.n,
        diff_of(network, action.diff + 1, piece.slice), stage->plan.src,
        diff_of(network, action.diff + 2, piece.slice), below->plan.dst);
}

static void forward(struct network *network, struct network_action action, struct dtr_piece piece)
{
    struct network_stage *stage = &network->stages[action.stage];
    const struct dtr_kernel *kernel = stage->plan.kernel;
    const float *source = stage->source + piece.slice * stage->source_count;
    if (action.phase == NETWORK_LOAD)
        kernel->load(&stage->plan, piece, source);
    else
        kernel->forward(
            &stage->plan, piece, source, stage->result + piece.slice * stage->result_count);
}

/* The gradient of the logits goes to where backward begins. */
static void measure(const struct region *region, struct dtr_piece piece)
{
    struct network *network = region->network;
    const struct dtr_slice *data = &region->batch->slices[piece.slice];
    const struct network_stage *last = &network->stages[network->count - 1];
    struct dtr_head_result result = dtr_softmax_head(network->config.n,
        network->config.model->classes, last->result + piece.slice * last->result_count,
        data->labels, data->samples, 1.0F / (float)region->batch->real,
        diff_of(network, 0, piece.slice));
    network->losses[piece.slice] = result.loss;
    network->errors[piece.slice] = result.errors;
}

static void backward(struct network *network, struct network_action action, struct dtr_piece piece)
{
    struct network_stage *stage = &network->stages[action.stage];
    struct dtr_plan *plan = &stage->plan;
    const float *source = stage->source + piece.slice * stage->source_count;
    const float *result = stage->result + piece.slice * stage->result_count;
    float *diff_result = diff_of(network, action.diff, piece.slice);
    float *diff_source = plan->first ? NULL : diff_of(network, action.diff + 1, piece.slice);
    if (action.phase == NETWORK_COLLECT)
        plan->kernel->collect(plan, piece, result, diff_result);
    else
        plan->kernel->backward(plan, piece, source, result, diff_result, diff_source);
}

static void reduce(struct network *network, struct network_action action, struct dtr_piece piece)
{
    struct network_stage *stage = &network->stages[action.stage];
    const struct dtr_exchange *exchange = network->config.exchange;
    const struct dtr_model *model = network->config.model;
    struct dtr_gradient_sink sink = {.slab = exchange->gradients,
        .stride = exchange->stride,
        .kernel = model->tensors[stage->plan.layer->kernel].offset,
        .bias = model->tensors[stage->plan.layer->bias].offset,
        .context = exchange->context};
    if (exchange->gradients == NULL || stage->factored >= 0)
        sink.take = exchange->take;
    if (stage->factored >= 0)
        sink.owns = exchange->owns;
    stage->plan.kernel->reduce(
        &stage->plan, piece, stage->source, network->diff[action.diff], &sink);
}

static void act(const struct region *region, struct network_action action, struct dtr_piece piece)
{
    switch (action.phase) {
    case NETWORK_SCALE:
        scale_images(region, piece);
        return;
    case NETWORK_CONVERT:
        convert(region->network, action.stage, piece);
        return;
    case NETWORK_LOAD:
    case NETWORK_FORWARD:
        forward(region->network, action, piece);
        return;
    case NETWORK_MEASURE:
        measure(region, piece);
        return;
    case NETWORK_COLLECT:
    case NETWORK_BACKWARD:
        backward(region->network, action, piece);
        return;
    case NETWORK_CONVERT_BACK:
        convert_back(region->network, action, piece);
        return;
    case NETWORK_REDUCE:
        reduce(region->network, action, piece);
        return;
    case NETWORK_UPDATE:
    case NETWORK_PHASES:
        return;
    }
}

static void run_region(void *context, int64_t item, int thread)
{
    const struct region *region = context;
    struct dtr_piece piece = {.part = (int)item, .parts = region->parts, .thread = thread};
    if (region->by_slice) {
        piece.slice = item / region->parts;
        piece.part = (int)(item % region->parts);
    }
    double start_s = dtr_clock_s();
    for (int i = region->first; i < region->end; i++) {
        const struct network_action action = region->actions[i];
        act(region, action, piece);
        double end_s = dtr_clock_s();
        *network_time(region->network, thread, action.phase, action.stage) += end_s - start_s;
        start_s = end_s;
        dtr_pulse_beat();
    }
}

static enum dtr_division division(const struct network *network, struct network_action action)
{
    const struct dtr_plan *plan = &network->stages[action.stage].plan;
    switch (action.phase) {
    case NETWORK_FORWARD:
        return plan->divide_forward;
    case NETWORK_BACKWARD:
        return plan->divide_backward;
    case NETWORK_REDUCE:
        return DTR_TOGETHER;
    case NETWORK_SCALE:
        return DTR_WITHIN_SLICE;
    default:
        return DTR_BY_SLICE;
    }
}

/* Pieces of a slice: one, but where there are more threads than slices. */
static int parts_of(const struct network *network, struct network_action action)
{
    int threads = dtr_threads_count(network->config.threads);
    if (division(network, action) == DTR_TOGETHER)
        return threads;
    if (division(network, action) == DTR_BY_SLICE || threads <= network->lanes)
        return 1;
    return (int)((threads + network->lanes - 1) / network->lanes);
}

/* Whether an action may follow the one before without waiting for all threads. */
static bool joins(const struct network *network, const struct network_action *action)
{
    if (action->phase == NETWORK_REDUCE)
        return action[-1].phase == NETWORK_REDUCE;
    for (int i = -1; i <= 0; i++) {
        if (division(network, action[i]) == DTR_TOGETHER || parts_of(network, action[i]) > 1)
            return false;
    }
    return true;
}

/* The parameters of the first action's stage are waited for, those of stages that may follow in
 * the same region are taken where they are there by then. Returns the region's end. */
static int refresh_region(struct network *network, int first)
{
    const struct network_action *actions = network->forward;
    int end = first, stage_end = actions[first].stage;
    for (;; end++) {
        const struct network_action *action = &actions[end];
        if (end > first && (end == network->forward_count || !joins(network, action)))
            break;
        /* What loading overwrites is read by other ranks until the new parameters are there. */
        bool shares = action->phase == NETWORK_LOAD && network->stages[action->stage].factored >= 0;
        if (action->phase != NETWORK_FORWARD && !shares)
            continue;
        if (network->stages[action->stage].stale && !arrived(network, action->stage, end == first))
            break;
        stage_end = action->stage + 1;
    }
    refresh(network, actions[first].stage, stage_end);
    return end;
}

static int backward_region(const struct network *network, int first)
{
    int end = first + 1;
    while (end < network->backward_count && joins(network, &network->backward[end]))
        end++;
    return end;
}

/* Actions [first, end) of a pass. */
static void run_actions(struct region *region, int first, int end)
{
    struct network *network = region->network;
    region->first = first;
    region->end = end;
    region->by_slice = division(network, region->actions[first]) != DTR_TOGETHER;
    region->parts = parts_of(network, region->actions[first]);
    dtr_threads_run(network->config.threads,
        region->by_slice ? network->lanes * region->parts : region->parts, run_region, region);
}

void network_forward(struct network *network, const struct dtr_batch *batch, uint64_t seed)
{
    struct region region = {.network = network, .batch = batch, .actions = network->forward};
    for (int64_t i = 0; i < network->lanes; i++)
        network->dropout[i] = (struct dtr_dropout_key){
            seed, (uint32_t)batch->epoch, batch->slices[i].samples};
    for (int i = 0, end; i < network->forward_count; i = end) {
        end = refresh_region(network, i);
        run_actions(&region, i, end);
    }
}

/* Gradients are final from here on, once the actions before `end` are done. */
static int64_t first_final(const struct network *network, int end)
{
    const struct dtr_model *model = network->config.model;
    for (int i = end - 1; i >= 0; i--) {
        const struct network_action *action = &network->backward[i];
        if (action->phase == NETWORK_REDUCE)
            return model->tensors[network->stages[action->stage].plan.layer->kernel].offset;
    }
    return model->slab_count;
}

/* Before and after a region: other ranks' factors that it sums, and those that it completed. */
static void gather_factors(const struct network *network, int first, int end)
{
    const struct dtr_exchange *exchange = network->config.exchange;
    for (int i = first; i < end; i++) {
        const struct network_action *action = &network->backward[i];
        int factored = network->stages[action->stage].factored;
        if (action->phase == NETWORK_REDUCE && factored >= 0)
            exchange->gather(exchange->context, factored);
    }
}

static void publish_factors(const struct network *network, int first, int end)
{
    const struct dtr_exchange *exchange = network->config.exchange;
    for (int i = first; i < end; i++) {
        const struct network_action *action = &network->backward[i];
        int factored = network->stages[action->stage].factored;
        if (action->phase == NETWORK_BACKWARD && factored >= 0)
            exchange->publish(exchange->context, factored);
    }
}

void network_backward(struct network *network, const struct dtr_batch *batch)
{
    const struct dtr_exchange *exchange = network->config.exchange;
    struct region region = {.network = network, .batch = batch, .actions = network->backward};
    for (int i = 0, end; i < network->backward_count; i = end) {
        end = backward_region(network, i);
        gather_factors(network, i, end);
        run_actions(&region, i, end);
        publish_factors(network, i, end);
        exchange->ready(exchange->context, first_final(network, end));
    }
}

const float *network_infer(
    struct network *network, int64_t lane, const uint8_t *images, int64_t count)
{
    struct dtr_shape shape = network->config.model->input;
    const struct network_stage *first = &network->stages[0];
    const struct network_stage *last = &network->stages[network->count - 1];
    int64_t sample = dtr_layout_sample(shape, first->plan.src);
    struct dtr_piece piece = {.slice = lane, .parts = 1, .thread = (int)lane};
    for (int64_t i = 0; i < count; i++)
        dtr_scale_pixels(shape, images + i * dtr_shape_count(shape), first->plan.src,
            first->source + lane * first->source_count + i * sample);
    for (int i = 0; i < network->count; i++) {
        if (network_converts(network, i))
            convert(network, i, piece);
        if (network->stages[i].plan.kernel->load != NULL)
            forward(network, (struct network_action){NETWORK_LOAD, i, 0}, piece);
        forward(network, (struct network_action){NETWORK_FORWARD, i, 0}, piece);
    }
    return last->result + lane * last->result_count;
}
