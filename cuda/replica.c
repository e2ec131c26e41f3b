#include "replica.h"

#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "failure.h"

#include <stdlib.h>
#include <string.h>

static struct dtr_cuda_replica *cuda(struct dtr_replica *replica)
{
    return (struct dtr_cuda_replica *)replica;
}

void dtr_cuda_check(const struct dtr_cuda_replica *replica, const struct dtr_error *error)
{
    if (error->status != DTR_OK)
        replica->device.fail(replica->device.context, error);
}

static size_t slab_bytes(const struct dtr_cuda_replica *replica)
{
    return (size_t)replica->config.model->slab_count * sizeof(float);
}

enum dtr_status dtr_cuda_refresh(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    exchange->wait(exchange->context, 0, replica->config.model->slab_count);
    if (replica->newest != DTR_CUDA_HOST)
        return DTR_OK;
    CUDA(cudaMemcpyAsync(replica->weights, exchange->weights, slab_bytes(replica),
        cudaMemcpyHostToDevice, replica->stream));
    if (replica->device.trains)
        CUDA(cudaMemcpyAsync(replica->on_device.momenta, replica->momenta, slab_bytes(replica),
            cudaMemcpyHostToDevice, replica->stream));
    replica->newest = DTR_CUDA_BOTH;
    return DTR_OK;
}

void dtr_cuda_stage_range(const struct dtr_cuda_replica *replica,
    const struct dtr_cuda_stage *stage, int64_t *first_out, int64_t *count_out)
{
    const struct dtr_tensor *tensors = replica->config.model->tensors;
    *first_out = *count_out = 0;
    if (stage->layer->kernel < 0)
        return;
    const struct dtr_tensor *bias = &tensors[stage->layer->bias];
    *first_out = tensors[stage->layer->kernel].offset;
    *count_out = bias->offset + bias->count - *first_out;
}

enum dtr_status dtr_cuda_slot_create(
    struct dtr_cuda_replica *replica, struct dtr_cuda_slot *slot_out, struct dtr_error *error)
{
    const struct dtr_replica_config *config = &replica->config;
    slot_out->result = dtr_cuda_alloc_host(
        &replica->memory, 1, sizeof *slot_out->result, "results", error);
    CUDA(cudaEventCreateWithFlags(&slot_out->done, cudaEventDisableTiming));
    return dtr_cuda_staging_create(config->run.count * config->slice,
        dtr_shape_count(config->model->input), &replica->resident, &replica->memory,
        &slot_out->staging, error);
}

void dtr_cuda_slot_free(struct dtr_cuda_slot *slot)
{
    if (slot->graph != NULL)
        cudaGraphExecDestroy(slot->graph);
    if (slot->done != NULL)
        cudaEventDestroy(slot->done);
}

enum dtr_status dtr_cuda_start_forward(
    struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot, struct dtr_error *error)
{
    replica->training.batch = slot->staging.batch;
    if (dtr_cuda_staging_copy(&slot->staging, replica->stream, error) != DTR_OK ||
        dtr_cuda_network_forward(&replica->training, error) != DTR_OK)
        return error->status;
    return dtr_cuda_network_loss(&replica->training, error);
}

enum dtr_status dtr_cuda_return_result(
    struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot, struct dtr_error *error)
{
    CUDA(cudaMemcpyAsync(slot->result, replica->training.result, sizeof *slot->result,
        cudaMemcpyDeviceToHost, replica->stream));
    return DTR_OK;
}

/* This rank's sum is the first open node; there is nothing in the others. */
void dtr_cuda_tell(const struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot,
    struct dtr_step_result *result_out)
{
    *result_out = (struct dtr_step_result){
        .loss = {.tree = dtr_tree_of(replica->config.run), .sums = {slot->result->loss}},
        .errors = (int64_t)slot->result->errors};
}

