/*
 * The shard tree against its definition, which is written here once more, as a recursion from the
 * root: which nodes of a run are open, in which order everything is added, and the sums.
 */
#include "dtrain/tree.h"

#include "dtrain/random.h"
#include "unit_main.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SHARDS = 70 };

/* Neither commutes nor associates: no two orders of additions give the same number. */
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

struct node {
    int64_t first, width, end; /* end <= first + width: clipped */
};

/* The largest nodes that lie in a run, from left to right. */
struct nodes {
    struct node at[64];
    int count;
};

static void find_nodes(
    struct dtr_shard_run run, int64_t first, int64_t width, struct nodes *nodes_out)
{
    int64_t end = smaller(first + width, run.shards);
    if (first >= end || end <= run.first || first >= run.first + run.count)
        return;
    if (first >= run.first && end <= run.first + run.count) {
        nodes_out->at[nodes_out->count++] = (struct node){first, width, end};
        return;
    }
    find_nodes(run, first, width / 2, nodes_out);
    find_nodes(run, first + width / 2, width / 2, nodes_out);
}

static struct nodes nodes_of(struct dtr_shard_run run)
{
    struct nodes nodes = {.count = 0};
    find_nodes(run, 0, tree_width(run.shards), &nodes);
    return nodes;
}

/* What tree.h tells a caller to do, on orders instead of sums. */
struct ordered {
    struct dtr_tree tree;
    uint64_t orders[DTR_TREE_DEPTH];
};

static void push_order(struct ordered *it, int64_t end, uint64_t order)
{
    int64_t top = it->tree.depth;
    if (top == DTR_TREE_DEPTH)
        ck_abort_msg("the stack is too small");
    it->orders[top] = order;
    for (int merges = dtr_tree_push(&it->tree, end); merges > 0; merges--, top--) {
        if (top == 0)
            ck_abort_msg("nothing to add to what ends at shard %lld", (long long)end);
        it->orders[top - 1] = combine(it->orders[top - 1], it->orders[top]);
    }
    if (it->tree.depth != top + 1)
        ck_abort_msg("%lld open nodes, %lld sums", (long long)it->tree.depth, (long long)top + 1);
}

static struct ordered ordered_run(int64_t first, int64_t end, int64_t shards)
{
    struct ordered it = {.tree = dtr_tree_begin(shards, first)};
    for (int64_t shard = first; shard < end; shard++)
        push_order(&it, shard + 1, leaf(shard));
    return it;
}

static bool same_tree(const struct dtr_tree *a, const struct dtr_tree *b)
{
    return a->shards == b->shards && a->depth == b->depth &&
           memcmp(a->bounds, b->bounds, (size_t)(a->depth + 1) * sizeof *a->bounds) == 0;
}

static struct ordered joined(struct ordered left, const struct ordered *next)
{
    struct dtr_tree tree = left.tree;
    dtr_tree_append(&tree, &next->tree);
    for (int64_t i = 0; i < next->tree.depth; i++)
        push_order(&left, next->tree.bounds[i + 1], next->orders[i]);
    if (!same_tree(&tree, &left.tree))
        ck_abort_msg("appended, the nodes are not those that are pushed one by one");
    return left;
}

/* The open nodes are the definition's, each added in its order. */
static void check_ordered(const struct ordered *it, struct dtr_shard_run run)
{
    struct nodes nodes = nodes_of(run);
    bool right = it->tree.shards == run.shards && it->tree.depth == nodes.count &&
                 it->tree.bounds[0] == run.first;
    for (int i = 0; right && i < nodes.count; i++)
        right = it->tree.bounds[i + 1] == nodes.at[i].end &&
                it->orders[i] == node_order(nodes.at[i].first, nodes.at[i].width, run.shards);
    if (!right)
        ck_abort_msg("shards %lld to %lld of %lld", (long long)run.first,
            (long long)(run.first + run.count - 1), (long long)run.shards);
}

static int64_t most_entries(struct dtr_shard_run run)
{
    int64_t most = 0;
    for (struct dtr_shard_run done = {run.first, 0, run.shards}; done.count < run.count;
         done.count++) {
        int64_t entries = nodes_of(done).count + 1;
        most = entries > most ? entries : most;
    }
    return most;
}

