#include "dtrain/dataset.h"
#include "dtrain/synthetic.h"
#include "idx.h"
#include "unit_main.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRAIN = 7, TEST = 3, ROWS = 4, COLS = 3, PIXELS = ROWS * COLS, CLASSES = 10 };
enum form { PLAIN, GZ };

struct bytes {
    uint8_t *at;
    int64_t size;
};

/* The folder of a test. Made and removed in the parent process, so that failed tests leave none. */
static char folder[256];

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_dataset.XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(folder) == NULL)
        abort();
}

static int remove_entry(const char *path, const struct stat *about, int type, struct FTW *walk)
{
    (void)about, (void)type;
    return walk->level == 0 ? 0 : remove(path);
}

static void empty_folder(void)
{
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_folder(void)
{
    empty_folder();
    rmdir(folder);
}

/* Making data sets. */

static const char *path_of(int file, enum form form)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s%s", folder, idx_name[file], form == GZ ? ".gz" : "");
    return path;
}

static struct bytes make_bytes(int64_t size)
{
    struct bytes bytes = {calloc((size_t)size + 64, 1), size}; /* room for tests to append */
    ck_assert_ptr_nonnull(bytes.at);
    return bytes;
}

static void write_bytes(const char *path, struct bytes bytes)
{
    FILE *stream = fopen(path, "wb");
    ck_assert_ptr_nonnull(stream);
    ck_assert_uint_eq(fwrite(bytes.at, 1, (size_t)bytes.size, stream), (size_t)bytes.size);
    ck_assert_int_eq(fclose(stream), 0);
}

