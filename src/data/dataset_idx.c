/*
 * The IDX files of MNIST: a big-endian header (magic, then one 32-bit size per dimension) and
 * bytes. zlib's file functions read plain and compressed files alike; what a file is shows in its
 * first bytes, not in its name.
 */
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* The last byte of a magic number is how many dimensions follow. */
enum { MAGIC_LABELS = 0x801, MAGIC_IMAGES = 0x803, MAGIC_COLOR_IMAGES = 0x804 };
enum { MAX_DIMS = 4, MAX_SIDE = 65535 };
enum { BUFFER_BYTES = 32 << 10, PIECE_BYTES = 1 << 20 };

/* Deflate makes at most this many bytes of one. */
enum { MAX_INFLATION = 1032 };

static const char wanted[] = "a folder with the four MNIST files, which jobs/fetch-mnist.sh "
                             "downloads, or 'synthetic'";

struct idx_file {
    char *path;
    gzFile gz;
    int64_t stored_bytes; /* on disk */
    int64_t header_bytes, count, sample_bytes;
    int64_t total_bytes; /* header and samples, inflated; while that is unknown, what is needed */
};

struct idx {
    struct idx_file images[2], labels[2]; /* by enum dtr_split */
};

static const char *const images_name[2] = {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte"};
static const char *const labels_name[2] = {"train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"};

static enum dtr_status read_error(const struct idx_file *file, struct dtr_error *error)
{
    const char *system_reason = strerror(errno);
    int code;
    gzerror(file->gz, &code);
    int64_t position = gztell(file->gz);
    if (code == Z_ERRNO)
        return dtr_error_set(error, DTR_INPUT, "%s: cannot be read: %s", file->path, system_reason);
    if (code == Z_MEM_ERROR)
        return dtr_error_set(error, DTR_FAILED, "%s: out of memory to inflate it", file->path);
    if (code != Z_OK && code != Z_BUF_ERROR)
        return dtr_error_set(error, DTR_INPUT,
            "%s: its compressed data is damaged (noticed after %" PRId64 " of %" PRId64
            " bytes); get the file again",
            file->path, position, file->total_bytes);
    if (position < file->total_bytes)
        return dtr_error_set(error, DTR_INPUT,
            "%s: ends after %" PRId64 " of %" PRId64 " bytes; get the file again", file->path,
            position, file->total_bytes);
    return dtr_error_set(error, DTR_INPUT,
        "%s: ends before the checksum of its %" PRId64 " bytes; get the file again", file->path,
        file->total_bytes);
}

/* Reads what comes next, inflated. */
static enum dtr_status read_on(
    struct idx_file *file, int64_t bytes, uint8_t *out, struct dtr_error *error)
{
    while (bytes > 0) {
        int64_t part = bytes < PIECE_BYTES ? bytes : PIECE_BYTES;
        int got = gzread(file->gz, out, (unsigned)part);
        if (got <= 0)
            return read_error(file, error);
        out += got;
        bytes -= got;
        dtr_pulse_beat();
    }
    return DTR_OK;
}

/* Seeking ahead in a compressed file inflates what lies between, piece by piece at the next read;
 * seeking back starts anew. */
static enum dtr_status read_at(
    struct idx_file *file, int64_t offset, int64_t bytes, uint8_t *out, struct dtr_error *error)
{
    uint8_t last;
    while (!gzdirect(file->gz) && offset - gztell(file->gz) > PIECE_BYTES) {
        if (gzseek(file->gz, PIECE_BYTES - 1, SEEK_CUR) < 0)
            return read_error(file, error);
        enum dtr_status status = read_on(file, 1, &last, error);
        if (status != DTR_OK)
            return status;
    }
    if (gzseek(file->gz, offset, SEEK_SET) < 0)
        return read_error(file, error);
    return read_on(file, bytes, out, error);
}

/* After the last sample: nothing may follow, and the checksum of a compressed file must be right,
 * which zlib looks at only when it is asked for more. */
static enum dtr_status check_end(struct idx_file *file, struct dtr_error *error)
{
    char extra;
    int got = gzread(file->gz, &extra, 1);
    if (got > 0)
        return dtr_error_set(error, DTR_INPUT,
            "%s: goes on after its %" PRId64 " samples, where it should end after %" PRId64
            " bytes; get the file again",
            file->path, file->count, file->total_bytes);
    int code;
    gzerror(file->gz, &code);
    return got < 0 || code != Z_OK ? read_error(file, error) : DTR_OK;
}

static enum dtr_status check_folder(const char *folder, struct dtr_error *error)
{
    struct stat about;
    if (stat(folder, &about) != 0)
        return dtr_error_set(error, DTR_INPUT, "data '%s': %s; expected %s", folder,
            errno == ENOENT ? "there is no such folder" : strerror(errno), wanted);
    if (!S_ISDIR(about.st_mode))
        return dtr_error_set(
            error, DTR_INPUT, "data '%s': is not a folder; expected %s", folder, wanted);
    return DTR_OK;
}

/* Finds `name` or else `name`.gz in the folder. A regular file, as opening a pipe would wait. */
static enum dtr_status find_file(
    const char *folder, const char *name, struct idx_file *file, struct dtr_error *error)
{
    const char *slash = folder[strlen(folder) - 1] == '/' ? "" : "/";
    for (int i = 0; i < 2; i++) {
        free(file->path);
        if (asprintf(&file->path, "%s%s%s%s", folder, slash, name, i == 0 ? "" : ".gz") < 0) {
            file->path = NULL;
            return dtr_error_set(error, DTR_FAILED, "out of memory for a file name");
        }
        struct stat about;
        if (stat(file->path, &about) == 0) {
            file->stored_bytes = about.st_size;
            if (S_ISREG(about.st_mode))
                return DTR_OK;
            return dtr_error_set(error, DTR_INPUT, "%s: is not a regular file", file->path);
        }
        if (errno != ENOENT)
            return dtr_error_set(
                error, DTR_INPUT, "%s: cannot be read: %s", file->path, strerror(errno));
    }
    return dtr_error_set(error, DTR_INPUT, "data '%s': there is neither %s nor %s.gz; expected %s",
        folder, name, name, wanted);
}

static bool is_images(uint32_t magic)
{
    return magic == MAGIC_IMAGES || magic == MAGIC_COLOR_IMAGES;
}

static enum dtr_status magic_error(
    const struct idx_file *file, uint32_t magic, bool images, struct dtr_error *error)
{
    const char *expected = images ? "images" : "labels";
    int expected_magic = images ? MAGIC_IMAGES : MAGIC_LABELS;
    if (is_images(magic) || magic == MAGIC_LABELS)
        return dtr_error_set(error, DTR_INPUT,
            "%s: holds %s (magic %" PRIu32 ") where %s (magic %d) are expected", file->path,
            is_images(magic) ? "images" : "labels", magic, expected, expected_magic);
    return dtr_error_set(error, DTR_INPUT,
        "%s: begins with 0x%08" PRIx32 " where the magic number 0x%08x of IDX %s is expected",
        file->path, magic, (unsigned)expected_magic, expected);
}

static uint32_t big_endian(const uint8_t bytes[4])
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* Derives the sizes in bytes from the header's [count, h, w, c]. */
static enum dtr_status set_sizes(
    struct idx_file *file, const int64_t dim[MAX_DIMS], struct dtr_error *error)
{
    bool sane = dim[0] >= 1;
    for (int i = 1; i < MAX_DIMS; i++)
        sane = sane && dim[i] >= 1 && dim[i] <= MAX_SIDE;
    file->count = dim[0];
    file->sample_bytes = sane ? dim[1] * dim[2] * dim[3] : 0;
    if (!sane || __builtin_mul_overflow(file->count, file->sample_bytes, &file->total_bytes) ||
        __builtin_add_overflow(file->total_bytes, file->header_bytes, &file->total_bytes))
        return dtr_error_set(error, DTR_INPUT,
            "%s: its header says %" PRId64 " samples of %" PRId64 " x %" PRId64 " x %" PRId64
            "; expected at least one, sides from 1 to %d and less than 2^63 bytes",
            file->path, dim[0], dim[1], dim[2], dim[3], MAX_SIDE);
    return DTR_OK;
}

static enum dtr_status read_header(
    struct idx_file *file, bool images, struct dtr_shape *shape_out, struct dtr_error *error)
{
    uint8_t bytes[4 * MAX_DIMS];
    file->total_bytes = images ? 16 : 8;
    enum dtr_status status = read_at(file, 0, 4, bytes, error);
    if (status != DTR_OK)
        return status;
    uint32_t magic = big_endian(bytes);
    if (images ? !is_images(magic) : magic != MAGIC_LABELS)
        return magic_error(file, magic, images, error);

    int dims = (int)(magic & 0xFF);
    file->header_bytes = file->total_bytes = 4 + 4 * dims;
    status = read_at(file, 4, 4 * dims, bytes, error);
    if (status != DTR_OK)
        return status;
    int64_t dim[MAX_DIMS] = {1, 1, 1, 1};
    for (int i = 0; i < dims; i++)
        dim[i] = big_endian(bytes + 4 * i);
    *shape_out = (struct dtr_shape){dim[1], dim[2], dim[3]};
    return set_sizes(file, dim, error);
}

/* So that a wrong header is noticed before memory is taken for what it promises. */
static enum dtr_status check_stored_size(const struct idx_file *file, struct dtr_error *error)
{
    bool compressed = !gzdirect(file->gz);
    if (compressed ? file->total_bytes / MAX_INFLATION <= file->stored_bytes
                   : file->total_bytes == file->stored_bytes)
        return DTR_OK;
    return dtr_error_set(error, DTR_INPUT,
        "%s: its header and %" PRId64 " samples of %" PRId64 " bytes make %" PRId64
        " bytes, but the file has %" PRId64 "%s; get the file again",
        file->path, file->count, file->sample_bytes, file->total_bytes, file->stored_bytes,
        compressed ? ", too few even when compressed" : "");
}

static enum dtr_status open_file(const char *folder, const char *name, bool images,
    struct idx_file *file, struct dtr_shape *shape_out, struct dtr_error *error)
{
    enum dtr_status status = find_file(folder, name, file, error);
    if (status != DTR_OK)
        return status;
    file->gz = gzopen(file->path, "rb");
    if (file->gz == NULL)
        return dtr_error_set(
            error, DTR_INPUT, "%s: cannot be opened: %s", file->path, strerror(errno));
    gzbuffer(file->gz, BUFFER_BYTES);
    status = read_header(file, images, shape_out, error);
    return status == DTR_OK ? check_stored_size(file, error) : status;
}

static enum dtr_status open_split(const char *folder, struct idx *idx, enum dtr_split split,
    struct dtr_shape *shape_out, struct dtr_error *error)
{
    struct idx_file *images = &idx->images[split], *labels = &idx->labels[split];
    enum dtr_status status = open_file(folder, images_name[split], true, images, shape_out, error);
    if (status != DTR_OK)
        return status;
    struct dtr_shape single;
    status = open_file(folder, labels_name[split], false, labels, &single, error);
    if (status != DTR_OK)
        return status;
    if (images->count != labels->count)
        return dtr_error_set(error, DTR_INPUT,
            "%s holds %" PRId64 " images, but %s holds %" PRId64 " labels", images->path,
            images->count, labels->path, labels->count);
    return DTR_OK;
}

static enum dtr_status open_splits(
    const char *folder, struct idx *idx, struct dtr_shape *shape_out, struct dtr_error *error)
{
    enum dtr_status status = open_split(folder, idx, DTR_TRAIN, shape_out, error);
    if (status != DTR_OK)
        return status;
    struct dtr_shape train = *shape_out, test;
    status = open_split(folder, idx, DTR_TEST, &test, error);
    if (status != DTR_OK)
        return status;
    if (test.h != train.h || test.w != train.w || test.c != train.c)
        return dtr_error_set(error, DTR_INPUT,
            "%s holds images of %" PRId64 " x %" PRId64 " x %" PRId64 ", but %s of %" PRId64
            " x %" PRId64 " x %" PRId64,
            idx->images[DTR_TRAIN].path, train.h, train.w, train.c, idx->images[DTR_TEST].path,
            test.h, test.w, test.c);
    return DTR_OK;
}

static bool idx_accepts(const char *where)
{
    (void)where;
    return true;
}

static void close_file(struct idx_file *file)
{
    if (file->gz != NULL)
        gzclose_r(file->gz);
    free(file->path);
}

static void idx_close(void *state)
{
    struct idx *idx = state;
    for (int split = DTR_TRAIN; split <= DTR_TEST; split++) {
        close_file(&idx->images[split]);
        close_file(&idx->labels[split]);
    }
    free(idx);
}

static enum dtr_status idx_open(const char *where, uint64_t seed, struct dtr_dataset_info *info_out,
    void **state_out, struct dtr_error *error)
{
    (void)seed;
    enum dtr_status status = check_folder(where, error);
    if (status != DTR_OK)
        return status;
    struct idx *idx = dtr_alloc(1, sizeof *idx, "the data set's files", error);
    if (idx == NULL)
        return error->status;
    struct dtr_shape shape;
    status = open_splits(where, idx, &shape, error);
    if (status != DTR_OK) {
        idx_close(idx);
        return status;
    }
    *info_out = (struct dtr_dataset_info){.shape = shape,
        .count = {idx->images[DTR_TRAIN].count, idx->images[DTR_TEST].count},
        .sequential = !gzdirect(idx->images[DTR_TRAIN].gz) || !gzdirect(idx->images[DTR_TEST].gz)};
    snprintf(info_out->description, sizeof info_out->description, "MNIST-format IDX in %s", where);
    *state_out = idx;
    return DTR_OK;
}

static enum dtr_status read_samples(
    struct idx_file *file, const struct dtr_samples *range, uint8_t *out, struct dtr_error *error)
{
    int64_t offset = file->header_bytes + range->first * file->sample_bytes;
    enum dtr_status status = read_at(file, offset, range->count * file->sample_bytes, out, error);
    if (status != DTR_OK || range->first + range->count < file->count)
        return status;
    return check_end(file, error);
}

static enum dtr_status idx_read(void *state, enum dtr_split split, int64_t classes,
    const struct dtr_samples *samples, struct dtr_error *error)
{
    struct idx *idx = state;
    struct idx_file *labels = &idx->labels[split];
    enum dtr_status status = read_samples(labels, samples, samples->labels, error);
    if (status != DTR_OK)
        return status;
    status = dtr_source_check_labels(labels->path, samples, classes, error);
    if (status != DTR_OK)
        return status;
    return read_samples(&idx->images[split], samples, samples->images, error);
}

const struct dtr_source dtr_source_idx = {
    .accepts = idx_accepts,
    .open = idx_open,
    .read = idx_read,
    .close = idx_close,
};
