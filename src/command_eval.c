/* dtrain eval CHECKPOINT: rank 0 reads the checkpoint, all ranks evaluate their part. */
#include "commands.h"
#include "dtrain/checkpoint.h"
#include "dtrain/clock.h"
#include "dtrain/evaluate.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "dtrain/threads.h"
#include "report.h"

#include <stdlib.h>
#include <string.h>

struct evaluator {
    struct dtr_model *model;
    float *weights;
    struct dtr_dataset *dataset;
    struct dtr_samples samples;
    struct dtr_threads *threads;
    enum dtr_isa isa;
    struct dtr_replica *replica;
    int64_t count;
    int64_t seed; /* of the training: its synthetic digits are those of its test set */
};

/* Rank 0's model text and weights for everyone. */
static enum dtr_status share_checkpoint(
    struct evaluator *evaluator, struct dtr_world *world, const char *path, struct dtr_error *error)
{
    struct dtr_checkpoint_file file = {0};
    if (world->rank == 0)
        dtr_checkpoint_read(path, &file, error);
    enum dtr_status status = dtr_world_agree(world, error);
    if (status != DTR_OK)
        return status;

    int64_t bytes = world->rank == 0 ? (int64_t)strlen(file.model->text) + 1 : 0;
    dtr_world_broadcast(world, &bytes, sizeof bytes);
    evaluator->seed = file.seed;
    dtr_world_broadcast(world, &evaluator->seed, sizeof evaluator->seed);
    char *text = dtr_alloc(bytes, 1, "the model's text", error);
    status = dtr_world_agree(world, error);
    if (status == DTR_OK) {
        if (world->rank == 0)
            memcpy(text, file.model->text, (size_t)bytes);
        dtr_world_broadcast(world, text, bytes);
        if (dtr_model_parse(text, path, &evaluator->model, error) == DTR_OK)
            evaluator->weights = dtr_alloc(
                evaluator->model->slab_count, sizeof(float), "weights", error);
        status = dtr_world_agree(world, error);
    }
    if (status == DTR_OK) {
        bytes = evaluator->model->slab_count * (int64_t)sizeof(float);
        if (world->rank == 0)
            memcpy(evaluator->weights, file.weights, (size_t)bytes);
        dtr_world_broadcast(world, evaluator->weights, bytes);
    }
    free(text);
    dtr_checkpoint_file_free(&file);
    return status;
}

static enum dtr_status prepare(struct evaluator *evaluator, struct dtr_world *world,
    const struct dtr_options *options, const char *path, struct dtr_error *error)
{
    int64_t first, part;
    struct dtr_options with_seed = *options;
    with_seed.seed = evaluator->seed;
    if (dtr_open_data(&with_seed, &evaluator->dataset, error) != DTR_OK)
        return error->status;
    const struct dtr_dataset_info *info = dtr_dataset_info(evaluator->dataset);
    evaluator->count = info->count[DTR_TEST];
    dtr_evaluation_part(world, evaluator->count, &first, &part);
    if (dtr_model_accepts(evaluator->model, path, info->shape, error) != DTR_OK ||
        dtr_dataset_read(evaluator->dataset, DTR_TEST, first, part, evaluator->model->classes,
            &evaluator->samples, error) != DTR_OK)
        return error->status;
    int threads = dtr_threads_choose(options->threads, world->cores);
    if (dtr_threads_create(threads, &evaluator->threads, error) != DTR_OK)
        return error->status;
    return dtr_isa_choose(options->isa, &evaluator->isa, error);
}

/* With the instruction set that all ranks have, so that the share does not depend on who is here.
 */
static enum dtr_status compile(struct evaluator *evaluator, struct dtr_world *world,
    const struct dtr_options *options, struct dtr_error *error)
{
    struct dtr_replica_config config = {.model = evaluator->model,
        .threads = evaluator->threads,
        .isa = (enum dtr_isa)dtr_world_min_u64(world, evaluator->isa),
        .kernels = (enum dtr_kernel_choice)options->kernels};
    return dtr_cpu_replica_compile(&config, &evaluator->replica, error);
}

static enum dtr_status evaluate(
    struct dtr_world *world, const struct dtr_options *options, const char *path)
{
    struct evaluator evaluator = {0};
    struct dtr_error error = DTR_ERROR_NONE;
    enum dtr_status status = share_checkpoint(&evaluator, world, path, &error);
    if (status == DTR_OK) {
        prepare(&evaluator, world, options, path, &error);
        status = dtr_world_agree(world, &error);
    }
    if (status == DTR_OK) {
        compile(&evaluator, world, options, &error);
        status = dtr_world_agree(world, &error);
    }
    if (status == DTR_OK) {
        evaluator.replica->ops->set(evaluator.replica, evaluator.weights);
        double start_s = dtr_clock_s();
        double share = dtr_evaluate(world, evaluator.replica, &evaluator.samples, evaluator.count);
        double seconds = dtr_clock_s() - start_s;
        dtr_report_result(evaluator.model, evaluator.weights, share);
        dtr_print("Evaluated %lld images in %.2f s: %.0f images/s\n", (long long)evaluator.count,
            seconds, (double)evaluator.count / seconds);
    }
    if (evaluator.replica != NULL)
        evaluator.replica->ops->destroy(evaluator.replica);
    dtr_threads_free(evaluator.threads);
    dtr_samples_free(&evaluator.samples);
    dtr_dataset_close(evaluator.dataset);
    dtr_model_free(evaluator.model);
    free(evaluator.weights);
    return status;
}

int dtr_command_eval(int argc, char **argv, int first)
{
    return dtr_run_job(DTR_COMMAND_EVAL, "CHECKPOINT", argc, argv, first, evaluate);
}
