/*
 * Where the time of a training step goes: the same training with the fused kernels, with oneDNN's
 * and, if wanted, with the reference's, which take turns; and with the fused ones on a single
 * shard, which has no sums to order: what the shard tree costs.
 *
 *     bench_step [--repeats N] [--steps N] [--reference] [OPTION of dtrain train]...
 *
 * One rank. Prints per block of layers and phase: milliseconds of all threads together, floating
 * point operations as if every product were computed (`dense`), and the share of the fused step.
 */
#include "dtrain/clock.h"
#include "dtrain/log.h"
#include "dtrain/trainer.h"
#include "median.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WAYS = 4, LINES = 64, REPEATS_MOST = 99 };

static const struct way {
    const char *name;
    enum dtr_kernel_choice kernels;
    bool one_shard;
} ways[WAYS] = {{"fused", DTR_KERNELS_FUSED, false}, {"oneDNN", DTR_KERNELS_ONEDNN, false},
    {"fused, one shard", DTR_KERNELS_FUSED, true}, {"reference", DTR_KERNELS_REFERENCE, false}};

struct bench {
    int64_t repeats, steps;
    int ways; /* those that run: the reference is the last */
    struct dtr_trainer trainers[WAYS];
    int64_t done[WAYS]; /* steps */
    double step_ms[WAYS][REPEATS_MOST];
};

static void train_steps(struct bench *bench, int way, int64_t steps)
{
    struct dtr_trainer *trainer = &bench->trainers[way];
    struct dtr_replica *replica = trainer->replica;
    for (int64_t i = 0; i < steps; i++) {
        const struct dtr_batch *batch = dtr_loader_step(trainer->loader, bench->done[way]++);
        struct dtr_step_result result;
        replica->ops->forward(replica, batch, &result);
        dtr_gradsync_begin(trainer->sync);
        trainer->rate = 0.01F;
        replica->ops->backward(replica, batch);
    }
    dtr_gradsync_wait(trainer->sync, 0, trainer->model->slab_count);
}

/* Seconds of layers [first, first + count) in the phases whose names are in `phases`. */
static double seconds_of(
    const struct bench *bench, int way, int first, int count, const char *phases)
{
    struct dtr_replica *replica = bench->trainers[way].replica;
    struct dtr_timing timing;
    double seconds = 0;
    for (int i = 0; replica->ops->timing(replica, i, &timing); i++) {
        char phase[40];
        snprintf(phase, sizeof phase, "|%s|", timing.phase);
        if (timing.first >= first && timing.first < first + count && strstr(phases, phase) != NULL)
            seconds += timing.seconds;
    }
    return seconds;
}

/* Operations of a batch in one of the three products of a layer with a kernel. */
static double dense_operations(const struct dtr_trainer *trainer, int layer)
{
    const struct dtr_layer *it = &trainer->model->layers[layer];
    if (it->kernel < 0)
        return 0;
    double kernel = (double)trainer->model->tensors[it->kernel].count;
    double places = it->kind == DTR_LAYER_CONV ? (double)(it->out.h * it->out.w) : 1;
    return 2 * kernel * places * (double)trainer->options.batch_size;
}

static const struct row {
    const char *name, *phases;
    int products; /* of the layer's; backward of the first layer has one less */
} rows[] = {
    {"forward", "|scale images|convert|load|forward|loss|", 1},
    {"backward", "|collect|backward|convert back|", 2},
    {"sums, update", "|sum of gradients|", 0},
    {"new parameters", "|new parameters|", 0},
};

static bool contains(const char *list, const char *phase)
{
    return strstr(list, phase) != NULL;
}

static void print_row(const struct bench *bench, int line, const struct row *row, double total)
{
    struct dtr_replica *replica = bench->trainers[0].replica;
    struct dtr_timing timing = {0};
    char name[160];
    for (int i = 0; replica->ops->timing(replica, i, &timing) && timing.line != line; i++)
        continue;
    replica->ops->describe(replica, line, name, sizeof name);
    name[strcspn(name, " ")] = '\0';
    double operations = dense_operations(&bench->trainers[0], timing.first) *
                        (row->products - (row->products == 2 && timing.first == 0));
    dtr_print("| %s | %s |", name, row->name);
    double fused = 0;
    for (int way = 0; way < bench->ways; way++) {
        double seconds = 0;
        if (way == 2)
            continue;
        seconds = seconds_of(bench, way, timing.first, timing.count, row->phases);
        double ms = 1e3 * seconds / (double)bench->done[way];
        fused = way == 0 ? ms : fused;
        dtr_print(" %.3f |", ms);
    }
    if (operations > 0)
        dtr_print(" %.0f |", operations / fused / 1e6);
    else
        dtr_print(" |");
    dtr_print(" %.1f %% |\n", 100 * fused / total);
}