START_TEST(test_all_runs)
{
    int64_t shards = _i;
    for (int64_t first = 0; first < shards; first++) {
        for (int64_t count = 1; first + count <= shards; count++) {
            struct dtr_shard_run run = {first, count, shards};
            struct ordered it = ordered_run(first, first + count, shards);
            struct dtr_tree tree = dtr_tree_of(run);
            check_ordered(&it, run);
            if (!same_tree(&tree, &it.tree) || dtr_tree_most_entries(run) != most_entries(run))
                ck_abort_msg("shards %lld to %lld of %lld", (long long)first,
                    (long long)(first + count - 1), (long long)shards);
        }
    }
}
END_TEST

START_TEST(test_whole_trees)
{
    for (int64_t shards = 1; shards <= MOST_SHARDS; shards++) {
        struct ordered it = ordered_run(0, shards, shards);
        ck_assert_int_eq(it.tree.depth, 1);
        ck_assert_uint_eq(it.orders[0], node_order(0, tree_width(shards), shards));
    }
}
END_TEST

/* The tree of seven, spelled out. */
START_TEST(test_seven_shards)
{
    uint64_t pair0 = combine(leaf(0), leaf(1)), pair2 = combine(leaf(2), leaf(3));
    uint64_t pair4 = combine(leaf(4), leaf(5));
    struct ordered it = ordered_run(0, 7, 7);
    ck_assert_int_eq(it.tree.depth, 1);
    ck_assert_uint_eq(it.orders[0], combine(combine(pair0, pair2), combine(pair4, leaf(6))));

    it = ordered_run(4, 7, 7);
    ck_assert_int_eq(it.tree.depth, 1);
    ck_assert_uint_eq(it.orders[0], combine(pair4, leaf(6)));

    it = ordered_run(1, 6, 7);
    ck_assert_int_eq(it.tree.depth, 3);
    ck_assert(it.orders[0] == leaf(1) && it.orders[1] == pair2 && it.orders[2] == pair4);
    const int64_t bounds[] = {1, 2, 4, 6};
    ck_assert_mem_eq(it.tree.bounds, bounds, sizeof bounds);
}
END_TEST

/* A run cut in two, also at its ends. */
static void check_cut(int64_t first, int64_t middle, int64_t end, int64_t shards)
{
    struct ordered left = ordered_run(first, middle, shards);
    struct ordered right = ordered_run(middle, end, shards);
    struct ordered both = joined(left, &right);
    check_ordered(&both, (struct dtr_shard_run){first, end - first, shards});
}

/* And in three: it does not matter which two are joined first. */
static void check_cuts(int64_t first, const int64_t cuts[2], int64_t end, int64_t shards)
{
    struct ordered left = ordered_run(first, cuts[0], shards);
    struct ordered middle = ordered_run(cuts[0], cuts[1], shards);
    struct ordered right = ordered_run(cuts[1], end, shards);
    struct ordered first_two = joined(left, &middle), last_two = joined(middle, &right);
    struct ordered left_first = joined(first_two, &right), right_first = joined(left, &last_two);
    check_ordered(&left_first, (struct dtr_shard_run){first, end - first, shards});
    check_ordered(&right_first, (struct dtr_shard_run){first, end - first, shards});
}

START_TEST(test_joined_runs)
{
    int64_t shards = _i;
    for (int64_t first = 0; first < shards; first++) {
        for (int64_t end = first + 1; end <= shards; end++) {
            for (int64_t middle = first; middle <= end; middle++) {
                check_cut(first, middle, end, shards);
                for (int64_t cut = middle + 1; cut < end; cut++)
                    check_cuts(first, (int64_t[]){middle, cut}, end, shards);
            }
        }
    }
}
END_TEST

