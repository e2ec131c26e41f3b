#include "replica.h"

#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "failure.h"
#include "network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A batch, or samples to evaluate, on their way to the device: written by the host, copied before
 * the network runs. */
struct staging {
    uint8_t *images, *labels; /* [n, ...] */
    int32_t *places, *samples;
    float *weight;
    struct dtr_cuda_cursor *cursor;
};

/* A network with what it reads. */
struct part {
    struct dtr_cuda_network network;
    struct staging host, device;
};

struct cuda_replica {
    struct dtr_replica base;
    struct dtr_replica_config config;
    struct dtr_device_config device;
    struct dtr_cuda_memory memory;
    float *own;                 /* slabs, where there is no exchange to have them */
    float *momenta;             /* [share_count] */
    float *weights, *gradients; /* device: slabs */
    float *arriving;            /* pinned: a slab of gradients */
    bool stale;                 /* the device's weights are older than the exchange's */
    cudaStream_t stream;
    cublasHandle_t blas;
    struct part training, inference;
    cudaEvent_t *copied; /* [stages] of training: a stage's gradients are in `arriving` */
    struct dtr_cuda_result *losses; /* pinned [n]: of the samples */
    double *shard_losses;           /* [shards] */
    int64_t *errors, *device_errors;
};

static struct cuda_replica *cuda(struct dtr_replica *replica)
{
    return (struct cuda_replica *)replica;
}

/* A pass has no way to fail but to end the job. */
static void check(const struct cuda_replica *replica, const struct dtr_error *error)
{
    if (error->status != DTR_OK)
        replica->device.fail(replica->device.context, error);
}

static int64_t image_bytes(const struct cuda_replica *replica)
{
    return dtr_shape_count(replica->config.model->input);
}

static enum dtr_status copy_to_device(
    const struct cuda_replica *replica, const struct part *part, struct dtr_error *error)
{
    const struct staging *host = &part->host, *device = &part->device;
    size_t n = (size_t)part->network.config.n;
    cudaStream_t stream = replica->stream;
    CUDA(cudaMemcpyAsync(device->images, host->images, n * (size_t)image_bytes(replica),
        cudaMemcpyHostToDevice, stream));
    CUDA(cudaMemcpyAsync(device->labels, host->labels, n, cudaMemcpyHostToDevice, stream));
    CUDA(cudaMemcpyAsync(
        device->places, host->places, n * sizeof(int32_t), cudaMemcpyHostToDevice, stream));
    CUDA(cudaMemcpyAsync(
        device->samples, host->samples, n * sizeof(int32_t), cudaMemcpyHostToDevice, stream));
    CUDA(cudaMemcpyAsync(
        device->weight, host->weight, sizeof(float), cudaMemcpyHostToDevice, stream));
    CUDA(cudaMemcpyAsync(
        device->cursor, host->cursor, sizeof *host->cursor, cudaMemcpyHostToDevice, stream));
    return DTR_OK;
}

/* The newest parameters, in the host's memory and the device's. */
static enum dtr_status refresh(struct cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    size_t bytes = (size_t)replica->config.model->slab_count * sizeof(float);
    exchange->wait(exchange->context, 0, replica->config.model->slab_count);
    if (replica->stale)
        CUDA(cudaMemcpyAsync(
            replica->weights, exchange->weights, bytes, cudaMemcpyHostToDevice, replica->stream));
    replica->stale = false;
    return DTR_OK;
}

static void place_batch(struct cuda_replica *replica, const struct dtr_batch *batch)
{
    struct staging *host = &replica->training.host;
    int64_t bytes = image_bytes(replica), i = 0;
    for (int64_t s = 0; s < batch->slice_count; s++) {
        const struct dtr_slice *slice = &batch->slices[s];
        for (int64_t j = 0; j < batch->slice_size; j++, i++) {
            bool real = slice->images[j] != NULL;
            if (real)
                memcpy(host->images + i * bytes, slice->images[j], (size_t)bytes);
            host->labels[i] = slice->labels[j];
            host->places[i] = real ? (int32_t)i : -1;
            host->samples[i] = (int32_t)slice->samples[j];
        }
    }
    *host->weight = 1 / (float)batch->real;
    *host->cursor = (struct dtr_cuda_cursor){.row = 0, .epoch = (uint32_t)batch->epoch};
}

