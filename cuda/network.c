#include "network.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"
#include "failure.h"

#include <stdlib.h>

/* Whether `next` is computed with `layer`. */
static bool is_fused(const struct dtr_layer *layer, const struct dtr_layer *next)
{
    bool pool = next->kind == DTR_LAYER_MAXPOOL && next->kernel_h == 2 && next->stride == 2;
    bool dropout = next->kind == DTR_LAYER_DROPOUT;
    return (layer->kind == DTR_LAYER_CONV && pool) || (layer->kind == DTR_LAYER_DENSE && dropout);
}

static void make_conv(const struct dtr_cuda_network *network, struct dtr_cuda_stage *stage)
{
    const struct dtr_layer *layer = stage->layer;
    stage->conv = (struct dtr_cuda_conv){.n = network->config.n,
        .h = layer->in.h,
        .w = layer->in.w,
        .in = layer->in.c,
        .kh = layer->kernel_h,
        .kw = layer->kernel_w,
        .stride = layer->stride,
        .pad_top = layer->pad_top,
        .pad_left = layer->pad_left,
        .oh = layer->out.h,
        .ow = layer->out.w,
        .out = layer->out.c,
        .relu = layer->relu,
        .pool = stage->fused != NULL,
        .precision = network->config.precision};
}

static void make_pool(const struct dtr_cuda_network *network, struct dtr_cuda_stage *stage)
{
    const struct dtr_layer *layer = stage->layer;
    stage->pool = (struct dtr_cuda_pool){.n = network->config.n,
        .h = layer->in.h,
        .w = layer->in.w,
        .c = layer->in.c,
        .k = layer->kernel_h,
        .stride = layer->stride};
}

static void make_activation(const struct dtr_cuda_network *network, struct dtr_cuda_stage *stage)
{
    const struct dtr_layer *layer = stage->layer;
    const struct dtr_layer *dropout = layer->kind == DTR_LAYER_DROPOUT ? layer : stage->fused;
    stage->activation = (struct dtr_cuda_activation){
        .n = network->config.n, .units = stage->out, .relu = layer->relu};
    if (!network->config.training || dropout == NULL)
        return;
    stage->activation.scale = (float)(1 / (1 - dropout->rate));
    stage->activation.threshold = dtr_random_threshold(dropout->rate);
    stage->activation.layer = (uint32_t)dropout->number;
    stage->activation.seed = network->config.seed;
}

static void make_dense(const struct dtr_cuda_network *network, struct dtr_cuda_stage *stage)
{
    stage->dense = (struct dtr_cuda_dense){.blas = network->config.blas,
        .n = network->config.n,
        .in = stage->in,
        .out = stage->out,
        .precision = network->config.precision};
}

static void make_stage(const struct dtr_cuda_network *network, struct dtr_cuda_stage *stage,
    const struct dtr_layer *layer, const struct dtr_layer *fused)
{
    *stage = (struct dtr_cuda_stage){.layer = layer,
        .fused = fused,
        .in = dtr_shape_count(layer->in),
        .out = dtr_shape_count(fused != NULL ? fused->out : layer->out)};
    if (layer->kind == DTR_LAYER_CONV)
        make_conv(network, stage);
    else if (layer->kind == DTR_LAYER_MAXPOOL)
        make_pool(network, stage);
    else
        make_activation(network, stage);
    if (layer->kind == DTR_LAYER_DENSE)
        make_dense(network, stage);
}

static void find_stages(struct dtr_cuda_network *network)
{
    const struct dtr_model *model = network->config.model;
    for (int i = 0; i < model->layer_count; i++) {
        const struct dtr_layer *layer = &model->layers[i];
        bool fused = i + 1 < model->layer_count && is_fused(layer, layer + 1);
        make_stage(network, &network->stages[network->count++], layer, fused ? layer + 1 : NULL);
        i += fused;
    }
}

