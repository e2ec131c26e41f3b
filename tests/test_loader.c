#include "dtrain/loader.h"
#include "dtrain/tree.h"
#include "unit_main.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The training set begins behind the validation samples; an image is its index in the file. */
enum { TRAIN_FIRST = 17, IMAGE_BYTES = 8, EPOCHS = 3 };

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static uint8_t label_of(int64_t sample)
{
    return (uint8_t)((sample * 7 + 3) % 10);
}

/* Samples [first, end) of the training set, and no byte more, so that a sanitizer sees each read
 * beside them. */
static struct dtr_samples make_samples(int64_t first, int64_t end)
{
    struct dtr_samples samples = {TRAIN_FIRST + first, end - first, IMAGE_BYTES, NULL, NULL};
    samples.images = malloc((size_t)(samples.count * IMAGE_BYTES));
    samples.labels = malloc((size_t)samples.count);
    for (int64_t i = 0; i < samples.count; i++) {
        int64_t index = samples.first + i;
        memcpy(samples.images + i * IMAGE_BYTES, &index, IMAGE_BYTES);
        samples.labels[i] = label_of(first + i);
    }
    return samples;
}

/* A rank's loader with its data. */
struct rank {
    struct dtr_loader_config config;
    struct dtr_samples samples;
    struct dtr_loader *loader;
};

static struct rank make_rank(struct dtr_loader_config config, int number, int ranks)
{
    struct rank rank = {.config = config};
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_shard_run run = dtr_shard_run_of(config.shards, number, ranks);
    rank.config.first_shard = run.first;
    rank.config.shard_count = run.count;
    rank.samples = make_samples(dtr_shard_first(config.train_count, config.shards, run.first),
        dtr_shard_first(config.train_count, config.shards, run.first + run.count));
    enum dtr_status status = dtr_loader_create(
        &rank.config, &rank.samples, TRAIN_FIRST, &rank.loader, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    return rank;
}

static void free_rank(struct rank *rank)
{
    dtr_loader_free(rank->loader);
    free(rank->samples.images);
    free(rank->samples.labels);
}

static int64_t steps_of(const struct dtr_loader_config *config)
{
    return dtr_steps_per_epoch(config->train_count, config->shards, config->slice);
}

/* Which samples each step uses: [step, shard, place], -1 where padded. */
static int64_t *make_table(const struct dtr_loader_config *config)
{
    size_t count = (size_t)(EPOCHS * steps_of(config) * config->shards * config->slice);
    int64_t *table = malloc(count * sizeof *table);
    ck_assert_ptr_nonnull(table);
    memset(table, 0x55, count * sizeof *table);
    return table;
}

static int64_t *row_of(
    const struct dtr_loader_config *config, int64_t *table, int64_t step, int64_t shard)
{
    return table + (step * config->shards + shard) * config->slice;
}

/* Copies a slice to the table after a look at its images and labels. */
static void record_slice(const struct dtr_slice *slice, int64_t size, int64_t *row_out)
{
    for (int64_t i = 0; i < size; i++) {
        int64_t sample = slice->samples[i], index = -1;
        row_out[i] = sample;
        if ((sample < 0) != (slice->images[i] == NULL))
            ck_abort_msg("place %lld: image without sample or sample without image", (long long)i);
        if (sample < 0)
            continue;
        memcpy(&index, slice->images[i], IMAGE_BYTES);
        if (index != TRAIN_FIRST + sample || slice->labels[i] != label_of(sample))
            ck_abort_msg(
                "place %lld: not the image or label of %lld", (long long)i, (long long)sample);
    }
}

static void record_step(const struct rank *rank, int64_t step, int64_t *table)
{
    const struct dtr_batch *batch = dtr_loader_step(rank->loader, step);
    ck_assert_int_eq(batch->step, step);
    ck_assert_int_eq(batch->epoch, step / steps_of(&rank->config));
    ck_assert_int_eq(batch->slice_count, rank->config.shard_count);
    ck_assert_int_eq(batch->slice_size, rank->config.slice);
    for (int64_t i = 0; i < batch->slice_count; i++)
        record_slice(&batch->slices[i], rank->config.slice,
            row_of(&rank->config, table, step, rank->config.first_shard + i));
}

/* All epochs of all ranks. */
static int64_t *record(struct dtr_loader_config config, int ranks)
{
    int64_t *table = make_table(&config);
    for (int number = 0; number < ranks; number++) {
        struct rank rank = make_rank(config, number, ranks);
        for (int64_t step = 0; step < EPOCHS * steps_of(&config); step++)
            record_step(&rank, step, table);
        free_rank(&rank);
    }
    return table;
}

static bool same_tables(
    const struct dtr_loader_config *config, const int64_t *one, const int64_t *other)
{
    int64_t count = EPOCHS * steps_of(config) * config->shards * config->slice;
    return memcmp(one, other, (size_t)count * sizeof *one) == 0;
}

static struct dtr_loader_config config_of(int64_t train_count, int64_t shards, int64_t slice)
{
    return (struct dtr_loader_config){.train_count = train_count,
        .shards = shards,
        .slice = slice,
        .shuffle = true,
        .seed = 66478};
}

static const struct {
    int64_t train_count, shards, slice;
} sizes[] = {
    {1, 1, 1},
    {10, 1, 3},
    {10, 1, 10},
    {10, 1, 64},
    {1, 4, 2},
    {7, 8, 1},
    {8, 8, 1},
    {16, 8, 1},
    {17, 8, 2},
    {23, 8, 2},
    {24, 8, 3},
    {63, 8, 8},
    {100, 3, 7},
    {101, 4, 5},
    {55, 12, 4},
    {64, 64, 1},
    {130, 65, 3},
    {1000, 8, 8},
    {1001, 8, 125},
    {1001, 8, 126},
};

enum { SIZES = sizeof sizes / sizeof *sizes };

static struct dtr_loader_config config_at(int i)
{
    return config_of(sizes[i].train_count, sizes[i].shards, sizes[i].slice);
}

/* How samples, shards and steps are counted. */

START_TEST(test_shards_share_the_samples)
{
    for (int64_t count = 0; count < 200; count++) {
        for (int64_t shards = 1; shards < 30; shards++) {
            int64_t smallest = INT64_MAX, largest = 0;
            for (int64_t shard = 0; shard < shards; shard++) {
                int64_t size = dtr_shard_first(count, shards, shard + 1) -
                               dtr_shard_first(count, shards, shard);
                smallest = size < smallest ? size : smallest;
                largest = size > largest ? size : largest;
            }
            bool fair = smallest >= 0 && largest <= smallest + 1 &&
                        dtr_shard_first(count, shards, 0) == 0 &&
                        dtr_shard_first(count, shards, shards) == count;
            int64_t steps = 0;
            while (steps * 7 < largest)
                steps++;
            if (!fair || dtr_steps_per_epoch(count, shards, 7) != steps)
                ck_abort_msg("%lld samples, %lld shards", (long long)count, (long long)shards);
        }
    }
}
END_TEST

/* What an epoch uses. */

/* Each sample of each shard once, and padding only behind the last one. */
static void check_epoch(const struct dtr_loader_config *config, int64_t *table, int64_t epoch)
{
    int64_t steps = steps_of(config);
    for (int64_t shard = 0; shard < config->shards; shard++) {
        int64_t first = dtr_shard_first(config->train_count, config->shards, shard);
        int64_t end = dtr_shard_first(config->train_count, config->shards, shard + 1);
        bool *used = calloc((size_t)(end - first) + 1, sizeof *used);
        for (int64_t place = 0; place < steps * config->slice; place++) {
            int64_t step = epoch * steps + place / config->slice;
            int64_t sample = row_of(config, table, step, shard)[place % config->slice];
            bool padded = place >= end - first;
            if (padded ? sample != -1 : sample < first || sample >= end || used[sample - first])
                ck_abort_msg("epoch %lld, shard %lld, place %lld: sample %lld", (long long)epoch,
                    (long long)shard, (long long)place, (long long)sample);
            if (!padded)
                used[sample - first] = true;
        }
        free(used);
    }
}

START_TEST(test_every_sample_once)
{
    struct dtr_loader_config config = config_at(_i);
    int64_t *table = record(config, 1);
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++)
        check_epoch(&config, table, epoch);
    free(table);
}
END_TEST

