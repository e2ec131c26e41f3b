/*
 * Plays the exchange of one bucket for all ranks of a job in this process. Messages are handed over
 * only when both sides stand at that swap, whichever rank is looked at first, so a schedule that
 * needs buffered messages shows as a deadlock.
 */
#include "../mpi/schedule.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"
#include "unit_main.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANKS = 100, MOST_SHARDS = 520, MOST_FLOATS = 1000, ENTRIES = 24 };
enum { FIRST = 37 }; /* where the bucket begins in the slab */

static struct dtr_random randomness;

static int64_t below(int64_t bound)
{
    return dtr_random_below(&randomness, (uint32_t)bound);
}

static int floor_log2(int64_t number)
{
    int log = 0;
    while (number >> (log + 1) > 0)
        log++;
    return log;
}

/* Gradients. */

static float partials[MOST_SHARDS][MOST_FLOATS];

static void draw_partials(void)
{
    if (partials[0][0] != 0)
        return;
    randomness = dtr_random_at(1, DTR_RANDOM_INIT, 0, 0, 0);
    for (int64_t i = 0; i < MOST_SHARDS; i++) {
        for (int64_t j = 0; j < MOST_FLOATS; j++)
            partials[i][j] = (float)(dtr_random_uniform(&randomness) - 0.5);
    }
}

/* The definition: a node covers [first, first + width), clipped to the number of shards. */
static float node_sum(int64_t j, int64_t first, int64_t width, int64_t shards)
{
    if (width == 1)
        return partials[first][j];
    float left = node_sum(j, first, width / 2, shards);
    if (first + width / 2 >= shards)
        return left;
    return left + node_sum(j, first + width / 2, width / 2, shards);
}

static int64_t tree_width(int64_t shards)
{
    int64_t width = 1;
    while (width < shards)
        width *= 2;
    return width;
}

/* All sums of a number of shards, kept: many jobs have the same. */
static const float *expected_sums(int64_t shards)
{
    static float sums[MOST_SHARDS][MOST_FLOATS];
    static bool known[MOST_SHARDS];
    for (int64_t j = 0; j < MOST_FLOATS && !known[shards]; j++)
        sums[shards][j] = node_sum(j, 0, tree_width(shards), shards);
    known[shards] = true;
    return sums[shards];
}

/* The largest subtrees that [begin, end) is made of, from the definition. */
static void split_run(
    int64_t begin, int64_t end, int64_t first, int64_t width, struct dtr_tree *tree)
{
    int64_t last = first + width < tree->shards ? first + width : tree->shards;
    if (first >= last || last <= begin || first >= end)
        return;
    if (first >= begin && last <= end) {
        tree->bounds[++tree->depth] = last;
        return;
    }
    split_run(begin, end, first, width / 2, tree);
    split_run(begin, end, first + width / 2, width / 2, tree);
}

static struct dtr_tree open_nodes(int64_t begin, int64_t end, int64_t shards)
{
    struct dtr_tree tree = {.shards = shards, .bounds = {begin}};
    split_run(begin, end, 0, tree_width(shards), &tree);
    return tree;
}

static bool are_same(const struct dtr_tree *a, const struct dtr_tree *b)
{
    return a->shards == b->shards && a->depth == b->depth &&
           memcmp(a->bounds, b->bounds, (size_t)(a->depth + 1) * sizeof *a->bounds) == 0;
}

/* Most open nodes that a run of so many shards can have: at most two of a level, and none of a
 * level that does not fit. */
static int64_t most_open(int64_t shards)
{
    return shards == 1 ? 1 : 2 * floor_log2(shards);
}

/* A job. */

struct rank {
    struct schedule schedule;
    struct span column;
    int next; /* swap, of the sums' and then of the weights' */
    bool given, taken;
    struct dtr_tree open;
    float sums[ENTRIES][MOST_FLOATS], received[ENTRIES][MOST_FLOATS];
    int64_t owner[MOST_FLOATS]; /* whose parameters these are; -1: those of before the step */
    int64_t messages, sum_floats, weight_floats;
};

