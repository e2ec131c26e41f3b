/* What data sets hold and their fingerprints, and how much of the files is read. Folders that are
 * refused are for test_dataset_broken.c. */
#include "dtrain/dataset.h"
#include "dtrain/synthetic.h"
#include "idx_fixture.h"
#include "unit_main.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Good folders. */

START_TEST(test_plain_compressed_and_mixed)
{
    for (int mixture = 0; mixture < 1 << IDX_FILES; mixture++) {
        idx_empty_folder();
        for (int file = 0; file < IDX_FILES; file++)
            idx_put_good_file(file, mixture >> file & 1 ? IDX_GZ : IDX_PLAIN);
        data_check_good(idx_folder);
    }
    char slashed[300];
    snprintf(slashed, sizeof slashed, "%s/", idx_folder);
    data_check_good(slashed);
}
END_TEST

START_TEST(test_plain_wins_over_compressed)
{
    idx_put_good_files(IDX_PLAIN);
    for (int file = 0; file < IDX_FILES; file++)
        idx_write_bytes(idx_path(file, IDX_GZ), (struct idx_bytes){(uint8_t[]){0}, 1});
    data_check_good(idx_folder);
}
END_TEST

/* Downloads are unpacked or left packed without the name saying so. */
START_TEST(test_form_is_told_by_content)
{
    idx_put_good_files(IDX_GZ);
    for (int file = 0; file < IDX_FILES; file++) {
        char from[512];
        snprintf(from, sizeof from, "%s", idx_path(file, IDX_GZ));
        ck_assert_int_eq(rename(from, idx_path(file, IDX_PLAIN)), 0);
    }
    data_check_good(idx_folder);
    for (int file = 0; file < IDX_FILES; file++) {
        struct idx_bytes bytes = idx_good_file(file);
        idx_write_bytes(idx_path(file, IDX_GZ), bytes);
        unlink(idx_path(file, IDX_PLAIN));
        free(bytes.at);
    }
    data_check_good(idx_folder);
}
END_TEST

START_TEST(test_color_images)
{
    idx_put_good_files(IDX_PLAIN);
    for (int file = TRAIN_IMAGES; file <= TEST_IMAGES; file += TEST_IMAGES) {
        int64_t count = file == TRAIN_IMAGES ? IDX_TRAIN : IDX_TEST;
        struct idx_bytes idx = idx_make(4, (int64_t[]){count, 2, 2, 3});
        for (int64_t i = 0; i < count * IDX_PIXELS; i++)
            idx.at[20 + i] = idx_pixel(file == TEST_IMAGES, i);
        idx_put_file(file, IDX_GZ, idx);
        free(idx.at);
    }
    struct dtr_dataset *dataset = data_open(idx_folder);
    ck_assert_int_eq(dtr_dataset_info(dataset)->shape.h, 2);
    ck_assert_int_eq(dtr_dataset_info(dataset)->shape.w, 2);
    ck_assert_int_eq(dtr_dataset_info(dataset)->shape.c, 3);
    data_check_range(dataset, DTR_TRAIN, 0, IDX_TRAIN);
    data_check_range(dataset, DTR_TEST, 1, 2);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_every_range_in_any_order)
{
    enum idx_form form = (enum idx_form)_i;
    idx_put_good_files(form);
    struct dtr_dataset *dataset = data_open(idx_folder);
    for (int64_t first = 0; first <= IDX_TRAIN; first++)
        for (int64_t count = 0; count <= IDX_TRAIN - first; count++)
            data_check_range(dataset, DTR_TRAIN, first, count);
    for (int64_t first = IDX_TRAIN; first >= 0; first--) {
        data_check_range(dataset, DTR_TRAIN, first, first < IDX_TRAIN ? 1 : 0);
        data_check_range(dataset, DTR_TEST, first % IDX_TEST, 1);
    }
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_range_beyond_the_split)
{
    static const int64_t ranges[][2] = {
        {0, IDX_TRAIN + 1}, {IDX_TRAIN, 1}, {IDX_TRAIN + 1, 0}, {-1, 1}, {0, -1}, {1, INT64_MAX}};
    idx_put_good_files(IDX_PLAIN);
    struct dtr_dataset *dataset = data_open(idx_folder);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        struct dtr_error error = DTR_ERROR_NONE;
        struct dtr_samples samples;
        ck_assert_int_eq(dtr_dataset_read(dataset, DTR_TRAIN, ranges[i][0], ranges[i][1],
                             IDX_CLASSES, &samples, &error),
            DTR_FAILED);
        ck_assert_ptr_nonnull(strstr(error.message, "were asked of a split of 7"));
        ck_assert_ptr_null(samples.images);
    }
    dtr_dataset_close(dataset);
}
END_TEST