START_TEST(test_any_number_of_ranks)
{
    struct dtr_loader_config config = config_at(_i);
    int64_t *expected = record(config, 1);
    for (int ranks = 2; ranks <= config.shards; ranks += ranks < 9 ? 1 : 7) {
        int64_t *table = record(config, ranks);
        ck_assert_msg(same_tables(&config, table, expected), "%d ranks", ranks);
        free(table);
    }
    free(expected);
}
END_TEST

START_TEST(test_real_is_what_is_there)
{
    struct dtr_loader_config config = config_at(_i);
    int64_t *table = record(config, 1), sum = 0;
    int last = (int)smaller(config.shards, 3) - 1;
    struct rank rank = make_rank(config, last, last + 1);
    for (int64_t step = 0; step < EPOCHS * steps_of(&config); step++) {
        int64_t real = 0;
        for (int64_t i = 0; i < config.shards * config.slice; i++)
            real += row_of(&config, table, step, 0)[i] >= 0;
        ck_assert_int_eq(dtr_loader_step(rank.loader, step)->real, real);
        ck_assert_int_ge(real, 1);
        sum += real;
    }
    ck_assert_int_eq(sum, EPOCHS * config.train_count);
    free_rank(&rank);
    free(table);
}
END_TEST

/* Backwards, and to and fro. */
START_TEST(test_any_order_of_steps)
{
    struct dtr_loader_config config = config_at(_i);
    int64_t *expected = record(config, 1), *table = make_table(&config);
    int64_t steps = EPOCHS * steps_of(&config);
    struct rank rank = make_rank(config, 0, 1);
    for (int64_t step = steps - 1; step >= 0; step--)
        record_step(&rank, step, table);
    ck_assert(same_tables(&config, table, expected));
    for (int64_t i = 0; i < 3 * steps; i++)
        record_step(&rank, i * 7919 % steps, table);
    ck_assert(same_tables(&config, table, expected));
    free_rank(&rank);
    free(expected);
    free(table);
}
END_TEST

