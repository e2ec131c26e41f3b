/*
 * From options to a trainer that is ready to run, phase by phase. Every rank does every phase's
 * checks and keeps its error to itself until the ranks agree at the end of the phase.
 */
#include "dtrain/trainer.h"

#include "ahead.h"
#include "alike.h"
#include "backend.h"
#include "dtrain/clock.h"
#include "dtrain/cpu.h"
#include "dtrain/evaluate.h"
#include "dtrain/host_read.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "dtrain/threads.h"
#include "resume.h"
#include "slurm.h"
#include "stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_SHARDS = 8, REFERENCE_BATCH = 64, DEFAULT_BUCKET_BYTES = 1 << 18 };

/* The smallest divisor of `number` that is at least `least`. */
static int64_t divisor_from(int64_t number, int64_t least)
{
    while (number % least != 0)
        least++;
    return least;
}

/* Batch and shards from what was named and the number of ranks. */
static enum dtr_status resolve_batch(struct dtr_options *options, const struct dtr_world *world,
    bool resumed, struct dtr_error *error)
{
    long long ranks = world->size;
    if (options->batch_per_rank > 0 && !resumed) {
        options->batch_size = options->batch_per_rank * ranks;
        options->shards = ranks;
        return DTR_OK;
    }
    long long batch = options->batch_size;
    if (ranks > batch)
        return dtr_error_set(error, DTR_USAGE,
            "%lld ranks share --batch-size %lld, but each needs at least one sample of a batch; "
            "use at most %lld ranks or --batch-size %lld (or --batch-per-rank)",
            ranks, batch, batch, ranks);
    if (options->shards == 0)
        options->shards = ranks <= DEFAULT_SHARDS ? DEFAULT_SHARDS
                                                  : divisor_from(options->batch_size, ranks);
    long long shards = options->shards;
    if (ranks > shards)
        return dtr_error_set(error, DTR_USAGE,
            "%lld ranks, but --shards %lld: a rank owns at least one shard; use at most %lld ranks "
            "or more shards",
            ranks, shards, shards);
    if (batch % shards == 0)
        return DTR_OK;
    long long below = batch / shards * shards, above = below + shards;
    char nearest[64];
    if (below > 0)
        snprintf(nearest, sizeof nearest, "%lld or %lld", below, above);
    else
        snprintf(nearest, sizeof nearest, "%lld", above);
    return dtr_error_set(error, DTR_USAGE,
        "--batch-size %lld is not a multiple of %lld shards; the nearest that fit are %s, or give "
        "--shards a divisor of %lld (at least the %lld ranks)",
        batch, shards, nearest, batch, ranks);
}

static enum dtr_status resolve_options(struct dtr_trainer *trainer, struct dtr_error *error)
{
    struct dtr_options *options = &trainer->options;
    const struct dtr_world *world = trainer->world;
    bool resumed = trainer->resumed.path != NULL;
    /* What a run has used so far is not asked for on other CPUs. */
    bool any_isa = resumed && !dtr_options_named(options, "isa");
    if (dtr_schedule_parse(options->lr_schedule, &trainer->schedule, error) != DTR_OK ||
        resolve_batch(options, world, resumed, error) != DTR_OK ||
        dtr_isa_choose(any_isa ? 0 : options->isa, &trainer->isa, error) != DTR_OK)
        return error->status;
    if (any_isa && options->isa > 0 && (int)trainer->isa >= options->isa)
        trainer->isa = (enum dtr_isa)(options->isa - 1);
    options->threads = dtr_threads_choose(options->threads, world->cores);
    return DTR_OK;
}

/* A run goes on with its own network; who names one hears if it is another. */
static enum dtr_status load_model(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const struct dtr_checkpoint_file *resumed = &trainer->resumed;
    const char *name = trainer->options.model;
    if (resumed->path != NULL && !dtr_options_named(&trainer->options, "model"))
        return dtr_model_parse(resumed->model->text, resumed->path, &trainer->model, error);
    if (dtr_model_load(name, &trainer->model, error) != DTR_OK || resumed->path == NULL ||
        dtr_model_equal(trainer->model, resumed->model))
        return error->status;
    return dtr_error_set(error, DTR_USAGE,
        "--model %s contradicts %s, whose network is another; leave it out to go on with that run",
        name, resumed->path);
}

