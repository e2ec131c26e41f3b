#include "collective.h"

#include "dtrain/backoff.h"
#include "dtrain/clock.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "failure.h"

#include <nccl.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(ncclUniqueId) == sizeof(struct dtr_collective_name), "a name is an id");

struct dtr_collective {
    ncclComm_t comm;
    double limit_s;
};

static enum dtr_status failed(const struct dtr_collective *collective, const char *call,
    ncclResult_t result, struct dtr_error *error)
{
    const char *detail = collective == NULL ? "" : ncclGetLastError(collective->comm);
    return dtr_error_set(error, DTR_FAILED, "%s: %s%s%s", call, ncclGetErrorString(result),
        detail[0] != '\0' ? ": " : "", detail);
}

enum dtr_status dtr_cuda_collective_name(
    struct dtr_collective_name *name_out, struct dtr_error *error)
{
    ncclUniqueId id;
    ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess)
        return failed(NULL, "ncclGetUniqueId", result, error);
    memcpy(name_out, &id, sizeof id);
    return DTR_OK;
}

/* What has become of a call: while it goes on, other ranks are waited for. */
static enum dtr_status finish(struct dtr_collective *collective, const char *call,
    ncclResult_t result, struct dtr_error *error)
{
    struct dtr_backoff backoff = {0};
    double end_s = dtr_clock_s() + collective->limit_s;
    while (result == ncclInProgress && dtr_clock_s() < end_s) {
        dtr_backoff_wait(&backoff);
        ncclResult_t asked = ncclCommGetAsyncError(collective->comm, &result);
        result = asked != ncclSuccess ? asked : result;
    }
    if (result == ncclSuccess)
        return DTR_OK;
    if (result == ncclInProgress)
        return dtr_error_set(error, DTR_FAILED, "%s: other ranks have not joined for %.0f s", call,
            collective->limit_s);
    return failed(collective, call, result, error);
}

enum dtr_status dtr_cuda_collective_open(const struct dtr_collective_config *config,
    struct dtr_collective **collective_out, struct dtr_error *error)
{
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    options.blocking = 0;
    ncclUniqueId id;
    memcpy(&id, config->name, sizeof id);
    CUDA(cudaSetDevice(config->device));
    struct dtr_collective *collective = dtr_alloc(1, sizeof *collective, "NCCL", error);
    if (collective == NULL)
        return error->status;
    collective->limit_s = config->limit_s;
    ncclResult_t result = ncclCommInitRankConfig(
        &collective->comm, config->size, id, config->rank, &options);
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    finish(collective, "ncclCommInitRankConfig", result, error);
    dtr_pulse_leave();
    if (error->status == DTR_OK) {
        *collective_out = collective;
        return DTR_OK;
    }
    if (collective->comm != NULL)
        ncclCommAbort(collective->comm);
    free(collective);
    return error->status;
}

void dtr_cuda_collective_close(struct dtr_collective *collective)
{
    struct dtr_error ignored;
    if (collective == NULL)
        return;
    /* To finalize waits for what is under way; where that fails, to abort does not. */
    if (finish(collective, "ncclCommFinalize", ncclCommFinalize(collective->comm), &ignored) ==
        DTR_OK)
        ncclCommDestroy(collective->comm);
    else
        ncclCommAbort(collective->comm);
    free(collective);
}

enum dtr_status dtr_cuda_collective_sum(struct dtr_collective *collective, float *values,
    int64_t count, cudaStream_t stream, struct dtr_error *error)
{
    return finish(collective, "ncclAllReduce",
        ncclAllReduce(values, values, (size_t)count, ncclFloat, ncclSum, collective->comm, stream),
        error);
}

enum dtr_status dtr_cuda_collective_check(
    struct dtr_collective *collective, struct dtr_error *error)
{
    ncclResult_t state;
    if (collective == NULL)
        return DTR_OK;
    ncclResult_t result = ncclCommGetAsyncError(collective->comm, &state);
    if (result == ncclSuccess)
        result = state == ncclInProgress ? ncclSuccess : state;
    return result == ncclSuccess ? DTR_OK : failed(collective, "NCCL", result, error);
}