/* Ranks' runs, joined from the left and from the right. */
START_TEST(test_ranks_runs)
{
    int64_t shards = _i;
    for (int64_t ranks = 1; ranks <= shards; ranks++) {
        struct ordered runs[MOST_SHARDS + 1], left = ordered_run(0, 0, shards);
        int64_t end = 0;
        for (int64_t rank = 0; rank < ranks; rank++) {
            struct dtr_shard_run run = dtr_shard_run_of(shards, rank, ranks);
            bool fair = run.count >= shards / ranks && run.count <= (shards + ranks - 1) / ranks;
            if (run.shards != shards || run.first != end || !fair)
                ck_abort_msg("rank %lld of %lld, %lld shards", (long long)rank, (long long)ranks,
                    (long long)shards);
            end += run.count;
            runs[rank] = ordered_run(run.first, end, shards);
            left = joined(left, &runs[rank]);
        }
        ck_assert_int_eq(end, shards);
        struct ordered right = runs[ranks - 1];
        for (int64_t rank = ranks - 2; rank >= 0; rank--)
            right = joined(runs[rank], &right);
        check_ordered(&left, (struct dtr_shard_run){0, shards, shards});
        check_ordered(&right, (struct dtr_shard_run){0, shards, shards});
    }
}
END_TEST

/* Many shards and ranks, where a narrower product would overflow. */
START_TEST(test_many_ranks)
{
    const int64_t shards = 1 << 22, ranks = 1000003;
    int64_t end = 0;
    for (int64_t rank = 0; rank < ranks; rank++) {
        struct dtr_shard_run run = dtr_shard_run_of(shards, rank, ranks);
        if (run.first != end || run.count < 4 || run.count > 5)
            ck_abort_msg("rank %lld", (long long)rank);
        end += run.count;
    }
    ck_assert_int_eq(end, shards);
}
END_TEST

/* Runs that begin and end where no node does, of trees that are full and that are not. */
START_TEST(test_depth)
{
    const int64_t most = 1 << 22;
    for (int64_t shards = most - 3; shards <= most; shards++) {
        for (int64_t first = 0; first < 2; first++) {
            for (int64_t end = shards - 2; end <= shards; end++) {
                struct dtr_shard_run run = {first, end - first, shards};
                ck_assert_int_le(dtr_tree_most_entries(run), DTR_TREE_DEPTH);
                ck_assert_int_eq(dtr_tree_of(run).depth, nodes_of(run).count);
            }
        }
    }
    /* The longest of all, from two halves that have as many open nodes as halves can have. */
    struct ordered left = ordered_run(1, most / 2 - 1, most);
    struct ordered right = ordered_run(most / 2 - 1, most - 1, most);
    left = joined(left, &right);
    ck_assert_int_eq(left.tree.depth, 42);
    check_ordered(&left, (struct dtr_shard_run){1, most - 2, most});
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

static float *floats_of(int64_t count, float value)
{
    float *floats = malloc((size_t)count * sizeof *floats);
    ck_assert_ptr_nonnull(floats);
    for (int64_t i = 0; i < count; i++)
        floats[i] = value;
    return floats;
}

/* What is added: partials [run.count][stride], of the run's shards. */
struct terms {
    struct dtr_shard_run run;
    const float *partials;
    int64_t stride;
};

/* Element j of a node, from the definition. */
static float node_sum(const struct terms *terms, int64_t j, int64_t first, int64_t width)
{
    if (width == 1)
        return terms->partials[(first - terms->run.first) * terms->stride + j];
    float left = node_sum(terms, j, first, width / 2);
    if (first + width / 2 >= terms->run.shards)
        return left;
    return left + node_sum(terms, j, first + width / 2, width / 2);
}

/* [open nodes][stride]. */
static float *expected_sums(const struct terms *terms, const struct nodes *nodes)
{
    float *sums = floats_of(nodes->count * terms->stride, 0);
    for (int k = 0; k < nodes->count; k++) {
        for (int64_t j = 0; j < terms->stride; j++)
            sums[k * terms->stride + j] = node_sum(
                terms, j, nodes->at[k].first, nodes->at[k].width);
    }
    return sums;
}

/* Sums [begin, end); everything around them, a node more included, has to stay as it is. */
static void check_range(const struct terms *terms, const struct nodes *nodes, const float *expected,
    int64_t begin, int64_t end)
{
    const float untouched = -7;
    struct dtr_shard_run run = terms->run;
    int64_t sum_stride = terms->stride + 5;
    float *sums = floats_of((nodes->count + 1) * sum_stride, untouched);
    dtr_tree_sum(run, terms->partials, terms->stride, begin, end, sums, sum_stride);
    for (int64_t i = 0; i < (nodes->count + 1) * sum_stride; i++) {
        int64_t k = i / sum_stride, j = i % sum_stride;
        bool due = k < nodes->count && j >= begin && j < end;
        float value = due ? expected[k * terms->stride + j] : untouched;
        if (bits_of(sums[i]) != bits_of(value))
            ck_abort_msg("shards %lld to %lld of %lld, [%lld, %lld), node %lld, element %lld: %a, "
                         "expected %a",
                (long long)run.first, (long long)(run.first + run.count - 1), (long long)run.shards,
                (long long)begin, (long long)end, (long long)k, (long long)j, (double)sums[i],
                (double)value);
    }
    free(sums);
}

static void check_sums(struct dtr_shard_run run, int64_t stride)
{
    const int64_t ranges[][2] = {{0, stride}, {stride / 3, stride}, {0, stride / 2 + 1},
        {stride / 2, stride / 2 + 1}, {stride / 2, stride / 2}, {stride - 1, stride}};
    float *partials = random_partials(run.count * stride);
    struct terms terms = {run, partials, stride};
    struct nodes nodes = nodes_of(run);
    float *expected = expected_sums(&terms, &nodes);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        check_range(&terms, &nodes, expected, ranges[i][0], ranges[i][1]);
    free(expected);
    free(partials);
}

START_TEST(test_sum)
{
    enum { CHUNK = DTR_TREE_CHUNK };
    static const int64_t strides[] = {1, 3, 257, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1};
    int64_t shards = _i;
    const struct dtr_shard_run runs[] = {{0, shards, shards}, {1, shards - 1, shards},
        {0, shards - 1, shards}, {1, shards - 2, shards}, {shards / 4, shards / 2, shards},
        {shards / 3, shards - shards / 3, shards}, {shards - 1, 1, shards}};
    for (size_t i = 0; i < sizeof strides / sizeof *strides; i++) {
        for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
            if (runs[k].count > 0)
                check_sums(runs[k], strides[i]);
        }
    }
}
END_TEST