static enum dtr_status alloc_stage(const struct dtr_cuda_network *network,
    struct dtr_cuda_stage *stage, struct dtr_cuda_memory *memory, struct dtr_error *error)
{
    int64_t values = network->config.n * stage->out;
    bool pool = stage->layer->kind == DTR_LAYER_MAXPOOL;
    stage->values = dtr_cuda_alloc(memory, values, sizeof(float), "activations", error);
    if (!network->config.training || error->status != DTR_OK)
        return error->status;
    stage->diff = dtr_cuda_alloc(memory, values, sizeof(float), "activations' gradients", error);
    if (pool || stage->conv.pool)
        stage->winners = dtr_cuda_alloc(
            memory, values, pool ? sizeof(uint16_t) : 1, "places of maxima", error);
    return error->status;
}

static enum dtr_status alloc_all(
    struct dtr_cuda_network *network, struct dtr_cuda_memory *memory, struct dtr_error *error)
{
    int64_t n = network->config.n, workspace = 0;
    network->source = dtr_cuda_alloc(
        memory, n * dtr_shape_count(network->config.model->input), sizeof(float), "images", error);
    for (int i = 0; i < network->count && error->status == DTR_OK; i++) {
        struct dtr_cuda_stage *stage = &network->stages[i];
        alloc_stage(network, stage, memory, error);
        if (stage->layer->kind == DTR_LAYER_CONV && network->config.training) {
            int64_t bytes = dtr_cuda_conv_workspace(&stage->conv);
            workspace = bytes > workspace ? bytes : workspace;
        }
    }
    if (error->status != DTR_OK || !network->config.training)
        return error->status;
    network->workspace = dtr_cuda_alloc(memory, workspace, 1, "sums of gradients", error);
    network->losses = dtr_cuda_alloc(memory, n + 1, sizeof *network->losses, "losses", error);
    network->result = network->losses + n;
    return error->status;
}

enum dtr_status dtr_cuda_network_compile(const struct dtr_cuda_network_config *config,
    struct dtr_cuda_memory *memory, struct dtr_cuda_network *network_out, struct dtr_error *error)
{
    *network_out = (struct dtr_cuda_network){.config = *config};
    network_out->stages = dtr_alloc(
        config->model->layer_count, sizeof *network_out->stages, "stages", error);
    if (network_out->stages == NULL)
        return error->status;
    find_stages(network_out);
    return alloc_all(network_out, memory, error);
}

void dtr_cuda_network_free(struct dtr_cuda_network *network)
{
    free(network->stages);
    network->stages = NULL;
}

static float *tensor_of(const struct dtr_cuda_network *network, float *slab, int tensor)
{
    return tensor < 0 ? NULL : slab + network->config.model->tensors[tensor].offset;
}

static enum dtr_status stage_forward(const struct dtr_cuda_network *network,
    const struct dtr_cuda_stage *stage, const float *src, struct dtr_error *error)
{
    cudaStream_t stream = network->config.stream;
    const float *kernel = tensor_of(network, network->config.weights, stage->layer->kernel);
    const float *bias = tensor_of(network, network->config.weights, stage->layer->bias);
    switch (stage->layer->kind) {
    case DTR_LAYER_CONV:
        CUDA(dtr_cuda_conv_forward(
            &stage->conv, src, kernel, bias, stage->values, stage->winners, stream));
        break;
    case DTR_LAYER_MAXPOOL:
        CUDA(dtr_cuda_pool_forward(&stage->pool, src, stage->values, stage->winners, stream));
        break;
    case DTR_LAYER_DENSE:
        if (dtr_cuda_dense_forward(&stage->dense, src, kernel, stage->values, error) != DTR_OK)
            return error->status;
        CUDA(dtr_cuda_activate(&stage->activation, &network->batch, bias, stage->values, stream));
        break;
    case DTR_LAYER_DROPOUT:
        CUDA(cudaMemcpyAsync(stage->values, src,
            (size_t)(network->config.n * stage->out) * sizeof *src, cudaMemcpyDeviceToDevice,
            stream));
        CUDA(dtr_cuda_activate(&stage->activation, &network->batch, NULL, stage->values, stream));
        break;
    }
    return DTR_OK;
}

enum dtr_status dtr_cuda_network_forward(
    const struct dtr_cuda_network *network, struct dtr_error *error)
{
    const float *src = network->source;
    CUDA(dtr_cuda_gather(&network->batch, dtr_shape_count(network->config.model->input),
        network->source, network->config.stream));
    for (int i = 0; i < network->count; i++) {
        if (stage_forward(network, &network->stages[i], src, error) != DTR_OK)
            return error->status;
        src = network->stages[i].values;
    }
    return DTR_OK;
}

