/* Steps whose gradients the exchange sums, and whose parameters it updates, in the host's memory:
 * a layer's gradients travel while the layers below it are computed. */
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "failure.h"
#include "replica.h"

#include <stdlib.h>
#include <string.h>

static enum dtr_status start_backward(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_cuda_network *network = &replica->training;
    struct dtr_cuda_host_steps *steps = &replica->in_host;
    for (int i = network->count - 1; i >= 0; i--) {
        int64_t first, count;
        if (dtr_cuda_network_backward(network, i, error) != DTR_OK)
            return error->status;
        dtr_cuda_stage_range(replica, &network->stages[i], &first, &count);
        if (count == 0)
            continue;
        CUDA(cudaMemcpyAsync(steps->arriving + first, replica->gradients + first,
            (size_t)count * sizeof(float), cudaMemcpyDeviceToHost, replica->stream));
        CUDA(cudaEventRecord(steps->copied[i], replica->stream));
    }
    return DTR_OK;
}

/* Hands over each stage's gradients once they are there. This rank's sum is the first open node;
 * there is nothing in the others. */
static enum dtr_status hand_over(struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    const struct dtr_exchange *exchange = &replica->config.exchange;
    const struct dtr_cuda_network *network = &replica->training;
    int64_t nodes = dtr_tree_of(replica->config.run).depth;
    for (int i = network->count - 1; i >= 0; i--) {
        int64_t first, count;
        dtr_cuda_stage_range(replica, &network->stages[i], &first, &count);
        if (count == 0)
            continue;
        CUDA(cudaEventSynchronize(replica->in_host.copied[i]));
        size_t bytes = (size_t)count * sizeof(float);
        memcpy(exchange->gradients + first, replica->in_host.arriving + first, bytes);
        for (int64_t node = 1; node < nodes; node++)
            memset(exchange->gradients + node * exchange->stride + first, 0, bytes);
        dtr_pulse_beat();
        exchange->ready(exchange->context, first);
    }
    return DTR_OK;
}

static void host_backward(struct dtr_replica *base, const struct dtr_batch *batch)
{
    struct dtr_cuda_replica *replica = (struct dtr_cuda_replica *)base;
    struct dtr_error error = DTR_ERROR_NONE;
    (void)batch;
    replica->newest = DTR_CUDA_HOST;
    if (start_backward(replica, &error) == DTR_OK)
        hand_over(replica, &error);
    dtr_cuda_check(replica, &error);
}

static void host_apply(struct dtr_replica *base, int64_t first, int64_t count, int64_t place,
    const float *gradient, float rate)
{
    struct dtr_cuda_replica *replica = (struct dtr_cuda_replica *)base;
    dtr_replica_update(&replica->config, first, count, gradient, rate, replica->momenta + place);
}

enum dtr_status dtr_cuda_host_steps_create(
    struct dtr_cuda_replica *replica, struct dtr_error *error)
{
    struct dtr_cuda_host_steps *steps = &replica->in_host;
    steps->arriving = dtr_cuda_alloc_host(
        &replica->memory, replica->config.model->slab_count, sizeof(float), "gradients", error);
    steps->copied = dtr_alloc(replica->training.count, sizeof *steps->copied, "events", error);
    for (int i = 0; i < replica->training.count && error->status == DTR_OK; i++)
        CUDA(cudaEventCreateWithFlags(&steps->copied[i], cudaEventDisableTiming));
    replica->ops.backward = host_backward;
    replica->ops.apply = host_apply;
    return error->status;
}

void dtr_cuda_host_steps_free(struct dtr_cuda_replica *replica)
{
    struct dtr_cuda_host_steps *steps = &replica->in_host;
    for (int i = 0; steps->copied != NULL && i < replica->training.count; i++) {
        if (steps->copied[i] != NULL)
            cudaEventDestroy(steps->copied[i]);
    }
    free(steps->copied);
}