/* A loader that has only some of the shards, but the data of all. */
START_TEST(test_more_data_than_shards)
{
    struct dtr_loader_config config = config_of(101, 4, 5);
    struct dtr_samples samples = make_samples(0, 101);
    struct dtr_error error = DTR_ERROR_NONE;
    int64_t *expected = record(config, 1), *table = record(config, 1);
    struct rank rank = {.config = config};
    rank.config.first_shard = 2;
    rank.config.shard_count = 1;
    ck_assert_int_eq(
        dtr_loader_create(&rank.config, &samples, TRAIN_FIRST, &rank.loader, &error), DTR_OK);
    for (int64_t step = 0; step < EPOCHS * steps_of(&config); step++) {
        memset(row_of(&config, table, step, 2), 0, (size_t)config.slice * sizeof *table);
        record_step(&rank, step, table);
    }
    ck_assert(same_tables(&config, table, expected));
    rank.samples = samples;
    free_rank(&rank);
    free(expected);
    free(table);
}
END_TEST

/* The order. */

static void order_of(const struct dtr_loader_config *config, int64_t *table, int64_t epoch,
    int64_t shard, int64_t *order_out)
{
    int64_t steps = steps_of(config);
    for (int64_t place = 0; place < steps * config->slice; place++) {
        int64_t *row = row_of(config, table, epoch * steps + place / config->slice, shard);
        order_out[place] = row[place % config->slice] -
                           dtr_shard_first(config->train_count, config->shards, shard);
    }
}

START_TEST(test_no_shuffle_is_the_order_of_the_file)
{
    struct dtr_loader_config config = config_of(200, 4, 10);
    int64_t order[50];
    config.shuffle = false;
    int64_t *table = record(config, 3);
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
        for (int64_t shard = 0; shard < 4; shard++) {
            order_of(&config, table, epoch, shard, order);
            for (int i = 0; i < 50; i++)
                ck_assert_int_eq(order[i], i);
        }
    }
    free(table);
}
END_TEST

/* No two epochs, shards or seeds have the same order, and none is the file's. */
START_TEST(test_orders_differ)
{
    enum { SHARDS = 4, ORDERS = 1 + 2 * EPOCHS * SHARDS };
    struct dtr_loader_config config = config_of(200, SHARDS, 10);
    int64_t orders[ORDERS][50];
    int count = 0;
    for (int i = 0; i < 50; i++)
        orders[0][i] = i;
    for (int seed = 0; seed < 2; seed++) {
        config.seed = (uint64_t)seed;
        int64_t *table = record(config, 1);
        for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
            for (int64_t shard = 0; shard < SHARDS; shard++)
                order_of(&config, table, epoch, shard, orders[++count]);
        }
        free(table);
    }
    ck_assert_int_eq(count + 1, ORDERS);
    for (int i = 0; i < ORDERS; i++) {
        for (int j = 0; j < i; j++)
            ck_assert_int_ne(memcmp(orders[i], orders[j], sizeof orders[i]), 0);
    }
}
END_TEST

/* Each of the 24 orders of four samples is as likely as the others: over 12000 epochs each comes
 * 500 times, and chi-square exceeds 90 with a probability under 1e-9. */
START_TEST(test_shuffle_is_fair)
{
    enum { DRAWS = 12000 };
    struct rank rank = make_rank(config_of(4, 1, 4), 0, 1);
    double hits[256] = {0}, chi_square = 0;
    int orders = 0;
    for (int64_t epoch = 0; epoch < DRAWS; epoch++) {
        const int64_t *order = dtr_loader_step(rank.loader, epoch)->slices[0].samples;
        hits[order[0] << 6 | order[1] << 4 | order[2] << 2 | order[3]]++;
    }
    for (int i = 0; i < 256; i++) {
        orders += hits[i] > 0;
        if (hits[i] > 0)
            chi_square += (hits[i] - 500) * (hits[i] - 500) / 500;
    }
    ck_assert_int_eq(orders, 24);
    ck_assert_double_lt(chi_square, 90);
    free_rank(&rank);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("loader");
    TCase *shares = add_case(suite, "shares");
    tcase_add_test(shares, test_shards_share_the_samples);

    TCase *epochs = add_case(suite, "epochs");
    tcase_add_loop_test(epochs, test_every_sample_once, 0, SIZES);
    tcase_add_loop_test(epochs, test_any_number_of_ranks, 0, SIZES);
    tcase_add_loop_test(epochs, test_real_is_what_is_there, 0, SIZES);
    tcase_add_loop_test(epochs, test_any_order_of_steps, 0, SIZES);
    tcase_add_test(epochs, test_more_data_than_shards);

    TCase *order = add_case(suite, "order");
    tcase_add_test(order, test_no_shuffle_is_the_order_of_the_file);
    tcase_add_test(order, test_orders_differ);
    tcase_add_test(order, test_shuffle_is_fair);
    return suite;
}
