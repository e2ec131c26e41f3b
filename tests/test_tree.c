#include "dtrain/tree.h"

#include "dtrain/random.h"
#include "unit_main.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SHARDS = 70 };

/* The order of additions, as one number: an operation on whole numbers that neither commutes nor
 * associates, so that no two orders give the same. */
static uint64_t combine(uint64_t left, uint64_t right)
{
    uint64_t mixed = left * UINT64_C(0x9E3779B97F4A7C15) + (right ^ right >> 29);
    return (mixed ^ mixed >> 32) * UINT64_C(0xBF58476D1CE4E5B9) + 1;
}

static uint64_t leaf(int64_t shard)
{
    return (uint64_t)shard + 1000;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The definition: a node covers [first, first + width), clipped to the number of shards. */
static uint64_t node_order(int64_t first, int64_t width, int64_t shards)
{
    if (width == 1)
        return leaf(first);
    uint64_t left = node_order(first, width / 2, shards);
    if (first + width / 2 >= shards)
        return left;
    return combine(left, node_order(first + width / 2, width / 2, shards));
}

static int64_t tree_width(int64_t shards)
{
    int64_t width = 1;
    while (width < shards)
        width *= 2;
    return width;
}

/* The largest subtrees that a run is made of, from left to right. */
struct parts {
    uint64_t order[64];
    int count;
};

static void split_run(struct dtr_shard_run run, int64_t first, int64_t width, struct parts *parts)
{
    int64_t end = smaller(first + width, run.shards);
    if (first >= end || end <= run.first || first >= run.first + run.count)
        return;
    if (first >= run.first && end <= run.first + run.count) {
        parts->order[parts->count++] = node_order(first, width, run.shards);
        return;
    }
    split_run(run, first, width / 2, parts);
    split_run(run, first + width / 2, width / 2, parts);
}

static uint64_t expected_order(struct dtr_shard_run run)
{
    struct parts parts = {.count = 0};
    split_run(run, 0, tree_width(run.shards), &parts);
    uint64_t order = parts.order[parts.count - 1];
    for (int i = parts.count - 2; i >= 0; i--)
        order = combine(parts.order[i], order);
    return order;
}

/* What tree.h tells a caller to do. */
static uint64_t pushed_order(struct dtr_shard_run run)
{
    uint64_t stack[DTR_TREE_DEPTH];
    int top = 0;
    for (int64_t i = 0; i < run.count; i++) {
        if (top == DTR_TREE_DEPTH)
            ck_abort_msg("the stack is too small");
        stack[top++] = leaf(run.first + i);
        for (int merges = dtr_tree_merges(run, i); merges > 0; merges--) {
            if (--top == 0)
                ck_abort_msg("nothing to add to shard %lld", (long long)(run.first + i));
            stack[top - 1] = combine(stack[top - 1], stack[top]);
        }
    }
    ck_assert_int_eq(top, 1);
    return stack[0];
}

START_TEST(test_whole_trees)
{
    for (int64_t shards = 1; shards <= MOST_SHARDS; shards++) {
        struct dtr_shard_run run = {0, shards, shards};
        ck_assert_uint_eq(pushed_order(run), node_order(0, tree_width(shards), shards));
    }
}
END_TEST

/* The tree of seven, spelled out. */
START_TEST(test_seven_shards)
{
    uint64_t pair0 = combine(leaf(0), leaf(1)), pair2 = combine(leaf(2), leaf(3));
    uint64_t pair4 = combine(leaf(4), leaf(5));
    uint64_t expected = combine(combine(pair0, pair2), combine(pair4, leaf(6)));
    ck_assert_uint_eq(pushed_order((struct dtr_shard_run){0, 7, 7}), expected);
    ck_assert_uint_eq(pushed_order((struct dtr_shard_run){4, 3, 7}), combine(pair4, leaf(6)));
    ck_assert_uint_eq(pushed_order((struct dtr_shard_run){1, 3, 7}), combine(leaf(1), pair2));
}
END_TEST

START_TEST(test_all_runs)
{
    int64_t shards = _i;
    for (int64_t first = 0; first < shards; first++) {
        for (int64_t count = 1; first + count <= shards; count++) {
            struct dtr_shard_run run = {first, count, shards};
            if (pushed_order(run) != expected_order(run))
                ck_abort_msg("shards %lld to %lld of %lld", (long long)first,
                    (long long)(first + count - 1), (long long)shards);
        }
    }
}
END_TEST

/* Halves that two ranks sum are the two sides of the root, and so on down. */
START_TEST(test_subtrees_join)
{
    for (int64_t shards = 2; shards <= MOST_SHARDS; shards++) {
        int64_t half = tree_width(shards) / 2;
        uint64_t left = pushed_order((struct dtr_shard_run){0, half, shards});
        uint64_t right = pushed_order((struct dtr_shard_run){half, shards - half, shards});
        ck_assert_uint_eq(
            pushed_order((struct dtr_shard_run){0, shards, shards}), combine(left, right));
    }
}
END_TEST

static int deepest_stack(struct dtr_shard_run run)
{
    int deepest = 0, top = 0;
    for (int64_t i = 0; i < run.count - 1; i++) {
        top++;
        deepest = top > deepest ? top : deepest;
        top -= dtr_tree_merges(run, i);
    }
    return top + 1 > deepest ? top + 1 : deepest;
}

/* A run that ends, and one that also begins, where no subtree does. */
START_TEST(test_depth)
{
    const int64_t most = 1 << 22;
    ck_assert_int_le(deepest_stack((struct dtr_shard_run){0, most - 1, most}), DTR_TREE_DEPTH);
    ck_assert_int_le(deepest_stack((struct dtr_shard_run){1, most - 2, most}), DTR_TREE_DEPTH);
}
END_TEST

/* Sums of floats. */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float random_float(struct dtr_random *random)
{
    float x = (float)(dtr_random_uniform(random) - 0.5);
    for (uint32_t halvings = dtr_random_below(random, 10); halvings > 0; halvings--)
        x /= 2;
    return x;
}

static float *random_partials(int64_t count)
{
    struct dtr_random random = dtr_random_at(1, DTR_RANDOM_INIT, 0, 0, 0);
    float *partials = malloc((size_t)count * sizeof *partials);
    ck_assert_ptr_nonnull(partials);
    for (int64_t i = 0; i < count; i++)
        partials[i] = random_float(&random);
    return partials;
}

/* A whole tree's sum of one element, from the definition. */
static float node_sum(
    const float *element, int64_t stride, int64_t first, int64_t width, int64_t shards)
{
    if (width == 1)
        return element[first * stride];
    float left = node_sum(element, stride, first, width / 2, shards);
    if (first + width / 2 >= shards)
        return left;
    return left + node_sum(element, stride, first + width / 2, width / 2, shards);
}

/* Elements [begin, end) of sum are the tree's, all others still have the value of `untouched`. */
static void check_sum(int64_t shards, const float *partials, int64_t stride, int64_t begin,
    int64_t end, const float *sum, float untouched)
{
    for (int64_t j = 0; j < stride; j++) {
        float expected = untouched;
        if (j >= begin && j < end)
            expected = node_sum(partials + j, stride, 0, tree_width(shards), shards);
        if (bits_of(sum[j]) != bits_of(expected))
            ck_abort_msg("%lld shards, element %lld of [%lld, %lld): %a, expected %a",
                (long long)shards, (long long)j, (long long)begin, (long long)end, (double)sum[j],
                (double)expected);
    }
}

START_TEST(test_sum)
{
    static const int64_t strides[] = {1, 3, 255, 256, 257, 511, 1000};
    int64_t shards = _i;
    for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
        int64_t stride = strides[i];
        const int64_t ranges[][2] = {{0, stride}, {stride / 3, stride}, {0, stride / 2 + 1},
            {stride / 2, stride / 2 + 1}, {stride / 2, stride / 2}};
        float *partials = random_partials(shards * stride);
        float *sum = malloc((size_t)stride * sizeof *sum);
        for (size_t range = 0; range < sizeof ranges / sizeof *ranges; range++) {
            int64_t begin = ranges[range][0], end = ranges[range][1];
            for (int64_t j = 0; j < stride; j++)
                sum[j] = -7;
            dtr_tree_sum(
                (struct dtr_shard_run){0, shards, shards}, partials, stride, begin, end, sum);
            check_sum(shards, partials, stride, begin, end, sum, -7);
        }
        free(partials);
        free(sum);
    }
}
END_TEST

