/*
 * Steps that the device does alone. The first one's work is put on the streams as it is, which
 * loads what CUDA, cuBLAS and NCCL load late; after that a slot's is captured once in a graph, and
 * one launch is a step:
 *
 *     stream  copy the batch | forward, loss | backward: stage n ..... stage 1 | wait | result back
 *     side                                              | sum, update | ... | sum, update |
 *
 * What changes from step to step (samples, rate, epoch) lies in the slot's memory, so that its
 * graph never does.
 */
#include "dtrain/backoff.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "failure.h"
#include "replica.h"

#include <stdlib.h>
#include <string.h>

enum { DECAY_GROUP = 16 }; /* floats, dtr_cuda_update() */

/* Gradients [first, end) are complete: their sum over ranks, and the update. No pass reads these
 * parameters any more in this step. */
static enum dtr_status update_range(struct dtr_cuda_replica *replica, int64_t first, int64_t end,
    cudaEvent_t ready, struct dtr_error *error)
{
    const struct dtr_cuda_device_steps *steps = &replica->on_device;
    const struct dtr_cuda_sgd sgd = {.mu = replica->config.momentum,
        .decay = replica->config.weight_decay,
        .decayed = steps->decayed + first / DECAY_GROUP};
    struct dtr_collective *collective = replica->device.collective;
    float *gradients = replica->gradients + first;
    CUDA(cudaEventRecord(ready, replica->stream));
    CUDA(cudaStreamWaitEvent(steps->side, ready, 0));
    if (collective != NULL &&
        dtr_cuda_collective_sum(collective, gradients, end - first, steps->side, error) != DTR_OK)
        return error->status;
    CUDA(dtr_cuda_update(&sgd, replica->training.batch.step, end - first, gradients,
        steps->momenta + first, replica->weights + first, steps->side));
    return DTR_OK;
}

/* Backwards through all stages, with an update whenever a bucket of gradients is complete. */
static enum dtr_status backward(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_cuda_network *network = &replica->training;
    const struct dtr_cuda_device_steps *steps = &replica->on_device;
    int64_t end = replica->config.model->slab_count, first, count;
    for (int i = network->count - 1; i >= 0; i--) {
        if (dtr_cuda_network_backward(network, i, error) != DTR_OK)
            return error->status;
        dtr_cuda_stage_range(replica, &network->stages[i], &first, &count);
        if (count == 0 || (first > 0 && end - first < replica->config.exchange.bucket))
            continue;
        if (update_range(replica, first, end, steps->ready[i], error) != DTR_OK)
            return error->status;
        end = first;
    }
    CUDA(cudaEventRecord(steps->updated, steps->side));
    CUDA(cudaStreamWaitEvent(replica->stream, steps->updated, 0));
    return DTR_OK;
}

static enum dtr_status run_step(
    struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot, struct dtr_error *error)
{
    if (dtr_cuda_start_forward(replica, slot, error) != DTR_OK ||
        backward(replica, error) != DTR_OK)
        return error->status;
    return dtr_cuda_return_result(replica, slot, error);
}

static enum dtr_status capture(
    struct dtr_cuda_replica *replica, struct dtr_cuda_slot *slot, struct dtr_error *error)
{
    cudaGraph_t graph = NULL;
    CUDA(cudaStreamBeginCapture(replica->stream, cudaStreamCaptureModeThreadLocal));
    run_step(replica, slot, error);
    cudaError_t ended = cudaStreamEndCapture(replica->stream, &graph);
    if (error->status != DTR_OK)
        return error->status;
    if (ended != cudaSuccess)
        return dtr_cuda_failed(error, ended, "cudaStreamEndCapture");
    cudaError_t made = cudaGraphInstantiate(&slot->graph, graph, 0);
    if (cudaGraphDestroy(graph) != cudaSuccess)
        cudaGetLastError(); /* no harm is done, but the next kernel would find it */
    return made == cudaSuccess ? DTR_OK : dtr_cuda_failed(error, made, "cudaGraphInstantiate");
}

static enum dtr_status start_step(struct dtr_cuda_replica *replica, const struct dtr_batch *batch,
    float rate, struct dtr_error *error)
{
    struct dtr_cuda_device_steps *steps = &replica->on_device;
    struct dtr_cuda_slot *slot = &steps->slots[steps->started % DTR_STEPS_AHEAD];
    bool first = steps->started == 0;
    dtr_cuda_staging_place(&slot->staging, batch, rate);
    if (dtr_cuda_refresh(replica, error) != DTR_OK)
        return error->status;
    if (first ? run_step(replica, slot, error) != DTR_OK
              : slot->graph == NULL && capture(replica, slot, error) != DTR_OK)
        return error->status;
    if (!first)
        CUDA(cudaGraphLaunch(slot->graph, replica->stream));
    CUDA(cudaEventRecord(slot->done, replica->stream));
    steps->started++;
    replica->newest = DTR_CUDA_DEVICE;
    return DTR_OK;
}

static void device_start_step(struct dtr_replica *base, const struct dtr_batch *batch, float rate)
{
    struct dtr_cuda_replica *replica = (struct dtr_cuda_replica *)base;
    struct dtr_error error = DTR_ERROR_NONE;
    start_step(replica, batch, rate, &error);
    dtr_cuda_check(replica, &error);
    dtr_pulse_beat();
}