static enum dtr_status open_data(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const struct dtr_options *options = &trainer->options;
    if (dtr_open_data(options, &trainer->dataset, error) != DTR_OK)
        return error->status;
    const struct dtr_dataset_info *info = dtr_dataset_info(trainer->dataset);
    if (dtr_model_accepts(trainer->model, options->model, info->shape, error) != DTR_OK)
        return error->status;
    /* For the checkpoint's record. */
    trainer->options.data = dtr_options_data(options, &trainer->data_by);
    trainer->validation_count = options->validation_size;
    trainer->train_count = info->count[DTR_TRAIN] - options->validation_size;
    trainer->test_count = info->count[DTR_TEST];
    if (trainer->train_count < options->shards)
        return dtr_error_set(error, DTR_USAGE,
            "%s has %lld training samples; %lld of them are held out (--validation-size), which "
            "leaves too few for %lld shards; hold out fewer or use fewer shards or ranks",
            info->description, (long long)info->count[DTR_TRAIN],
            (long long)options->validation_size, (long long)options->shards);
    return DTR_OK;
}

/* This rank's. */
static struct dtr_shard_run shard_run(const struct dtr_trainer *trainer)
{
    const struct dtr_world *world = trainer->world;
    return dtr_shard_run_of(trainer->options.shards, world->place, world->size);
}

/* Ascending ranges, so that a compressed file is passed over once. */
static enum dtr_status read_data(struct dtr_trainer *trainer, struct dtr_error *error)
{
    struct dtr_dataset *dataset = trainer->dataset;
    struct dtr_world *world = trainer->world;
    int64_t classes = trainer->model->classes, shards = trainer->options.shards;
    int64_t first, count;
    dtr_pulse_phase(DTR_PHASE_DATA);
    dtr_evaluation_part(world, trainer->validation_count, &first, &count);
    dtr_host_read(world, dataset, DTR_TRAIN, first, count, classes, &trainer->validation, error);

    struct dtr_shard_run run = shard_run(trainer);
    first = dtr_shard_first(trainer->train_count, shards, run.first);
    count = dtr_shard_first(trainer->train_count, shards, run.first + run.count) - first;
    dtr_host_read(world, dataset, DTR_TRAIN, trainer->validation_count + first, count, classes,
        &trainer->train, error);

    dtr_evaluation_part(world, trainer->test_count, &first, &count);
    return dtr_host_read(world, dataset, DTR_TEST, first, count, classes, &trainer->test, error);
}

static void resolve_schedule(struct dtr_trainer *trainer)
{
    struct dtr_options *options = &trainer->options;
    struct dtr_schedule *schedule = &trainer->schedule;
    double scale = (double)options->batch_size / REFERENCE_BATCH;
    schedule->rate = options->learning_rate;
    if (options->lr_scaling == DTR_SCALING_LINEAR)
        schedule->rate *= scale;
    if (options->lr_scaling == DTR_SCALING_SQRT)
        schedule->rate *= __builtin_sqrt(scale);
    schedule->warmup_epochs = options->warmup_epochs;
    schedule->steps_per_epoch = dtr_steps_per_epoch(
        trainer->train_count, options->shards, options->batch_size / options->shards);
    if (options->steps == 0) {
        options->steps = (int64_t)(options->epochs * (double)schedule->steps_per_epoch + 0.5);
        options->steps = options->steps < 1 ? 1 : options->steps;
    }
    schedule->total_steps = options->steps;
}

