#include "network.h"

#include "dtrain/memory.h"

#include <stdio.h>
#include <stdlib.h>

static const struct dtr_kernel *choose_kernel(
    const struct dtr_layer *layer, enum dtr_kernel_choice kernels)
{
    bool reference = kernels == DTR_KERNELS_REFERENCE;
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

static enum dtr_status alloc_floats(
    struct network *network, int64_t count, float **floats_out, struct dtr_error *error)
{
    network->memory_bytes += count * (int64_t)sizeof(float);
    /* Not set here: the threads that use it touch it first. */
    *floats_out = dtr_alloc_unset(count, sizeof(float), "activations", error);
    return *floats_out == NULL ? error->status : DTR_OK;
}

static enum dtr_status compile_layer(
    struct network *network, int number, int64_t block_below, struct dtr_error *error)
{
    const struct network_config *config = &network->config;
    const struct dtr_layer *model = &config->model->layers[number];
    struct network_layer *layer = &network->layers[number];
    layer->plan = (struct dtr_plan){.layer = model,
        .n = config->n,
        .run = config->run,
        .lanes = network->lanes,
        .threads = dtr_threads_count(config->threads),
        .training = config->training,
        .sum_stride = config->exchange->stride,
        .first = number <= network->first_trained,
        .src_block = block_below,
        .dropout = network->dropout};
    const struct dtr_kernel *kernel = choose_kernel(model, config->kernels);
    if (kernel->create(&layer->plan, error) != DTR_OK)
        return error->status;
    layer->stale = model->kernel >= 0;
    layer->plan.kernel = kernel; /* from here on there is something to destroy */
    layer->source_count = dtr_layout_count(model->in, layer->plan.src_block, config->n);
    layer->result_count = dtr_layout_count(model->out, layer->plan.dst_block, config->n);
    return DTR_OK;
}

/* Every activation has memory of its own: backward reads them all. */
static enum dtr_status place_activations(struct network *network, struct dtr_error *error)
{
    float *below = network->images;
    int64_t block = network->layers[0].plan.src_block;
    for (int i = 0; i < network->count; i++) {
        struct network_layer *layer = &network->layers[i];
        layer->source = below;
        if (layer->plan.src_block != block &&
            alloc_floats(network, network->lanes * layer->source_count, &layer->source, error) !=
                DTR_OK)
            return error->status;
        if (alloc_floats(network, network->lanes * layer->result_count, &layer->result, error) !=
            DTR_OK)
            return error->status;
        below = layer->result;
        block = layer->plan.dst_block;
    }
    return DTR_OK;
}

static int64_t largest_activation(const struct network *network)
{
    int64_t largest = 0;
    for (int i = 0; i < network->count; i++) {
        const struct network_layer *layer = &network->layers[i];
        if (layer->source_count > largest)
            largest = layer->source_count;
        if (layer->result_count > largest)
            largest = layer->result_count;
    }
    return largest;
}

static enum dtr_status alloc_network(struct network *network, struct dtr_error *error)
{
    const struct network_config *config = &network->config;
    int64_t lanes = network->lanes;
    network->layers = dtr_alloc(network->count, sizeof *network->layers, "the network", error);
    network->dropout = dtr_alloc(lanes, sizeof *network->dropout, "the network", error);
    network->losses = dtr_alloc(lanes, sizeof *network->losses, "the network", error);
    network->errors = dtr_alloc(lanes, sizeof *network->errors, "the network", error);
    if (network->layers == NULL || network->dropout == NULL || network->losses == NULL ||
        network->errors == NULL)
        return error->status;
    int64_t block = config->model->input.c;
    for (int i = 0; i < network->count; i++) {
        if (compile_layer(network, i, block, error) != DTR_OK)
            return error->status;
        block = network->layers[i].plan.dst_block;
    }
    if (alloc_floats(network, lanes * network->layers[0].source_count, &network->images, error) !=
            DTR_OK ||
        place_activations(network, error) != DTR_OK)
        return error->status;
    for (int i = 0; config->training && i < 3; i++) {
        if (alloc_floats(network, lanes * largest_activation(network), &network->diff[i], error) !=
            DTR_OK)
            return error->status;
    }
    return DTR_OK;
}

enum dtr_status network_compile(
    const struct network_config *config, struct network *network_out, struct dtr_error *error)
{
    const struct dtr_model *model = config->model;
    *network_out = (struct network){.config = *config, .count = model->layer_count};
    network_out->lanes = config->training ? config->run.count : dtr_threads_count(config->threads);
    while (model->layers[network_out->first_trained].kernel < 0)
        network_out->first_trained++;
    if (alloc_network(network_out, error) == DTR_OK)
        return DTR_OK;
    network_free(network_out);
    return error->status;
}

void network_free(struct network *network)
{
    for (int i = 0; network->layers != NULL && i < network->count; i++) {
        struct network_layer *layer = &network->layers[i];
        if (layer->plan.kernel != NULL)
            layer->plan.kernel->destroy(&layer->plan);
        const float *below = i == 0 ? network->images : network->layers[i - 1].result;
        if (layer->source != below)
            free(layer->source);
    }
    for (int i = 0; network->layers != NULL && i < network->count; i++)
        free(network->layers[i].result);
    for (int i = 0; i < 3; i++)
        free(network->diff[i]);
    free(network->images);
    free(network->layers);
    free(network->dropout);
    free(network->losses);
    free(network->errors);
    *network = (struct network){0};
}

static float *tensor_of(const struct dtr_model *model, float *slab, int tensor)
{
    return tensor < 0 ? NULL : slab + model->tensors[tensor].offset;
}

void network_forget(struct network *network)
{
    for (int i = 0; i < network->count; i++)
        network->layers[i].stale = network->layers[i].plan.layer->kernel >= 0;
}

/* Whether a layer's part of the slab, its kernel and the bias that follows, is the newest. */
static bool arrived(const struct network *network, int number, bool wait)
{
    const struct dtr_exchange *exchange = network->config.exchange;
    const struct dtr_layer *layer = network->layers[number].plan.layer;
    const struct dtr_tensor *kernel = &network->config.model->tensors[layer->kernel];
    const struct dtr_tensor *bias = &network->config.model->tensors[layer->bias];
    int64_t count = bias->offset + bias->count - kernel->offset;
    if (wait)
        exchange->wait(exchange->context, kernel->offset, count);
    return wait || exchange->arrived(exchange->context, kernel->offset, count);
}

static void refresh(struct network *network, int number)
{
    struct network_layer *layer = &network->layers[number];
    const struct dtr_model *model = network->config.model;
    float *weights = network->config.exchange->weights;
    if (!layer->stale)
        return;
    arrived(network, number, true);
    layer->plan.kernel->update(&layer->plan, tensor_of(model, weights, layer->plan.layer->kernel),
        tensor_of(model, weights, layer->plan.layer->bias));
    layer->stale = false;
}

void network_wait(struct network *network)
{
    for (int i = 0; i < network->count; i++)
        refresh(network, i);
}

/* Waits for layer `first`; returns the end of those that can run now. */
static int refresh_from(struct network *network, int first)
{
    int end = first;
    do {
        refresh(network, end++);
    } while (end < network->count && (!network->layers[end].stale || arrived(network, end, false)));
    return end;
}

/* Layers [first, end) on one lane; the result is the last one's. */
static const float *forward(struct network *network, int64_t lane, int first, int end)
{
    for (int i = first; i < end; i++) {
        struct network_layer *layer = &network->layers[i];
        float *source = layer->source + lane * layer->source_count;
        if (i > 0 && layer->source != layer[-1].result)
            dtr_layout_convert(layer->plan.layer->in, layer->plan.n,
                layer[-1].result + lane * layer[-1].result_count, layer[-1].plan.dst_block, source,
                layer->plan.src_block);
        layer->plan.kernel->forward(
            &layer->plan, lane, source, layer->result + lane * layer->result_count);
    }
    const struct network_layer *last = &network->layers[end - 1];
    return last->result + lane * last->result_count;
}

static float *image_place(struct network *network, int64_t lane, int64_t i)
{
    const struct network_layer *first = &network->layers[0];
    return network->images + lane * first->source_count + i * (first->source_count / first->plan.n);
}

const float *network_infer(
    struct network *network, int64_t lane, const uint8_t *images, int64_t count)
{
    struct dtr_shape shape = network->config.model->input;
    for (int64_t i = 0; i < count; i++)
        dtr_scale_pixels(shape, images + i * dtr_shape_count(shape),
            network->layers[0].plan.src_block, image_place(network, lane, i));
    return forward(network, lane, 0, network->count);
}

/* What the threads of a training step work on. */
struct pass {
    struct network *network;
    const struct dtr_batch *batch;
    int first, end; /* layers of a forward pass */
    int layer;      /* whose backward runs */
    int diff;       /* network->diff[diff] holds the gradient of the layer's result */
    int parts;
};

static void scale_slice(struct network *network, const struct dtr_slice *data, int64_t slice)
{
    for (int64_t i = 0; i < network->config.n; i++)
        dtr_scale_pixels(network->config.model->input, data->images[i],
            network->layers[0].plan.src_block, image_place(network, slice, i));
}

/* The gradient of the logits goes to where backward begins. */
static void measure_slice(struct pass *pass, const float *logits, int64_t slice)
{
    struct network *network = pass->network;
    const struct dtr_slice *data = &pass->batch->slices[slice];
    const struct network_layer *last = &network->layers[network->count - 1];
    struct dtr_head_result result = dtr_softmax_head(network->config.n,
        network->config.model->classes, logits, data->labels, data->samples,
        1.0F / (float)pass->batch->real, network->diff[0] + slice * last->result_count);
    network->losses[slice] = result.loss;
    network->errors[slice] = result.errors;
}

static void forward_slice(void *context, int64_t slice, int thread)
{
    struct pass *pass = context;
    (void)thread;
    if (pass->first == 0)
        scale_slice(pass->network, &pass->batch->slices[slice], slice);
    const float *result = forward(pass->network, slice, pass->first, pass->end);
    if (pass->end == pass->network->count)
        measure_slice(pass, result, slice);
}

static void backward_slice(void *context, int64_t slice, int thread)
{
    struct pass *pass = context;
    struct network *network = pass->network;
    struct network_layer *layer = &network->layers[pass->layer];
    float *diff_result = network->diff[pass->diff] + slice * layer->result_count;
    float *diff_source = network->diff[(pass->diff + 1) % 3] + slice * layer->source_count;
    (void)thread;
    layer->plan.kernel->backward(&layer->plan, slice, layer->source + slice * layer->source_count,
        layer->result + slice * layer->result_count, diff_result,
        layer->plan.first ? NULL : diff_source);
    if (!layer->plan.first && layer->source != layer[-1].result)
        dtr_layout_convert(layer->plan.layer->in, layer->plan.n, diff_source, layer->plan.src_block,
            network->diff[(pass->diff + 2) % 3] + slice * layer[-1].result_count,
            layer[-1].plan.dst_block);
}

static void reduce_part(void *context, int64_t part, int thread)
{
    struct pass *pass = context;
    struct network *network = pass->network;
    struct network_layer *layer = &network->layers[pass->layer];
    const struct dtr_layer *model = layer->plan.layer;
    float *gradients = network->config.exchange->gradients;
    (void)thread;
    layer->plan.kernel->reduce(&layer->plan, (int)part, pass->parts, layer->source,
        network->diff[pass->diff], tensor_of(network->config.model, gradients, model->kernel),
        tensor_of(network->config.model, gradients, model->bias));
}

void network_forward(struct network *network, const struct dtr_batch *batch, uint64_t seed)
{
    struct pass pass = {.network = network, .batch = batch};
    for (int64_t i = 0; i < network->lanes; i++)
        network->dropout[i] = (struct dtr_dropout_key){
            seed, (uint32_t)batch->epoch, batch->slices[i].samples};
    for (; pass.end < network->count; pass.first = pass.end) {
        pass.end = refresh_from(network, pass.first);
        dtr_threads_run(network->config.threads, network->lanes, forward_slice, &pass);
    }
}

void network_backward(struct network *network, const struct dtr_batch *batch)
{
    const struct dtr_model *model = network->config.model;
    const struct dtr_exchange *exchange = network->config.exchange;
    struct dtr_threads *threads = network->config.threads;
    struct pass pass = {.network = network, .batch = batch, .parts = dtr_threads_count(threads)};
    int64_t done = model->slab_count;
    for (int i = network->count - 1; i >= network->first_trained; i--) {
        const struct network_layer *layer = &network->layers[i];
        pass.layer = i;
        dtr_threads_run(threads, network->lanes, backward_slice, &pass);
        if (layer->plan.layer->kernel >= 0) {
            dtr_threads_run(threads, pass.parts, reduce_part, &pass);
            done = model->tensors[layer->plan.layer->kernel].offset;
        }
        exchange->ready(exchange->context, done);
        bool converted = i > 0 && layer->source != layer[-1].result;
        pass.diff = (pass.diff + (converted ? 2 : 1)) % 3;
    }
}