static enum dtr_status forward(
    struct dtr_cuda_replica *replica, const struct dtr_batch *batch, struct dtr_error *error)
{
    dtr_cuda_staging_place(&replica->alone.staging, batch, 0);
    if (dtr_cuda_refresh(replica, error) != DTR_OK ||
        dtr_cuda_start_forward(replica, &replica->alone, error) != DTR_OK ||
        dtr_cuda_return_result(replica, &replica->alone, error) != DTR_OK)
        return error->status;
    CUDA(cudaStreamSynchronize(replica->stream));
    return DTR_OK;
}

static void cuda_forward(
    struct dtr_replica *base, const struct dtr_batch *batch, struct dtr_step_result *result_out)
{
    struct dtr_cuda_replica *replica = cuda(base);
    struct dtr_error error = DTR_ERROR_NONE;
    forward(replica, batch, &error);
    dtr_cuda_check(replica, &error);
    dtr_cuda_tell(replica, &replica->alone, result_out);
    dtr_pulse_beat();
}

/* Parameters and momenta of the host are the newest from here on, or no older than the device's. */
static void settle(struct dtr_cuda_replica *replica)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    if (replica->newest == DTR_CUDA_DEVICE)
        replica->ops.settle(&replica->base);
    exchange->wait(exchange->context, 0, replica->config.model->slab_count);
}

static double cuda_decay_loss(struct dtr_replica *base)
{
    settle(cuda(base));
    return dtr_replica_decay_loss(&cuda(base)->config);
}

/* At most the network's number of samples, from `images` and `labels` on. */
static enum dtr_status evaluate_block(struct dtr_cuda_replica *replica,
    struct dtr_cuda_block *block, const uint8_t *images, const uint8_t *labels, int64_t count,
    struct dtr_error *error)
{
    struct dtr_cuda_network *network = &replica->inference;
    CUDA(cudaEventSynchronize(block->copied));
    dtr_cuda_staging_place_samples(&block->staging, images, labels, count);
    if (dtr_cuda_staging_copy(&block->staging, replica->stream, error) != DTR_OK)
        return error->status;
    CUDA(cudaEventRecord(block->copied, replica->stream));
    network->batch = block->staging.batch;
    if (dtr_cuda_network_forward(network, error) != DTR_OK)
        return error->status;
    CUDA(dtr_cuda_count_errors(&network->batch, count, replica->config.model->classes,
        dtr_cuda_network_logits(network), replica->device_errors, replica->stream));
    dtr_pulse_beat();
    return DTR_OK;
}

static enum dtr_status evaluate(
    struct dtr_cuda_replica *replica, const struct dtr_samples *samples, struct dtr_error *error)
{
    int64_t most = replica->inference.config.n;
    if (dtr_cuda_refresh(replica, error) != DTR_OK)
        return error->status;
    CUDA(cudaMemsetAsync(
        replica->device_errors, 0, sizeof *replica->device_errors, replica->stream));
    for (int64_t first = 0; first < samples->count; first += most) {
        int64_t left = samples->count - first, count = left < most ? left : most;
        struct dtr_cuda_block *block = &replica->blocks[first / most % 2];
        if (evaluate_block(replica, block, samples->images + first * samples->image_bytes,
                samples->labels + first, count, error) != DTR_OK)
            return error->status;
    }
    CUDA(cudaMemcpyAsync(replica->errors, replica->device_errors, sizeof *replica->errors,
        cudaMemcpyDeviceToHost, replica->stream));
    CUDA(cudaStreamSynchronize(replica->stream));
    return DTR_OK;
}

static int64_t cuda_evaluate(struct dtr_replica *base, const struct dtr_samples *samples)
{
    struct dtr_cuda_replica *replica = cuda(base);
    struct dtr_error error = DTR_ERROR_NONE;
    evaluate(replica, samples, &error);
    dtr_cuda_check(replica, &error);
    return *replica->errors;
}

