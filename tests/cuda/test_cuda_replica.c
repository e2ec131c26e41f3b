/* The CUDA replica, on a GPU, or on the CPU: its kernels run by the emulator (tests/simt/), CUDA
 * and cuBLAS replaced by fakes (tests/fake_cuda/). It must compute what the CPU's reference kernels
 * compute, whatever the order in which streams and threads run. */
#include "../../cuda/replica.h"
#include "../problem.h"
#include "dtrain/optimizer.h"
#include "machine.h"

#define CAN_RUN machine_is_there()
#include "../unit_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const networks[] = {
    problem_convnet,
    "input 8 8 1\nconv 4 3x3 relu\nmaxpool 2\nconv 6 3x3 relu\nmaxpool 2\ndense 12 relu\n"
    "dropout 0.5\ndense 3\n",
    "input 11 6 2\nconv 3 3x5 stride 2\nconv 4 1x1 relu\nmaxpool 3 stride 1\ndropout 0.3\ndense 5\n",
    "input 5 5 3\nmaxpool 2\ndense 7\ndropout 0.9\ndense 9 relu\ndense 2\n",
    "input 7 9 1\ndropout 0.2\nconv 2 5x5 relu valid\nmaxpool 2\ndense 4\n",
    "input 1 1 6\ndense 3\n",
};
enum { NETWORKS = sizeof networks / sizeof networks[0], SHARDS = 4, SLICE = 3, SAMPLES = 50 };

static void end_test(void *context, const struct dtr_error *error)
{
    (void)context;
    ck_abort_msg("%s", error->message);
}

/* `resident`: with the training set on the device; `trains`: takes whole steps there. */
struct kind {
    enum dtr_precision precision;
    bool trains, resident;
};

static struct dtr_replica *cuda_replica(const struct problem *problem, struct kind kind)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_replica *replica;
    struct dtr_shard_run run = {0, problem->shards, problem->shards};
    struct dtr_replica_config config = problem_config(problem, run);
    config.samples = kind.resident ? &problem->samples : NULL;
    config.largest_set = 8; /* fewer than there are: an evaluation takes several blocks */
    struct dtr_device_config device = {
        .precision = kind.precision, .trains = kind.trains, .fail = end_test};
    dtr_cuda_replica_compile(&config, &device, &replica, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    replica->ops->set(replica, problem->weights);
    return replica;
}

static struct dtr_step_result step(
    struct dtr_replica *replica, struct dtr_loader *loader, int64_t number)
{
    struct dtr_step_result result;
    const struct dtr_batch *batch = dtr_loader_step(loader, number);
    replica->ops->forward(replica, batch, &result);
    replica->ops->backward(replica, batch);
    return result;
}

static void apply(struct dtr_replica *replica, const struct problem *problem)
{
    replica->ops->apply(
        replica, 0, problem->model->slab_count, 0, replica->ops->gradients(replica), 0.02F);
}

/* Both take the same steps; the last batch of an epoch is padded. Gradients differ by more than
 * `least` in one of them, by less than `most` in all. */
static void compare(int network, enum dtr_precision precision, double least, double most)
{
    struct problem problem = problem_create(networks[network], SAMPLES, SHARDS, SLICE);
    struct dtr_loader *loader = problem_loader(&problem, 0, SHARDS);
    struct dtr_replica *plain = problem_replica(&problem, 0, SHARDS, 1, DTR_KERNELS_REFERENCE);
    struct dtr_replica *cuda = cuda_replica(&problem, (struct kind){.precision = precision});
    double largest = 0;
    float *weights = malloc((size_t)problem.model->slab_count * sizeof *weights);
    for (int64_t number = 0; number < 6; number++) {
        struct dtr_step_result expected = problem_step(plain, loader, number);
        struct dtr_step_result found = step(cuda, loader, number);
        ck_assert_int_eq(found.loss.tree.depth, 1);
        ck_assert_double_eq_tol(
            found.loss.sums[0], expected.loss.sums[0], most * expected.loss.sums[0]);
        double distance = problem_distance(
            &problem, cuda->ops->gradients(cuda), plain->ops->gradients(plain));
        largest = fmax(largest, distance);
        ck_assert_msg(distance < most, "network %d, precision %d, step %d: gradients differ by %g",
            network, (int)precision, (int)number, distance);
        apply(plain, &problem);
        apply(cuda, &problem);
        if (precision == DTR_FP32) {
            ck_assert_int_eq(found.errors, expected.errors);
            continue;
        }
        plain->ops->get(plain, weights); /* or small differences would grow */
        cuda->ops->set(cuda, weights);
    }
    ck_assert_double_eq_tol(cuda->ops->decay_loss(cuda), plain->ops->decay_loss(plain),
        1e-5 * plain->ops->decay_loss(plain));
    if (precision == DTR_FP32)
        ck_assert_int_eq(cuda->ops->evaluate(cuda, &problem.samples),
            plain->ops->evaluate(plain, &problem.samples));
    ck_assert_msg(largest > least, "network %d, precision %d: gradients differ by %g only", network,
        (int)precision, largest);
    free(weights);
    cuda->ops->destroy(cuda);
    ck_assert_msg(machine_fault() == NULL, "%s", machine_fault());
    problem_replica_free(plain);
    dtr_loader_free(loader);
    problem_free(&problem);
}

START_TEST(test_computes_what_the_reference_computes)
{
    compare(_i, DTR_FP32, 0, 2e-6);
}
END_TEST

/* Factors have 11 bits, or 8: enough to change which of two values a pool takes, so that a whole
 * gradient moves. How exactly they are rounded, the kernels' own tests know. */