static enum dtr_status make_loader(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const struct dtr_options *options = &trainer->options;
    struct dtr_shard_run run = shard_run(trainer);
    struct dtr_loader_config config = {.train_count = trainer->train_count,
        .shards = run.shards,
        .slice = options->batch_size / run.shards,
        .first_shard = run.first,
        .shard_count = run.count,
        .shuffle = options->shuffle,
        .seed = (uint64_t)options->seed};
    if (dtr_threads_create((int)options->threads, &trainer->threads, error) != DTR_OK)
        return error->status;
    return dtr_loader_create(
        &config, &trainer->train, trainer->validation_count, &trainer->loader, error);
}

static void apply(void *context, struct dtr_share share, const float *gradient)
{
    struct dtr_trainer *trainer = context;
    trainer->replica->ops->apply(
        trainer->replica, share.first, share.count, share.place, gradient, trainer->rate);
}

static int64_t larger_set(const struct dtr_trainer *trainer)
{
    int64_t validation = trainer->validation.count, test = trainer->test.count;
    return validation > test ? validation : test;
}

static struct dtr_replica_config replica_config(const struct dtr_trainer *trainer)
{
    const struct dtr_options *options = &trainer->options;
    return (struct dtr_replica_config){.model = trainer->model,
        .threads = trainer->threads,
        .run = shard_run(trainer),
        .slice = options->batch_size / options->shards,
        .samples = &trainer->train,
        .largest_set = larger_set(trainer),
        .seed = (uint64_t)options->seed,
        .kernels = (enum dtr_kernel_choice)options->kernels,
        .isa = trainer->isa,
        .momentum = (float)options->momentum,
        .weight_decay = (float)options->weight_decay,
        .decay_all_kernels = options->weight_decay_on != 0};
}

static enum dtr_status join_exchange(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const struct dtr_options *options = &trainer->options;
    struct dtr_replica_config replica = replica_config(trainer);
    bool on_cpu = trainer->backend->plugin == NULL;
    struct dtr_factored *factored = dtr_alloc(
        trainer->model->layer_count, sizeof *factored, "gradient exchange", error);
    if (factored == NULL) /* the other ranks are on their way into collective calls */
        dtr_world_abort(trainer->world, "set-up", -1, error);
    struct dtr_gradsync_config config = {.count = trainer->model->slab_count,
        .run = shard_run(trainer),
        .reduce = (enum dtr_reduce)options->reduce,
        .bucket_bytes = options->bucket_bytes > 0 ? options->bucket_bytes : DEFAULT_BUCKET_BYTES,
        .overlap = options->overlap,
        .window_ranks = options->window_ranks,
        .threads = trainer->threads,
        .apply = apply,
        .context = trainer,
        .take = on_cpu,
        .alone = trainer->backend->trains,
        .factored = factored,
        .factored_count = on_cpu ? dtr_cpu_replica_factors(&replica, factored) : 0};
    dtr_gradsync_create(trainer->world, &config, &trainer->sync, error);
    free(factored);
    return error->status;
}

static enum dtr_status compile(struct dtr_trainer *trainer, struct dtr_error *error)
{
    struct dtr_replica_config config = replica_config(trainer);
    config.exchange = dtr_gradsync_exchange(trainer->sync);
    return dtr_backend_compile(trainer->backend, &config, &trainer->replica, error);
}

/* For a state, and on rank 0 for what is written later. */
static enum dtr_status alloc_snapshots(struct dtr_trainer *trainer, struct dtr_error *error)
{
    int64_t count = trainer->model->slab_count;
    trainer->weights = dtr_alloc(count, sizeof(float), "a snapshot of the weights", error);
    trainer->momentum = dtr_alloc(count, sizeof(float), "a snapshot of the momenta", error);
    return error->status;
}

/* Rank 0 draws the initial weights, or has read the run's, for everyone: also where ranks' machines
 * differ, all replicas begin with the same bits. */