/* Until the device has come to the event, or another rank's failure is known. */
static enum dtr_status wait_for(
    const struct dtr_cuda_replica *replica, cudaEvent_t event, struct dtr_error *error)
{
    struct dtr_backoff backoff = {0};
    cudaError_t state;
    while ((state = cudaEventQuery(event)) == cudaErrorNotReady) {
        cudaGetLastError(); /* that was no error */
        if (dtr_cuda_collective_check(replica->device.collective, error) != DTR_OK)
            return error->status;
        dtr_backoff_wait(&backoff);
    }
    return state == cudaSuccess ? DTR_OK : dtr_cuda_failed(error, state, "cudaEventQuery");
}

static void device_finish_step(struct dtr_replica *base, struct dtr_step_result *result_out)
{
    struct dtr_cuda_replica *replica = (struct dtr_cuda_replica *)base;
    struct dtr_cuda_device_steps *steps = &replica->on_device;
    const struct dtr_cuda_slot *slot = &steps->slots[steps->finished % DTR_STEPS_AHEAD];
    struct dtr_error error = DTR_ERROR_NONE;
    if (replica->device.collective != NULL)
        dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0); /* the sums need all of them */
    wait_for(replica, slot->done, &error);
    dtr_pulse_leave();
    dtr_cuda_check(replica, &error);
    dtr_cuda_tell(replica, slot, result_out);
    steps->finished++;
}

static enum dtr_status settle(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    size_t bytes = (size_t)replica->config.model->slab_count * sizeof(float);
    if (replica->newest != DTR_CUDA_DEVICE)
        return DTR_OK;
    CUDA(cudaMemcpyAsync(replica->config.exchange.weights, replica->weights, bytes,
        cudaMemcpyDeviceToHost, replica->stream));
    CUDA(cudaMemcpyAsync(replica->momenta, replica->on_device.momenta, bytes,
        cudaMemcpyDeviceToHost, replica->stream));
    CUDA(cudaStreamSynchronize(replica->stream));
    replica->newest = DTR_CUDA_BOTH;
    return DTR_OK;
}

static void device_settle(struct dtr_replica *base)
{
    struct dtr_cuda_replica *replica = (struct dtr_cuda_replica *)base;
    struct dtr_error error = DTR_ERROR_NONE;
    settle(replica, &error);
    dtr_cuda_check(replica, &error);
}

/* A slab's groups of floats that decay. */
static enum dtr_status mark_decayed(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_model *model = replica->config.model;
    int64_t groups = model->slab_count / DECAY_GROUP;
    uint8_t *decayed = dtr_alloc(groups, 1, "weight decay", error);
    if (decayed == NULL)
        return error->status;
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        if (dtr_replica_decays(&replica->config, tensor))
            memset(decayed + tensor->offset / DECAY_GROUP, 1,
                (size_t)((tensor->count + DECAY_GROUP - 1) / DECAY_GROUP));
    }
    cudaError_t copied = cudaMemcpy(
        replica->on_device.decayed, decayed, (size_t)groups, cudaMemcpyHostToDevice);
    free(decayed);
    return copied == cudaSuccess ? DTR_OK : dtr_cuda_failed(error, copied, "cudaMemcpy");
}

enum dtr_status dtr_cuda_device_steps_create(
    struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    struct dtr_cuda_device_steps *steps = &replica->on_device;
    struct dtr_cuda_memory *memory = &replica->memory;
    int64_t slab = replica->config.model->slab_count;
    replica->ops.start_step = device_start_step;
    replica->ops.finish_step = device_finish_step;
    replica->ops.settle = device_settle;
    steps->momenta = dtr_cuda_alloc(memory, slab, sizeof(float), "momenta", error);
    steps->decayed = dtr_cuda_alloc(memory, slab / DECAY_GROUP, 1, "weight decay", error);
    steps->ready = dtr_alloc(replica->training.count, sizeof *steps->ready, "events", error);
    if (error->status != DTR_OK || mark_decayed(replica, error) != DTR_OK)
        return error->status;
    CUDA(cudaStreamCreateWithFlags(&steps->side, cudaStreamNonBlocking));
    CUDA(cudaEventCreateWithFlags(&steps->updated, cudaEventDisableTiming));
    for (int i = 0; i < replica->training.count; i++)
        CUDA(cudaEventCreateWithFlags(&steps->ready[i], cudaEventDisableTiming));
    for (int i = 0; i < DTR_STEPS_AHEAD && error->status == DTR_OK; i++)
        dtr_cuda_slot_create(replica, &steps->slots[i], error);
    return error->status;
}

void dtr_cuda_device_steps_free(struct dtr_cuda_replica *replica)
{
    struct dtr_cuda_device_steps *steps = &replica->on_device;
    for (int i = 0; i < DTR_STEPS_AHEAD; i++)
        dtr_cuda_slot_free(&steps->slots[i]);
    for (int i = 0; steps->ready != NULL && i < replica->training.count; i++) {
        if (steps->ready[i] != NULL)
            cudaEventDestroy(steps->ready[i]);
    }
    free(steps->ready);
    if (steps->updated != NULL)
        cudaEventDestroy(steps->updated);
    if (steps->side != NULL)
        cudaStreamDestroy(steps->side);
}
