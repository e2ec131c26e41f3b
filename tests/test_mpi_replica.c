/* R ranks compute what one rank computes, bit by bit: whole steps, and evaluations. */
#include "dtrain/evaluate.h"
#include "dtrain/gradsync.h"
#include "mpi_main.h"
#include "problem.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHARDS = 8, STEPS = 12 };

static const float rate = 0.02F;

/* This rank's part of a training, put together as in src/setup.c. */
struct trainee {
    struct dtr_threads *threads;
    struct dtr_gradsync *sync;
    struct dtr_replica *replica;
    struct dtr_loader *loader;
};

static void apply(void *context, struct dtr_share share, const float *gradient)
{
    struct trainee *trainee = context;
    trainee->replica->ops->apply(
        trainee->replica, share.first, share.count, share.place, gradient, rate);
}

static void join_exchange(struct trainee *trainee, const struct problem *problem,
    const struct dtr_replica_config *replica, int64_t window_ranks)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_factored factored[16];
    struct dtr_gradsync_config config = {.count = problem->model->slab_count,
        .run = replica->run,
        .bucket_bytes = window_ranks == 2 ? 4096 : 1024,
        .overlap = window_ranks != 2,
        .window_ranks = window_ranks,
        .threads = trainee->threads,
        .apply = apply,
        .context = trainee,
        .factored = factored,
        .factored_count = dtr_cpu_replica_factors(replica, factored)};
    dtr_gradsync_create(world, &config, &trainee->sync, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
}

static void compile(struct trainee *trainee, const struct problem *problem,
    struct dtr_shard_run run, int64_t window_ranks, enum dtr_kernel_choice kernels)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_replica_config config = problem_config(problem, run);
    config.threads = trainee->threads;
    config.kernels = kernels;
    join_exchange(trainee, problem, &config, window_ranks);
    config.exchange = dtr_gradsync_exchange(trainee->sync);
    dtr_cpu_replica_compile(&config, &trainee->replica, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    trainee->replica->ops->set(trainee->replica, problem->weights);
}

static void begin_training(struct trainee *trainee, const struct problem *problem,
    int64_t window_ranks, enum dtr_kernel_choice kernels)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_shard_run run = dtr_shard_run_of(SHARDS, world->place, world->size);
    dtr_threads_create(1 + world->rank % 2, &trainee->threads, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    compile(trainee, problem, run, window_ranks, kernels);
    trainee->loader = problem_loader(problem, run.first, run.count);
}

static void end_training(struct trainee *trainee)
{
    trainee->replica->ops->destroy(trainee->replica);
    dtr_gradsync_free(trainee->sync);
    dtr_loader_free(trainee->loader);
    dtr_threads_free(trainee->threads);
}

static struct dtr_control train_step(struct trainee *trainee, int64_t step)
{
    const struct dtr_batch *batch = dtr_loader_step(trainee->loader, step);
    struct dtr_step_result mine;
    struct dtr_control all;
    usleep((useconds_t)((world->rank * 5 + step * 3) % 4) * 100);
    trainee->replica->ops->forward(trainee->replica, batch, &mine);
    dtr_world_start_control(world, &(struct dtr_control){.loss = mine.loss, .errors = mine.errors});
    dtr_gradsync_begin(trainee->sync);
    trainee->replica->ops->backward(trainee->replica, batch);
    dtr_world_finish_control(world, &all);
    return all;
}

/* One replica that does all shards. */
static struct dtr_step_result train_alone(const struct problem *problem, struct dtr_replica *alone,
    struct dtr_loader *loader, int64_t step)
{
    struct dtr_step_result result = problem_step(alone, loader, step);
    alone->ops->apply(alone, 0, problem->model->slab_count, 0, alone->ops->gradients(alone), rate);
    return result;
}

static void check_tensors(
    const struct dtr_model *model, const float *mine, const float *expected, int64_t step)
{
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        ck_assert_msg(memcmp(mine + tensor->offset, expected + tensor->offset,
                          (size_t)tensor->count * sizeof *mine) == 0,
            "tensor %d after step %lld", i, (long long)step);
    }
}

static void check_weights(const struct problem *problem, const struct trainee *trainee,
    struct dtr_replica *alone, int64_t step)
{
    int64_t bytes = problem->model->slab_count * (int64_t)sizeof(float);
    float *mine = malloc((size_t)bytes), *expected = malloc((size_t)bytes);
    trainee->replica->ops->get(trainee->replica, mine);
    alone->ops->get(alone, expected);
    check_tensors(problem->model, mine, expected, step);
    ck_assert_double_eq(
        trainee->replica->ops->decay_loss(trainee->replica), alone->ops->decay_loss(alone));
    free(mine);
    free(expected);
}

static void check_momenta(
    const struct problem *problem, const struct trainee *trainee, struct dtr_replica *alone)
{
    float *slab = NULL;
    if (world->rank == 0)
        slab = malloc((size_t)problem->model->slab_count * sizeof *slab);
    dtr_gradsync_gather(trainee->sync, trainee->replica->ops->momenta(trainee->replica), slab);
    if (world->rank == 0)
        check_tensors(problem->model, slab, alone->ops->momenta(alone), STEPS);
    free(slab);
}

