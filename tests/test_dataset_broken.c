/* Folders that are no good data set: each is refused in one line that names file and mistake. */
#include "dtrain/dataset.h"
#include "idx_fixture.h"
#include "unit_main.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct breakage {
    const char *what;
    int file;
    int at, length; /* bytes replaced */
    const char *by;
    int grow; /* bytes appended, or cut when negative */
    const char *says;
};

static const struct breakage breakages[] = {
    {"images magic", TRAIN_IMAGES, 0, 4, "\0\0\x0d\x03", 0, "0x00000d03"},
    {"images magic of nothing", TEST_IMAGES, 0, 4, "<htm", 0, "0x3c68746d"},
    {"one dimension too many", TEST_IMAGES, 3, 1, "\5", 0, "0x00000805"},
    {"labels magic", TRAIN_LABELS, 2, 1, "\11", 0, "0x00000901"},
    {"labels in place of images", TRAIN_IMAGES, 3, 1, "\1", 0,
        "holds labels (magic 2049) where images (magic 2051) are expected"},
    {"images in place of labels", TEST_LABELS, 3, 1, "\3", 0,
        "holds images (magic 2051) where labels (magic 2049) are expected"},
    {"color images in place of labels", TEST_LABELS, 3, 1, "\4", 0, "holds images (magic 2052)"},
    {"no images", TRAIN_IMAGES, 7, 1, "\0", -IDX_TRAIN *IDX_PIXELS, "0 samples"},
    {"no labels", TEST_LABELS, 7, 1, "\0", -IDX_TEST, "0 samples"},
    {"no rows", TRAIN_IMAGES, 11, 1, "\0", -IDX_TRAIN *IDX_PIXELS, "7 samples of 0 x 3 x 1"},
    {"no columns", TEST_IMAGES, 15, 1, "\0", -IDX_TEST *IDX_PIXELS, "3 samples of 4 x 0 x 1"},
    {"too many rows", TRAIN_IMAGES, 9, 1, "\1", 0, "65540 x 3 x 1"},
    {"too many columns", TRAIN_IMAGES, 12, 1, "\x80", 0, "65535"},
    {"product overflows", TRAIN_IMAGES, 4, 12, "\xff\xff\xff\xff\0\0\xff\xff\0\0\xff\xff", 0,
        "4294967295 samples"},
    {"promises far too much", TRAIN_IMAGES, 4, 4, "\x7f\xff\xff\xff", 0, "make 25769803780 bytes"},
    {"promises far too many labels", TRAIN_LABELS, 4, 4, "\x7f\xff\xff\xff", 0, "bytes"},
    {"one image more", TRAIN_IMAGES, 7, 1, "\10", IDX_PIXELS, "holds 8 images, but"},
    {"one image less", TEST_IMAGES, 7, 1, "\2", -IDX_PIXELS, "holds 2 images, but"},
    {"one label more", TEST_LABELS, 7, 1, "\4", 1, "holds 4 labels"},
    {"one label less", TRAIN_LABELS, 7, 1, "\6", -1, "holds 6 labels"},
    {"rows differ in the test set", TEST_IMAGES, 11, 1, "\3", -3 * IDX_TEST, "of 3 x 3 x 1"},
    {"columns differ in the training set", TRAIN_IMAGES, 15, 1, "\5", 2 * IDX_ROWS *IDX_TRAIN,
        "of 4 x 5 x 1"},
    {"a pixel too many", TRAIN_IMAGES, 0, 0, "", 1, "100 bytes"},
    {"images too many", TEST_IMAGES, 0, 0, "", 3 * IDX_PIXELS, "52 bytes"},
    {"a label too many", TRAIN_LABELS, 0, 0, "", 1, "15 bytes"},
    {"a test label too many", TEST_LABELS, 0, 0, "", 1, "11 bytes"},
    {"first label out of range", TRAIN_LABELS, 8, 1, "\12", 0,
        "sample 0 has label 10, but the model has 10 classes"},
    {"last label out of range", TRAIN_LABELS, 14, 1, "\xff", 0, "sample 6 has label 255"},
    {"test label out of range", TEST_LABELS, 9, 1, "\13", 0, "sample 1 has label 11"},
};

START_TEST(test_broken)
{
    const struct breakage *breakage = &breakages[_i];
    struct idx_bytes bytes = idx_good_file(breakage->file);
    memcpy(bytes.at + breakage->at, breakage->by, (size_t)breakage->length);
    bytes.size += breakage->grow;
    for (enum idx_form form = IDX_PLAIN; form <= IDX_GZ; form++) {
        idx_put_good_files(form);
        idx_put_file(breakage->file, form, bytes);
        data_check_refused(idx_folder, IDX_CLASSES, breakage->what, idx_path(breakage->file, form),
            breakage->says);
        idx_empty_folder();
    }
    free(bytes.at);
}
END_TEST

