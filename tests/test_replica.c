/* The CPU replica as a whole: gradients, threads, padding, the update, evaluation. */
#include "problem.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Loss of the first batch at the weights; mean over its samples, as the gradients are. */
static double loss_at(struct dtr_replica *replica, struct dtr_loader *loader, const float *weights)
{
    replica->ops->set(replica, weights);
    struct dtr_step_result result = problem_step(replica, loader, 0);
    return problem_loss(&result) / (double)dtr_loader_step(loader, 0)->real;
}

START_TEST(test_gradient_is_the_slope_of_the_loss)
{
    struct problem problem = problem_create(problem_convnet, 24, 4, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_replica *replica = problem_replica(&problem, 0, 4, 1, DTR_KERNELS_REFERENCE);
    float *gradients = problem_slab(&problem);
    loss_at(replica, loader, problem.weights);
    memcpy(gradients, replica->ops->gradients(replica), problem_slab_bytes(&problem));

    /* Along the gradient itself: every parameter takes part, and the slope is large. */
    double square = 0;
    for (int64_t i = 0; i < problem.model->slab_count; i++)
        square += (double)gradients[i] * (double)gradients[i];
    const double distance = 1e-4; /* short: a kink of ReLU or pooling in between is rare */
    float *weights = problem_slab(&problem);
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
    problem_replica_free(replica);
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
        ck_assert_double_eq_tol(
            problem_loss(&found), problem_loss(&expected), 1e-5 * problem_loss(&expected));
        ck_assert_double_lt(
            problem_distance(&problem, fast->ops->gradients(fast), plain->ops->gradients(plain)),
            2e-5);
    }
    problem_replica_free(plain);
    problem_replica_free(fast);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

static void train(struct dtr_replica *replica, struct dtr_loader *loader,
    const struct problem *problem, int64_t steps)
{
    for (int64_t step = 0; step < steps; step++) {
        problem_step(replica, loader, step);
        problem_apply(replica, problem, 0.05F);
    }
}

START_TEST(test_threads_do_not_change_the_bits)
{
    static const enum dtr_kernel_choice kernels[] = {DTR_KERNELS_REFERENCE, DTR_KERNELS_ONEDNN};
    struct problem problem = problem_create(problem_convnet, 50, 8, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 8);
    float *expected = problem_slab(&problem), *found = problem_slab(&problem);
    for (int choice = 0; choice < 2; choice++) {
        for (int threads = 1; threads <= 5; threads++) {
            struct dtr_replica *replica = problem_replica(&problem, 0, 8, threads, kernels[choice]);
            train(replica, loader, &problem, 10);
            replica->ops->get(replica, threads == 1 ? expected : found);
            if (threads > 1)
                ck_assert_mem_eq(found, expected, problem_slab_bytes(&problem));
            problem_replica_free(replica);
        }
        ck_assert_mem_ne(expected, problem.weights, problem_slab_bytes(&problem));
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
    ck_assert_double_eq_tol(problem_loss(&results[0]), problem_loss(&results[1]), 1e-12);
    ck_assert_double_lt(problem_distance(&padded, replicas[0]->ops->gradients(replicas[0]),
                            replicas[1]->ops->gradients(replicas[1])),
        1e-6);
    for (int i = 0; i < 2; i++) {
        problem_replica_free(replicas[i]);
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
    float *found = problem_slab(&problem), *expected = problem_slab(&problem);
    int64_t count = problem.model->slab_count;
    problem_step(whole, loader, 0);
    problem_step(pieces, loader, 0);
    problem_apply(whole, &problem, 0.1F);
    for (int64_t first = 0; first < count; first += 37)
        pieces->ops->apply(pieces, first, count - first < 37 ? count - first : 37, first,
            pieces->ops->gradients(pieces) + first, 0.1F);
    whole->ops->get(whole, expected);
    pieces->ops->get(pieces, found);
    ck_assert_mem_eq(found, expected, problem_slab_bytes(&problem));

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
    whole->ops->set(whole, problem.weights);
    double loss = whole->ops->decay_loss(whole);
    ck_assert_double_eq_tol(loss, 0.5 * 5e-4 * square, 1e-6 * loss);
    free(found);
    free(expected);
    problem_replica_free(whole);
    problem_replica_free(pieces);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

/* Nothing of the parameters before is left, not even in what kernels keep of them. */
START_TEST(test_set_replaces_everything)
{
    enum dtr_kernel_choice kernels = _i == 0 ? DTR_KERNELS_REFERENCE : DTR_KERNELS_ONEDNN;
    struct problem problem = problem_create(problem_convnet, 150, 4, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_replica *fresh = problem_replica(&problem, 0, 4, 1, kernels);
    struct dtr_replica *trained = problem_replica(&problem, 0, 4, 1, kernels);
    const struct dtr_batch *batch = dtr_loader_step(loader, 20);
    struct dtr_step_result expected, found;
    fresh->ops->forward(fresh, batch, &expected);
    int64_t errors = fresh->ops->evaluate(fresh, &problem.samples);

    train(trained, loader, &problem, 20);
    batch = dtr_loader_step(loader, 20);
    trained->ops->forward(trained, batch, &found);
    ck_assert(problem_loss(&found) != problem_loss(&expected));
    ck_assert_int_ne(trained->ops->evaluate(trained, &problem.samples), errors);
    trained->ops->set(trained, problem.weights);
    trained->ops->forward(trained, batch, &found);
    problem_check_results(&found, &expected);
    ck_assert_int_eq(trained->ops->evaluate(trained, &problem.samples), errors);
    problem_replica_free(fresh);
    problem_replica_free(trained);
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
    problem_replica_free(one);
    problem_replica_free(many);
    problem_free(&problem);
}
END_TEST

/* Without any exchange. */
START_TEST(test_replica_alone)
{
    struct problem problem = problem_create(problem_convnet, 150, 4, 3);
    struct dtr_loader *loader = problem_loader(&problem, 0, 4);
    struct dtr_exchange none = {0};
    struct dtr_replica *alone = problem_replica_on(&problem, 0, 4, 2, DTR_KERNELS_AUTO, none);
    struct dtr_replica *expected = problem_replica(&problem, 0, 4, 1, DTR_KERNELS_AUTO);
    struct dtr_replica *evaluating = problem_replica_on(&problem, 0, 0, 2, DTR_KERNELS_AUTO, none);
    float *found = problem_slab(&problem), *trained = problem_slab(&problem);
    train(alone, loader, &problem, 5);
    train(expected, loader, &problem, 5);
    alone->ops->get(alone, found);
    expected->ops->get(expected, trained);
    ck_assert_mem_eq(found, trained, problem_slab_bytes(&problem));
    ck_assert(problem_same_tensors(
        &problem, alone->ops->momenta(alone), expected->ops->momenta(expected)));

    evaluating->ops->set(evaluating, found);
    int64_t errors = expected->ops->evaluate(expected, &problem.samples);
    ck_assert_int_eq(alone->ops->evaluate(alone, &problem.samples), errors);
    ck_assert_int_eq(evaluating->ops->evaluate(evaluating, &problem.samples), errors);
    free(found);
    free(trained);
    problem_replica_free(alone);
    problem_replica_free(expected);
    problem_replica_free(evaluating);
    dtr_loader_free(loader);
    problem_free(&problem);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("replica");
    TCase *tcase = add_case(suite, "replica");
    tcase_add_test(tcase, test_gradient_is_the_slope_of_the_loss);
    tcase_add_test(tcase, test_kernels_agree);
    tcase_add_test(tcase, test_threads_do_not_change_the_bits);
    tcase_add_test(tcase, test_padded_batch_has_the_gradient_of_its_samples);
    tcase_add_test(tcase, test_update_by_ranges_and_decay);
    tcase_add_loop_test(tcase, test_set_replaces_everything, 0, 2);
    tcase_add_test(tcase, test_evaluation_counts_every_sample);
    tcase_add_test(tcase, test_replica_alone);
    return suite;
}