/* Slabs are canonical here. */
static void cuda_canonical(struct dtr_replica *base, const float *slab, float *canonical_out)
{
    memcpy(canonical_out, slab, slab_bytes(cuda(base)));
}

static void cuda_get(struct dtr_replica *base, float *weights_out)
{
    settle(cuda(base));
    cuda_canonical(base, cuda(base)->config.exchange.weights, weights_out);
}

static void cuda_set(struct dtr_replica *base, const float *weights)
{
    settle(cuda(base));
    cuda_canonical(base, weights, cuda(base)->config.exchange.weights);
    cuda(base)->newest = DTR_CUDA_HOST;
}

static const float *cuda_gradients(struct dtr_replica *base)
{
    return cuda(base)->config.exchange.gradients;
}

static float *cuda_momenta(struct dtr_replica *base)
{
    return cuda(base)->momenta;
}

static bool cuda_describe(struct dtr_replica *base, int line, char *line_out, int64_t line_bytes)
{
    const struct dtr_cuda_replica *replica = cuda(base);
    if (line >= replica->inference.count)
        return false;
    const struct dtr_cuda_stage *stage = &replica->inference.stages[line];
    bool product = stage->layer->kernel >= 0;
    dtr_replica_describe(stage->layer, stage->fused,
        stage->layer->kind == DTR_LAYER_DENSE ? "cublas" : "cuda",
        product ? dtr_precision_name(replica->device.precision) : "", line_out, line_bytes);
    return true;
}

static bool cuda_timing(struct dtr_replica *base, int entry, struct dtr_timing *timing_out)
{
    (void)base;
    (void)entry;
    (void)timing_out;
    return false;
}

/* Work first, then graphs, then what they use. */
static void cuda_destroy(struct dtr_replica *base)
{
    struct dtr_cuda_replica *replica = cuda(base);
    if (replica->stream != NULL)
        cudaStreamSynchronize(replica->stream);
    dtr_cuda_device_steps_free(replica);
    dtr_cuda_host_steps_free(replica);
    dtr_cuda_slot_free(&replica->alone);
    for (int i = 0; i < 2; i++) {
        if (replica->blocks[i].copied != NULL)
            cudaEventDestroy(replica->blocks[i].copied);
    }
    if (replica->blas != NULL)
        cublasDestroy(replica->blas);
    if (replica->stream != NULL)
        cudaStreamDestroy(replica->stream);
    dtr_cuda_memory_free(&replica->memory);
    dtr_cuda_network_free(&replica->training);
    dtr_cuda_network_free(&replica->inference);
    free(replica->own);
    free(replica->momenta);
    free(replica);
}

static const struct dtr_replica_ops common_ops = {
    .name = "cuda",
    .forward = cuda_forward,
    .decay_loss = cuda_decay_loss,
    .evaluate = cuda_evaluate,
    .get = cuda_get,
    .set = cuda_set,
    .gradients = cuda_gradients,
    .momenta = cuda_momenta,
    .canonical = cuda_canonical,
    .order = cuda_canonical,
    .describe = cuda_describe,
    .timing = cuda_timing,
    .destroy = cuda_destroy,
};

static enum dtr_status open_device(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    enum { WORKSPACE = 32 << 20 }; /* cuBLAS's own is not for captured streams */
    CUDA(cudaSetDevice(replica->device.device));
    CUDA(cudaStreamCreateWithFlags(&replica->stream, cudaStreamNonBlocking));
    CUBLAS(cublasCreate(&replica->blas));
    CUBLAS(cublasSetStream(replica->blas, replica->stream));
    void *workspace = dtr_cuda_alloc(&replica->memory, WORKSPACE, 1, "cuBLAS", error);
    if (workspace == NULL)
        return error->status;
    CUBLAS(cublasSetWorkspace(replica->blas, workspace, WORKSPACE));
    return DTR_OK;
}

