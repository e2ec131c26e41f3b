#include "idx_fixture.h"

#include <ftw.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

char idx_folder[256];

/* Made and removed in the parent process, so that failed tests leave none. */
static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(
        idx_folder, sizeof idx_folder, "%s/test_dataset.XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(idx_folder) == NULL)
        abort();
}

static int remove_entry(const char *path, const struct stat *about, int type, struct FTW *walk)
{
    (void)about, (void)type;
    return walk->level == 0 ? 0 : remove(path);
}

void idx_empty_folder(void)
{
    nftw(idx_folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_folder(void)
{
    idx_empty_folder();
    rmdir(idx_folder);
}

TCase *idx_with_folder(TCase *tcase)
{
    tcase_add_unchecked_fixture(tcase, make_folder, remove_folder);
    tcase_add_checked_fixture(tcase, idx_empty_folder, NULL);
    return tcase;
}

/* Making data sets. */

const char *idx_path(int file, enum idx_form form)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s%s", idx_folder, idx_name[file], form == IDX_GZ ? ".gz" : "");
    return path;
}

struct idx_bytes idx_make_bytes(int64_t size)
{
    struct idx_bytes bytes = {calloc((size_t)size + 64, 1), size}; /* room for tests to append */
    ck_assert_ptr_nonnull(bytes.at);
    return bytes;
}

void idx_write_bytes(const char *path, struct idx_bytes bytes)
{
    FILE *stream = fopen(path, "wb");
    ck_assert_ptr_nonnull(stream);
    ck_assert_uint_eq(fwrite(bytes.at, 1, (size_t)bytes.size, stream), (size_t)bytes.size);
    ck_assert_int_eq(fclose(stream), 0);
}

struct idx_bytes idx_read_bytes(const char *path)
{
    struct stat about;
    ck_assert_int_eq(stat(path, &about), 0);
    struct idx_bytes bytes = idx_make_bytes(about.st_size);
    FILE *stream = fopen(path, "rb");
    ck_assert_ptr_nonnull(stream);
    ck_assert_uint_eq(fread(bytes.at, 1, (size_t)bytes.size, stream), (size_t)bytes.size);
    fclose(stream);
    return bytes;
}

static void gzip(const char *path)
{
    extern char **environ;
    char *arguments[] = {"gzip", "-nf", (char *)path, NULL};
    pid_t child;
    int status;
    ck_assert_int_eq(posix_spawnp(&child, "gzip", NULL, NULL, arguments, environ), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}

struct idx_bytes idx_make(int dims, const int64_t dim[])
{
    int64_t header = 4 + 4 * dims, data = 1;
    for (int i = 0; i < dims; i++)
        data *= dim[i];
    struct idx_bytes idx = idx_make_bytes(header + data);
    put_idx_header(idx.at, dims, dim);
    return idx;
}

uint8_t idx_pixel(int split, int64_t byte)
{
    return (uint8_t)((byte * 2654435761 >> 7) + split * 77);
}

uint8_t idx_label(int split, int64_t sample)
{
    return (uint8_t)((sample * 7 + split + 2) % IDX_CLASSES);
}

struct idx_bytes idx_good_file_of(int file, int64_t count)
{
    int split = file >= TEST_IMAGES;
    bool images = file == TRAIN_IMAGES || file == TEST_IMAGES;
    struct idx_bytes idx = idx_make(images ? 3 : 1, (int64_t[]){count, IDX_ROWS, IDX_COLS});
    for (int64_t i = 0; images && i < count * IDX_PIXELS; i++)
        idx.at[16 + i] = idx_pixel(split, i);
    for (int64_t i = 0; !images && i < count; i++)
        idx.at[8 + i] = idx_label(split, i);
    return idx;
}

struct idx_bytes idx_good_file(int file)
{
    return idx_good_file_of(file, file < TEST_IMAGES ? IDX_TRAIN : IDX_TEST);
}

void idx_put_file(int file, enum idx_form form, struct idx_bytes bytes)
{
    unlink(idx_path(file, IDX_GZ));
    idx_write_bytes(idx_path(file, IDX_PLAIN), bytes);
    if (form == IDX_GZ)
        gzip(idx_path(file, IDX_PLAIN));
}

void idx_put_good_file(int file, enum idx_form form)
{
    struct idx_bytes bytes = idx_good_file(file);
    idx_put_file(file, form, bytes);
    free(bytes.at);
}

void idx_put_good_files(enum idx_form form)
{
    for (int file = 0; file < IDX_FILES; file++)
        idx_put_good_file(file, form);
}

/* Reading them. */

struct dtr_dataset *data_open(const char *where)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_dataset *dataset;
    enum dtr_status status = dtr_dataset_open(where, 1, &dataset, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    return dataset;
}

struct dtr_samples data_read(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_samples samples;
    enum dtr_status status = dtr_dataset_read(
        dataset, split, first, count, IDX_CLASSES, &samples, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    ck_assert_int_eq(samples.first, first);
    ck_assert_int_eq(samples.count, count);
    return samples;
}

void data_check_range(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count)
{
    struct dtr_samples samples = data_read(dataset, split, first, count);
    ck_assert_int_eq(samples.image_bytes, IDX_PIXELS);
    for (int64_t i = 0; i < count; i++)
        ck_assert_uint_eq(samples.labels[i], idx_label((int)split, first + i));
    for (int64_t i = 0; i < count * IDX_PIXELS; i++)
        ck_assert_uint_eq(samples.images[i], idx_pixel((int)split, first * IDX_PIXELS + i));
    dtr_samples_free(&samples);
    ck_assert_ptr_null(samples.images);
}

/* Opens the folder and reads all of it. */
static enum dtr_status read_all(const char *where, int64_t classes, struct dtr_error *error)
{
    struct dtr_dataset *dataset;
    enum dtr_status status = dtr_dataset_open(where, 1, &dataset, error);
    if (status != DTR_OK)
        ck_assert_ptr_null(dataset);
    for (int split = DTR_TRAIN; split <= DTR_TEST && status == DTR_OK; split++) {
        struct dtr_samples samples;
        status = dtr_dataset_read(dataset, (enum dtr_split)split, 0,
            dtr_dataset_info(dataset)->count[split], classes, &samples, error);
        dtr_samples_free(&samples);
    }
    dtr_dataset_close(dataset);
    return status;
}

void data_check_refused(
    const char *where, int64_t classes, const char *what, const char *names, const char *says)
{
    struct dtr_error error = DTR_ERROR_NONE;
    enum dtr_status status = read_all(where, classes, &error);
    ck_assert_msg(status == DTR_INPUT, "%s: status %d: %s", what, status, error.message);
    ck_assert_int_eq(error.status, DTR_INPUT);
    ck_assert_msg(
        strstr(error.message, names) != NULL, "%s: no '%s' in '%s'", what, names, error.message);
    ck_assert_msg(
        strstr(error.message, says) != NULL, "%s: no '%s' in '%s'", what, says, error.message);
    ck_assert_msg(strchr(error.message, '\n') == NULL, "%s: %s", what, error.message);
}

void data_check_good(const char *where)
{
    struct dtr_dataset *dataset = data_open(where);
    const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
    ck_assert_int_eq(info->count[DTR_TRAIN], IDX_TRAIN);
    ck_assert_int_eq(info->count[DTR_TEST], IDX_TEST);
    ck_assert_int_eq(info->shape.h, IDX_ROWS);
    ck_assert_int_eq(info->shape.w, IDX_COLS);
    ck_assert_int_eq(info->shape.c, 1);
    ck_assert_ptr_nonnull(strstr(info->description, idx_folder));
    data_check_range(dataset, DTR_TRAIN, 0, IDX_TRAIN);
    data_check_range(dataset, DTR_TEST, 0, IDX_TEST);
    dtr_dataset_close(dataset);
}