static struct rank job[MOST_RANKS];

struct play {
    int64_t ranks, groups, shards;
    int64_t starts[MOST_RANKS + 1];
    struct span bucket;
};

#define CHECK(condition, play, place)                                                              \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s: rank %lld of %lld in %lld groups, %lld shards, %lld floats",         \
                #condition, (long long)(place), (long long)(play)->ranks,                          \
                (long long)(play)->groups, (long long)(play)->shards,                              \
                (long long)(play)->bucket.count);                                                  \
    } while (0)

static int64_t first_shard(const struct play *play, int64_t place)
{
    return play->shards * place / play->ranks;
}

static struct dtr_tree push_rows(struct dtr_tree tree, const struct dtr_tree *nodes,
    float (*values)[MOST_FLOATS], struct span part, float (*stack)[MOST_FLOATS])
{
    for (int64_t k = 0; k < nodes->depth; k++) {
        int64_t top = tree.depth;
        if (top == ENTRIES)
            ck_abort_msg("the stack is too small");
        memcpy(stack[top] + part.first - FIRST, values[k] + part.first - FIRST,
            (size_t)part.count * sizeof(float));
        for (int merges = dtr_tree_push(&tree, nodes->bounds[k + 1]); merges > 0; merges--, top--) {
            for (int64_t j = part.first - FIRST; j < part.first - FIRST + part.count; j++)
                stack[top - 1][j] += stack[top][j];
        }
    }
    return tree;
}

/* What a rank reads in the memory of its group, as far as the tree allows. */
static void sum_group(const struct play *play, struct rank *rank)
{
    int64_t end = first_shard(play, rank->schedule.first_place + rank->schedule.group_size);
    struct dtr_tree tree = dtr_tree_begin(play->shards, rank->open.bounds[0]);
    for (int64_t i = tree.bounds[0]; i < end; i++) {
        struct dtr_tree shard = {.shards = play->shards, .depth = 1, .bounds = {i, i + 1}};
        tree = push_rows(tree, &shard, &partials[i], rank->column, rank->sums);
    }
    CHECK(are_same(&tree, &rank->open), play, rank - job);
}

static const struct swap *current(const struct rank *rank)
{
    const struct schedule *schedule = &rank->schedule;
    if (rank->next == schedule->sum_count + schedule->weight_count)
        return NULL;
    return rank->next < schedule->sum_count ? &schedule->sums[rank->next]
                                            : &schedule->weights[rank->next - schedule->sum_count];
}

static bool is_of_sums(const struct rank *rank)
{
    return rank->next < rank->schedule.sum_count;
}

static void update_share(struct rank *rank)
{
    struct span share = schedule_part(rank->column, rank->schedule.share);
    for (int64_t j = share.first - FIRST; j < share.first - FIRST + share.count; j++)
        rank->owner[j] = rank - job;
}

/* Stands the rank at its next swap. */
static void arrive(struct rank *rank)
{
    if (rank->next == rank->schedule.sum_count)
        update_share(rank);
    const struct swap *swap = current(rank);
    rank->given = swap == NULL || schedule_part(rank->column, swap->send).count == 0;
    rank->taken = swap == NULL || schedule_part(rank->column, swap->receive).count == 0;
}

static void begin(const struct play *play, int64_t place)
{
    struct rank *rank = &job[place];
    struct schedule *schedule = &rank->schedule;
    schedule_make(play->starts, play->groups, play->shards, place, schedule);
    rank->column = schedule_column(play->bucket, schedule->column, schedule->columns);
    rank->next = 0;
    rank->messages = rank->sum_floats = rank->weight_floats = 0;
    for (int64_t j = 0; j < play->bucket.count; j++)
        rank->owner[j] = -1;
    if (schedule->column < 0) {
        CHECK(schedule->sum_count == 0 && schedule->weight_count == 0, play, place);
        CHECK(schedule->share.depth < 0, play, place);
        rank->given = rank->taken = true;
        return;
    }
    rank->open = schedule->open;
    sum_group(play, rank);
    arrive(rank);
}

