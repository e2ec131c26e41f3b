/* The control plane on 1 to 8 ranks. */
#include "dtrain/random.h"
#include "mpi_main.h"

#include <inttypes.h>
#include <stdio.h>
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
    ck_assert_int_eq(world->place, world->rank); /* on one host */
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

/* The ranks agree; what this rank prints meanwhile goes to `text_out`. */
static enum dtr_status agree(const struct dtr_error *error, char *text_out, size_t bytes)
{
    char path[] = "/tmp/dtrain-agree-XXXXXX";
    int file = mkstemp(path), saved = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(file, STDERR_FILENO), 0);
    enum dtr_status status = dtr_world_agree(world, error);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    ssize_t length = pread(file, text_out, bytes - 1, 0);
    text_out[length > 0 ? length : 0] = '\0';
    close(file);
    unlink(path);
    return status;
}

START_TEST(test_lowest_failing_rank_speaks)
{
    for (int failing = 0; failing < world->size; failing++) {
        struct dtr_error error = DTR_ERROR_NONE;
        char text[800], expected[200];
        if (world->rank >= failing) /* the higher ones fail too, otherwise */
            dtr_error_set(
                &error, world->rank == failing ? DTR_INPUT : DTR_WRITE, "reason %d", world->rank);
        ck_assert_int_eq(agree(&error, text, sizeof text), DTR_INPUT);
        if (world->size == 1)
            snprintf(expected, sizeof expected, "dtrain: reason 0\n");
        else
            snprintf(expected, sizeof expected, "dtrain: rank %d on %s: reason %d\n", failing,
                world->host, failing);
        ck_assert_str_eq(text, world->rank == 0 ? expected : "");
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
    ck_assert_uint_eq(dtr_world_sum_u64(world, UINT64_MAX), -(uint64_t)world->size);
    dtr_world_barrier(world);
}
END_TEST

/* Losses in the order of the tree. */

enum { MOST_SHARDS = 64 };

/* Positive, and of different sizes, so that each order rounds in its own way. */
static double loss_of(int64_t shard, int round)
{
    struct dtr_random random = dtr_random_at(
        3, DTR_RANDOM_INIT, 0, (uint32_t)round, (uint64_t)shard);
    return dtr_random_uniform(&random) * (double)(1 + shard % 7) / 3;
}

/* The definition: a node covers [first, first + width), clipped to the number of shards. */
static double node_sum(int64_t first, int64_t width, int64_t shards, int round)
{
    if (width == 1)
        return loss_of(first, round);
    double left = node_sum(first, width / 2, shards, round);
    if (first + width / 2 >= shards)
        return left;
    return left + node_sum(first + width / 2, width / 2, shards, round);
}

static struct dtr_control control_of(struct dtr_shard_run run, int round)
{
    double losses[MOST_SHARDS];
    for (int64_t i = 0; i < run.count; i++)
        losses[i] = loss_of(run.first + i, round);
    return (struct dtr_control){.loss = dtr_tree_sum_scalars(run, losses),
        .errors = world->rank + 10000000000 * round,
        .stop = round == 0 || world->rank % 2 == 0 ? 0 : 100 * round + world->rank};
}

static bool is_sum_in_line(double sum, int64_t shards, int round)
{
    double in_line = 0;
    for (int64_t i = 0; i < shards; i++)
        in_line += loss_of(i, round);
    return in_line == sum;
}

START_TEST(test_control)
{
    const int64_t ranks = world->size;
    const int64_t shards[] = {ranks, ranks + 1, 8, 2 * ranks, 3 * ranks + 1, 63, MOST_SHARDS};
    bool order_shows = false;
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
        struct dtr_shard_run run = dtr_shard_run_of(shards[i], world->place, ranks);
        for (int round = 0; round < 6; round++) {
            struct dtr_control mine = control_of(run, round), all;
            usleep((useconds_t)(world->rank * 7 + round * 5) % 4 * 200);
            dtr_world_start_control(world, &mine);
            mine = (struct dtr_control){.errors = -1}; /* the caller may reuse his */
            if (round % 2 == 0)
                dtr_world_barrier(world); /* others' messages may come between */
            dtr_world_finish_control(world, &all);
            double expected = node_sum(0, 64, shards[i], round);
            ck_assert_int_eq(all.loss.tree.depth, 1);
            ck_assert_int_eq(all.loss.tree.bounds[0], 0);
            ck_assert_int_eq(all.loss.tree.bounds[1], shards[i]);
            ck_assert_mem_eq(&all.loss.sums[0], &expected, sizeof expected);
            ck_assert_int_eq(all.errors, ranks * (ranks - 1) / 2 + ranks * round * 10000000000);
            int64_t last_odd = (ranks - 2) / 2 * 2 + 1; /* the largest reason is its */
            ck_assert_int_eq(all.stop, round == 0 || ranks == 1 ? 0 : 100 * round + last_odd);
            order_shows = order_shows || !is_sum_in_line(expected, shards[i], round);
        }
    }
    ck_assert(order_shows);
}
END_TEST