static struct bytes read_bytes(const char *path)
{
    struct stat about;
    ck_assert_int_eq(stat(path, &about), 0);
    struct bytes bytes = make_bytes(about.st_size);
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

static struct bytes make_idx(int dims, const int64_t dim[])
{
    int64_t header = 4 + 4 * dims, data = 1;
    for (int i = 0; i < dims; i++)
        data *= dim[i];
    struct bytes idx = make_bytes(header + data);
    put_idx_header(idx.at, dims, dim);
    return idx;
}

static uint8_t pixel(int split, int64_t byte)
{
    return (uint8_t)((byte * 2654435761 >> 7) + split * 77);
}

static uint8_t label(int split, int64_t sample)
{
    return (uint8_t)((sample * 7 + split + 2) % CLASSES);
}

/* The good file that the tests start from, uncompressed. */
static struct bytes good_file_of(int file, int64_t count)
{
    int split = file >= TEST_IMAGES;
    bool images = file == TRAIN_IMAGES || file == TEST_IMAGES;
    struct bytes idx = make_idx(images ? 3 : 1, (int64_t[]){count, ROWS, COLS});
    for (int64_t i = 0; images && i < count * PIXELS; i++)
        idx.at[16 + i] = pixel(split, i);
    for (int64_t i = 0; !images && i < count; i++)
        idx.at[8 + i] = label(split, i);
    return idx;
}

static struct bytes good_file(int file)
{
    return good_file_of(file, file < TEST_IMAGES ? TRAIN : TEST);
}

/* Writes a file of the data set in one form; the other form is gone then. */
static void put_file(int file, enum form form, struct bytes bytes)
{
    unlink(path_of(file, GZ));
    write_bytes(path_of(file, PLAIN), bytes);
    if (form == GZ)
        gzip(path_of(file, PLAIN));
}

static void put_good_file(int file, enum form form)
{
    struct bytes bytes = good_file(file);
    put_file(file, form, bytes);
    free(bytes.at);
}

static void put_good_files(enum form form)
{
    for (int file = 0; file < IDX_FILES; file++)
        put_good_file(file, form);
}

/* Reading them. */

static struct dtr_dataset *open_good(const char *where)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_dataset *dataset;
    enum dtr_status status = dtr_dataset_open(where, 1, &dataset, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    return dataset;
}

static struct dtr_samples read_good(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_samples samples;
    enum dtr_status status = dtr_dataset_read(
        dataset, split, first, count, CLASSES, &samples, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    ck_assert_int_eq(samples.first, first);
    ck_assert_int_eq(samples.count, count);
    return samples;
}

static void check_range(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count)
{
    struct dtr_samples samples = read_good(dataset, split, first, count);
    ck_assert_int_eq(samples.image_bytes, PIXELS);
    for (int64_t i = 0; i < count; i++)
        ck_assert_uint_eq(samples.labels[i], label((int)split, first + i));
    for (int64_t i = 0; i < count * PIXELS; i++)
        ck_assert_uint_eq(samples.images[i], pixel((int)split, first * PIXELS + i));
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

/* The whole must fail as wrong input, with one line that contains both texts. */
static void check_refused(
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

static void check_good_folder(const char *where)
{
    struct dtr_dataset *dataset = open_good(where);
    const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
    ck_assert_int_eq(info->count[DTR_TRAIN], TRAIN);
    ck_assert_int_eq(info->count[DTR_TEST], TEST);
    ck_assert_int_eq(info->shape.h, ROWS);
    ck_assert_int_eq(info->shape.w, COLS);
    ck_assert_int_eq(info->shape.c, 1);
    ck_assert_ptr_nonnull(strstr(info->description, folder));
    check_range(dataset, DTR_TRAIN, 0, TRAIN);
    check_range(dataset, DTR_TEST, 0, TEST);
    dtr_dataset_close(dataset);
}

/* Good folders. */

START_TEST(test_plain_compressed_and_mixed)
{
    for (int mixture = 0; mixture < 1 << IDX_FILES; mixture++) {
        empty_folder();
        for (int file = 0; file < IDX_FILES; file++)
            put_good_file(file, mixture >> file & 1 ? GZ : PLAIN);
        check_good_folder(folder);
    }
    char slashed[300];
    snprintf(slashed, sizeof slashed, "%s/", folder);
    check_good_folder(slashed);
}
END_TEST

START_TEST(test_plain_wins_over_compressed)
{
    put_good_files(PLAIN);
    for (int file = 0; file < IDX_FILES; file++)
        write_bytes(path_of(file, GZ), (struct bytes){(uint8_t[]){0}, 1});
    check_good_folder(folder);
}
END_TEST

/* Downloads are unpacked or left packed without the name saying so. */
START_TEST(test_form_is_told_by_content)
{
    put_good_files(GZ);
    for (int file = 0; file < IDX_FILES; file++) {
        char from[512];
        snprintf(from, sizeof from, "%s", path_of(file, GZ));
        ck_assert_int_eq(rename(from, path_of(file, PLAIN)), 0);
    }
    check_good_folder(folder);
    for (int file = 0; file < IDX_FILES; file++) {
        struct bytes bytes = good_file(file);
        write_bytes(path_of(file, GZ), bytes);
        unlink(path_of(file, PLAIN));
        free(bytes.at);
    }
    check_good_folder(folder);
}
END_TEST

START_TEST(test_color_images)
{
    put_good_files(PLAIN);
    for (int file = TRAIN_IMAGES; file <= TEST_IMAGES; file += TEST_IMAGES) {
        int64_t count = file == TRAIN_IMAGES ? TRAIN : TEST;
        struct bytes idx = make_idx(4, (int64_t[]){count, 2, 2, 3});
        for (int64_t i = 0; i < count * PIXELS; i++)
            idx.at[20 + i] = pixel(file == TEST_IMAGES, i);
        put_file(file, GZ, idx);
        free(idx.at);
    }
    struct dtr_dataset *dataset = open_good(folder);
    ck_assert_int_eq(dtr_dataset_info(dataset)->shape.h, 2);
    ck_assert_int_eq(dtr_dataset_info(dataset)->shape.w, 2);
    ck_assert_int_eq(dtr_dataset_info(dataset)->shape.c, 3);
    check_range(dataset, DTR_TRAIN, 0, TRAIN);
    check_range(dataset, DTR_TEST, 1, 2);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_every_range_in_any_order)
{
    enum form form = (enum form)_i;
    put_good_files(form);
    struct dtr_dataset *dataset = open_good(folder);
    for (int64_t first = 0; first <= TRAIN; first++)
        for (int64_t count = 0; count <= TRAIN - first; count++)
            check_range(dataset, DTR_TRAIN, first, count);
    for (int64_t first = TRAIN; first >= 0; first--) {
        check_range(dataset, DTR_TRAIN, first, first < TRAIN ? 1 : 0);
        check_range(dataset, DTR_TEST, first % TEST, 1);
    }
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_range_beyond_the_split)
{
    static const int64_t ranges[][2] = {
        {0, TRAIN + 1}, {TRAIN, 1}, {TRAIN + 1, 0}, {-1, 1}, {0, -1}, {1, INT64_MAX}};
    put_good_files(PLAIN);
    struct dtr_dataset *dataset = open_good(folder);
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        struct dtr_error error = DTR_ERROR_NONE;
        struct dtr_samples samples;
        ck_assert_int_eq(dtr_dataset_read(dataset, DTR_TRAIN, ranges[i][0], ranges[i][1], CLASSES,
                             &samples, &error),
            DTR_FAILED);
        ck_assert_ptr_nonnull(strstr(error.message, "were asked of a split of 7"));
        ck_assert_ptr_null(samples.images);
    }
    dtr_dataset_close(dataset);
}
END_TEST

/* Reading no more than is needed. */

enum { MANY = 200000 }; /* samples that do not fit any buffer: 2.4 MB that do not compress */

static void put_many(enum form form)
{
    put_good_files(PLAIN);
    struct bytes images = good_file_of(TRAIN_IMAGES, MANY);
    struct bytes labels = good_file_of(TRAIN_LABELS, MANY);
    uint32_t noise = 1;
    for (int64_t i = 16; i < images.size; i++) {
        noise = noise * 1664525 + 1013904223;
        images.at[i] = (uint8_t)(noise >> 24);
    }
    put_file(TRAIN_IMAGES, form, images);
    put_file(TRAIN_LABELS, form, labels);
    free(images.at);
    free(labels.at);
}

/* Overwrites a part of a file that somebody else holds open. */
static void spoil(const char *path, int64_t offset, int64_t size)
{
    struct bytes zeros = make_bytes(size);
    int descriptor = open(path, O_WRONLY);
    ck_assert_int_ge(descriptor, 0);
    ck_assert_int_eq(pwrite(descriptor, zeros.at, (size_t)size, offset), size);
    close(descriptor);
    free(zeros.at);
}

START_TEST(test_compressed_file_is_passed_once)
{
    put_many(GZ);
    const char *path = path_of(TRAIN_IMAGES, GZ);
    struct bytes before = read_bytes(path);
    ck_assert_int_gt(before.size, 2 << 20);
    free(before.at);

    struct dtr_dataset *dataset = open_good(folder);
    struct dtr_samples samples = read_good(dataset, DTR_TRAIN, 0, MANY / 2);
    dtr_samples_free(&samples);
    spoil(path, 1000, 1 << 19);
    samples = read_good(dataset, DTR_TRAIN, MANY / 2, MANY / 4); /* goes on where it was */
    dtr_samples_free(&samples);

    struct dtr_error error = DTR_ERROR_NONE; /* has to start anew, and meets the damage */
    ck_assert_int_eq(
        dtr_dataset_read(dataset, DTR_TRAIN, 0, MANY / 2, CLASSES, &samples, &error), DTR_INPUT);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_compressed_file_is_not_read_beyond_the_range)
{
    put_many(GZ);
    const char *path = path_of(TRAIN_IMAGES, GZ);
    spoil(path, 3 << 19, 1000);
    struct dtr_dataset *dataset = open_good(folder);
    struct dtr_samples samples = read_good(dataset, DTR_TRAIN, 100, MANY / 2);
    dtr_samples_free(&samples);
    samples = read_good(dataset, DTR_TRAIN, MANY, 0); /* nothing, at the very end */
    dtr_samples_free(&samples);
    dtr_dataset_close(dataset);
    check_refused(folder, CLASSES, "damaged later", path, "damaged");
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
    put_many(PLAIN);
    struct dtr_dataset *dataset = open_good(folder);
    int64_t before = bytes_read();
    for (int64_t first = MANY - 1; first > 0; first -= MANY / 3) {
        struct dtr_samples samples = read_good(dataset, DTR_TRAIN, first, 1);
        ck_assert_uint_eq(samples.labels[0], label(DTR_TRAIN, first));
        dtr_samples_free(&samples);
    }
    if (before >= 0)
        ck_assert_int_lt(bytes_read() - before, 2 << 20);
    dtr_dataset_close(dataset);
}
END_TEST

/* Broken folders. */

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
    {"no images", TRAIN_IMAGES, 7, 1, "\0", -TRAIN *PIXELS, "0 samples"},
    {"no labels", TEST_LABELS, 7, 1, "\0", -TEST, "0 samples"},
    {"no rows", TRAIN_IMAGES, 11, 1, "\0", -TRAIN *PIXELS, "7 samples of 0 x 3 x 1"},
    {"no columns", TEST_IMAGES, 15, 1, "\0", -TEST *PIXELS, "3 samples of 4 x 0 x 1"},
    {"too many rows", TRAIN_IMAGES, 9, 1, "\1", 0, "65540 x 3 x 1"},
    {"too many columns", TRAIN_IMAGES, 12, 1, "\x80", 0, "65535"},
    {"product overflows", TRAIN_IMAGES, 4, 12, "\xff\xff\xff\xff\0\0\xff\xff\0\0\xff\xff", 0,
        "4294967295 samples"},
    {"promises far too much", TRAIN_IMAGES, 4, 4, "\x7f\xff\xff\xff", 0, "make 25769803780 bytes"},
    {"promises far too many labels", TRAIN_LABELS, 4, 4, "\x7f\xff\xff\xff", 0, "bytes"},
    {"one image more", TRAIN_IMAGES, 7, 1, "\10", PIXELS, "holds 8 images, but"},
    {"one image less", TEST_IMAGES, 7, 1, "\2", -PIXELS, "holds 2 images, but"},
    {"one label more", TEST_LABELS, 7, 1, "\4", 1, "holds 4 labels"},
    {"one label less", TRAIN_LABELS, 7, 1, "\6", -1, "holds 6 labels"},
    {"rows differ in the test set", TEST_IMAGES, 11, 1, "\3", -3 * TEST, "of 3 x 3 x 1"},
    {"columns differ in the training set", TRAIN_IMAGES, 15, 1, "\5", 2 * ROWS *TRAIN,
        "of 4 x 5 x 1"},
    {"a pixel too many", TRAIN_IMAGES, 0, 0, "", 1, "100 bytes"},
    {"images too many", TEST_IMAGES, 0, 0, "", 3 * PIXELS, "52 bytes"},
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
    struct bytes bytes = good_file(breakage->file);
    memcpy(bytes.at + breakage->at, breakage->by, (size_t)breakage->length);
    bytes.size += breakage->grow;
    for (enum form form = PLAIN; form <= GZ; form++) {
        put_good_files(form);
        put_file(breakage->file, form, bytes);
        check_refused(
            folder, CLASSES, breakage->what, path_of(breakage->file, form), breakage->says);
        empty_folder();
    }
    free(bytes.at);
}
END_TEST

/* Files that end at any byte, header, data or checksum: one file per run of the test. */
START_TEST(test_truncated)
{
    int file = _i;
    for (enum form form = PLAIN; form <= GZ; form++) {
        put_good_files(form);
        struct bytes bytes = read_bytes(path_of(file, form));
        char what[100];
        for (bytes.size--; bytes.size >= 0; bytes.size--) {
            snprintf(what, sizeof what, "%s cut to %" PRId64, idx_name[file], bytes.size);
            write_bytes(path_of(file, form), bytes);
            check_refused(folder, CLASSES, what, path_of(file, form), "bytes");
        }
        free(bytes.at);
        empty_folder();
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
        for (enum form form = PLAIN; form <= GZ; form++) {
            put_good_files(form);
            struct bytes bytes = good_file(cases[i].file);
            bytes.size = cases[i].size;
            put_file(cases[i].file, form, bytes);
            check_refused(folder, CLASSES, "header", path_of(cases[i].file, form), cases[i].says);
            free(bytes.at);
            empty_folder();
        }
    }
    /* A whole gzip file of too few samples. */
    put_good_files(GZ);
    struct bytes bytes = good_file(TRAIN_IMAGES);
    bytes.size -= 30;
    put_file(TRAIN_IMAGES, GZ, bytes);
    check_refused(folder, CLASSES, "data", path_of(TRAIN_IMAGES, GZ), "ends after 70 of 100 bytes");
    free(bytes.at);
    /* A gzip file without the last byte of its checksum. */
    put_good_files(GZ);
    bytes = read_bytes(path_of(TRAIN_IMAGES, GZ));
    bytes.size--;
    write_bytes(path_of(TRAIN_IMAGES, GZ), bytes);
    check_refused(folder, CLASSES, "checksum", path_of(TRAIN_IMAGES, GZ), "checksum");
    free(bytes.at);
}
END_TEST

/* Before any rank has read anything. */
START_TEST(test_plain_size_is_checked_at_open)
{
    put_good_files(PLAIN);
    struct bytes bytes = good_file(_i);
    for (int64_t change = -1; change <= 1; change += 2) {
        write_bytes(path_of(_i, PLAIN), (struct bytes){bytes.at, bytes.size + change});
        struct dtr_error error = DTR_ERROR_NONE;
        struct dtr_dataset *dataset;
        ck_assert_int_eq(dtr_dataset_open(folder, 1, &dataset, &error), DTR_INPUT);
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
    put_good_files(GZ);
    const char *path = path_of(file, GZ);
    struct bytes bytes = read_bytes(path);
    for (int64_t i = 0; i < bytes.size; i++) {
        char what[100];
        snprintf(what, sizeof what, "%s with byte %" PRId64 " inverted", idx_name[file], i);
        bytes.at[i] ^= 0xFF;
        write_bytes(path, bytes);
        if (i >= 4 && i < 10)
            check_good_folder(folder);
        else
            check_refused(folder, CLASSES, what, path, "");
        bytes.at[i] ^= 0xFF;
    }
    free(bytes.at);
}
END_TEST

START_TEST(test_labels_of_a_smaller_model)
{
    put_good_files(PLAIN);
    check_refused(folder, 9, "nine classes", path_of(TRAIN_LABELS, PLAIN),
        "sample 1 has label 9, but the model has 9 classes (labels 0 to 8)");
    struct dtr_dataset *dataset = open_good(folder);
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
    put_good_files(PLAIN);
    unlink(path_of(file, PLAIN));
    check_refused(folder, CLASSES, "missing", folder, idx_name[file]);
    char both[100];
    snprintf(both, sizeof both, "neither %s nor %s.gz", idx_name[file], idx_name[file]);
    check_refused(folder, CLASSES, "missing", both, "jobs/fetch-mnist.sh");
}
END_TEST

START_TEST(test_not_a_regular_file)
{
    int file = _i;
    for (enum form form = PLAIN; form <= GZ; form++) {
        put_good_files(PLAIN);
        unlink(path_of(file, PLAIN));
        ck_assert_int_eq(mkdir(path_of(file, form), 0700), 0);
        check_refused(folder, CLASSES, "folder", path_of(file, form), "regular file");
        empty_folder();
        put_good_files(PLAIN);
        unlink(path_of(file, PLAIN));
        ck_assert_int_eq(mkfifo(path_of(file, form), 0600), 0);
        check_refused(folder, CLASSES, "pipe", path_of(file, form), "regular file");
        empty_folder();
    }
}
END_TEST

START_TEST(test_swapped_files)
{
    static const int pairs[][2] = {{TRAIN_IMAGES, TRAIN_LABELS}, {TEST_IMAGES, TEST_LABELS},
        {TRAIN_IMAGES, TEST_IMAGES}, {TRAIN_LABELS, TEST_LABELS}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        put_good_files(PLAIN);
        struct bytes one = good_file(pairs[i][0]), other = good_file(pairs[i][1]);
        put_file(pairs[i][0], PLAIN, other);
        put_file(pairs[i][1], PLAIN, one);
        check_refused(folder, CLASSES, "swapped", idx_name[pairs[i][0]], "holds");
        free(one.at);
        free(other.at);
    }
}
END_TEST

START_TEST(test_unreadable)
{
    if (geteuid() == 0)
        return; /* may read everything */
    put_good_files(PLAIN);
    ck_assert_int_eq(chmod(path_of(TEST_LABELS, PLAIN), 0), 0);
    check_refused(folder, CLASSES, "file", path_of(TEST_LABELS, PLAIN), "Permission denied");
    ck_assert_int_eq(chmod(folder, 0), 0);
    check_refused(folder, CLASSES, "folder", folder, "Permission denied");
    ck_assert_int_eq(chmod(folder, 0700), 0);
}
END_TEST

START_TEST(test_not_such_a_folder)
{
    char path[600], deep[9000];
    check_refused(folder, CLASSES, "empty", folder, "neither train-images-idx3-ubyte nor");
    snprintf(path, sizeof path, "%s/nowhere", folder);
    check_refused(path, CLASSES, "nowhere", path, "there is no such folder");
    check_refused("", CLASSES, "no name", "''", "there is no such folder");
    put_good_files(PLAIN);
    snprintf(path, sizeof path, "%s", path_of(TRAIN_IMAGES, PLAIN));
    check_refused(path, CLASSES, "a file", path, "is not a folder");
    snprintf(path, sizeof path, "%s/below", path_of(TRAIN_IMAGES, PLAIN));
    check_refused(path, CLASSES, "below a file", path, "Not a directory");
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    check_refused(deep, CLASSES, "name too long", "data 'xxx", "x");
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
        struct dtr_dataset *dataset = open_good(cases[i].where);
        const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
        ck_assert_int_eq(info->count[DTR_TRAIN], cases[i].train);
        ck_assert_int_eq(info->count[DTR_TEST], cases[i].test);
        ck_assert_int_eq(dtr_shape_count(info->shape), 784);
        ck_assert_str_eq(info->description, "synthetic digits");
        struct dtr_samples last = read_good(dataset, DTR_TRAIN, cases[i].train - 1, 1);
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
        check_refused(wrong[i], CLASSES, wrong[i], wrong[i], "from 1 to 2147483648");
    check_refused("synthetics", CLASSES, "a folder", "synthetics", "no such folder");
    check_refused("./synthetic", CLASSES, "a folder", "./synthetic", "no such folder");
}
END_TEST

START_TEST(test_synthetic_samples)
{
    enum { FIRST = 5, COUNT = 20 };
    for (int split = DTR_TRAIN; split <= DTR_TEST; split++) {
        struct dtr_dataset *dataset = open_good("synthetic:1000");
        struct dtr_samples samples = read_good(dataset, (enum dtr_split)split, FIRST, COUNT);
        for (int64_t i = 0; i < COUNT; i++) {
            uint8_t image[784];
            uint8_t digit = dtr_synthetic_digit(1, (uint32_t)split, FIRST + i, image);
            ck_assert_uint_eq(samples.labels[i], digit);
            ck_assert_mem_eq(samples.images + i * 784, image, sizeof image);
        }
        dtr_samples_free(&samples);
        dtr_dataset_close(dataset);
    }
    check_refused("synthetic:100", 3, "three classes", "synthetic digits", "3 classes");
}
END_TEST

/* The fingerprint. */

static uint64_t fingerprint_of(
    struct dtr_dataset *dataset, enum dtr_split split, int64_t first, int64_t count)
{
    struct dtr_samples samples = read_good(dataset, split, first, count);
    uint64_t fingerprint = dtr_samples_fingerprint(&samples, split);
    dtr_samples_free(&samples);
    return fingerprint;
}

START_TEST(test_fingerprint_adds_up)
{
    put_good_files(GZ);
    struct dtr_dataset *dataset = open_good(folder);
    uint64_t whole = fingerprint_of(dataset, DTR_TRAIN, 0, TRAIN);
    ck_assert_uint_ne(whole, 0);
    ck_assert_uint_eq(fingerprint_of(dataset, DTR_TRAIN, 0, 0), 0);
    for (int64_t cut = 0; cut <= TRAIN; cut++)
        ck_assert_uint_eq(fingerprint_of(dataset, DTR_TRAIN, 0, cut) +
                              fingerprint_of(dataset, DTR_TRAIN, cut, TRAIN - cut),
            whole);
    uint64_t sum = 0;
    for (int64_t i = 0; i < TRAIN; i++)
        sum += fingerprint_of(dataset, DTR_TRAIN, i, 1);
    ck_assert_uint_eq(sum, whole);
    dtr_dataset_close(dataset);
}
END_TEST

START_TEST(test_fingerprint_notices)
{
    put_good_files(PLAIN);
    struct dtr_dataset *dataset = open_good(folder);
    struct dtr_samples samples = read_good(dataset, DTR_TRAIN, 0, TRAIN);
    uint64_t whole = dtr_samples_fingerprint(&samples, DTR_TRAIN);
    ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TEST), whole);
    for (int64_t i = 0; i < TRAIN * PIXELS; i++) {
        samples.images[i] ^= 1;
        ck_assert_uint_ne(dtr_samples_fingerprint(&samples, DTR_TRAIN), whole);
        samples.images[i] ^= 1;
    }
    for (int64_t i = 0; i < TRAIN; i++) {
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
    struct dtr_dataset *dataset = open_good(where);
    const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
    ck_assert_int_eq(info->count[DTR_TRAIN], 60000);
    ck_assert_int_eq(info->count[DTR_TEST], 10000);
    ck_assert_int_eq(info->shape.h, 28);
    ck_assert_int_eq(info->shape.w, 28);
    struct dtr_samples samples = read_good(dataset, DTR_TRAIN, 0, 60000);
    ck_assert_mem_eq(samples.labels, train, sizeof train);
    dtr_samples_free(&samples);
    samples = read_good(dataset, DTR_TEST, 0, 10000);
    ck_assert_mem_eq(samples.labels, test, sizeof test);
    dtr_samples_free(&samples);
    dtr_dataset_close(dataset);
}
END_TEST

static TCase *add_case_with_folder(Suite *suite, const char *name)
{
    TCase *tcase = add_case(suite, name);
    tcase_add_unchecked_fixture(tcase, make_folder, remove_folder);
    tcase_add_checked_fixture(tcase, empty_folder, NULL);
    return tcase;
}

static Suite *make_suite(void)
{
    Suite *suite = suite_create("dataset");
    TCase *good = add_case_with_folder(suite, "good");
    tcase_add_test(good, test_plain_compressed_and_mixed);
    tcase_add_test(good, test_plain_wins_over_compressed);
    tcase_add_test(good, test_form_is_told_by_content);
    tcase_add_test(good, test_color_images);
    tcase_add_loop_test(good, test_every_range_in_any_order, PLAIN, GZ + 1);
    tcase_add_test(good, test_range_beyond_the_split);
    tcase_add_test(good, test_mnist);

    TCase *economy = add_case_with_folder(suite, "economy");
    tcase_add_test(economy, test_compressed_file_is_passed_once);
    tcase_add_test(economy, test_compressed_file_is_not_read_beyond_the_range);
    tcase_add_test(economy, test_plain_file_is_not_read_through);

    TCase *broken = add_case_with_folder(suite, "broken");
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

    TCase *synthetic = add_case_with_folder(suite, "synthetic");
    tcase_add_test(synthetic, test_synthetic_counts);
    tcase_add_test(synthetic, test_synthetic_names);
    tcase_add_test(synthetic, test_synthetic_samples);

    TCase *fingerprint = add_case_with_folder(suite, "fingerprint");
    tcase_add_test(fingerprint, test_fingerprint_adds_up);
    tcase_add_test(fingerprint, test_fingerprint_notices);
    tcase_add_test(fingerprint, test_fingerprint_notices_order);
    return suite;
}