/* Reading no more than is needed. */

enum { MANY = 200000 }; /* samples that do not fit any buffer: 2.4 MB that do not compress */

static void put_many(enum idx_form form)
{
    idx_put_good_files(IDX_PLAIN);
    struct idx_bytes images = idx_good_file_of(TRAIN_IMAGES, MANY);
    struct idx_bytes labels = idx_good_file_of(TRAIN_LABELS, MANY);
    uint32_t noise = 1;
    for (int64_t i = 16; i < images.size; i++) {
        noise = noise * 1664525 + 1013904223;
        images.at[i] = (uint8_t)(noise >> 24);
    }
    idx_put_file(TRAIN_IMAGES, form, images);
    idx_put_file(TRAIN_LABELS, form, labels);
    free(images.at);
    free(labels.at);
}

/* Overwrites a part of a file that somebody else holds open. */
static void spoil(const char *path, int64_t offset, int64_t size)
{
    struct idx_bytes zeros = idx_make_bytes(size);
    int descriptor = open(path, O_WRONLY);
    ck_assert_int_ge(descriptor, 0);
    ck_assert_int_eq(pwrite(descriptor, zeros.at, (size_t)size, offset), size);
    close(descriptor);
    free(zeros.at);
}

START_TEST(test_compressed_file_is_passed_once)
{
    put_many(IDX_GZ);
    const char *path = idx_path(TRAIN_IMAGES, IDX_GZ);
    struct idx_bytes before = idx_read_bytes(path);
    ck_assert_int_gt(before.size, 2 << 20);
    free(before.at);

    struct dtr_dataset *dataset = data_open(idx_folder);
    struct dtr_samples samples = data_read(dataset, DTR_TRAIN, 0, MANY / 2);
    dtr_samples_free(&samples);
    spoil(path, 1000, 1 << 19);
    samples = data_read(dataset, DTR_TRAIN, MANY / 2, MANY / 4); /* goes on where it was */
    dtr_samples_free(&samples);

    struct dtr_error error = DTR_ERROR_NONE; /* has to start anew, and meets the damage */
    ck_assert_int_eq(
        dtr_dataset_read(dataset, DTR_TRAIN, 0, MANY / 2, IDX_CLASSES, &samples, &error),
        DTR_INPUT);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_compressed_file_is_not_read_beyond_the_range)
{
    put_many(IDX_GZ);
    const char *path = idx_path(TRAIN_IMAGES, IDX_GZ);
    spoil(path, 3 << 19, 1000);
    struct dtr_dataset *dataset = data_open(idx_folder);
    struct dtr_samples samples = data_read(dataset, DTR_TRAIN, 100, MANY / 2);
    dtr_samples_free(&samples);
    samples = data_read(dataset, DTR_TRAIN, MANY, 0); /* nothing, at the very end */
    dtr_samples_free(&samples);
    dtr_dataset_close(dataset);
    data_check_refused(idx_folder, IDX_CLASSES, "damaged later", path, "damaged");
}
END_TEST

/* Bytes that this process has asked of read(), -1 where the system does not tell. */
static int64_t bytes_read(void)
{
    FILE *stream = fopen("/proc/self/io", "r");
    int64_t bytes = -1;
    if (stream == NULL || fscanf(stream, "rchar: %" SCNd64, &bytes) != 1)
        bytes = -1;
    if (stream != NULL)
        fclose(stream);
    return bytes;
}

