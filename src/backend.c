#include "backend.h"

#include "dtrain/gradsync.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Without a driver nobody has to load hundreds of megabytes to learn that there is no device. */
static bool is_driver_there(void)
{
    const char *named = getenv("DTRAIN_PLUGIN");
    return (named != NULL && named[0] != '\0') ||
           access("/proc/driver/nvidia/version", F_OK) == 0 ||
           access("/dev/dxg", F_OK) == 0; /* Windows' Linux */
}

/* The devices that this rank sees. */
static enum dtr_status find_devices(const struct dtr_options *options,
    const struct dtr_plugin **plugin_out, struct dtr_device_list *list_out, struct dtr_error *error)
{
    bool named = options->backend == DTR_BACKEND_CUDA;
    *plugin_out = NULL;
    if (options->backend == DTR_BACKEND_CPU || (!named && !is_driver_there()))
        return DTR_OK;
    const struct dtr_plugin *plugin;
    struct dtr_error missing = DTR_ERROR_NONE;
    if (dtr_plugin_load(&plugin, &missing) == DTR_OK &&
        plugin->list(list_out, &missing) == DTR_OK) {
        *plugin_out = plugin;
        return DTR_OK;
    }
    return dtr_error_set(
        error, missing.status, "%s%s", named ? "--backend cuda: " : "", missing.message);
}

/* All ranks' or none: an error of this rank's, where the backend was not named, is a reason for
 * all to take the CPU. */
static enum dtr_status agree_on_plugin(
    struct dtr_backend *backend, const struct dtr_options *options, struct dtr_error *error)
{
    struct dtr_world *world = backend->world;
    if (options->backend == DTR_BACKEND_CUDA)
        return dtr_world_agree(world, error);
    uint64_t all = dtr_world_min_u64(world, backend->plugin != NULL);
    if (!all) {
        if (error->status != DTR_OK)
            snprintf(backend->why_not, sizeof backend->why_not, "%.199s", error->message);
        else if (backend->plugin != NULL)
            snprintf(backend->why_not, sizeof backend->why_not, "some ranks have no GPU");
        backend->plugin = NULL;
        *error = DTR_ERROR_NONE;
    }
    return DTR_OK;
}

static enum dtr_status choose_precision(
    struct dtr_backend *backend, const struct dtr_options *options, const struct dtr_device *device)
{
    struct dtr_error error = DTR_ERROR_NONE;
    bool named = options->precision != DTR_PRECISION_AUTO;
    bool able = backend->plugin != NULL && device->major >= 8;
    backend->precision = able ? DTR_TF32 : DTR_FP32;
    if (named)
        backend->precision = (enum dtr_precision)(options->precision - DTR_PRECISION_FP32);
    if (backend->precision != DTR_FP32 && backend->plugin == NULL)
        dtr_error_set(&error, DTR_USAGE, "--precision %s is for GPUs, and the CPU computes here",
            dtr_precision_name(backend->precision));
    else if (backend->precision != DTR_FP32 && !able)
        dtr_error_set(&error, DTR_LAUNCH,
            "--precision %s needs compute capability 8.0, %s has %d.%d; use --precision fp32",
            dtr_precision_name(backend->precision), device->name, device->major, device->minor);
    enum dtr_status status = dtr_world_agree(backend->world, &error);
    if (status == DTR_OK) /* where only some devices could do more, all do what all can */
        backend->precision = (enum dtr_precision)dtr_world_min_u64(
            backend->world, backend->precision);
    return status;
}

/* A lower rank that has this rank's device, -1 if none does. */
static int find_sharer(const struct dtr_backend *backend)
{
    const struct dtr_placement *mine = &backend->places[backend->world->rank];
    for (int rank = 0; rank < backend->world->rank; rank++) {
        const struct dtr_placement *other = &backend->places[rank];
        if (strcmp(other->host, mine->host) == 0 &&
            strcmp(other->device.uuid, mine->device.uuid) == 0)
            return rank;
    }
    return -1;
}

