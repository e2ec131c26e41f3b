/* dtrain eval CHECKPOINT: rank 0 reads the checkpoint, all ranks evaluate their part. */
#include "backend.h"
#include "commands.h"
#include "dtrain/checkpoint.h"
#include "dtrain/clock.h"
#include "dtrain/evaluate.h"
#include "dtrain/host_read.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "dtrain/threads.h"
#include "placement.h"
#include "report.h"
#include "resume.h"

#include <stdlib.h>
#include <string.h>

struct evaluator {
    struct dtr_checkpoint_file checkpoint;
    struct dtr_dataset *dataset;
    struct dtr_samples samples;
    struct dtr_threads *threads;
    struct dtr_backend backend;
    enum dtr_isa isa;
    struct dtr_replica *replica;
    int64_t count;
};

/* The run's data, unless --data names other; the run's seed draws synthetic digits. */
static enum dtr_status open_data(struct evaluator *evaluator, const struct dtr_options *options,
    const char *path, struct dtr_error *error)
{
    struct dtr_options run;
    dtr_options_default(&run);
    if (dtr_options_resume(&run, evaluator->checkpoint.options, path, error) != DTR_OK)
        return error->status;
    if (options->data != NULL) {
        run.data = options->data;
        run.named = options->named;
    }
    if (dtr_open_data(&run, &evaluator->dataset, error) != DTR_OK)
        return error->status;
    const struct dtr_dataset_info *info = dtr_dataset_info(evaluator->dataset);
    evaluator->count = info->count[DTR_TEST];
    return dtr_model_accepts(evaluator->checkpoint.model, path, info->shape, error);
}

static enum dtr_status prepare(struct evaluator *evaluator, struct dtr_world *world,
    const struct dtr_options *options, struct dtr_error *error)
{
    int64_t first, part;
    dtr_evaluation_part(world, evaluator->count, &first, &part);
    if (dtr_host_read(world, evaluator->dataset, DTR_TEST, first, part,
            evaluator->checkpoint.model->classes, &evaluator->samples, error) != DTR_OK)
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
    struct dtr_replica_config config = {.model = evaluator->checkpoint.model,
        .threads = evaluator->threads,
        .largest_set = evaluator->samples.count,
        .isa = (enum dtr_isa)dtr_world_min_u64(world, evaluator->isa),
        .kernels = (enum dtr_kernel_choice)options->kernels};
    return dtr_backend_compile(&evaluator->backend, &config, &evaluator->replica, error);
}

static int evaluate(struct dtr_world *world, const struct dtr_options *options, const char *path)
{
    struct evaluator evaluator = {0};
    struct dtr_error error = DTR_ERROR_NONE;
    enum dtr_status status = dtr_checkpoint_share(world, path, false, &evaluator.checkpoint);
    if (status == DTR_OK) {
        open_data(&evaluator, options, path, &error);
        status = dtr_world_agree(world, &error);
    }
    if (status == DTR_OK) {
        prepare(&evaluator, world, options, &error);
        status = dtr_world_agree(world, &error);
    }
    if (status == DTR_OK)
        status = dtr_backend_choose(world, options, &evaluator.backend);
    if (status == DTR_OK) {
        compile(&evaluator, world, options, &error);
        status = dtr_world_agree(world, &error);
    }
    if (status == DTR_OK) {
        dtr_placement_print(world, dtr_threads_count(evaluator.threads), false);
        dtr_print("Data: %s: %lld test images\n", dtr_dataset_info(evaluator.dataset)->description,
            (long long)evaluator.count);
        evaluator.replica->ops->set(evaluator.replica, evaluator.checkpoint.weights);
        double start_s = dtr_clock_s();
        dtr_pulse_phase(DTR_PHASE_EVALUATION);
        double share;
        dtr_evaluate(world, evaluator.replica, &evaluator.samples, evaluator.count, NULL, &share);
        double seconds = dtr_clock_s() - start_s;
        dtr_report_result(evaluator.checkpoint.model, evaluator.checkpoint.weights, share);
        dtr_print("Evaluated %lld images in %.2f s: %.0f images/s\n", (long long)evaluator.count,
            seconds, (double)evaluator.count / seconds);
    }
    if (evaluator.replica != NULL)
        evaluator.replica->ops->destroy(evaluator.replica);
    dtr_backend_free(&evaluator.backend);
    dtr_threads_free(evaluator.threads);
    dtr_samples_free(&evaluator.samples);
    dtr_dataset_close(evaluator.dataset);
    dtr_checkpoint_file_free(&evaluator.checkpoint);
    return (int)status;
}

int dtr_command_eval(int argc, char **argv, int first)
{
    return dtr_run_job(DTR_COMMAND_EVAL, "CHECKPOINT", argc, argv, first, evaluate);
}