/* Both sides see the same swap. */
static void check_pair(const struct play *play, const struct rank *from, const struct rank *to)
{
    const struct swap *send = current(from), *receive = current(to);
    struct span given = schedule_part(from->column, send->send);
    struct span taken = schedule_part(to->column, receive->receive);
    int64_t place = from - job;
    CHECK(is_of_sums(from) == is_of_sums(to), play, place);
    CHECK(given.first == taken.first && given.count == taken.count, play, place);
    if (!is_of_sums(from))
        return;
    CHECK(are_same(&send->mine, &from->open) && are_same(&send->theirs, &to->open), play, place);
    CHECK(are_same(&receive->mine, &to->open) && are_same(&receive->theirs, &from->open), play,
        place);
    int64_t from_end = from->open.bounds[from->open.depth];
    int64_t to_end = to->open.bounds[to->open.depth];
    CHECK(send->peer_first ? to_end == from->open.bounds[0] : from_end == to->open.bounds[0], play,
        place);
    CHECK(receive->peer_first != send->peer_first, play, place);
}

static void carry_sums(
    const struct play *play, struct rank *from, struct rank *to, struct span part)
{
    int64_t run = from->open.bounds[from->open.depth] - from->open.bounds[0];
    CHECK(from->open.depth <= most_open(run), play, from - job);
    CHECK(from->open.depth <= most_open(play->shards), play, from - job);
    for (int64_t k = 0; k < from->open.depth; k++)
        memcpy(to->received[k] + part.first - FIRST, from->sums[k] + part.first - FIRST,
            (size_t)part.count * sizeof(float));
    from->sum_floats += part.count * from->open.depth;
}

static void carry_weights(
    const struct play *play, struct rank *from, struct rank *to, struct span part)
{
    for (int64_t j = part.first - FIRST; j < part.first - FIRST + part.count; j++) {
        CHECK(from->owner[j] >= 0, play, from - job);
        CHECK(to->owner[j] < 0, play, to - job);
        to->owner[j] = from->owner[j];
    }
    from->weight_floats += part.count;
}

/* Hands over what the rank sends, if its peer has come to take it. */
static bool give(const struct play *play, struct rank *from)
{
    const struct swap *swap = current(from);
    if (from->given)
        return false;
    CHECK(
        swap->peer >= 0 && swap->peer < play->ranks && swap->peer != from - job, play, from - job);
    struct rank *to = &job[swap->peer];
    if (current(to) == NULL || current(to)->peer != from - job || to->taken)
        return false;
    check_pair(play, from, to);
    struct span part = schedule_part(from->column, swap->send);
    if (is_of_sums(from))
        carry_sums(play, from, to, part);
    else
        carry_weights(play, from, to, part);
    from->messages++;
    from->given = to->taken = true;
    return true;
}

/* What was received and this side's sums become the sums at hand. */
static void add_received(struct rank *rank, const struct swap *swap)
{
    static float stack[ENTRIES][MOST_FLOATS];
    struct span part = schedule_part(rank->column, swap->receive);
    struct dtr_tree tree = dtr_tree_begin(
        rank->open.shards, swap->peer_first ? swap->theirs.bounds[0] : rank->open.bounds[0]);
    if (swap->peer_first)
        tree = push_rows(tree, &swap->theirs, rank->received, part, stack);
    tree = push_rows(tree, &rank->open, rank->sums, part, stack);
    if (!swap->peer_first)
        tree = push_rows(tree, &swap->theirs, rank->received, part, stack);
    rank->open = tree;
    memcpy(rank->sums, stack, (size_t)tree.depth * sizeof *stack);
}

