/*
 * Data sets in IDX files, plain or gzip, for tests that read them: a folder for a group of tests, a
 * good data set of a few tiny images that they damage, and what reading must give.
 *
 *     TCase *tcase = idx_with_folder(add_case(suite, "broken"));
 *     ...
 *     idx_put_good_files(IDX_PLAIN);
 *     unlink(idx_path(TEST_LABELS, IDX_PLAIN));
 *     data_check_refused(idx_folder, IDX_CLASSES, "no labels", idx_folder, "neither");
 *
 * idx_... is about files, data_... about the data set that is read. Failures end the test.
 */
#ifndef DTRAIN_TESTS_IDX_FIXTURE_H
#define DTRAIN_TESTS_IDX_FIXTURE_H

#include "dtrain/dataset.h"
#include "idx.h"

#include <check.h>

/* The good data set. */
enum {
    IDX_TRAIN = 7,
    IDX_TEST = 3,
    IDX_ROWS = 4,
    IDX_COLS = 3,
    IDX_PIXELS = IDX_ROWS * IDX_COLS,
    IDX_CLASSES = 10
};
enum idx_form { IDX_PLAIN, IDX_GZ };

/* What is in a file; free `at`. */
struct idx_bytes {
    uint8_t *at;
    int64_t size;
};

/* The folder of a test: idx_with_folder() makes one for a group and empties it before each test. */
extern char idx_folder[256];

TCase *idx_with_folder(TCase *tcase); /* returns the group */
void idx_empty_folder(void);

/* Where a file of the data set is, TRAIN_IMAGES and so on. Points to a static buffer. */
const char *idx_path(int file, enum idx_form form);

/* Zeros, with room for tests to append a little. */
struct idx_bytes idx_make_bytes(int64_t size);

/* Files as they are, whatever their form. */
void idx_write_bytes(const char *path, struct idx_bytes bytes);
struct idx_bytes idx_read_bytes(const char *path);

/* A header and zeros for dim[0] samples of dim[1] x ... */
struct idx_bytes idx_make(int dims, const int64_t dim[]);

/* A byte of a split's images, counted from the first image's, and the label of a sample. */
uint8_t idx_pixel(int split, int64_t byte);
uint8_t idx_label(int split, int64_t sample);

/* The good file that the tests start from, uncompressed; also of another number of samples. */
struct idx_bytes idx_good_file(int file);
struct idx_bytes idx_good_file_of(int file, int64_t count);

/* Writes a file of the data set in one form; the other form is gone then. */
void idx_put_file(int file, enum idx_form form, struct idx_bytes bytes);
void idx_put_good_file(int file, enum idx_form form);
void idx_put_good_files(enum idx_form form);

/* dtr_dataset_open() and dtr_dataset_read() of what is good. */
struct dtr_dataset *data_open(const char *where);
struct dtr_samples data_read(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count);

/* The range must hold the pixels and labels of above. */
void data_check_range(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count);

/* The folder must hold the good data set. */
void data_check_good(const char *where);

/* Opening the folder and reading all of it must fail as wrong input, with one line that contains
 * both texts. `what` is for the test's own messages. */
void data_check_refused(
    const char *where, int64_t classes, const char *what, const char *names, const char *says);

#endif