const float *dtr_cuda_network_logits(const struct dtr_cuda_network *network)
{
    return network->stages[network->count - 1].values;
}

enum dtr_status dtr_cuda_network_loss(
    const struct dtr_cuda_network *network, struct dtr_error *error)
{
    const struct dtr_cuda_stage *last = &network->stages[network->count - 1];
    CUDA(dtr_cuda_head(&network->batch, last->out, last->values, network->losses, last->diff,
        network->result, network->config.stream));
    return DTR_OK;
}

static enum dtr_status conv_backward(const struct dtr_cuda_network *network,
    const struct dtr_cuda_stage *stage, const float *src, float *diff_src, struct dtr_error *error)
{
    const struct dtr_cuda_network_config *config = &network->config;
    const float *kernel = tensor_of(network, config->weights, stage->layer->kernel);
    float *diff_kernel = tensor_of(network, config->gradients, stage->layer->kernel);
    float *diff_bias = tensor_of(network, config->gradients, stage->layer->bias);
    CUDA(dtr_cuda_conv_backward_parameters(&stage->conv, src, stage->values, stage->winners,
        stage->diff, network->workspace, diff_kernel, diff_bias, config->stream));
    if (diff_src != NULL)
        CUDA(dtr_cuda_conv_backward_source(&stage->conv, kernel, stage->values, stage->winners,
            stage->diff, diff_src, config->stream));
    return DTR_OK;
}

static enum dtr_status dense_backward(const struct dtr_cuda_network *network,
    const struct dtr_cuda_stage *stage, const float *src, float *diff_src, struct dtr_error *error)
{
    const struct dtr_cuda_network_config *config = &network->config;
    const float *kernel = tensor_of(network, config->weights, stage->layer->kernel);
    float *diff_kernel = tensor_of(network, config->gradients, stage->layer->kernel);
    float *diff_bias = tensor_of(network, config->gradients, stage->layer->bias);
    CUDA(dtr_cuda_activate_backward(&stage->activation, &network->batch, stage->values, stage->diff,
        diff_bias, config->stream));
    if (dtr_cuda_dense_backward_kernel(&stage->dense, src, stage->diff, diff_kernel, error) !=
        DTR_OK)
        return error->status;
    if (diff_src == NULL)
        return DTR_OK;
    return dtr_cuda_dense_backward_source(&stage->dense, kernel, stage->diff, diff_src, error);
}

static enum dtr_status dropout_backward(const struct dtr_cuda_network *network,
    const struct dtr_cuda_stage *stage, float *diff_src, struct dtr_error *error)
{
    size_t bytes = (size_t)(network->config.n * stage->out) * sizeof *diff_src;
    if (diff_src == NULL)
        return DTR_OK;
    CUDA(dtr_cuda_activate_backward(&stage->activation, &network->batch, stage->values, stage->diff,
        NULL, network->config.stream));
    CUDA(cudaMemcpyAsync(
        diff_src, stage->diff, bytes, cudaMemcpyDeviceToDevice, network->config.stream));
    return DTR_OK;
}

enum dtr_status dtr_cuda_network_backward(
    const struct dtr_cuda_network *network, int number, struct dtr_error *error)
{
    const struct dtr_cuda_stage *stage = &network->stages[number];
    const struct dtr_cuda_stage *below = number > 0 ? stage - 1 : NULL;
    const float *src = below != NULL ? below->values : network->source;
    float *diff_src = below != NULL ? below->diff : NULL;
    switch (stage->layer->kind) {
    case DTR_LAYER_CONV:
        return conv_backward(network, stage, src, diff_src, error);
    case DTR_LAYER_MAXPOOL:
        if (diff_src != NULL)
            CUDA(dtr_cuda_pool_backward(
                &stage->pool, stage->winners, stage->diff, diff_src, network->config.stream));
        return DTR_OK;
    case DTR_LAYER_DENSE:
        return dense_backward(network, stage, src, diff_src, error);
    case DTR_LAYER_DROPOUT:
        return dropout_backward(network, stage, diff_src, error);
    }
    return DTR_OK;
}