static void begin_state(struct dtr_trainer *trainer)
{
    struct dtr_world *world = trainer->world;
    const struct dtr_model *model = trainer->model;
    struct dtr_replica *replica = trainer->replica;
    if (trainer->resumed.path != NULL) {
        dtr_resume_state(trainer, trainer->weights);
    } else {
        if (world->rank == 0)
            dtr_model_initialize(model, (uint64_t)trainer->options.seed, trainer->weights);
        dtr_world_broadcast(
            world, trainer->weights, model->slab_count * (int64_t)sizeof *trainer->weights);
        replica->ops->set(replica, trainer->weights);
    }
    if (world->rank != 0) {
        free(trainer->weights);
        free(trainer->momentum);
        trainer->weights = trainer->momentum = NULL;
    }
}

/* The folder that was named, else "runs/<Slurm job or time>". */
static enum dtr_status choose_folder(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const char *named = trainer->options.checkpoint_dir, *job = dtr_slurm_job();
    char name[64], *folder = NULL;
    time_t now = time(NULL);
    struct tm local;
    if (named != NULL && strcmp(named, "none") == 0)
        return DTR_OK;
    if (job != NULL)
        snprintf(name, sizeof name, "%s", job);
    else
        strftime(name, sizeof name, "%Y%m%d-%H%M%S", localtime_r(&now, &local));
    if (named != NULL)
        folder = strdup(named);
    else if (asprintf(&folder, "runs/%s", name) < 0)
        folder = NULL;
    trainer->checkpoint_folder = folder;
    if (folder == NULL)
        return dtr_error_set(error, DTR_FAILED, "out of memory for a folder's name");
    return DTR_OK;
}

/* Who resumes a checkpoint by its name goes on in its folder, unless told otherwise. */
static enum dtr_status follow_checkpoint(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const char *path = trainer->resumed.path;
    if (path == NULL || trainer->options.checkpoint_dir != NULL)
        return DTR_OK;
    const char *slash = strrchr(path, '/');
    free(trainer->checkpoint_folder);
    trainer->checkpoint_folder = slash == NULL ? strdup(".")
                                               : strndup(path, (size_t)(slash - path));
    if (trainer->checkpoint_folder == NULL)
        return dtr_error_set(error, DTR_FAILED, "out of memory for a folder's name");
    return DTR_OK;
}

/* Rank 0 alone; the others wait for its verdict. */
static enum dtr_status open_checkpoints(struct dtr_trainer *trainer, struct dtr_error *error)
{
    const struct dtr_options *options = &trainer->options;
    struct dtr_error refused = DTR_ERROR_NONE;
    if (trainer->world->rank != 0 || options->dry_run || trainer->checkpoint_folder == NULL)
        return DTR_OK;
    if (dtr_checkpoint_writer_create(trainer->checkpoint_folder, options->keep,
            trainer->resumed.path, strcmp(options->resume, "auto") == 0, &trainer->writer,
            &refused) == DTR_OK) {
        trainer->own_weights = dtr_alloc(trainer->model->slab_count, sizeof *trainer->own_weights,
            "a snapshot of the weights", error);
        return error->status;
    }
    if (options->checkpoint_dir != NULL || trainer->resumed.path != NULL)
        return dtr_error_set(error, refused.status, "%s", refused.message);
    dtr_warn("training without checkpoints: %s", refused.message);
    return DTR_OK;
}

typedef enum dtr_status phase(struct dtr_trainer *trainer, struct dtr_error *error);

/* Rank 0's watch. A first checkpoint is expected to be written at 50 MB/s. */
static void plan_end(struct dtr_trainer *trainer)
{
    double bytes = 2.0 * sizeof(float) * (double)trainer->model->slab_count;
    trainer->deadline_s = dtr_stop_deadline(
        &trainer->options, trainer->start_s, &trainer->deadline_by);
    trainer->checkpoint_s = 0.5 + bytes / 50e6;
}

static enum dtr_status check_data(struct dtr_trainer *trainer, struct dtr_error *error)
{
    return dtr_resume_check(trainer, error);
}

static enum dtr_status run_phases(struct dtr_trainer *trainer, phase *const phases[], int count)
{
    enum dtr_status status = DTR_OK;
    for (int i = 0; i < count && status == DTR_OK; i++) {
        struct dtr_error error = DTR_ERROR_NONE;
        phases[i](trainer, &error);
        status = dtr_world_agree(trainer->world, &error);
    }
    return status;
}

