/* The control plane on 1 to 4 ranks. */
#include "mpi_main.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

START_TEST(test_place)
{
    ck_assert_int_ge(world->rank, 0);
    ck_assert_int_lt(world->rank, world->size);
    ck_assert_int_eq(world->nodes, 1);
    ck_assert_int_eq(world->node_size, world->size);
    ck_assert_int_eq(world->node_rank, world->rank);
    ck_assert_int_gt((int)strlen(world->host), 0);
    ck_assert_int_gt((int)strlen(world->library), 0);
    ck_assert_ptr_null(strchr(world->library, '\n'));
}
END_TEST

/* The test's launcher binds nobody, so all ranks share all cores alike. */
START_TEST(test_cores_are_shared_fairly)
{
    double all = (double)sysconf(_SC_NPROCESSORS_ONLN);
    ck_assert_double_gt(world->cores, 0);
    ck_assert_double_le(world->cores * world->size, all + 1e-9);
}
END_TEST

START_TEST(test_agree_on_success)
{
    struct dtr_error error = DTR_ERROR_NONE;
    ck_assert_int_eq(dtr_world_agree(world, &error), DTR_OK);
}
END_TEST

/* Sends standard error to a file while the ranks agree. */
static enum dtr_status agree_into(const char *path, const struct dtr_error *error)
{
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    ck_assert_ptr_nonnull(freopen(path, "w", stderr));
    enum dtr_status status = dtr_world_agree(world, error);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    return status;
}

START_TEST(test_lowest_failing_rank_speaks)
{
    for (int failing = 0; failing < world->size; failing++) {
        struct dtr_error error = DTR_ERROR_NONE;
        char path[] = "/tmp/dtrain-agree-XXXXXX", text[800] = "", expected[200];
        close(mkstemp(path));
        if (world->rank >= failing) /* the higher ones fail too, otherwise */
            dtr_error_set(
                &error, world->rank == failing ? DTR_INPUT : DTR_WRITE, "reason %d", world->rank);
        ck_assert_int_eq(agree_into(path, &error), DTR_INPUT);

        FILE *file = fopen(path, "r");
        size_t length = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        unlink(path);
        if (world->size == 1)
            snprintf(expected, sizeof expected, "dtrain: reason 0\n");
        else
            snprintf(expected, sizeof expected, "dtrain: rank %d on %s: reason %d\n", failing,
                world->host, failing);
        if (world->rank == 0)
            ck_assert_str_eq(text, expected);
        else
            ck_assert_uint_eq(length, 0);
    }
}
END_TEST

START_TEST(test_broadcast)
{
    enum { BYTES = 3 << 20 };
    unsigned char *data = malloc(BYTES);
    for (int i = 0; i < BYTES; i++)
        data[i] = (unsigned char)(world->rank == 0 ? i * 7 : 0);
    dtr_world_broadcast(world, data, BYTES);
    int wrong = 0;
    for (int i = 0; i < BYTES; i++)
        wrong += data[i] != (unsigned char)(i * 7);
    ck_assert_int_eq(wrong, 0);
    dtr_world_broadcast(world, data, 0);
    free(data);
}
END_TEST

START_TEST(test_sums)
{
    int64_t ranks = world->size, triangle = ranks * (ranks + 1) / 2;
    struct dtr_control control = {.loss = 0.5 * (world->rank + 1),
        .errors = world->rank + 1,
        .count = (world->rank + 1) * 10000000000};
    dtr_world_sum_control(world, &control);
    ck_assert_double_eq(control.loss, 0.5 * (double)triangle);
    ck_assert_int_eq(control.errors, triangle);
    ck_assert_int_eq(control.count, triangle * 10000000000);
    ck_assert_uint_eq(dtr_world_sum_u64(world, UINT64_MAX), -(uint64_t)ranks);
    dtr_world_barrier(world);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("world");
    TCase *tcase = tcase_create("world");
    tcase_add_test(tcase, test_place);
    tcase_add_test(tcase, test_cores_are_shared_fairly);
    tcase_add_test(tcase, test_agree_on_success);
    tcase_add_test(tcase, test_lowest_failing_rank_speaks);
    tcase_add_test(tcase, test_broadcast);
    tcase_add_test(tcase, test_sums);
    suite_add_tcase(suite, tcase);
    return suite;
}
