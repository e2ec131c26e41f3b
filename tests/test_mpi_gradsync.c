/* The gradient exchange on 1 to 4 ranks: sums, buckets, order, many steps. */
#include "dtrain/gradsync.h"
#include "mpi_main.h"

#include <stdlib.h>

/* Small whole numbers, so that any order of additions gives the same sum. */
static float value(int64_t i, int rank, int step)
{
    return (float)((i * 31 + rank * 17 + step * 5) % 101 - 50);
}

static float expected_sum(int64_t i, int step)
{
    float sum = 0;
    for (int rank = 0; rank < world->size; rank++)
        sum += value(i, rank, step);
    return sum;
}

/* One step in which the backward pass completes the slab in `pieces` parts, from its end. */
static void exchange(
    struct dtr_gradsync *sync, float *gradients, int64_t count, int64_t pieces, int step)
{
    for (int64_t piece = pieces - 1; piece >= 0; piece--) {
        int64_t first = count * piece / pieces, end = count * (piece + 1) / pieces;
        for (int64_t i = first; i < end; i++)
            gradients[i] = value(i, world->rank, step);
        dtr_gradsync_ready(sync, first);
    }
    int64_t below = count;
    struct dtr_range bucket;
    while (dtr_gradsync_next(sync, &bucket)) {
        ck_assert_int_gt(bucket.count, 0);
        ck_assert_int_eq(bucket.first + bucket.count, below); /* from the end, without gaps */
        below = bucket.first;
        int64_t wrong = 0;
        for (int64_t i = bucket.first; i < bucket.first + bucket.count; i++)
            wrong += gradients[i] != expected_sum(i, step);
        ck_assert_int_eq(wrong, 0);
    }
    ck_assert_int_eq(below, 0);
}

START_TEST(test_sums_for_any_buckets)
{
    static const int64_t counts[] = {1, 15, 16, 17, 1000, 70001};
    static const int64_t bucket_bytes[] = {1, 64, 4096, 100000, INT64_C(1) << 40};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        for (size_t b = 0; b < sizeof bucket_bytes / sizeof *bucket_bytes; b++) {
            if (counts[c] > 20 * bucket_bytes[b])
                continue; /* thousands of requests at once help nobody */
            for (int overlap = 0; overlap < 2; overlap++) {
                struct dtr_error error = DTR_ERROR_NONE;
                struct dtr_gradsync *sync;
                float *gradients = malloc((size_t)counts[c] * sizeof *gradients);
                dtr_gradsync_create(
                    world, gradients, counts[c], bucket_bytes[b], overlap != 0, &sync, &error);
                ck_assert_msg(error.status == DTR_OK, "%s", error.message);
                for (int step = 0; step < 4; step++)
                    exchange(sync, gradients, counts[c], 1 + step * 3, step);
                dtr_gradsync_free(sync);
                free(gradients);
            }
        }
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("gradsync");
    TCase *tcase = tcase_create("gradsync");
    tcase_add_test(tcase, test_sums_for_any_buckets);
    suite_add_tcase(suite, tcase);
    return suite;
}