START_TEST(test_rounds_factors)
{
    compare(_i, DTR_TF32, 1e-5, 1e-2);
    compare(_i, DTR_BF16, 1e-3, 0.15);
}
END_TEST

/* What a training leaves, and what it said on its way. */
struct outcome {
    float *weights, *momenta;
    double loss;
    int64_t errors, wrong;
};

static void note(struct outcome *outcome, const struct dtr_step_result *result)
{
    outcome->loss += result->loss.sums[0];
    outcome->errors += result->errors;
}

static void outcome_free(struct outcome *outcome)
{
    free(outcome->weights);
    free(outcome->momenta);
}

/* Twenty steps, given as far ahead as may be; in the middle everything is waited for, and
 * parameters and momenta are set anew. */
static struct outcome train(const struct problem *problem, struct kind kind)
{
    enum { STEPS = 20, PAUSE = 12 };
    size_t bytes = (size_t)problem->model->slab_count * sizeof(float);
    struct dtr_loader *loader = problem_loader(problem, 0, SHARDS);
    struct dtr_replica *replica = cuda_replica(problem, kind);
    const struct dtr_replica_ops *ops = replica->ops;
    struct outcome outcome = {.weights = malloc(bytes), .momenta = malloc(bytes)};
    struct dtr_step_result result;
    int64_t ahead = 0;
    for (int64_t number = 0; number < STEPS; number++) {
        if (kind.trains && ahead == DTR_STEPS_AHEAD) {
            ops->finish_step(replica, &result);
            note(&outcome, &result);
            ahead--;
        }
        if (kind.trains) {
            ops->start_step(replica, dtr_loader_step(loader, number), 0.02F);
            ahead++;
        } else {
            result = step(replica, loader, number);
            apply(replica, problem);
            note(&outcome, &result);
        }
        for (; number % PAUSE == PAUSE - 1 && ahead > 0; ahead--) {
            ops->finish_step(replica, &result);
            note(&outcome, &result);
        }
        if (number % PAUSE == PAUSE - 1) {
            ops->get(replica, outcome.weights);
            outcome.weights[0] += 1;
            ops->set(replica, outcome.weights);
            ops->momenta(replica)[0] += 1;
            ops->forward(replica, dtr_loader_step(loader, number), &result);
            note(&outcome, &result);
        }
    }
    for (; ahead > 0; ahead--) {
        ops->finish_step(replica, &result);
        note(&outcome, &result);
    }
    outcome.wrong = ops->evaluate(replica, &problem->samples);
    ops->get(replica, outcome.weights);
    memcpy(outcome.momenta, ops->momenta(replica), bytes);
    ops->destroy(replica);
    dtr_loader_free(loader);
    ck_assert_msg(machine_fault() == NULL, "%s", machine_fault());
    return outcome;
}

/* Whole steps on the device have the bits of steps that the host updates after. */
START_TEST(test_trains_on_the_device)
{
    struct problem problem = problem_create(networks[_i], SAMPLES, SHARDS, SLICE);
    size_t bytes = (size_t)problem.model->slab_count * sizeof(float);
    struct outcome expected = train(&problem, (struct kind){DTR_FP32, false, false});
    for (unsigned seed = 1; seed <= 6; seed++) {
        machine_order_streams(seed);
        struct outcome found = train(&problem, (struct kind){DTR_FP32, seed > 1, seed % 2});
        ck_assert_mem_eq(found.weights, expected.weights, bytes);
        ck_assert_mem_eq(found.momenta, expected.momenta, bytes);
        ck_assert_double_eq(found.loss, expected.loss);
        ck_assert_int_eq(found.errors, expected.errors);
        ck_assert_int_eq(found.wrong, expected.wrong);
        outcome_free(&found);
    }
    outcome_free(&expected);
    problem_free(&problem);
}
END_TEST

/* In whatever order what may overlap runs. */
START_TEST(test_schedules_do_not_change_the_bits)
{
    struct problem problem = problem_create(networks[1], SAMPLES, SHARDS, SLICE);
    size_t bytes = (size_t)problem.model->slab_count * sizeof(float);
    float *expected = malloc(bytes), *found = malloc(bytes);
    char schedule[16];
    for (unsigned seed = 1; seed <= 10; seed++) {
        struct dtr_loader *loader = problem_loader(&problem, 0, SHARDS);
        machine_order_streams(seed);
        snprintf(schedule, sizeof schedule, "%u", seed);
        machine_order_threads(seed == 1 ? "forward" : seed == 2 ? "reverse" : schedule);
        struct dtr_replica *replica = cuda_replica(&problem, (struct kind){.precision = DTR_TF32});
        for (int64_t number = 0; number < 3; number++) {
            step(replica, loader, number);
            apply(replica, &problem);
        }
        replica->ops->get(replica, seed == 1 ? expected : found);
        if (seed > 1)
            ck_assert_mem_eq(found, expected, bytes);
        ck_assert_mem_ne(expected, problem.weights, bytes);
        replica->ops->destroy(replica);
        dtr_loader_free(loader);
    }
    machine_order_threads(NULL);
    free(expected);
    free(found);
    problem_free(&problem);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("cuda replica");
    TCase *cases = add_case(suite, "cuda replica");
    tcase_add_loop_test(cases, test_computes_what_the_reference_computes, 0, NETWORKS);
    tcase_add_loop_test(cases, test_rounds_factors, 0, NETWORKS);
    tcase_add_loop_test(cases, test_trains_on_the_device, 0, NETWORKS);
    tcase_add_test(cases, test_schedules_do_not_change_the_bits);
    return suite;
}
