/* R ranks compute what one rank computes: gradients, losses and errors of whole steps. */
#include "dtrain/evaluate.h"
#include "dtrain/gradsync.h"
#include "mpi_main.h"
#include "problem.h"

#include <stdlib.h>

START_TEST(test_ranks_have_the_gradient_of_one)
{
    struct problem problem = problem_create(problem_convnet, 61, 8, 3);
    int64_t count = problem.model->slab_count;
    int64_t first = dtr_rank_first_shard(8, world->rank, world->size);
    int64_t end = dtr_rank_first_shard(8, world->rank + 1, world->size);
    struct dtr_replica *mine = problem_replica(
        &problem, first, end - first, 1 + world->rank % 2, DTR_KERNELS_AUTO);
    struct dtr_replica *whole = problem_replica(&problem, 0, 8, 1, DTR_KERNELS_AUTO);
    struct dtr_loader *my_loader = problem_loader(&problem, first, end - first);
    struct dtr_loader *whole_loader = problem_loader(&problem, 0, 8);
    struct dtr_gradsync *sync;
    struct dtr_error error = DTR_ERROR_NONE;
    dtr_gradsync_create(world, mine->ops->gradients(mine), count, 1024, true, &sync, &error);
    ck_assert_int_eq(error.status, DTR_OK);

    for (int64_t step = 0; step < 12; step++) {
        struct dtr_step_result part, all;
        struct dtr_range bucket;
        mine->ops->step(mine, dtr_loader_step(my_loader, step), dtr_gradsync_ready, sync, &part);
        while (dtr_gradsync_next(sync, &bucket))
            mine->ops->apply(mine, bucket.first, bucket.count, 0.02F);
        all = problem_step(whole, whole_loader, step);
        whole->ops->apply(whole, 0, count, 0.02F);

        struct dtr_control sum = {.loss = part.loss, .errors = part.errors};
        dtr_world_sum_control(world, &sum);
        ck_assert_double_eq_tol(sum.loss, all.loss, 1e-4 * all.loss);
        ck_assert_int_eq(sum.errors, all.errors);
        ck_assert_double_lt(
            problem_distance(&problem, mine->ops->gradients(mine), whole->ops->gradients(whole)),
            1e-4);
    }
    dtr_gradsync_free(sync);
    mine->ops->destroy(mine);
    whole->ops->destroy(whole);
    dtr_loader_free(my_loader);
    dtr_loader_free(whole_loader);
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
        double share = dtr_evaluate(world, replica, &mine, counts[i]);
        double expected = (double)replica->ops->evaluate(replica, &all) / (double)counts[i];
        ck_assert_double_eq(share, expected);
    }
    replica->ops->destroy(replica);
    problem_free(&problem);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("replica on ranks");
    TCase *tcase = tcase_create("replica on ranks");
    tcase_add_test(tcase, test_ranks_have_the_gradient_of_one);
    tcase_add_test(tcase, test_evaluation_is_exact);
    suite_add_tcase(suite, tcase);
    return suite;
}
