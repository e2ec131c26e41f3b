#include "problem.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* What a replica of a test needs besides itself. Tests have few at a time. */
struct belongings {
    struct dtr_replica *replica; /* NULL: the place is free */
    struct dtr_threads *threads;
    float *slabs;   /* parameters, then gradients of every open node; NULL: the caller's or none */
    int64_t lowest; /* gradients from here on are ready */
};

static struct belongings owned[16];

/* Of a replica, or with NULL a free place. */
static struct belongings *find_belongings(const struct dtr_replica *replica)
{
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) {
        if (owned[i].replica == replica)
            return &owned[i];
    }
    ck_abort_msg("no such replica, or too many");
}

static void note_ready(void *context, int64_t first)
{
    struct belongings *belongings = context;
    ck_assert(first >= 0 && first <= belongings->lowest);
    belongings->lowest = first;
}

static bool always_arrived(void *context, int64_t first, int64_t count)
{
    (void)context;
    ck_assert(first >= 0 && count > 0);
    return true;
}

static void ignore_wait(void *context, int64_t first, int64_t count)
{
    always_arrived(context, first, count);
}

struct dtr_replica_config problem_config(const struct problem *problem, struct dtr_shard_run run)
{
    return (struct dtr_replica_config){.model = problem->model,
        .run = run,
        .slice = problem->slice,
        .seed = 11,
        .isa = dtr_isa_detect(),
        .momentum = 0.9F,
        .weight_decay = 5e-4F};
}

static void compile(struct belongings *belongings, const struct problem *problem,
    struct dtr_shard_run run, int threads, enum dtr_kernel_choice kernels,
    struct dtr_exchange exchange)
{
    struct dtr_error error = DTR_ERROR_NONE;
    dtr_threads_create(threads, &belongings->threads, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    struct dtr_replica_config config = problem_config(problem, run);
    config.threads = belongings->threads;
    config.kernels = kernels;
    config.exchange = exchange;
    dtr_cpu_replica_compile(&config, &belongings->replica, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    belongings->replica->ops->set(belongings->replica, problem->weights);
}

struct dtr_replica *problem_replica_on(const struct problem *problem, int64_t first,
    int64_t shard_count, int threads, enum dtr_kernel_choice kernels, struct dtr_exchange exchange)
{
    struct belongings *belongings = find_belongings(NULL);
    struct dtr_shard_run run = {first, shard_count, problem->shards};
    compile(belongings, problem, run, threads, kernels, exchange);
    return belongings->replica;
}

struct dtr_replica *problem_replica(const struct problem *problem, int64_t first,
    int64_t shard_count, int threads, enum dtr_kernel_choice kernels)
{
    struct belongings *belongings = find_belongings(NULL);
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_shard_run run = {first, shard_count, problem->shards};
    int64_t stride = dtr_align_floats(problem->model->slab_count) + 16;
    int64_t nodes = shard_count > 0 ? dtr_tree_of(run).depth : 0;
    belongings->slabs = dtr_alloc((1 + nodes) * stride, sizeof(float), "slabs", &error);
    ck_assert_ptr_nonnull(belongings->slabs);
    compile(belongings, problem, run, threads, kernels,
        (struct dtr_exchange){.context = belongings,
            .ready = note_ready,
            .arrived = always_arrived,
            .wait = ignore_wait,
            .weights = belongings->slabs,
            .gradients = belongings->slabs + stride,
            .stride = stride,
            .share_count = shard_count > 0 ? problem->model->slab_count : 0});
    return belongings->replica;
}

void problem_replica_free(struct dtr_replica *replica)
{
    struct belongings *belongings = find_belongings(replica);
    replica->ops->destroy(replica);
    dtr_threads_free(belongings->threads);
    free(belongings->slabs);
    *belongings = (struct belongings){0};
}

struct dtr_step_result problem_step(
    struct dtr_replica *replica, struct dtr_loader *loader, int64_t step)
{
    struct belongings *belongings = find_belongings(replica);
    struct dtr_step_result result;
    const struct dtr_batch *batch = dtr_loader_step(loader, step);
    belongings->lowest = INT64_MAX;
    replica->ops->forward(replica, batch, &result);
    ck_assert_int_eq(belongings->lowest, INT64_MAX);
    replica->ops->backward(replica, batch);
    ck_assert_int_eq(belongings->lowest, belongings->slabs == NULL ? INT64_MAX : 0);
    return result;
}

void problem_apply(struct dtr_replica *replica, const struct problem *problem, float rate)
{
    replica->ops->apply(
        replica, 0, problem->model->slab_count, 0, replica->ops->gradients(replica), rate);
}

double problem_loss(const struct dtr_step_result *result)
{
    ck_assert_int_eq(result->loss.tree.depth, 1);
    return result->loss.sums[0];
}

void problem_check_results(
    const struct dtr_step_result *found, const struct dtr_step_result *expected)
{
    double found_loss = problem_loss(found), expected_loss = problem_loss(expected);
    ck_assert_mem_eq(&found_loss, &expected_loss, sizeof found_loss);
    ck_assert_int_eq(found->errors, expected->errors);
}

size_t problem_slab_bytes(const struct problem *problem)
{
    return (size_t)problem->model->slab_count * sizeof(float);
}

float *problem_slab(const struct problem *problem)
{
    float *slab = malloc(problem_slab_bytes(problem));
    ck_assert_ptr_nonnull(slab);
    return slab;
}

bool problem_same_tensors(const struct problem *problem, const float *a, const float *b)
{
    for (int t = 0; t < problem->model->tensor_count; t++) {
        const struct dtr_tensor *tensor = &problem->model->tensors[t];
        if (memcmp(a + tensor->offset, b + tensor->offset, (size_t)tensor->count * sizeof(float)) !=
            0)
            return false;
    }
    return true;
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