START_TEST(test_sum_in_two_ranges)
{
    enum { SHARDS = 13, COUNT = 601 };
    const struct dtr_shard_run run = {0, SHARDS, SHARDS};
    float *partials = random_partials(SHARDS * COUNT), whole[COUNT], split[COUNT];
    dtr_tree_sum(run, partials, COUNT, 0, COUNT, whole);
    for (int64_t cut = 0; cut <= COUNT; cut++) {
        memset(split, 0xFF, sizeof split);
        dtr_tree_sum(run, partials, COUNT, cut, COUNT, split);
        dtr_tree_sum(run, partials, COUNT, 0, cut, split);
        if (memcmp(split, whole, sizeof whole) != 0)
            ck_abort_msg("cut at %lld", (long long)cut);
    }
    free(partials);
}
END_TEST

/* A rank's run gets its partials from its own first shard on. */
START_TEST(test_sum_of_a_run)
{
    enum { SHARDS = 12, COUNT = 300 };
    float *partials = random_partials(SHARDS * COUNT), left[COUNT], right[COUNT], whole[COUNT];
    dtr_tree_sum((struct dtr_shard_run){0, 8, SHARDS}, partials, COUNT, 0, COUNT, left);
    dtr_tree_sum(
        (struct dtr_shard_run){8, 4, SHARDS}, partials + 8 * COUNT, COUNT, 0, COUNT, right);
    dtr_tree_sum((struct dtr_shard_run){0, SHARDS, SHARDS}, partials, COUNT, 0, COUNT, whole);
    for (int j = 0; j < COUNT; j++)
        ck_assert_uint_eq(bits_of(left[j] + right[j]), bits_of(whole[j]));
    free(partials);
}
END_TEST