static enum dtr_status forward(
    struct cuda_replica *replica, const struct dtr_batch *batch, struct dtr_error *error)
{
    const struct dtr_cuda_network *network = &replica->training.network;
    place_batch(replica, batch);
    if (refresh(replica, error) != DTR_OK ||
        copy_to_device(replica, &replica->training, error) != DTR_OK ||
        dtr_cuda_network_forward(network, error) != DTR_OK ||
        dtr_cuda_network_loss(network, error) != DTR_OK)
        return error->status;
    CUDA(cudaMemcpyAsync(replica->losses, network->losses,
        (size_t)network->config.n * sizeof *replica->losses, cudaMemcpyDeviceToHost,
        replica->stream));
    CUDA(cudaStreamSynchronize(replica->stream));
    return DTR_OK;
}

static void cuda_forward(
    struct dtr_replica *base, const struct dtr_batch *batch, struct dtr_step_result *result_out)
{
    struct cuda_replica *replica = cuda(base);
    struct dtr_error error = DTR_ERROR_NONE;
    forward(replica, batch, &error);
    check(replica, &error);
    double *sums = replica->shard_losses;
    const struct dtr_cuda_result *losses = replica->losses;
    result_out->errors = 0;
    for (int64_t s = 0; s < batch->slice_count; s++) {
        sums[s] = 0;
        for (int64_t i = 0; i < batch->slice_size; i++, losses++) {
            sums[s] += losses->loss;
            result_out->errors += (int64_t)losses->errors;
        }
    }
    result_out->loss = dtr_tree_sum_scalars(replica->config.run, sums);
    dtr_pulse_beat();
}

/* Slab elements of a stage's kernel and bias. */
static void range_of(const struct cuda_replica *replica, const struct dtr_cuda_stage *stage,
    int64_t *first_out, int64_t *count_out)
{
    const struct dtr_tensor *tensors = replica->config.model->tensors;
    const struct dtr_tensor *bias = &tensors[stage->layer->bias];
    *first_out = tensors[stage->layer->kernel].offset;
    *count_out = bias->offset + bias->count - *first_out;
}

static enum dtr_status start_backward(struct cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_cuda_network *network = &replica->training.network;
    for (int i = network->count - 1; i >= 0; i--) {
        const struct dtr_cuda_stage *stage = &network->stages[i];
        int64_t first, count;
        if (dtr_cuda_network_backward(network, i, error) != DTR_OK)
            return error->status;
        if (stage->layer->kernel < 0)
            continue;
        range_of(replica, stage, &first, &count);
        CUDA(cudaMemcpyAsync(replica->arriving + first, replica->gradients + first,
            (size_t)count * sizeof(float), cudaMemcpyDeviceToHost, replica->stream));
        CUDA(cudaEventRecord(replica->copied[i], replica->stream));
    }
    return DTR_OK;
}

/* Hands over each stage's gradients once they are there. This rank's sum is the first open node;
 * there is nothing in the others. */
static enum dtr_status hand_over(struct cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    const struct dtr_cuda_network *network = &replica->training.network;
    int64_t nodes = dtr_tree_of(replica->config.run).depth;
    for (int i = network->count - 1; i >= 0; i--) {
        const struct dtr_cuda_stage *stage = &network->stages[i];
        int64_t first, count;
        if (stage->layer->kernel < 0)
            continue;
        range_of(replica, stage, &first, &count);
        CUDA(cudaEventSynchronize(replica->copied[i]));
        size_t bytes = (size_t)count * sizeof(float);
        memcpy(exchange->gradients + first, replica->arriving + first, bytes);
        for (int64_t node = 1; node < nodes; node++)
            memset(exchange->gradients + node * exchange->stride + first, 0, bytes);
        dtr_pulse_beat();
        exchange->ready(exchange->context, first);
    }
    return DTR_OK;
}

static void cuda_backward(struct dtr_replica *base, const struct dtr_batch *batch)
{
    struct cuda_replica *replica = cuda(base);
    struct dtr_error error = DTR_ERROR_NONE;
    (void)batch;
    replica->stale = true;
    if (start_backward(replica, &error) == DTR_OK)
        hand_over(replica, &error);
    check(replica, &error);
}

static void cuda_apply(struct dtr_replica *base, int64_t first, int64_t count, int64_t place,
    const float *gradient, float rate)
{
    struct cuda_replica *replica = cuda(base);
    dtr_replica_update(&replica->config, first, count, gradient, rate, replica->momenta + place);
}

static void wait_for_all(const struct cuda_replica *replica)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    exchange->wait(exchange->context, 0, replica->config.model->slab_count);
}

static double cuda_decay_loss(struct dtr_replica *base)
{
    wait_for_all(cuda(base));
    return dtr_replica_decay_loss(&cuda(base)->config);
}