/* Looks at the parameters only now and then, since that waits for all of them. */
static void train_both(
    const struct problem *problem, int64_t window_ranks, enum dtr_kernel_choice kernels)
{
    struct trainee trainee;
    struct dtr_replica *alone = problem_replica(problem, 0, SHARDS, 1, kernels);
    struct dtr_loader *loader = problem_loader(problem, 0, SHARDS);
    begin_training(&trainee, problem, window_ranks, kernels);
    for (int64_t step = 0; step < STEPS; step++) {
        struct dtr_control all = train_step(&trainee, step);
        struct dtr_step_result expected = train_alone(problem, alone, loader, step);
        ck_assert_int_eq(all.loss.tree.depth, 1);
        ck_assert_mem_eq(&all.loss.sums[0], &expected.loss.sums[0], sizeof(double));
        ck_assert_int_eq(all.errors, expected.errors);
        if (step == 5)
            ck_assert_int_eq(trainee.replica->ops->evaluate(trainee.replica, &problem->samples),
                alone->ops->evaluate(alone, &problem->samples));
        if (step % 4 == 3)
            check_weights(problem, &trainee, alone, step);
    }
    check_momenta(problem, &trainee, alone);
    end_training(&trainee);
    problem_replica_free(alone);
    dtr_loader_free(loader);
}

/* Trains a network that has so many layers whose factors ranks share. */
static void train_sharing(const char *text, int layers)
{
    struct problem problem = problem_create(text, 61, SHARDS, 3);
    struct dtr_shard_run run = {0, SHARDS, SHARDS};
    struct dtr_replica_config config = problem_config(&problem, run);
    struct dtr_factored factored[16];
    ck_assert_int_eq(dtr_cpu_replica_factors(&config, factored), layers);
    for (int64_t window_ranks = 0; window_ranks < 3; window_ranks++)
        train_both(&problem, window_ranks, DTR_KERNELS_AUTO);
    problem_free(&problem);
}

/* Nothing stands between a step's sums of the first one's factors and the next step's loading. */
START_TEST(test_first_layer_shares_factors)
{
    train_sharing("input 32 16 1\n"
                  "dense 300 relu\n"
                  "dense 4\n",
        1);
}
END_TEST

START_TEST(test_neighbours_share_factors)
{
    train_sharing("input 9 7 3\n"
                  "conv 16 3x3 relu\n"
                  "dense 80 relu\n"
                  "dense 832 relu\n"
                  "dropout 0.25\n"
                  "dense 4\n",
        2);
}
END_TEST

START_TEST(test_ranks_train_like_one)
{
    struct problem problem = problem_create(problem_convnet, 61, SHARDS, 3);
    for (int64_t window_ranks = 0; window_ranks < 3; window_ranks++) {
        train_both(&problem, window_ranks, DTR_KERNELS_REFERENCE);
        train_both(&problem, window_ranks, DTR_KERNELS_ONEDNN);
    }
    problem_free(&problem);
}
END_TEST

/* Sets smaller and larger than the ranks' blocks: every sample is counted once. */
START_TEST(test_evaluation_is_exact)
{
    struct problem problem = problem_create(problem_convnet, 500, 1, 1);
    struct dtr_replica *replica = problem_replica(&problem, 0, 0, 1, DTR_KERNELS_AUTO);
    static const int64_t counts[] = {1, 63, 64, 65, 200, 500};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int64_t first, part;
        struct dtr_samples all = problem.samples;
        all.count = counts[i];
        dtr_evaluation_part(world, counts[i], &first, &part);
        int64_t total = (int64_t)dtr_world_sum_u64(world, (uint64_t)part);
        ck_assert_int_eq(total, counts[i]);
        struct dtr_samples mine = {
            first, part, all.image_bytes, all.images + first * all.image_bytes, all.labels + first};
        double share;
        ck_assert_int_eq(dtr_evaluate(world, replica, &mine, counts[i], NULL, &share), 0);
        double expected = (double)replica->ops->evaluate(replica, &all) / (double)counts[i];
        ck_assert_double_eq(share, expected);
    }
    problem_replica_free(replica);
    problem_free(&problem);
}
END_TEST

/* The last rank's reason is everyone's; nobody goes on without the others. */
static int64_t third_time(void *asked)
{
    int *times = asked;
    return ++*times == 3 && world->rank == world->size - 1 ? 15 : 0;
}

START_TEST(test_evaluation_is_interrupted)
{
    struct problem problem = problem_create(problem_convnet, 64, 1, 1);
    struct dtr_replica *replica = problem_replica(&problem, 0, 0, 1, DTR_KERNELS_AUTO);
    struct dtr_samples mine = problem.samples;
    int asked = 0;
    const struct dtr_interrupt interrupt = {third_time, &asked};
    int64_t reason = 0;
    double share = -1;
    for (int i = 1; reason == 0 && i < 4; i++) { /* each of a block, asked about once */
        reason = dtr_evaluate(world, replica, &mine, 64 * world->size, &interrupt, &share);
        ck_assert_int_eq(asked, i);
    }
    ck_assert_int_eq(reason, 15);
    ck_assert_int_eq((int64_t)dtr_world_sum_u64(world, (uint64_t)asked), 3 * world->size);
    problem_replica_free(replica);
    problem_free(&problem);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("replica on ranks");
    TCase *tcase = add_case(suite, "replica on ranks");
    tcase_add_test(tcase, test_ranks_train_like_one);
    tcase_add_test(tcase, test_first_layer_shares_factors);
    tcase_add_test(tcase, test_neighbours_share_factors);
    tcase_add_test(tcase, test_evaluation_is_exact);
    tcase_add_test(tcase, test_evaluation_is_interrupted);
    return suite;
}