/* Returns whether the rank got any further. */
static bool go_on(const struct play *play, struct rank *rank)
{
    const struct swap *swap = current(rank);
    if (swap == NULL)
        return false;
    if (give(play, rank))
        return true;
    if (!rank->given || !rank->taken)
        return false;
    if (is_of_sums(rank) && swap->receive.depth >= 0)
        add_received(rank, swap);
    rank->next++;
    arrive(rank);
    return true;
}

static void run_to_the_end(const struct play *play)
{
    for (int64_t place = 0; place < play->ranks; place++)
        begin(play, place);
    bool moved = true;
    while (moved) {
        int64_t start = below(play->ranks);
        moved = false;
        for (int64_t i = 0; i < play->ranks && !moved; i++)
            moved = go_on(play, &job[(start + i) % play->ranks]);
    }
    for (int64_t place = 0; place < play->ranks; place++)
        CHECK(current(&job[place]) == NULL, play, place); /* else a deadlock */
}

/* What has to come out. */

static void check_sums(const struct play *play, int64_t place, const float *expected)
{
    const struct rank *rank = &job[place];
    struct span share = schedule_part(rank->column, rank->schedule.share);
    if (share.count == 0)
        return;
    CHECK(rank->open.depth == 1 && rank->open.bounds[0] == 0, play, place);
    CHECK(rank->open.bounds[1] == play->shards, play, place);
    CHECK(memcmp(rank->sums[0] + share.first - FIRST, expected + share.first - FIRST,
              (size_t)share.count * sizeof *expected) == 0,
        play, place);
}

/* The owners of all elements; each has exactly one. */
static void find_owners(const struct play *play, int64_t owners[MOST_FLOATS])
{
    for (int64_t j = 0; j < play->bucket.count; j++)
        owners[j] = -1;
    for (int64_t place = 0; place < play->ranks; place++) {
        const struct rank *rank = &job[place];
        struct span share = schedule_part(rank->column, rank->schedule.share);
        if (rank->schedule.column < 0)
            continue;
        for (int64_t j = share.first - FIRST; j < share.first - FIRST + share.count; j++) {
            CHECK(j >= 0 && j < play->bucket.count && owners[j] < 0, play, place);
            owners[j] = place;
        }
    }
    for (int64_t j = 0; j < play->bucket.count; j++)
        CHECK(owners[j] >= 0, play, j);
}

/* The columns of each group hold the owners' parameters, so their common memory does. */
static void check_weights(const struct play *play)
{
    int64_t owners[MOST_FLOATS];
    find_owners(play, owners);
    for (int64_t place = 0; place < play->ranks; place++) {
        const struct rank *rank = &job[place];
        for (int64_t j = 0; j < play->bucket.count; j++) {
            int64_t element = FIRST + j;
            bool mine = rank->schedule.column >= 0 && element >= rank->column.first &&
                        element < rank->column.first + rank->column.count;
            CHECK(rank->owner[j] == (mine ? owners[j] : -1), play, place);
        }
    }
}

static int64_t most_shards_of_a_unit(const struct play *play)
{
    int64_t most = 0;
    for (int64_t g = 0; g < play->groups; g++) { /* a unit has at most two neighbours */
        int64_t end = g + 2 < play->groups ? g + 2 : play->groups;
        if (play->groups == (INT64_C(1) << floor_log2(play->groups)))
            end = g + 1;
        int64_t count = first_shard(play, play->starts[end]) - first_shard(play, play->starts[g]);
        most = count > most ? count : most;
    }
    return most;
}

/*
 * What a rank sends. Let c be its column, U = 2^floor(log2 groups) the units after folding, and n
 * the most shards of a unit. In round k a rank gives at most c / 2^(k+1) + 32 elements (each cut is
 * rounded to 16) in at most max(1, 2 log2(2^k n)) open nodes. Over all rounds, with L = floor(log2
 * n), that is c (2 L + 2 + 1/2) and the rounding: a small multiple of the column, whatever the
 * number of groups. Where all of these runs are subtrees there is one open node, and the rounds'
 * parts are the column without the share: c (1 - 1/groups). The parameters of as many elements go
 * back, and in a pair of groups that were folded the column's once more.
 */
