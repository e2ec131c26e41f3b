#include "problem.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

const char problem_convnet[] = "input 9 7 3\n"
                               "conv 5 3x3 relu\n"
                               "maxpool 2\n"
                               "conv 11 2x2 relu valid\n"
                               "dense 13 relu\n"
                               "dropout 0.25\n"
                               "dense 4\n";

struct problem problem_create(const char *text, int64_t count, int64_t shards, int64_t slice)
{
    struct problem problem = {.shards = shards, .slice = slice};
    struct dtr_error error = DTR_ERROR_NONE;
    ck_assert_msg(
        dtr_model_parse(text, "test", &problem.model, &error) == DTR_OK, "%s", error.message);
    struct dtr_samples *samples = &problem.samples;
    samples->count = count;
    samples->image_bytes = dtr_shape_count(problem.model->input);
    samples->images = malloc((size_t)(count * samples->image_bytes));
    samples->labels = malloc((size_t)count);
    struct dtr_random random = dtr_random_at(7, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int64_t i = 0; i < count * samples->image_bytes; i++)
        samples->images[i] = (uint8_t)dtr_random_below(&random, 256);
    for (int64_t i = 0; i < count; i++)
        samples->labels[i] = (uint8_t)dtr_random_below(&random, (uint32_t)problem.model->classes);
    problem.weights = dtr_alloc(problem.model->slab_count, sizeof(float), "weights", &error);
    ck_assert_ptr_nonnull(problem.weights);
    dtr_model_initialize(problem.model, 3, problem.weights);
    return problem;
}

void problem_free(struct problem *problem)
{
    dtr_model_free(problem->model);
    dtr_samples_free(&problem->samples);
    free(problem->weights);
}

struct dtr_loader *problem_loader(const struct problem *problem, int64_t first, int64_t shard_count)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_loader *loader;
    struct dtr_loader_config config = {.train_count = problem->samples.count,
        .shards = problem->shards,
        .slice = problem->slice,
        .first_shard = first,
        .shard_count = shard_count,
        .shuffle = true,
        .seed = 5};
    dtr_loader_create(&config, &problem->samples, 0, &loader, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    return loader;
}

struct dtr_replica *problem_replica(const struct problem *problem, int64_t first,
    int64_t shard_count, int threads, enum dtr_kernel_choice kernels)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_replica *replica;
    struct dtr_replica_config config = {.model = problem->model,
        .run = {first, shard_count, problem->shards},
        .slice = problem->slice,
        .threads = threads,
        .seed = 11,
        .kernels = kernels,
        .momentum = 0.9F,
        .weight_decay = 5e-4F};
    dtr_cpu_replica_compile(&config, &replica, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    replica->ops->set(replica, DTR_SLAB_WEIGHTS, problem->weights);
    return replica;
}

static void ignore_ready(void *context, int64_t first)
{
    int64_t *lowest = context;
    ck_assert_int_le(first, *lowest);
    *lowest = first;
}

struct dtr_step_result problem_step(
    struct dtr_replica *replica, struct dtr_loader *loader, int64_t step)
{
    struct dtr_step_result result;
    int64_t lowest = INT64_MAX;
    replica->ops->step(replica, dtr_loader_step(loader, step), ignore_ready, &lowest, &result);
    ck_assert_int_eq(lowest, 0);
    return result;
}

double problem_distance(const struct problem *problem, const float *a, const float *b)
{
    double largest = 0, difference = 0;
    for (int64_t i = 0; i < problem->model->slab_count; i++) {
        largest = fmax(largest, fabs((double)b[i]));
        difference = fmax(difference, fabs((double)a[i] - (double)b[i]));
    }
    return difference / largest;
}