static enum dtr_status compile_network(struct dtr_cuda_replica *replica, bool training, int64_t n,
    struct dtr_cuda_network *network_out, struct dtr_error *error)
{
    struct dtr_cuda_network_config network = {.model = replica->config.model,
        .n = n,
        .training = training,
        .seed = replica->config.seed,
        .precision = replica->device.precision,
        .stream = replica->stream,
        .blas = replica->blas,
        .weights = replica->weights,
        .gradients = replica->gradients};
    return dtr_cuda_network_compile(&network, &replica->memory, network_out, error);
}

/* Samples to evaluate at a time: a few blocks, but no more than there are. */
static int64_t evaluation_size(const struct dtr_replica_config *config)
{
    enum { MOST = 4 * DTR_EVALUATION_BLOCK };
    return config->largest_set > 0 && config->largest_set < MOST ? config->largest_set : MOST;
}

static enum dtr_status compile_inference(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const int64_t n = evaluation_size(&replica->config);
    struct dtr_cuda_memory *memory = &replica->memory;
    replica->weights = dtr_cuda_alloc(
        memory, replica->config.model->slab_count, sizeof(float), "parameters", error);
    replica->errors = dtr_cuda_alloc_host(memory, 1, sizeof(int64_t), "errors", error);
    replica->device_errors = dtr_cuda_alloc(memory, 1, sizeof(int64_t), "errors", error);
    if (error->status != DTR_OK)
        return error->status;
    for (int i = 0; i < 2 && error->status == DTR_OK; i++) {
        struct dtr_cuda_block *block = &replica->blocks[i];
        CUDA(cudaEventCreateWithFlags(&block->copied, cudaEventDisableTiming));
        dtr_cuda_staging_create(
            n, dtr_shape_count(replica->config.model->input), NULL, memory, &block->staging, error);
    }
    if (error->status != DTR_OK)
        return error->status;
    return compile_network(replica, false, n, &replica->inference, error);
}

static enum dtr_status compile_training(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_replica_config *config = &replica->config;
    replica->gradients = dtr_cuda_alloc(
        &replica->memory, config->model->slab_count, sizeof(float), "gradients", error);
    replica->momenta = dtr_alloc(
        config->exchange.share_count, sizeof *replica->momenta, "momenta", error);
    if (error->status != DTR_OK)
        return error->status;
    if (config->samples != NULL && dtr_cuda_resident_create(config->samples, &replica->memory,
                                       &replica->resident, error) != DTR_OK)
        return error->status;
    if (dtr_cuda_slot_create(replica, &replica->alone, error) != DTR_OK ||
        compile_network(
            replica, true, config->run.count * config->slice, &replica->training, error) != DTR_OK)
        return error->status;
    return replica->device.trains ? dtr_cuda_device_steps_create(replica, error)
                                  : dtr_cuda_host_steps_create(replica, error);
}

static enum dtr_status compile(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    struct dtr_replica_config *config = &replica->config;
    if (config->exchange.weights == NULL &&
        dtr_replica_stay_alone(config, &replica->own, error) != DTR_OK)
        return error->status;
    if (open_device(replica, error) != DTR_OK || compile_inference(replica, error) != DTR_OK)
        return error->status;
    return config->run.count > 0 ? compile_training(replica, error) : DTR_OK;
}

enum dtr_status dtr_cuda_replica_compile(const struct dtr_replica_config *config,
    const struct dtr_device_config *device, struct dtr_replica **replica_out,
    struct dtr_error *error)
{
    struct dtr_cuda_replica *replica = dtr_alloc(1, sizeof *replica, "replica", error);
    if (replica == NULL)
        return error->status;
    replica->ops = common_ops;
    replica->base.ops = &replica->ops;
    replica->config = *config;
    replica->device = *device;
    replica->newest = DTR_CUDA_HOST;
    if (compile(replica, error) != DTR_OK) {
        cuda_destroy(&replica->base);
        return error->status;
    }
    *replica_out = &replica->base;
    return DTR_OK;
}