START_TEST(test_plain_file_is_not_read_through)
{
    put_many(IDX_PLAIN);
    struct dtr_dataset *dataset = data_open(idx_folder);
    int64_t before = bytes_read();
    for (int64_t first = MANY - 1; first > 0; first -= MANY / 3) {
        struct dtr_samples samples = data_read(dataset, DTR_TRAIN, first, 1);
        ck_assert_uint_eq(samples.labels[0], idx_label(DTR_TRAIN, first));
        dtr_samples_free(&samples);
    }
    if (before >= 0)
        ck_assert_int_lt(bytes_read() - before, 2 << 20);
    dtr_dataset_close(dataset);
}
END_TEST

/* Synthetic digits. */

START_TEST(test_synthetic_counts)
{
    static const struct {
        const char *where;
        int64_t train, test;
    } cases[] = {
        {"synthetic", 60000, 10000},
        {"synthetic:1", 1, 1},
        {"synthetic:11", 11, 1},
        {"synthetic:12", 12, 2},
        {"synthetic:0000000000000000000600", 600, 100},
        {"synthetic:2147483648", INT64_C(1) << 31, (INT64_C(1) << 31) / 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dtr_dataset *dataset = data_open(cases[i].where);
        const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
        ck_assert_int_eq(info->count[DTR_TRAIN], cases[i].train);
        ck_assert_int_eq(info->count[DTR_TEST], cases[i].test);
        ck_assert_int_eq(dtr_shape_count(info->shape), 784);
        ck_assert_str_eq(info->description, "synthetic digits");
        struct dtr_samples last = data_read(dataset, DTR_TRAIN, cases[i].train - 1, 1);
        dtr_samples_free(&last);
        dtr_dataset_close(dataset);
    }
}
END_TEST

START_TEST(test_synthetic_names)
{
    static const char *const wrong[] = {"synthetic:0", "synthetic:x", "synthetic:", "synthetic:-1",
        "synthetic:+1", "synthetic: 1", "synthetic:1 ", "synthetic:1e3", "synthetic:2147483649",
        "synthetic:18446744073709551617", "synthetic:99999999999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        data_check_refused(wrong[i], IDX_CLASSES, wrong[i], wrong[i], "from 1 to 2147483648");
    data_check_refused("synthetics", IDX_CLASSES, "a folder", "synthetics", "no such folder");
    data_check_refused("./synthetic", IDX_CLASSES, "a folder", "./synthetic", "no such folder");
}
END_TEST

START_TEST(test_synthetic_samples)
{
    enum { FIRST = 5, COUNT = 20 };
    for (int split = DTR_TRAIN; split <= DTR_TEST; split++) {
        struct dtr_dataset *dataset = data_open("synthetic:1000");
        struct dtr_samples samples = data_read(dataset, (enum dtr_split)split, FIRST, COUNT);
        for (int64_t i = 0; i < COUNT; i++) {
            uint8_t image[784];
            uint8_t digit = dtr_synthetic_digit(1, (uint32_t)split, FIRST + i, image);
            ck_assert_uint_eq(samples.labels[i], digit);
            ck_assert_mem_eq(samples.images + i * 784, image, sizeof image);
        }
        dtr_samples_free(&samples);
        dtr_dataset_close(dataset);
    }
    data_check_refused("synthetic:100", 3, "three classes", "synthetic digits", "3 classes");
}
END_TEST

/* The fingerprint. */

static uint64_t fingerprint_of(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count)
{
    struct dtr_samples samples = data_read(dataset, split, first, count);
    uint64_t fingerprint = dtr_samples_fingerprint(&samples, split);
    dtr_samples_free(&samples);
    return fingerprint;
}

START_TEST(test_fingerprint_adds_up)
{
    idx_put_good_files(IDX_GZ);
    struct dtr_dataset *dataset = data_open(idx_folder);
    uint64_t whole = fingerprint_of(dataset, DTR_TRAIN, 0, IDX_TRAIN);
    ck_assert_uint_ne(whole, 0);
    ck_assert_uint_eq(fingerprint_of(dataset, DTR_TRAIN, 0, 0), 0);
    for (int64_t cut = 0; cut <= IDX_TRAIN; cut++)
        ck_assert_uint_eq(fingerprint_of(dataset, DTR_TRAIN, 0, cut) +
                              fingerprint_of(dataset, DTR_TRAIN, cut, IDX_TRAIN - cut),
            whole);
    uint64_t sum = 0;
    for (int64_t i = 0; i < IDX_TRAIN; i++)
        sum += fingerprint_of(dataset, DTR_TRAIN, i, 1);
    ck_assert_uint_eq(sum, whole);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_fingerprint_notices)
{
    idx_put_good_files(IDX_PLAIN);
    struct dtr_dataset *dataset = data_open(idx_folder);
    struct dtr_samples samples = data_read(dataset, DTR_TRAIN, 0, IDX_TRAIN);
    uint64_t whole = dtr_samples_fingerprint(&samples, DTR_TRAIN);
    ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TEST), whole);
    for (int64_t i = 0; i < IDX_TRAIN * IDX_PIXELS; i++) {
        samples.images[i] ^= 1;
        ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TRAIN), whole);
        samples.images[i] ^= 1;
    }
    for (int64_t i = 0; i < IDX_TRAIN; i++) {
        samples.labels[i] ^= 1;
        ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TRAIN), whole);
        samples.labels[i] ^= 1;
    }
    samples.first++;
    ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TRAIN), whole);
    samples.first--;
    ck_assert_uint_eq(dtr_samples_fingerprint(&samples, DTR_TRAIN), whole);
    dtr_samples_free(&samples);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_fingerprint_notices_order)
{
    uint8_t images[] = {1, 2, 3, 4}, labels[] = {0, 0}, swapped[] = {3, 4, 1, 2};
    struct dtr_samples samples = {0, 2, 2, images, labels};
    uint64_t before = dtr_samples_fingerprint(&samples, DTR_TRAIN);
    samples.images = swapped;
    ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TRAIN), before);
}
END_TEST