/* At most the network's number of samples, from `images` and `labels` on. */
static enum dtr_status evaluate_some(struct cuda_replica *replica, const uint8_t *images,
    const uint8_t *labels, int64_t count, struct dtr_error *error)
{
    struct part *part = &replica->inference;
    CUDA(cudaStreamSynchronize(replica->stream)); /* the last ones have been copied */
    memcpy(part->host.images, images, (size_t)(count * image_bytes(replica)));
    memcpy(part->host.labels, labels, (size_t)count);
    if (copy_to_device(replica, part, error) != DTR_OK ||
        dtr_cuda_network_forward(&part->network, error) != DTR_OK)
        return error->status;
    CUDA(dtr_cuda_count_errors(&part->network.batch, count, replica->config.model->classes,
        dtr_cuda_network_logits(&part->network), replica->device_errors, replica->stream));
    dtr_pulse_beat();
    return DTR_OK;
}

static enum dtr_status evaluate(
    struct cuda_replica *replica, const struct dtr_samples *samples, struct dtr_error *error)
{
    int64_t most = replica->inference.network.config.n;
    if (refresh(replica, error) != DTR_OK)
        return error->status;
    CUDA(cudaMemsetAsync(
        replica->device_errors, 0, sizeof *replica->device_errors, replica->stream));
    for (int64_t first = 0; first < samples->count; first += most) {
        int64_t left = samples->count - first, count = left < most ? left : most;
        if (evaluate_some(replica, samples->images + first * samples->image_bytes,
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
    struct cuda_replica *replica = cuda(base);
    struct dtr_error error = DTR_ERROR_NONE;
    evaluate(replica, samples, &error);
    check(replica, &error);
    return *replica->errors;
}

/* Slabs are canonical here. */
static void cuda_canonical(struct dtr_replica *base, const float *slab, float *canonical_out)
{
    memcpy(canonical_out, slab, (size_t)cuda(base)->config.model->slab_count * sizeof *slab);
}

static void cuda_get(struct dtr_replica *base, float *weights_out)
{
    wait_for_all(cuda(base));
    cuda_canonical(base, cuda(base)->config.exchange.weights, weights_out);
}

static void cuda_set(struct dtr_replica *base, const float *weights)
{
    wait_for_all(cuda(base));
    cuda_canonical(base, weights, cuda(base)->config.exchange.weights);
    cuda(base)->stale = true;
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
    const struct cuda_replica *replica = cuda(base);
    const struct dtr_cuda_network *network = &replica->inference.network;
    if (line >= network->count)
        return false;
    const struct dtr_cuda_stage *stage = &network->stages[line];
    bool product = stage->layer->kernel >= 0;
    static const char *const precisions[] = {"fp32", "tf32", "bf16"};
    dtr_replica_describe(stage->layer, stage->fused,
        stage->layer->kind == DTR_LAYER_DENSE ? "cublas" : "cuda",
        product ? precisions[replica->device.precision] : "", line_out, line_bytes);
    return true;
}

static bool cuda_timing(struct dtr_replica *base, int entry, struct dtr_timing *timing_out)
{
    (void)base;
    (void)entry;
    (void)timing_out;
    return false;
}

static void cuda_destroy(struct dtr_replica *base)
{
    struct cuda_replica *replica = cuda(base);
    if (replica->stream != NULL)
        cudaStreamSynchronize(replica->stream);
    for (int i = 0; replica->copied != NULL && i < replica->training.network.count; i++) {
        if (replica->copied[i] != NULL)
            cudaEventDestroy(replica->copied[i]);
    }
    if (replica->blas != NULL)
        cublasDestroy(replica->blas);
    if (replica->stream != NULL)
        cudaStreamDestroy(replica->stream);
    dtr_cuda_memory_free(&replica->memory);
    dtr_cuda_network_free(&replica->training.network);
    dtr_cuda_network_free(&replica->inference.network);
    free(replica->copied);
    free(replica->shard_losses);
    free(replica->own);
    free(replica->momenta);
    free(replica);
}

static const struct dtr_replica_ops cuda_ops = {
    .name = "cuda",
    .forward = cuda_forward,
    .backward = cuda_backward,
    .apply = cuda_apply,
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

typedef void *allocate(struct dtr_cuda_memory *memory, int64_t count, int64_t size,
    const char *what, struct dtr_error *error);

static void alloc_staging(struct cuda_replica *replica, allocate *take, int64_t n,
    struct staging *staging_out, struct dtr_error *error)
{
    struct dtr_cuda_memory *memory = &replica->memory;
    staging_out->images = take(memory, n, image_bytes(replica), "a batch", error);
    staging_out->labels = take(memory, n, 1, "a batch", error);
    staging_out->places = take(memory, n, sizeof(int32_t), "a batch", error);
    staging_out->samples = take(memory, n, sizeof(int32_t), "a batch", error);
    staging_out->weight = take(memory, 1, sizeof(float), "a batch", error);
    staging_out->cursor = take(memory, 1, sizeof(struct dtr_cuda_cursor), "a batch", error);
}

static enum dtr_status compile_part(struct cuda_replica *replica, bool training, int64_t n,
    struct part *part, struct dtr_error *error)
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
    alloc_staging(replica, dtr_cuda_alloc_host, n, &part->host, error);
    alloc_staging(replica, dtr_cuda_alloc, n, &part->device, error);
    if (error->status != DTR_OK ||
        dtr_cuda_network_compile(&network, &replica->memory, &part->network, error) != DTR_OK)
        return error->status;
    for (int64_t i = 0; i < n; i++)
        part->host.places[i] = (int32_t)i;
    part->network.batch = (struct dtr_cuda_batch){.cursor = part->device.cursor,
        .n = n,
        .images = part->device.images,
        .labels = part->device.labels,
        .places = part->device.places,
        .samples = part->device.samples,
        .weights = part->device.weight};
    return DTR_OK;
}

static enum dtr_status open_device(struct cuda_replica *replica, struct dtr_error *error)
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

static enum dtr_status compile_training(struct cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_replica_config *config = &replica->config;
    int64_t n = config->run.count * config->slice, slab = config->model->slab_count;
    struct dtr_cuda_memory *memory = &replica->memory;
    replica->gradients = dtr_cuda_alloc(memory, slab, sizeof(float), "gradients", error);
    replica->arriving = dtr_cuda_alloc_host(memory, slab, sizeof(float), "gradients", error);
    replica->losses = dtr_cuda_alloc_host(memory, n, sizeof *replica->losses, "losses", error);
    replica->shard_losses = dtr_alloc(
        config->run.count, sizeof *replica->shard_losses, "losses", error);
    replica->momenta = dtr_alloc(
        config->exchange.share_count, sizeof *replica->momenta, "momenta", error);
    if (error->status != DTR_OK ||
        compile_part(replica, true, n, &replica->training, error) != DTR_OK)
        return error->status;
    replica->copied = dtr_alloc(
        replica->training.network.count, sizeof *replica->copied, "events", error);
    for (int i = 0; i < replica->training.network.count && error->status == DTR_OK; i++)
        CUDA(cudaEventCreateWithFlags(&replica->copied[i], cudaEventDisableTiming));
    return error->status;
}

static enum dtr_status compile(struct cuda_replica *replica, struct dtr_error *error)
{
    enum { EVALUATION_BLOCKS = 4 };
    struct dtr_replica_config *config = &replica->config;
    if (config->exchange.weights == NULL &&
        dtr_replica_stay_alone(config, &replica->own, error) != DTR_OK)
        return error->status;
    if (open_device(replica, error) != DTR_OK)
        return error->status;
    replica->stale = true;
    replica->weights = dtr_cuda_alloc(
        &replica->memory, config->model->slab_count, sizeof(float), "parameters", error);
    replica->errors = dtr_cuda_alloc_host(&replica->memory, 1, sizeof(int64_t), "errors", error);
    replica->device_errors = dtr_cuda_alloc(&replica->memory, 1, sizeof(int64_t), "errors", error);
    if (error->status != DTR_OK ||
        compile_part(replica, false, EVALUATION_BLOCKS * DTR_EVALUATION_BLOCK, &replica->inference,
            error) != DTR_OK)
        return error->status;
    return config->run.count > 0 ? compile_training(replica, error) : DTR_OK;
}

enum dtr_status dtr_cuda_replica_compile(const struct dtr_replica_config *config,
    const struct dtr_device_config *device, struct dtr_replica **replica_out,
    struct dtr_error *error)
{
    struct cuda_replica *replica = dtr_alloc(1, sizeof *replica, "replica", error);
    if (replica == NULL)
        return error->status;
    replica->base.ops = &cuda_ops;
    replica->config = *config;
    replica->device = *device;
    if (compile(replica, error) != DTR_OK) {
        cuda_destroy(&replica->base);
        return error->status;
    }
    *replica_out = &replica->base;
    return DTR_OK;
}