/* Files that end at any byte, header, data or checksum: one file per run of the test. */
START_TEST(test_truncated)
{
    int file = _i;
    for (enum idx_form form = IDX_PLAIN; form <= IDX_GZ; form++) {
        idx_put_good_files(form);
        struct idx_bytes bytes = idx_read_bytes(idx_path(file, form));
        char what[100];
        for (bytes.size--; bytes.size >= 0; bytes.size--) {
            snprintf(what, sizeof what, "%s cut to %" PRId64, idx_name[file], bytes.size);
            idx_write_bytes(idx_path(file, form), bytes);
            data_check_refused(idx_folder, IDX_CLASSES, what, idx_path(file, form), "bytes");
        }
        free(bytes.at);
        idx_empty_folder();
    }
}
END_TEST

START_TEST(test_truncation_is_described)
{
    static const struct {
        int file;
        int64_t size;
        const char *says;
    } cases[] = {
        {TRAIN_IMAGES, 0, "ends after 0 of 16 bytes"},
        {TRAIN_IMAGES, 3, "ends after 3 of 16 bytes"},
        {TRAIN_IMAGES, 15, "ends after 15 of 16 bytes"},
        {TRAIN_LABELS, 7, "ends after 7 of 8 bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (enum idx_form form = IDX_PLAIN; form <= IDX_GZ; form++) {
            idx_put_good_files(form);
            struct idx_bytes bytes = idx_good_file(cases[i].file);
            bytes.size = cases[i].size;
            idx_put_file(cases[i].file, form, bytes);
            data_check_refused(
                idx_folder, IDX_CLASSES, "header", idx_path(cases[i].file, form), cases[i].says);
            free(bytes.at);
            idx_empty_folder();
        }
    }
    /* A whole gzip file of too few samples. */
    idx_put_good_files(IDX_GZ);
    struct idx_bytes bytes = idx_good_file(TRAIN_IMAGES);
    bytes.size -= 30;
    idx_put_file(TRAIN_IMAGES, IDX_GZ, bytes);
    data_check_refused(idx_folder, IDX_CLASSES, "data", idx_path(TRAIN_IMAGES, IDX_GZ),
        "ends after 70 of 100 bytes");
    free(bytes.at);
    /* A gzip file without the last byte of its checksum. */
    idx_put_good_files(IDX_GZ);
    bytes = idx_read_bytes(idx_path(TRAIN_IMAGES, IDX_GZ));
    bytes.size--;
    idx_write_bytes(idx_path(TRAIN_IMAGES, IDX_GZ), bytes);
    data_check_refused(
        idx_folder, IDX_CLASSES, "checksum", idx_path(TRAIN_IMAGES, IDX_GZ), "checksum");
    free(bytes.at);
}
END_TEST

/* Before any rank has read anything. */
START_TEST(test_plain_size_is_checked_at_open)
{
    idx_put_good_files(IDX_PLAIN);
    struct idx_bytes bytes = idx_good_file(_i);
    for (int64_t change = -1; change <= 1; change += 2) {
        idx_write_bytes(idx_path(_i, IDX_PLAIN), (struct idx_bytes){bytes.at, bytes.size + change});
        struct dtr_error error = DTR_ERROR_NONE;
        struct dtr_dataset *dataset;
        ck_assert_int_eq(dtr_dataset_open(idx_folder, 1, &dataset, &error), DTR_INPUT);
        char found[60];
        snprintf(found, sizeof found, "make %" PRId64 " bytes, but the file has %" PRId64,
            bytes.size, bytes.size + change);
        ck_assert_msg(strstr(error.message, found) != NULL, "%s", error.message);
    }
    free(bytes.at);
}
END_TEST

/* Any byte of a gzip file wrong. Time, flags and system in bytes 4 to 9 mean nothing to zlib. */
START_TEST(test_damaged_gzip)
{
    int file = _i;
    idx_put_good_files(IDX_GZ);
    const char *path = idx_path(file, IDX_GZ);
    struct idx_bytes bytes = idx_read_bytes(path);
    for (int64_t i = 0; i < bytes.size; i++) {
        char what[100];
        snprintf(what, sizeof what, "%s with byte %" PRId64 " inverted", idx_name[file], i);
        bytes.at[i] ^= 0xFF;
        idx_write_bytes(path, bytes);
        if (i >= 4 && i < 10)
            data_check_good(idx_folder);
        else
            data_check_refused(idx_folder, IDX_CLASSES, what, path, "");
        bytes.at[i] ^= 0xFF;
    }
    free(bytes.at);
}
END_TEST

