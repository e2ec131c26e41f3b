/* Samples from compressed files on 1 to 8 ranks: a host reads them once. */
#include "dtrain/host_read.h"
#include "idx.h"
#include "mpi_main.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* On 2 and 3 ranks a part is more than is sent at a time. */
enum { TRAIN = 2000, TEST = 60, SIDE = 70, PIXELS = SIDE * SIDE, CLASSES = 10 };

/* Rank 0 makes data sets; the others hear where. */
static char folder[64];

static void make_folder(void)
{
    strcpy(folder, "/tmp/dtrain-host-read-XXXXXX");
    if (world->rank == 0)
        ck_assert_ptr_nonnull(mkdtemp(folder));
    dtr_world_broadcast(world, folder, sizeof folder);
}

/* Nobody waits here: a rank may have failed. All have opened what they read. */
static void remove_folder(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    if (world->rank == 0)
        ck_assert_int_eq(system(command), 0);
}

/* A pixel of the sets, of which there are several. */
static uint8_t pixel(int set, int64_t sample, int64_t at)
{
    return (uint8_t)((sample * 31 + at / 50 + 100 * set) % 251);
}

static uint8_t label(int set, int64_t sample)
{
    return (uint8_t)((sample + set) % CLASSES);
}

static void put_file(int set, const char *form, int which)
{
    int dims = which == TRAIN_IMAGES || which == TEST_IMAGES ? 3 : 1;
    int64_t count = which == TRAIN_IMAGES || which == TRAIN_LABELS ? TRAIN : TEST;
    uint8_t header[IDX_MAX_HEADER];
    int64_t bytes = put_idx_header(header, dims, (int64_t[]){count, SIDE, SIDE});
    char path[200];
    snprintf(path, sizeof path, "%s/%d-%s/%s", folder, set, form, idx_name[which]);
    gzFile file = gzopen(path, strcmp(form, "gz") == 0 ? "wb1" : "wbT");
    ck_assert_ptr_nonnull(file);
    gzwrite(file, header, (unsigned)bytes);
    for (int64_t i = 0; i < count; i++) {
        if (dims == 1)
            gzputc(file, label(set, i));
        for (int64_t at = 0; dims == 3 && at < PIXELS; at++)
            gzputc(file, pixel(set, i, at));
    }
    ck_assert_int_eq(gzclose(file), Z_OK);
}

/* Set 0 or 1 as plain or gz. */
static void put_set(int set, const char *form)
{
    char command[100];
    if (world->rank != 0)
        return;
    snprintf(command, sizeof command, "mkdir %s/%d-%s", folder, set, form);
    ck_assert_int_eq(system(command), 0);
    for (int which = 0; which < IDX_FILES; which++)
        put_file(set, form, which);
}

static struct dtr_dataset *open_set(int set, const char *form)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_dataset *dataset;
    char where[200];
    dtr_world_barrier(world);
    snprintf(where, sizeof where, "%s/%d-%s", folder, set, form);
    ck_assert_msg(dtr_dataset_open(where, 1, &dataset, &error) == DTR_OK, "%s", error.message);
    ck_assert_int_eq(dtr_dataset_info(dataset)->sequential, strcmp(form, "gz") == 0);
    return dataset;
}

/* Reads a part of the split on every rank, and finds it to be of this set. The last rank has none
 * where there are several. */
static void check_parts(struct dtr_dataset *dataset, enum dtr_split split, int set)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_samples samples;
    int64_t all = split == DTR_TRAIN ? TRAIN : TEST, parts = world->size > 1 ? world->size - 1 : 1;
    int64_t first = all * world->rank / parts, end = all * (world->rank + 1) / parts;
    first = first < all ? first : all;
    end = end < all ? end : all;
    dtr_host_read(world, dataset, split, first, end - first, CLASSES, &samples, &error);
    ck_assert_int_eq(dtr_world_agree(world, &error), DTR_OK);
    ck_assert_int_eq(samples.first, first);
    ck_assert_int_eq(samples.count, end - first);
    ck_assert_int_eq(samples.image_bytes, PIXELS);
    for (int64_t i = 0; i < samples.count; i++) {
        ck_assert_uint_eq(samples.labels[i], label(set, first + i));
        for (int64_t at = 0; at < PIXELS; at++)
            if (samples.images[i * PIXELS + at] != pixel(set, first + i, at))
                ck_abort_msg("sample %" PRId64 " at %" PRId64, first + i, at);
    }
    dtr_samples_free(&samples);
}

static void check_set(struct dtr_dataset *dataset, int set)
{
    check_parts(dataset, DTR_TRAIN, set);
    check_parts(dataset, DTR_TEST, set);
    dtr_dataset_close(dataset);
}

/* The others have another set open, of which they read nothing. */
START_TEST(test_compressed_files_are_read_by_one_rank)
{
    put_set(0, "gz");
    put_set(1, "gz");
    check_set(open_set(world->rank > 0, "gz"), 0);
}
END_TEST

START_TEST(test_plain_files_are_read_by_all)
{
    put_set(0, "plain");
    put_set(1, "plain");
    check_set(open_set(world->rank > 0, "plain"), world->rank > 0);
}
END_TEST

/* Each rank finds its own, however the others' are stored. */
START_TEST(test_mixed_files_are_read_by_all)
{
    put_set(0, "gz");
    put_set(1, "plain");
    check_set(world->rank == 0 ? open_set(0, "gz") : open_set(1, "plain"), world->rank > 0);
}
END_TEST

/* Label 9 is not of a model with 9 classes: the rank that reads says so, nobody waits. */
START_TEST(test_errors_reach_all)
{
    put_set(0, "gz");
    struct dtr_dataset *dataset = open_set(0, "gz");
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_samples train, test;
    int64_t first = TRAIN * world->rank / world->size;
    int64_t count = TRAIN * (world->rank + 1) / world->size - first;
    dtr_host_read(world, dataset, DTR_TRAIN, first, count, CLASSES - 1, &train, &error);
    dtr_host_read(world, dataset, DTR_TEST, 0, TEST, CLASSES - 1, &test, &error);
    ck_assert_int_eq(error.status, world->rank == 0 ? DTR_INPUT : DTR_OK);
    if (world->rank == 0)
        ck_assert_ptr_nonnull(strstr(error.message, "sample 9 has label 9"));
    dtr_samples_free(&train);
    dtr_samples_free(&test);
    dtr_dataset_close(dataset);
}
END_TEST

/* As above, but only in what the last rank is to have. */
START_TEST(test_late_errors_reach_all)
{
    put_set(0, "gz");
    struct dtr_dataset *dataset = open_set(0, "gz");
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_samples samples;
    bool last = world->rank == world->size - 1;
    dtr_host_read(
        world, dataset, DTR_TRAIN, last ? 9 : 0, last ? 900 : 9, CLASSES - 1, &samples, &error);
    ck_assert_int_eq(error.status, world->rank == 0 ? DTR_INPUT : DTR_OK);
    dtr_samples_free(&samples);
    dtr_dataset_close(dataset);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("host_read");
    TCase *tcase = add_case(suite, "host_read");
    tcase_add_checked_fixture(tcase, make_folder, remove_folder);
    tcase_add_test(tcase, test_compressed_files_are_read_by_one_rank);
    tcase_add_test(tcase, test_plain_files_are_read_by_all);
    tcase_add_test(tcase, test_mixed_files_are_read_by_all);
    tcase_add_test(tcase, test_errors_reach_all);
    tcase_add_test(tcase, test_late_errors_reach_all);
    return suite;
}