/* Comparisons. */

START_TEST(test_same)
{
    static const uint64_t values[] = {0, 1, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        ck_assert(dtr_world_same(world, values[i]));
        for (int other = 0; other < world->size; other++) {
            uint64_t value = world->rank == other ? values[i] ^ UINT64_C(1) << 62 : values[i];
            ck_assert(dtr_world_same(world, value) == (world->size == 1));
        }
    }
}
END_TEST

/* This rank's value against what the others call theirs. */
static void compare(uint64_t value, uint64_t usual, int lowest_wrong)
{
    char part[64], begin[128], text[800];
    struct dtr_error error = DTR_ERROR_NONE;
    enum dtr_status status = dtr_world_compare(world, value, "ears after step 7", &error);
    ck_assert_int_eq(status, value == usual ? DTR_OK : DTR_FAILED);
    ck_assert_int_eq(error.status, status);
    if (value != usual) {
        ck_assert_ptr_nonnull(strstr(error.message, "ears after step 7"));
        snprintf(part, sizeof part, "%016" PRIx64, value);
        ck_assert_ptr_nonnull(strstr(error.message, part));
        snprintf(part, sizeof part, "%016" PRIx64, usual);
        ck_assert_ptr_nonnull(strstr(error.message, part));
    }
    status = agree(&error, text, sizeof text);
    ck_assert_int_eq(status, lowest_wrong < 0 ? DTR_OK : DTR_FAILED);
    snprintf(begin, sizeof begin, "dtrain: rank %d on %s: its ears", lowest_wrong, world->host);
    if (world->rank > 0 || lowest_wrong < 0)
        begin[0] = '\0';
    ck_assert_msg(strncmp(text, begin, strlen(begin)) == 0, "%s", text);
    ck_assert_int_eq(text[0] != '\0', begin[0] != '\0');
}

START_TEST(test_compare)
{
    const uint64_t usual = UINT64_C(0x0123456789abcdef), other = 0xbad;
    compare(usual, usual, -1);
    for (int wrong = 0; wrong < world->size && world->size > 2; wrong++)
        compare(world->rank == wrong ? other : usual, usual, wrong);
    compare(usual, usual, -1);
}
END_TEST

/* Without a majority rank 0 is right. */
START_TEST(test_compare_ties)
{
    uint64_t half = (uint64_t)world->size / 2;
    if (world->size % 2 == 0) {
        compare((uint64_t)world->rank < half, 1, (int)half);
        compare((uint64_t)world->rank % 2, 0, 1);
    }
    if (world->size > 1)
        compare(UINT64_MAX - (uint64_t)world->rank, UINT64_MAX, 1);
}
END_TEST

/* The wrong ones may be many, if fewer than half; rank 0 may be among them. */
START_TEST(test_compare_majority)
{
    int wrong = (world->size - 1) / 2;
    if (wrong == 0)
        return;
    compare(world->rank < wrong ? 1 : 2, 2, 0);
    compare(world->rank < wrong ? (uint64_t)world->rank + 10 : 2, 2, 0);
    compare(world->rank >= world->size - wrong ? 1 : 2, 2, world->size - wrong);
    compare(world->rank % 2 == 1 && world->rank < 2 * wrong ? 1 : 2, 2, 1);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("world");
    TCase *tcase = add_case(suite, "world");
    tcase_add_test(tcase, test_place);
    tcase_add_test(tcase, test_cores_are_shared_fairly);
    tcase_add_test(tcase, test_agree_on_success);
    tcase_add_test(tcase, test_lowest_failing_rank_speaks);
    tcase_add_test(tcase, test_broadcast);
    tcase_add_test(tcase, test_sums);
    tcase_add_test(tcase, test_control);
    tcase_add_test(tcase, test_same);
    tcase_add_test(tcase, test_compare);
    tcase_add_test(tcase, test_compare_ties);
    tcase_add_test(tcase, test_compare_majority);
    return suite;
}