static void check_traffic(const struct play *play, int64_t place)
{
    const struct rank *rank = &job[place];
    int rounds = floor_log2(play->groups);
    int64_t units = INT64_C(1) << rounds, column = rank->column.count;
    int64_t share = schedule_part(rank->column, rank->schedule.share).count;
    int64_t shards = most_shards_of_a_unit(play);
    bool folds = units < play->groups, gives = rank->schedule.share.depth < 0;
    CHECK(rank->messages <= 2 * rounds + (folds ? 1 : 0), play, place);
    CHECK(rank->schedule.sum_count <= rounds + 1, play, place);
    CHECK(2 * rank->sum_floats <=
              column * (4 * floor_log2(shards) + 5) + 64 * rounds * most_open(play->shards),
        play, place);
    int64_t slack = column % (DTR_ALIGN_FLOATS * units) == 0 ? 0 : 32 * rounds;
    if (gives) {
        CHECK(folds && rank->messages <= 1 && rank->weight_floats == 0, play, place);
    } else {
        int64_t back = rank->schedule.sum_count > rounds ? column : 0; /* to the one that gave */
        CHECK(llabs(share - column / units) <= slack, play, place);
        CHECK(llabs(rank->weight_floats - back - (column - column / units)) <= slack, play, place);
    }
    bool subtrees = !folds && play->shards % units == 0 &&
                    (play->shards / units & (play->shards / units - 1)) == 0;
    for (int64_t g = 0; g < play->groups; g++)
        subtrees = subtrees && play->starts[g] * play->groups == play->ranks * g;
    if (subtrees)
        CHECK(rank->sum_floats == column - share, play, place);
}

static void play_once(const struct play *play)
{
    const float *expected = expected_sums(play->shards);
    run_to_the_end(play);
    for (int64_t place = 0; place < play->ranks; place++) {
        const struct schedule *schedule = &job[place].schedule;
        int64_t end = schedule->first_place + schedule->group_size;
        struct dtr_tree open = open_nodes(
            first_shard(play, schedule->first_place), first_shard(play, end), play->shards);
        CHECK(place >= schedule->first_place && place < end, play, place);
        CHECK(schedule->groups == play->groups && are_same(&open, &schedule->open), play, place);
        if (schedule->column < 0)
            continue;
        check_sums(play, place, expected);
        check_traffic(play, place);
    }
    check_weights(play);
}

/* Which jobs. */

static void add_group(struct play *play, int64_t size)
{
    int64_t left = play->ranks - play->starts[play->groups];
    play->starts[play->groups + 1] = play->starts[play->groups] + (size < left ? size : left);
    play->groups++;
}

/* Groups of `size`, the last one smaller; 0: of random sizes up to `most`. */
static void divide(struct play *play, int64_t size, int64_t most)
{
    play->groups = 0;
    play->starts[0] = 0;
    while (play->starts[play->groups] < play->ranks)
        add_group(play, size > 0 ? size : 1 + below(most));
}

/* The last two alone for large jobs. */
static void play_lengths(struct play *play)
{
    static const int64_t lengths[] = {1, 16, 17, MOST_FLOATS, 250, 512};
    for (size_t i = play->ranks > 24 ? 4 : 0; i < sizeof lengths / sizeof *lengths; i++) {
        play->bucket = (struct span){FIRST, lengths[i]};
        play_once(play);
    }
}

static void play_groups(int64_t ranks, int64_t shards)
{
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 8};
    struct play play = {.ranks = ranks, .shards = shards};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && sizes[i] < ranks; i++) {
        divide(&play, sizes[i], 0);
        play_lengths(&play);
    }
    for (int i = 0; i < 3 && ranks > 2; i++) {
        divide(&play, 0, 1 + ranks / (i + 1));
        play_lengths(&play);
    }
    divide(&play, ranks, 0);
    play_lengths(&play);
}