/* All ranks compute alike: with what the least of their CPUs has. */
static void agree_on_isa(struct dtr_trainer *trainer)
{
    struct dtr_world *world = trainer->world;
    trainer->lower_isa = !dtr_world_same(world, trainer->isa);
    trainer->isa = (enum dtr_isa)dtr_world_min_u64(world, trainer->isa);
    int recorded = (int)trainer->isa + 1;
    trainer->changed_isa = trainer->resumed.path != NULL && trainer->options.isa != recorded;
    trainer->options.isa = recorded;
}

static enum dtr_status choose_backend(struct dtr_trainer *trainer)
{
    struct dtr_error error = DTR_ERROR_NONE;
    trainer->backend = dtr_alloc(1, sizeof *trainer->backend, "backend", &error);
    enum dtr_status status = dtr_world_agree(trainer->world, &error);
    if (status == DTR_OK)
        status = dtr_backend_choose(trainer->world, &trainer->options, trainer->backend);
    if (status == DTR_OK)
        status = dtr_backend_connect(trainer->backend, &trainer->options);
    return status;
}

#define RUN(...)                                                                                   \
    run_phases(trainer, (phase *const[]){__VA_ARGS__},                                             \
        sizeof((phase *[]){__VA_ARGS__}) / sizeof(phase *))

enum dtr_status dtr_trainer_setup(
    struct dtr_trainer *trainer, struct dtr_world *world, const struct dtr_options *options)
{
    *trainer = (struct dtr_trainer){.world = world, .options = *options, .start_s = dtr_clock_s()};
    enum dtr_status status = RUN(choose_folder);
    if (status == DTR_OK)
        status = dtr_resume_read(trainer);
    if (status == DTR_OK)
        status = RUN(follow_checkpoint, resolve_options, load_model, open_data);
    if (status == DTR_OK)
        status = dtr_alike_input(world, trainer->model, dtr_dataset_info(trainer->dataset));
    if (status == DTR_OK)
        status = RUN(read_data);
    if (status != DTR_OK)
        return status;

    trainer->data_fingerprint = dtr_world_sum_u64(
        world, dtr_samples_fingerprint(&trainer->train, DTR_TRAIN) +
                   dtr_samples_fingerprint(&trainer->validation, DTR_TRAIN) +
                   dtr_samples_fingerprint(&trainer->test, DTR_TEST));
    dtr_pulse_phase(DTR_PHASE_SETUP);
    resolve_schedule(trainer);
    agree_on_isa(trainer);
    status = choose_backend(trainer);
    if (status == DTR_OK)
        status = RUN(
            check_data, make_loader, join_exchange, compile, dtr_ahead_create, alloc_snapshots);
    if (status != DTR_OK)
        return status;

    begin_state(trainer);
    if (world->rank == 0)
        plan_end(trainer);
    status = RUN(open_checkpoints);
    trainer->checkpoints = trainer->writer != NULL;
    dtr_world_broadcast(world, &trainer->checkpoints, sizeof trainer->checkpoints);
    return status;
}

void dtr_trainer_free(struct dtr_trainer *trainer)
{
    dtr_checkpoint_writer_free(trainer->writer);
    if (trainer->replica != NULL)
        trainer->replica->ops->destroy(trainer->replica);
    if (trainer->backend != NULL)
        dtr_backend_free(trainer->backend);
    free(trainer->backend);
    free(trainer->ahead);
    dtr_gradsync_free(trainer->sync);
    dtr_loader_free(trainer->loader);
    dtr_threads_free(trainer->threads);
    dtr_model_free(trainer->model);
    dtr_samples_free(&trainer->train);
    dtr_samples_free(&trainer->validation);
    dtr_samples_free(&trainer->test);
    dtr_dataset_close(trainer->dataset);
    dtr_checkpoint_file_free(&trainer->resumed);
    free(trainer->checkpoint_folder);
    free(trainer->weights);
    free(trainer->momentum);
    free(trainer->own_weights);
}