START_TEST(test_sum_in_two_ranges)
{
    enum { COUNT = DTR_TREE_CHUNK + 77, NODES = 5 };
    const struct dtr_shard_run run = {1, 12, 16};
    float *partials = random_partials(run.count * COUNT);
    float *whole = floats_of(NODES * COUNT, -7), *split = floats_of(NODES * COUNT, -7);
    ck_assert_int_eq(dtr_tree_of(run).depth, NODES);
    dtr_tree_sum(run, partials, COUNT, 0, COUNT, whole, COUNT);
    for (int64_t cut = 0; cut <= COUNT; cut++) {
        memset(split, 0xFF, NODES * COUNT * sizeof *split);
        dtr_tree_sum(run, partials, COUNT, cut, COUNT, split, COUNT);
        dtr_tree_sum(run, partials, COUNT, 0, cut, split, COUNT);
        if (memcmp(split, whole, NODES * COUNT * sizeof *whole) != 0)
            ck_abort_msg("cut at %lld", (long long)cut);
    }
    free(partials);
    free(whole);
    free(split);
}
END_TEST

/* Returns what was pushed, which the chunk goes on using. */
static float *push_sums(
    struct dtr_tree_chunk *chunk, struct dtr_shard_run run, const float *partials, int64_t count)
{
    if (run.count == 0)
        return NULL;
    struct dtr_tree tree = dtr_tree_of(run);
    float *sums = floats_of(tree.depth * count, -7);
    dtr_tree_sum(run, partials, count, 0, count, sums, count);
    for (int64_t k = 0; k < tree.depth; k++)
        dtr_tree_chunk_push(chunk, tree.bounds[k + 1], sums + k * count, count);
    return sums;
}

