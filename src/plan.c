/* The plan: what a training is about to do, printed before its first step. */
#include "backend.h"
#include "dtrain/clock.h"
#include "dtrain/cpu.h"
#include "dtrain/log.h"
#include "dtrain/trainer.h"
#include "placement.h"
#include "slurm.h"

#include <stdio.h>
#include <string.h>

static const char *plural(int64_t count)
{
    return count == 1 ? "" : "s";
}

static void print_place(const struct dtr_trainer *trainer)
{
    const struct dtr_world *world = trainer->world;
    const struct dtr_options *options = &trainer->options;
    dtr_print("dtrain %s on %d rank%s x %lld thread%s, %d host%s (rank 0 on %s), %s\n",
        DTRAIN_VERSION, world->size, plural(world->size), (long long)options->threads,
        plural(options->threads), world->nodes, plural(world->nodes), world->host, world->library);
    int64_t most = (options->shards + world->size - 1) / world->size;
    int64_t places = most * world->size;
    if (places != options->shards)
        dtr_print("Note: %lld shards do not divide among %d ranks: %.0f%% of the compute time is "
                  "lost waiting\n",
            (long long)options->shards, world->size,
            100.0 * (double)(places - options->shards) / (double)places);
}

static void print_model(const struct dtr_trainer *trainer)
{
    char line[160];
    bool on_cpu = trainer->backend->plugin == NULL;
    dtr_print("Model: %s, %lld parameters; backend %s, %s%s\n", trainer->options.model,
        (long long)trainer->model->parameter_count, trainer->replica->ops->name,
        on_cpu ? dtr_isa_name(trainer->isa) : dtr_precision_name(trainer->backend->precision),
        on_cpu && trainer->lower_isa ? " (some ranks' CPUs have more, but all compute alike)" : "");
    for (int i = 0; trainer->replica->ops->describe(trainer->replica, i, line, sizeof line); i++)
        dtr_print("    %s\n", line);
}

static void print_resumed(const struct dtr_trainer *trainer)
{
    const struct dtr_checkpoint_file *resumed = &trainer->resumed;
    if (resumed->path == NULL && strcmp(trainer->options.resume, "auto") == 0)
        dtr_print("Resumed: nothing, %s has no checkpoint yet\n", trainer->checkpoint_folder);
    if (resumed->path == NULL)
        return;
    dtr_print("Resumed: %s, step %lld (epoch %.2f)\n", resumed->path, (long long)resumed->step,
        resumed->epoch);
    if (trainer->changed_isa)
        dtr_print("Note: the run has used another instruction set so far, so its weights will not "
                  "be those of a run without interruption\n");
}

static void print_schedule(const struct dtr_trainer *trainer)
{
    const struct dtr_options *options = &trainer->options;
    const struct dtr_schedule *schedule = &trainer->schedule;
    dtr_print("Batch: %lld = %lld shards x %lld samples; %lld steps an epoch, %lld steps\n",
        (long long)options->batch_size, (long long)options->shards,
        (long long)(options->batch_size / options->shards), (long long)schedule->steps_per_epoch,
        (long long)options->steps);
    dtr_print("Rate: %g (%s), momentum %g, weight decay %g\n", schedule->rate, options->lr_schedule,
        options->momentum, options->weight_decay);
}

/* Options that were named and differ from their defaults. */
static void print_options(const struct dtr_options *given)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    struct dtr_options defaults;
    dtr_options_default(&defaults);
    dtr_print("Options:");
    int shown = 0;
    for (int i = 0; i < count; i++) {
        char value[512], fallback[512];
        dtr_option_format(&table[i], given, value, sizeof value);
        dtr_option_format(&table[i], &defaults, fallback, sizeof fallback);
        if (strcmp(value, fallback) == 0)
            continue;
        dtr_print(table[i].type == DTR_OPTION_FLAG ? " --%s" : " --%s %s", table[i].name, value);
        shown++;
    }
    dtr_print("%s\n", shown == 0 ? " defaults" : "");
}