START_TEST(test_sum_of_one_shard_is_a_copy)
{
    const uint32_t bits[] = {0x80000000, 0x00000001, 0x7f800000, 0xff800000, 0x7fc01234};
    float partials[5], sum[5];
    memcpy(partials, bits, sizeof partials);
    dtr_tree_sum((struct dtr_shard_run){2, 1, 4}, partials, 5, 0, 5, sum);
    ck_assert_mem_eq(sum, partials, sizeof sum);
}
END_TEST

static bool sums_differ(int64_t shards, const float *partials, int64_t count, bool reversed)
{
    for (int64_t j = 0; j < count; j++) {
        float in_line = partials[(reversed ? shards - 1 : 0) * count + j];
        for (int64_t i = 1; i < shards; i++)
            in_line += partials[(reversed ? shards - 1 - i : i) * count + j];
        if (bits_of(in_line) !=
            bits_of(node_sum(partials + j, count, 0, tree_width(shards), shards)))
            return true;
    }
    return false;
}

/* Shows that the tests above can see the order of additions. */
START_TEST(test_other_orders_give_other_bits)
{
    enum { COUNT = 100 };
    for (int64_t shards = 4; shards <= MOST_SHARDS; shards++) {
        float *partials = random_partials(shards * COUNT);
        ck_assert(sums_differ(shards, partials, COUNT, false));
        ck_assert(sums_differ(shards, partials, COUNT, true));
        free(partials);
    }
}
END_TEST

/* Sums of one double per shard. */

static double scalar_sum(const double *scalars, int64_t first, int64_t width, int64_t shards)
{
    if (width == 1)
        return scalars[first];
    double left = scalar_sum(scalars, first, width / 2, shards);
    if (first + width / 2 >= shards)
        return left;
    return left + scalar_sum(scalars, first + width / 2, width / 2, shards);
}

START_TEST(test_scalars)
{
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_INIT, 0, 0, 0);
    bool order_shows = false;
    for (int64_t shards = 1; shards <= MOST_SHARDS; shards++) {
        double scalars[MOST_SHARDS], in_line = 0;
        for (int64_t i = 0; i < shards; i++) {
            scalars[i] = dtr_random_uniform(&random) / 3;
            in_line += scalars[i];
        }
        double sum = dtr_tree_sum_scalars((struct dtr_shard_run){0, shards, shards}, scalars);
        double expected = scalar_sum(scalars, 0, tree_width(shards), shards);
        ck_assert_mem_eq(&sum, &expected, sizeof sum);
        order_shows = order_shows || memcmp(&sum, &in_line, sizeof sum) != 0;
    }
    ck_assert(order_shows);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    return tcase;
}

static Suite *make_suite(void)
{
    Suite *suite = suite_create("tree");
    TCase *order = add_case(suite, "order");
    tcase_add_test(order, test_whole_trees);
    tcase_add_test(order, test_seven_shards);
    tcase_add_loop_test(order, test_all_runs, 1, MOST_SHARDS + 1);
    tcase_add_test(order, test_subtrees_join);
    tcase_add_test(order, test_depth);

    TCase *sums = add_case(suite, "sums");
    tcase_add_loop_test(sums, test_sum, 1, 34);
    tcase_add_test(sums, test_sum_in_two_ranges);
    tcase_add_test(sums, test_sum_of_a_run);
    tcase_add_test(sums, test_sum_of_one_shard_is_a_copy);
    tcase_add_test(sums, test_other_orders_give_other_bits);
    tcase_add_test(sums, test_scalars);
    return suite;
}