START_TEST(test_labels_of_a_smaller_model)
{
    idx_put_good_files(IDX_PLAIN);
    data_check_refused(idx_folder, 9, "nine classes", idx_path(TRAIN_LABELS, IDX_PLAIN),
        "sample 1 has label 9, but the model has 9 classes (labels 0 to 8)");
    struct dtr_dataset *dataset = data_open(idx_folder);
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_samples samples;
    ck_assert_int_eq(dtr_dataset_read(dataset, DTR_TRAIN, 4, 3, 4, &samples, &error), DTR_INPUT);
    ck_assert_ptr_nonnull(strstr(error.message, "sample 5 has label 7")); /* not counted from 4 */
    ck_assert_ptr_null(samples.labels);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_missing_file)
{
    int file = _i;
    idx_put_good_files(IDX_PLAIN);
    unlink(idx_path(file, IDX_PLAIN));
    data_check_refused(idx_folder, IDX_CLASSES, "missing", idx_folder, idx_name[file]);
    char both[100];
    snprintf(both, sizeof both, "neither %s nor %s.gz", idx_name[file], idx_name[file]);
    data_check_refused(idx_folder, IDX_CLASSES, "missing", both, "jobs/fetch-mnist.sh");
}
END_TEST

START_TEST(test_not_a_regular_file)
{
    int file = _i;
    for (enum idx_form form = IDX_PLAIN; form <= IDX_GZ; form++) {
        idx_put_good_files(IDX_PLAIN);
        unlink(idx_path(file, IDX_PLAIN));
        ck_assert_int_eq(mkdir(idx_path(file, form), 0700), 0);
        data_check_refused(idx_folder, IDX_CLASSES, "folder", idx_path(file, form), "regular file");
        idx_empty_folder();
        idx_put_good_files(IDX_PLAIN);
        unlink(idx_path(file, IDX_PLAIN));
        ck_assert_int_eq(mkfifo(idx_path(file, form), 0600), 0);
        data_check_refused(idx_folder, IDX_CLASSES, "pipe", idx_path(file, form), "regular file");
        idx_empty_folder();
    }
}
END_TEST

START_TEST(test_swapped_files)
{
    static const int pairs[][2] = {{TRAIN_IMAGES, TRAIN_LABELS}, {TEST_IMAGES, TEST_LABELS},
        {TRAIN_IMAGES, TEST_IMAGES}, {TRAIN_LABELS, TEST_LABELS}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        idx_put_good_files(IDX_PLAIN);
        struct idx_bytes one = idx_good_file(pairs[i][0]), other = idx_good_file(pairs[i][1]);
        idx_put_file(pairs[i][0], IDX_PLAIN, other);
        idx_put_file(pairs[i][1], IDX_PLAIN, one);
        data_check_refused(idx_folder, IDX_CLASSES, "swapped", idx_name[pairs[i][0]], "holds");
        free(one.at);
        free(other.at);
    }
}
END_TEST

START_TEST(test_unreadable)
{
    if (geteuid() == 0)
        return; /* may read everything */
    idx_put_good_files(IDX_PLAIN);
    ck_assert_int_eq(chmod(idx_path(TEST_LABELS, IDX_PLAIN), 0), 0);
    data_check_refused(
        idx_folder, IDX_CLASSES, "file", idx_path(TEST_LABELS, IDX_PLAIN), "Permission denied");
    ck_assert_int_eq(chmod(idx_folder, 0), 0);
    data_check_refused(idx_folder, IDX_CLASSES, "folder", idx_folder, "Permission denied");
    ck_assert_int_eq(chmod(idx_folder, 0700), 0);
}
END_TEST

START_TEST(test_not_such_a_folder)
{
    char path[600], deep[9000];
    data_check_refused(
        idx_folder, IDX_CLASSES, "empty", idx_folder, "neither train-images-idx3-ubyte nor");
    snprintf(path, sizeof path, "%s/nowhere", idx_folder);
    data_check_refused(path, IDX_CLASSES, "nowhere", path, "there is no such folder");
    data_check_refused("", IDX_CLASSES, "no name", "''", "there is no such folder");
    idx_put_good_files(IDX_PLAIN);
    snprintf(path, sizeof path, "%s", idx_path(TRAIN_IMAGES, IDX_PLAIN));
    data_check_refused(path, IDX_CLASSES, "a file", path, "is not a folder");
    snprintf(path, sizeof path, "%s/below", idx_path(TRAIN_IMAGES, IDX_PLAIN));
    data_check_refused(path, IDX_CLASSES, "below a file", path, "Not a directory");
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    data_check_refused(deep, IDX_CLASSES, "name too long", "data 'xxx", "x");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("dataset_broken");
    TCase *broken = idx_with_folder(add_case(suite, "broken"));
    tcase_add_loop_test(broken, test_broken, 0, sizeof breakages / sizeof *breakages);
    tcase_add_loop_test(broken, test_truncated, 0, IDX_FILES);
    tcase_add_test(broken, test_truncation_is_described);
    tcase_add_loop_test(broken, test_plain_size_is_checked_at_open, 0, IDX_FILES);
    tcase_add_loop_test(broken, test_damaged_gzip, 0, IDX_FILES);
    tcase_add_test(broken, test_labels_of_a_smaller_model);
    tcase_add_loop_test(broken, test_missing_file, 0, IDX_FILES);
    tcase_add_loop_test(broken, test_not_a_regular_file, 0, IDX_FILES);
    tcase_add_test(broken, test_swapped_files);
    tcase_add_test(broken, test_unreadable);
    tcase_add_test(broken, test_not_such_a_folder);
    return suite;
}