/* Two ranks' partial sums, pushed by a third, are the sums of their shards together. */
static void check_pushed_sums(struct dtr_shard_run run, int64_t left_count, int64_t count)
{
    const float untouched = -7;
    float *partials = random_partials(run.count * count);
    struct terms terms = {run, partials, count};
    struct nodes nodes = nodes_of(run);
    float *expected = expected_sums(&terms, &nodes);
    struct dtr_tree_chunk *chunk = malloc(sizeof *chunk);
    for (int64_t i = 0; i < DTR_TREE_DEPTH * DTR_TREE_CHUNK; i++)
        chunk->sums[i / DTR_TREE_CHUNK][i % DTR_TREE_CHUNK] = untouched;
    dtr_tree_chunk_begin(chunk, run.shards, run.first);
    float *left = push_sums(
        chunk, (struct dtr_shard_run){run.first, left_count, run.shards}, partials, count);
    float *right = push_sums(chunk,
        (struct dtr_shard_run){run.first + left_count, run.count - left_count, run.shards},
        partials + left_count * count, count);
    ck_assert_int_eq(chunk->tree.depth, nodes.count);
    for (int64_t k = 0; k < nodes.count; k++) {
        if (memcmp(chunk->nodes[k], expected + k * count, (size_t)count * sizeof *expected) != 0)
            ck_abort_msg("shards %lld to %lld of %lld, cut behind %lld: node %lld",
                (long long)run.first, (long long)(run.first + run.count - 1), (long long)run.shards,
                (long long)left_count, (long long)k);
    }
    for (int64_t i = 0; i < DTR_TREE_DEPTH * DTR_TREE_CHUNK; i++) {
        if (i % DTR_TREE_CHUNK >= count &&
            bits_of(chunk->sums[i / DTR_TREE_CHUNK][i % DTR_TREE_CHUNK]) != bits_of(untouched))
            ck_abort_msg(
                "element %lld of %lld written", (long long)i % DTR_TREE_CHUNK, (long long)count);
    }
    free(left);
    free(right);
    free(chunk);
    free(expected);
    free(partials);
}

START_TEST(test_pushed_sums)
{
    int64_t shards = _i;
    for (int64_t first = 0; first < shards; first += 1 + first / 2) {
        struct dtr_shard_run run = {first, shards - first - (shards - first > 3), shards};
        for (int64_t left_count = 0; left_count <= run.count; left_count++) {
            check_pushed_sums(run, left_count, 9);
            if (left_count == run.count / 2)
                check_pushed_sums(run, left_count, DTR_TREE_CHUNK);
        }
    }
}
END_TEST

START_TEST(test_sum_of_one_shard_is_a_copy)
{
    const uint32_t bits[] = {0x80000000, 0x00000001, 0x7f800000, 0xff800000, 0x7fc01234};
    float partials[5], sum[5];
    memcpy(partials, bits, sizeof partials);
    dtr_tree_sum((struct dtr_shard_run){2, 1, 4}, partials, 5, 0, 5, sum, 5);
    ck_assert_mem_eq(sum, partials, sizeof sum);
}
END_TEST

static float sum_in_line(const struct terms *terms, int64_t j, bool reversed)
{
    int64_t last = terms->run.count - 1;
    float sum = terms->partials[(reversed ? last : 0) * terms->stride + j];
    for (int64_t i = 1; i <= last; i++)
        sum += terms->partials[(reversed ? last - i : i) * terms->stride + j];
    return sum;
}

/* The open nodes of a run added to one, as if it were a tree of its own. */
static float sum_of_nodes(const struct terms *terms, int64_t j)
{
    struct nodes nodes = nodes_of(terms->run);
    float sum = node_sum(terms, j, nodes.at[0].first, nodes.at[0].width);
    for (int k = 1; k < nodes.count; k++)
        sum += node_sum(terms, j, nodes.at[k].first, nodes.at[k].width);
    return sum;
}

/* Two runs, each added to one number, and these two added. */
static float sum_of_halves(const struct terms *terms, int64_t j, int64_t left_count)
{
    struct dtr_shard_run run = terms->run;
    struct terms left = *terms, right = *terms;
    left.run.count = left_count;
    right.run = (struct dtr_shard_run){left_count, run.count - left_count, run.shards};
    right.partials += left_count * terms->stride;
    return sum_of_nodes(&left, j) + sum_of_nodes(&right, j);
}

/* Shows that the tests above can see the order of additions: in line, backwards, and where ranks
 * add more than the tree allows. */
