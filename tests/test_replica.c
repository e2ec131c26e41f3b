/* The CPU replica as a whole: gradients, threads, padding, the update, evaluation. */
#include "dtrain/optimizer.h"
#include "problem.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t slab_bytes(const struct problem *problem)
{
    return (size_t)problem->model->slab_count * sizeof(float);
}

/* Loss of the first batch at the weights; mean over its samples, as the gradients are. */
static double loss_at(struct dtr_replica *replica, struct dtr_loader *loader, const float *weights)
{
    replica->ops->set(replica, DTR_SLAB_WEIGHTS, weights);
    double loss = problem_step(replica, loader, 0).loss;
    return loss / (double)dtr_loader_step(loader, 0)->real;
}

START_TEST(test_gradient_is_the_slope_of_the_loss)
{
    struct problem problem = problem_create(problem_convnet, 24, 4, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_replica *replica = problem_replica(&problem, 0, 4, 1, DTR_KERNELS_REFERENCE);
    float *gradients = malloc(slab_bytes(&problem));
    loss_at(replica, loader, problem.weights);
    memcpy(gradients, replica->ops->gradients(replica), slab_bytes(&problem));

    /* Along the gradient itself: every parameter takes part, and the slope is large. */
    double square = 0;
    for (int64_t i = 0; i < problem.model->slab_count; i++)
        square += (double)gradients[i] * (double)gradients[i];
    const double distance = 1e-4; /* short: a kink of ReLU or pooling in between is rare */
    float *weights = malloc(slab_bytes(&problem));
    double loss[2];
    for (int side = 0; side < 2; side++) {
        double step = (side == 0 ? -0.5 : 0.5) * distance / sqrt(square);
        for (int64_t i = 0; i < problem.model->slab_count; i++)
            weights[i] = (float)((double)problem.weights[i] + step * (double)gradients[i]);
        loss[side] = loss_at(replica, loader, weights);
    }
    double slope = (loss[1] - loss[0]) / distance;
    ck_assert_msg(fabs(slope / sqrt(square) - 1) < 0.02, "slope %g, gradient's length %g", slope,
        sqrt(square));
    free(weights);
    free(gradients);
    replica->ops->destroy(replica);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

START_TEST(test_kernels_agree)
{
    struct problem problem = problem_create(problem_convnet, 50, 4, 5);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_replica *plain = problem_replica(&problem, 0, 4, 1, DTR_KERNELS_REFERENCE);
    struct dtr_replica *fast = problem_replica(&problem, 0, 4, 2, DTR_KERNELS_ONEDNN);
    for (int64_t step = 0; step < 3; step++) {
        struct dtr_step_result expected = problem_step(plain, loader, step);
        struct dtr_step_result found = problem_step(fast, loader, step);
        ck_assert_double_eq_tol(found.loss, expected.loss, 1e-5 * expected.loss);
        ck_assert_double_lt(
            problem_distance(&problem, fast->ops->gradients(fast), plain->ops->gradients(plain)),
            2e-5);
    }
    plain->ops->destroy(plain);
    fast->ops->destroy(fast);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

static void train(struct dtr_replica *replica, struct dtr_loader *loader,
    const struct problem *problem, int64_t steps)
{
    for (int64_t step = 0; step < steps; step++) {
        problem_step(replica, loader, step);
        replica->ops->apply(replica, 0, problem->model->slab_count, 0.05F);
    }
}

START_TEST(test_threads_do_not_change_the_bits)
{
    static const enum dtr_kernel_choice kernels[] = {DTR_KERNELS_REFERENCE, DTR_KERNELS_ONEDNN};
    struct problem problem = problem_create(problem_convnet, 50, 8, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 8);
    float *expected = malloc(slab_bytes(&problem)), *found = malloc(slab_bytes(&problem));
    for (int choice = 0; choice < 2; choice++) {
        for (int threads = 1; threads <= 5; threads++) {
            struct dtr_replica *replica = problem_replica(&problem, 0, 8, threads, kernels[choice]);
            train(replica, loader, &problem, 10);
            replica->ops->get(replica, DTR_SLAB_WEIGHTS, threads == 1 ? expected : found);
            if (threads > 1)
                ck_assert_mem_eq(found, expected, slab_bytes(&problem));
            replica->ops->destroy(replica);
        }
        ck_assert_mem_ne(expected, problem.weights, slab_bytes(&problem));
    }
    free(expected);
    free(found);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

/* Without dropout, a batch that is half padding has the gradient of its real half. */
START_TEST(test_padded_batch_has_the_gradient_of_its_samples)
{
    static const char text[] = "input 4 4 1\nconv 3 3x3 relu\ndense 6 relu\ndense 3\n";
    struct problem padded = problem_create(text, 6, 2, 6), exact = problem_create(text, 6, 2, 3);
    struct dtr_loader *loaders[] = {problem_loader(&padded, 0, 2), problem_loader(&exact, 0, 2)};
    struct dtr_replica *replicas[] = {problem_replica(&padded, 0, 2, 1, DTR_KERNELS_REFERENCE),
        problem_replica(&exact, 0, 2, 1, DTR_KERNELS_REFERENCE)};
    struct dtr_step_result results[2];
    for (int i = 0; i < 2; i++)
        results[i] = problem_step(replicas[i], loaders[i], 0);
    ck_assert_int_eq(dtr_loader_step(loaders[0], 0)->real, 6);
    ck_assert_int_eq(results[0].errors, results[1].errors);
    ck_assert_double_eq_tol(results[0].loss, results[1].loss, 1e-12);
    ck_assert_double_lt(problem_distance(&padded, replicas[0]->ops->gradients(replicas[0]),
                            replicas[1]->ops->gradients(replicas[1])),
        1e-6);
    for (int i = 0; i < 2; i++) {
        replicas[i]->ops->destroy(replicas[i]);
        dtr_loader_free(loaders[i]);
    }
    problem_free(&padded);
    problem_free(&exact);
}
END_TEST

START_TEST(test_update_by_ranges_and_decay)
{
    struct problem problem = problem_create(problem_convnet, 24, 4, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_replica *whole = problem_replica(&problem, 0, 4, 2, DTR_KERNELS_REFERENCE);
    struct dtr_replica *pieces = problem_replica(&problem, 0, 4, 3, DTR_KERNELS_REFERENCE);
    float *found = malloc(slab_bytes(&problem)), *expected = malloc(slab_bytes(&problem));
    int64_t count = problem.model->slab_count;
    problem_step(whole, loader, 0);
    problem_step(pieces, loader, 0);
    whole->ops->apply(whole, 0, count, 0.1F);
    for (int64_t first = 0; first < count; first += 37)
        pieces->ops->apply(pieces, first, count - first < 37 ? count - first : 37, 0.1F);
    whole->ops->get(whole, DTR_SLAB_WEIGHTS, expected);
    pieces->ops->get(pieces, DTR_SLAB_WEIGHTS, found);
    ck_assert_mem_eq(found, expected, slab_bytes(&problem));

    const float *gradients = whole->ops->gradients(whole);
    double square = 0;
    for (int t = 0; t < problem.model->tensor_count; t++) {
        const struct dtr_tensor *tensor = &problem.model->tensors[t];
        float decay = tensor->dense ? 5e-4F : 0;
        for (int64_t i = tensor->offset; i < tensor->offset + tensor->count; i++) {
            float weight = problem.weights[i];
            float change = 0.1F * (gradients[i] + decay * weight);
            ck_assert_float_eq_tol(expected[i], weight - change, 1e-7F);
            square += tensor->dense ? (double)weight * (double)weight : 0;
        }
    }
    whole->ops->set(whole, DTR_SLAB_WEIGHTS, problem.weights);
    double loss = whole->ops->decay_loss(whole);
    ck_assert_double_eq_tol(loss, 0.5 * 5e-4 * square, 1e-6 * loss);
    free(found);
    free(expected);
    whole->ops->destroy(whole);
    pieces->ops->destroy(pieces);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

/* A set that is no multiple of the block; threads and kernels must not matter. */
START_TEST(test_evaluation_counts_every_sample)
{
    struct problem problem = problem_create(problem_convnet, 150, 1, 1);
    struct dtr_replica *one = problem_replica(&problem, 0, 0, 1, DTR_KERNELS_REFERENCE);
    struct dtr_replica *many = problem_replica(&problem, 0, 0, 3, DTR_KERNELS_ONEDNN);
    int64_t errors = one->ops->evaluate(one, &problem.samples);
    ck_assert_int_gt(errors, 50);
    ck_assert_int_lt(errors, 150);
    ck_assert_int_eq(many->ops->evaluate(many, &problem.samples), errors);

    int64_t sum = 0;
    for (int64_t i = 0; i < 150; i++) {
        struct dtr_samples sample = {i, 1, problem.samples.image_bytes,
            problem.samples.images + i * problem.samples.image_bytes, problem.samples.labels + i};
        sum += one->ops->evaluate(one, &sample);
    }
    ck_assert_int_eq(sum, errors);
    one->ops->destroy(one);
    many->ops->destroy(many);
    problem_free(&problem);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("replica");
    TCase *tcase = tcase_create("replica");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, test_gradient_is_the_slope_of_the_loss);
    tcase_add_test(tcase, test_kernels_agree);
    tcase_add_test(tcase, test_threads_do_not_change_the_bits);
    tcase_add_test(tcase, test_padded_batch_has_the_gradient_of_its_samples);
    tcase_add_test(tcase, test_update_by_ranges_and_decay);
    tcase_add_test(tcase, test_evaluation_counts_every_sample);
    suite_add_tcase(suite, tcase);
    return suite;
}