static void play_shards(int64_t ranks)
{
    const int64_t shards[] = {ranks, ranks + 1, 8, 12, 100, 2 * ranks, 3 * ranks + 1,
        tree_width(ranks), 4 * tree_width(ranks), ranks + below(MOST_SHARDS - ranks - 1)};
    draw_partials();
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
        if (shards[i] >= ranks)
            play_groups(ranks, shards[i]);
    }
}

START_TEST(test_small_jobs)
{
    play_shards(_i);
}
END_TEST

START_TEST(test_large_jobs)
{
    static const int64_t ranks[] = {37, 64, MOST_RANKS};
    play_shards(ranks[_i]);
}
END_TEST

/* One group of 3, one of 2, one of 4 ranks: the ninth and the third rank have nothing to do. */
START_TEST(test_uneven_groups)
{
    static const int64_t starts[] = {0, 3, 5, 9};
    static const int64_t columns[] = {0, 1, -1, 0, 1, 0, 1, -1, -1};
    for (int64_t place = 0; place < 9; place++) {
        struct schedule schedule;
        schedule_make(starts, 3, 9, place, &schedule);
        ck_assert_int_eq(schedule.columns, 2);
        ck_assert_int_eq(schedule.column, columns[place]);
        ck_assert_int_eq(
            schedule.share.depth >= 0, columns[place] >= 0 && (place < 3 || place > 4));
    }
}
END_TEST

/* Four ranks by themselves: the nearest first, and half of the rest each time. */
START_TEST(test_four_ranks)
{
    static const int64_t starts[] = {0, 1, 2, 3, 4};
    static const int64_t peers[4][2] = {{1, 2}, {0, 3}, {3, 0}, {2, 1}};
    static const int64_t shares[] = {0, 32, 16, 48}; /* of 64 */
    for (int64_t place = 0; place < 4; place++) {
        struct schedule schedule;
        schedule_make(starts, 4, 4, place, &schedule);
        ck_assert_int_eq(schedule.sum_count, 2);
        ck_assert_int_eq(schedule.weight_count, 2);
        for (int k = 0; k < 2; k++) {
            ck_assert_int_eq(schedule.sums[k].peer, peers[place][k]);
            ck_assert_int_eq(schedule.weights[k].peer, peers[place][1 - k]);
            ck_assert_int_eq(schedule.sums[k].peer_first, peers[place][k] < place);
        }
        struct span share = schedule_part((struct span){0, 64}, schedule.share);
        ck_assert_int_eq(share.count, 16);
        ck_assert_int_eq(share.first, shares[place]);
    }
}
END_TEST

/* Columns follow each other without gaps and begin where cache lines do. */
START_TEST(test_columns)
{
    static const int64_t counts[] = {0, 1, 15, 16, 17, 160, 250, 1000, 70001, INT64_C(1) << 24};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (int64_t columns = 1; columns < 70; columns++) {
            struct span bucket = {FIRST, counts[i]};
            int64_t end = FIRST;
            for (int64_t j = 0; j < columns; j++) {
                struct span column = schedule_column(bucket, j, columns);
                ck_assert_int_eq(column.first, end);
                ck_assert_int_ge(column.count, 0);
                ck_assert(column.count == 0 || (column.first - FIRST) % DTR_ALIGN_FLOATS == 0);
                ck_assert_int_le(
                    llabs(column.count * columns - counts[i]), DTR_ALIGN_FLOATS * columns);
                end = column.first + column.count;
            }
            ck_assert_int_eq(end, FIRST + counts[i]);
        }
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("schedule");
    TCase *spans = add_case(suite, "spans and peers");
    tcase_add_test(spans, test_columns);
    tcase_add_test(spans, test_four_ranks);
    tcase_add_test(spans, test_uneven_groups);

    TCase *jobs = add_case(suite, "jobs");
    tcase_add_loop_test(jobs, test_small_jobs, 1, 25);
    tcase_add_loop_test(jobs, test_large_jobs, 0, 3);
    return suite;
}