START_TEST(test_other_orders_give_other_bits)
{
    enum { COUNT = 100, ORDERS = 3 };
    for (int64_t shards = 4; shards <= MOST_SHARDS; shards++) {
        float *partials = random_partials(shards * COUNT);
        struct terms terms = {{0, shards, shards}, partials, COUNT};
        int differ[ORDERS] = {0};
        for (int64_t j = 0; j < COUNT; j++) {
            uint32_t bits = bits_of(node_sum(&terms, j, 0, tree_width(shards)));
            differ[0] += bits != bits_of(sum_in_line(&terms, j, false));
            differ[1] += bits != bits_of(sum_in_line(&terms, j, true));
            differ[2] += bits != bits_of(sum_of_halves(&terms, j, tree_width(shards) / 2 - 1));
        }
        for (int i = 0; i < ORDERS; i++)
            ck_assert_int_gt(differ[i], 0);
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

/* `scalars` are those of all shards. */
static void check_scalar(
    const struct dtr_tree_scalar *sum, struct dtr_shard_run run, const double *scalars)
{
    struct nodes nodes = nodes_of(run);
    bool right = sum->tree.shards == run.shards && sum->tree.depth == nodes.count &&
                 sum->tree.bounds[0] == run.first;
    for (int i = 0; right && i < nodes.count; i++) {
        double expected = scalar_sum(scalars, nodes.at[i].first, nodes.at[i].width, run.shards);
        right = sum->tree.bounds[i + 1] == nodes.at[i].end &&
                memcmp(&sum->sums[i], &expected, sizeof expected) == 0;
    }
    if (!right)
        ck_abort_msg("shards %lld to %lld of %lld", (long long)run.first,
            (long long)(run.first + run.count - 1), (long long)run.shards);
}

static struct dtr_tree_scalar scalar_of(
    int64_t first, int64_t end, int64_t shards, const double *scalars)
{
    return dtr_tree_sum_scalars(
        (struct dtr_shard_run){first, end - first, shards}, scalars + first);
}

START_TEST(test_scalars)
{
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_INIT, 0, 0, (uint64_t)_i);
    double scalars[MOST_SHARDS];
    int64_t shards = _i;
    for (int64_t i = 0; i < shards; i++)
        scalars[i] = dtr_random_uniform(&random) / 3;
    for (int64_t first = 0; first < shards; first++) {
        for (int64_t end = first + 1; end <= shards; end++) {
            struct dtr_shard_run run = {first, end - first, shards};
            struct dtr_tree_scalar sum = scalar_of(first, end, shards, scalars);
            check_scalar(&sum, run, scalars);
            for (int64_t middle = first; middle <= end; middle++) {
                struct dtr_tree_scalar next = scalar_of(middle, end, shards, scalars);
                sum = scalar_of(first, middle, shards, scalars);
                dtr_tree_scalar_append(&sum, &next);
                check_scalar(&sum, run, scalars);
            }
        }
    }
}
END_TEST

START_TEST(test_scalars_show_the_order)
{
    struct dtr_random random = dtr_random_at(3, DTR_RANDOM_INIT, 0, 0, 0);
    int differ = 0;
    for (int64_t shards = 4; shards <= MOST_SHARDS; shards++) {
        double scalars[MOST_SHARDS], in_line = 0;
        for (int64_t i = 0; i < shards; i++) {
            scalars[i] = dtr_random_uniform(&random) / 3;
            in_line += scalars[i];
        }
        double sum = scalar_sum(scalars, 0, tree_width(shards), shards);
        differ += memcmp(&sum, &in_line, sizeof sum) != 0;
    }
    ck_assert_int_gt(differ, MOST_SHARDS / 4);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("tree");
    TCase *order = add_case(suite, "order");
    tcase_add_test(order, test_whole_trees);
    tcase_add_test(order, test_seven_shards);
    tcase_add_loop_test(order, test_all_runs, 1, MOST_SHARDS + 1);
    tcase_add_loop_test(order, test_joined_runs, 1, 21);
    tcase_add_loop_test(order, test_ranks_runs, 1, MOST_SHARDS + 1);
    tcase_add_test(order, test_many_ranks);
    tcase_add_test(order, test_depth);

    TCase *sums = add_case(suite, "sums");
    tcase_add_loop_test(sums, test_sum, 1, 35);
    tcase_add_test(sums, test_sum_in_two_ranges);
    tcase_add_loop_test(sums, test_pushed_sums, 1, 21);
    tcase_add_test(sums, test_sum_of_one_shard_is_a_copy);
    tcase_add_test(sums, test_other_orders_give_other_bits);
    tcase_add_loop_test(sums, test_scalars, 1, 41);
    tcase_add_test(sums, test_scalars_show_the_order);
    return suite;
}