static double all_seconds(const struct bench *bench, int way)
{
    double seconds = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        seconds += seconds_of(bench, way, 0, 256, rows[i].phases);
    return seconds;
}

static void print_steps(const struct bench *bench)
{
    dtr_print("\n| kernels | ms/step | of the fused step |\n| --- | --- | --- |\n");
    for (int way = 0; way < bench->ways; way++) {
        double step_ms[REPEATS_MOST], ratios[REPEATS_MOST];
        for (int64_t i = 0; i < bench->repeats; i++) {
            step_ms[i] = bench->step_ms[way][i];
            ratios[i] = step_ms[i] / bench->step_ms[0][i];
        }
        dtr_print("| %s | %.3f | %.3f |\n", ways[way].name, median(step_ms, bench->repeats),
            median(ratios, bench->repeats));
    }
}

static void print_table(const struct bench *bench)
{
    struct dtr_replica *replica = bench->trainers[0].replica;
    double total = 1e3 * all_seconds(bench, 0) / (double)bench->done[0];
    char line[160];
    dtr_print("\n| layers | phase | fused ms | oneDNN ms |%s dense GFLOP/s | share |\n",
        bench->ways == WAYS ? " reference ms |" : "");
    dtr_print("| --- | --- | --- | --- |%s --- | --- |\n", bench->ways == WAYS ? " --- |" : "");
    for (int i = 0; replica->ops->describe(replica, i, line, sizeof line); i++) {
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++) {
            if (j < 2 || contains(line, "conv") || contains(line, "dense"))
                print_row(bench, i, &rows[j], total);
        }
    }
}

static enum dtr_status measure(
    struct bench *bench, struct dtr_world *world, const struct dtr_options *options)
{
    enum dtr_status status = DTR_OK;
    for (int way = 0; way < bench->ways; way++) {
        struct dtr_options mine = *options;
        mine.kernels = (int)ways[way].kernels;
        mine.shards = ways[way].one_shard ? 1 : mine.shards;
        status = dtr_trainer_setup(&bench->trainers[way], world, &mine);
        if (status != DTR_OK)
            return status;
    }
    dtr_trainer_print_plan(&bench->trainers[0], options);
    for (int64_t i = -1; i < bench->repeats; i++) { /* the first time is to warm up */
        for (int way = 0; way < bench->ways; way++) {
            int64_t steps = ways[way].kernels == DTR_KERNELS_REFERENCE ? 1 : bench->steps;
            double start_s = dtr_clock_s();
            train_steps(bench, way, steps);
            if (i >= 0)
                bench->step_ms[way][i] = 1e3 * (dtr_clock_s() - start_s) / (double)steps;
        }
    }
    print_table(bench);
    print_steps(bench);
    return DTR_OK;
}

/* Takes the bench's own options out of argv; returns how many words are left. */
static int read_options(struct bench *bench, int argc, char **argv)
{
    int left = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--reference") == 0)
            bench->ways = WAYS;
        else if (strcmp(argv[i], "--repeats") == 0 && i + 1 < argc)
            bench->repeats = atoll(argv[++i]);
        else if (strcmp(argv[i], "--steps") == 0 && i + 1 < argc)
            bench->steps = atoll(argv[++i]);
        else
            argv[left++] = argv[i];
    }
    if (bench->repeats < 1 || bench->repeats > REPEATS_MOST)
        bench->repeats = 9;
    return left;
}

int main(int argc, char **argv)
{
    struct bench bench = {.repeats = 9, .steps = 50, .ways = WAYS - 1};
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_world *world;
    struct dtr_options options;
    int operands;
    if (dtr_world_start(&argc, &argv, &world, &error) != DTR_OK) {
        dtr_complain("%s", error.message);
        return (int)error.status;
    }
    argc = read_options(&bench, argc, argv);
    dtr_options_parse(DTR_COMMAND_TRAIN, argc, argv, 1, 0, NULL, &operands, &options, &error);
    enum dtr_status status = dtr_world_agree(world, &error);
    options.checkpoint_dir = "none";
    if (status == DTR_OK)
        status = measure(&bench, world, &options);
    for (int way = 0; way < bench.ways; way++)
        dtr_trainer_free(&bench.trainers[way]);
    dtr_world_finish(world);
    return (int)status;
}