static void print_exchange(const struct dtr_trainer *trainer)
{
    const struct dtr_gradsync_stats stats = dtr_gradsync_stats(trainer->sync);
    bool tree = trainer->options.reduce != DTR_REDUCE_ALLREDUCE;
    if (trainer->backend->collective != NULL)
        dtr_print("Exchange: NCCL, the GPUs update the parameters\n");
    if (trainer->world->size == 1 || trainer->backend->trains)
        return;
    dtr_print("Exchange: %s, %lld bucket%s", tree ? "tree" : "MPI_Iallreduce",
        (long long)stats.buckets, plural(stats.buckets));
    if (tree && stats.group_size > 1)
        dtr_print(", %lld ranks share memory", (long long)stats.group_size);
    if (stats.windows_failed)
        dtr_print(", no memory to share (too little, or separate containers)");
    if (tree && stats.groups > 1)
        dtr_print(", messages between %lld groups of ranks%s", (long long)stats.groups,
            stats.progress ? "" : ", moved between layers alone (no MPI_THREAD_MULTIPLE)");
    dtr_print("\n");
}

/* Who computes on which device. */
static void print_devices(const struct dtr_trainer *trainer)
{
    const struct dtr_backend *backend = trainer->backend;
    if (backend->why_not[0] != '\0')
        dtr_print("GPUs: none, the CPU computes: %s\n", backend->why_not);
    for (int i = 0; backend->plugin != NULL && i < trainer->world->size; i++) {
        const struct dtr_placement *place = &backend->places[i];
        dtr_print("GPU of rank %d: %s, device %d of %d on %s, %s\n", i, place->device.name,
            place->number, place->seen, place->host, place->device.uuid);
    }
}

/* Slurm's --gpus-per-task hides the GPUs of a host from the other ranks. */
static void print_hidden_devices(const struct dtr_trainer *trainer)
{
    const struct dtr_backend *backend = trainer->backend;
    bool hidden = backend->collective != NULL && trainer->world->node_size > 1;
    for (int i = 0; hidden && i < trainer->world->size; i++)
        hidden = backend->places[i].seen == 1;
    if (hidden)
        dtr_print("Note: each rank sees one GPU alone (--gpus-per-task?), which may keep NCCL from "
                  "the others' memory; --gres=gpu:%d shows all GPUs to all ranks\n",
            trainer->world->node_size);
}

/* Which other runs end with the same hash of the weights. */
static void print_promise(const struct dtr_trainer *trainer, const struct dtr_options *given)
{
    const struct dtr_options *options = &trainer->options;
    long long ranks = trainer->world->size, shards = options->shards;
    dtr_print("Reproducible: the same weights on ");
    if (trainer->backend->plugin != NULL) {
        dtr_print("%lld rank%s with GPUs of this kind\n", ranks, plural(ranks));
        return;
    }
    if (options->reduce == DTR_REDUCE_ALLREDUCE)
        dtr_print("%lld rank%s (--reduce allreduce)", ranks, plural(ranks));
    else if (given->batch_per_rank > 0)
        dtr_print("1 to %lld ranks with --batch-size %lld --shards %lld", shards,
            (long long)options->batch_size, shards);
    else
        dtr_print("1 to %lld ranks", shards);
    dtr_print(" with any number of threads and any buckets, on CPUs that have %s\n",
        dtr_isa_name(trainer->isa));
}

void dtr_trainer_print_plan(struct dtr_trainer *trainer, const struct dtr_options *given)
{
    print_place(trainer);
    dtr_placement_print(trainer->world, trainer->options.threads, true);
    dtr_print("Data: %s%s: %lld training, %lld validation, %lld test images\n",
        dtr_dataset_info(trainer->dataset)->description,
        trainer->data_by == NULL ? " (no --data, no DTRAIN_DATA, no ./data/mnist)" : "",
        (long long)trainer->train_count, (long long)trainer->validation_count,
        (long long)trainer->test_count);
    print_model(trainer);
    print_devices(trainer);
    print_hidden_devices(trainer);
    print_resumed(trainer);
    print_schedule(trainer);
    print_options(given);
    print_exchange(trainer);
    print_promise(trainer, given);
    if (trainer->deadline_by != NULL)
        dtr_print("Time: %.0f s are left (%s)\n", trainer->deadline_s - dtr_clock_s(),
            trainer->deadline_by);
    else if (dtr_slurm_job() != NULL)
        dtr_print("Time: no limit is known (squeue does not tell one); --time-limit sets one\n");
    if (trainer->writer != NULL)
        dtr_print("Checkpoints: %s, every %lld steps and at the end\n", trainer->checkpoint_folder,
            (long long)trainer->options.checkpoint_every);
    dtr_print("Ready after %.2f s\n\n", dtr_clock_s() - trainer->start_s);
}