/* The real thing, where there is one. */

START_TEST(test_mnist)
{
    static const uint8_t train[] = {5, 0, 4, 1, 9}, test[] = {7, 2, 1, 0, 4};
    const char *where = getenv("DTRAIN_DATA");
    if (where == NULL || strncmp(where, "synthetic", 9) == 0)
        return;
    struct dtr_dataset *dataset = data_open(where);
    const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
    ck_assert_int_eq(info->count[DTR_TRAIN], 60000);
    ck_assert_int_eq(info->count[DTR_TEST], 10000);
    ck_assert_int_eq(info->shape.h, 28);
    ck_assert_int_eq(info->shape.w, 28);
    struct dtr_samples samples = data_read(dataset, DTR_TRAIN, 0, 60000);
    ck_assert_mem_eq(samples.labels, train, sizeof train);
    dtr_samples_free(&samples);
    samples = data_read(dataset, DTR_TEST, 0, 10000);
    ck_assert_mem_eq(samples.labels, test, sizeof test);
    dtr_samples_free(&samples);
    dtr_dataset_close(dataset);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("dataset");
    TCase *good = idx_with_folder(add_case(suite, "good"));
    tcase_add_test(good, test_plain_compressed_and_mixed);
    tcase_add_test(good, test_plain_wins_over_compressed);
    tcase_add_test(good, test_form_is_told_by_content);
    tcase_add_test(good, test_color_images);
    tcase_add_loop_test(good, test_every_range_in_any_order, IDX_PLAIN, IDX_GZ + 1);
    tcase_add_test(good, test_range_beyond_the_split);
    tcase_add_test(good, test_mnist);

    TCase *economy = idx_with_folder(add_case(suite, "economy"));
    tcase_add_test(economy, test_compressed_file_is_passed_once);
    tcase_add_test(economy, test_compressed_file_is_not_read_beyond_the_range);
    tcase_add_test(economy, test_plain_file_is_not_read_through);

    TCase *synthetic = idx_with_folder(add_case(suite, "synthetic"));
    tcase_add_test(synthetic, test_synthetic_counts);
    tcase_add_test(synthetic, test_synthetic_names);
    tcase_add_test(synthetic, test_synthetic_samples);

    TCase *fingerprint = idx_with_folder(add_case(suite, "fingerprint"));
    tcase_add_test(fingerprint, test_fingerprint_adds_up);
    tcase_add_test(fingerprint, test_fingerprint_notices);
    tcase_add_test(fingerprint, test_fingerprint_notices_order);
    return suite;
}