static enum dtr_status place_ranks(struct dtr_backend *backend, const struct dtr_options *options,
    const struct dtr_device_list *list)
{
    struct dtr_world *world = backend->world;
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_placement mine = {.number = world->node_rank % list->count, .seen = list->count};
    mine.device = list->devices[mine.number];
    memcpy(mine.host, world->host, sizeof mine.host);
    backend->places = dtr_alloc(world->size, sizeof *backend->places, "devices", &error);
    enum dtr_status status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    dtr_world_gather(world, &mine, sizeof mine, backend->places);
    int sharer = find_sharer(backend);
    backend->shared = dtr_world_min_u64(world, sharer < 0) == 0;
    bool refused = backend->shared && !options->allow_gpu_sharing;
    if (refused && options->backend != DTR_BACKEND_CUDA) {
        snprintf(backend->why_not, sizeof backend->why_not,
            "ranks would share GPUs; start a rank per GPU, or --allow-gpu-sharing");
        backend->plugin = NULL;
        return DTR_OK;
    }
    if (refused && sharer >= 0)
        dtr_error_set(&error, DTR_LAUNCH,
            "it would share device %d (%s) with rank %d: this host has %d ranks, and they see %d "
            "GPU%s; start a rank per GPU, or share them (--allow-gpu-sharing), or --backend cpu",
            mine.number, mine.device.uuid, sharer, world->node_size, mine.seen,
            mine.seen == 1 ? "" : "s");
    dtr_pulse_gpu(mine.number);
    return dtr_world_agree(world, &error);
}

enum dtr_status dtr_backend_choose(
    struct dtr_world *world, const struct dtr_options *options, struct dtr_backend *backend_out)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_device_list list = {.count = 0};
    *backend_out = (struct dtr_backend){.world = world};
    find_devices(options, &backend_out->plugin, &list, &error);
    enum dtr_status status = agree_on_plugin(backend_out, options, &error);
    if (status == DTR_OK && backend_out->plugin != NULL)
        status = place_ranks(backend_out, options, &list);
    if (status == DTR_OK)
        status = choose_precision(backend_out, options,
            backend_out->plugin != NULL ? &backend_out->places[world->rank].device : NULL);
    return status;
}

/* Why the devices cannot train by themselves; NULL: they can. What this depends on is the same on
 * all ranks. */
static const char *reason_for_host(
    const struct dtr_backend *backend, const struct dtr_options *options)
{
    if (backend->plugin == NULL)
        return "the CPU computes here";
    if (options->reduce == DTR_REDUCE_TREE)
        return "--reduce tree is for MPI";
    if (options->on_nan == DTR_NAN_SKIP)
        return "--on-nan skip looks at a loss before the update, which only --comm mpi waits for";
    return backend->shared ? "ranks share GPUs, and NCCL wants one for each" : NULL;
}

static enum dtr_status open_collective(struct dtr_backend *backend, double limit_s)
{
    struct dtr_world *world = backend->world;
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_collective_name name = {{0}};
    if (world->rank == 0)
        backend->plugin->collective_name(&name, &error);
    enum dtr_status status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    dtr_world_broadcast(world, &name, sizeof name);
    struct dtr_collective_config config = {.name = &name,
        .device = backend->places[world->rank].number,
        .rank = world->rank,
        .size = world->size,
        .limit_s = limit_s};
    backend->plugin->collective_open(&config, &backend->collective, &error);
    return dtr_world_agree(world, &error);
}

enum dtr_status dtr_backend_connect(struct dtr_backend *backend, const struct dtr_options *options)
{
    enum { LIMIT_S = 60 };
    struct dtr_error error = DTR_ERROR_NONE;
    const char *reason = reason_for_host(backend, options);
    bool named = options->comm == DTR_COMM_NCCL;
    backend->trains = reason == NULL && options->comm != DTR_COMM_MPI;
    if (named && reason != NULL)
        dtr_error_set(&error, DTR_LAUNCH, "--comm nccl cannot be had: %s%s%s", reason,
            backend->why_not[0] != '\0' ? ": " : "", backend->why_not);
    enum dtr_status status = dtr_world_agree(backend->world, &error);
    if (status != DTR_OK || !backend->trains || (backend->world->size == 1 && !named))
        return status;
    return open_collective(backend, options->watchdog > 0 ? (double)options->watchdog : LIMIT_S);
}

void dtr_backend_free(struct dtr_backend *backend)
{
    if (backend->collective != NULL)
        backend->plugin->collective_close(backend->collective);
    backend->collective = NULL;
    free(backend->places);
    backend->places = NULL;
}

static void fail(void *context, const struct dtr_error *error)
{
    const struct dtr_backend *backend = context;
    char text[DTR_PULSE_TEXT];
    struct dtr_pulse pulse = dtr_pulse_read();
    dtr_pulse_describe(&pulse, text);
    dtr_world_abort(backend->world, text, -1, error);
}

enum dtr_status dtr_backend_compile(struct dtr_backend *backend,
    const struct dtr_replica_config *config, struct dtr_replica **replica_out,
    struct dtr_error *error)
{
    if (backend->plugin == NULL)
        return dtr_cpu_replica_compile(config, replica_out, error);
    struct dtr_device_config device = {.device = backend->places[backend->world->rank].number,
        .precision = backend->precision,
        .trains = backend->trains,
        .collective = backend->collective,
        .fail = fail,
        .context = backend};
    return backend->plugin->compile(config, &device, replica_out, error);
}
