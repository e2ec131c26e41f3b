/*
 * damage FLIPS SEED: reads files that are damaged in every way that disks and networks know.
 *
 * A checkpoint and each of a data set's four IDX files, plain and compressed, is cut at every 512
 * bytes, has 512 bytes in a row zeroed, and single bits turned: each of its first bytes, and FLIPS
 * others at random. It must be refused in one line that names it, or be read as what it holds: the
 * same state, the same samples; where a plain file has no checksum, the samples that the damaged
 * bytes stand for.
 * With sanitizers, which see what is read beyond an end. A failure leaves the file where it is.
 */
#include "../idx.h"
#include "dtrain/checkpoint.h"
#include "dtrain/dataset.h"
#include "dtrain/memory.h"
#include "dtrain/random.h"
#include "dtrain/synthetic.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 512, FIRST_BYTES = 32 };
enum { TRAIN = 200, TEST = 40, SIDE = DTR_SYNTHETIC_SIDE, PIXELS = SIDE * SIDE };

static const char model_text[] = "input 8 8 1\nconv 4 3x3 relu\nmaxpool 2\ndense 10\n";

struct bytes {
    size_t size;
    uint8_t *at;
};

/* A file that is damaged again and again. */
struct subject {
    char path[300];
    struct bytes intact;
    /* Whether the file as it is now is refused; ends the program where it is taken for another. */
    bool (*is_refused)(const struct subject *subject, const struct bytes *now);
    int file; /* of the data set */
};

/* HDF5 loses a little memory of its own over a damaged file. LeakSanitizer asks for this. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

/* What is being done, for messages. */
static char doing[400], top[256];

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "FAILED: %s: ", doing);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

static void expect(enum dtr_status status, const struct dtr_error *error)
{
    if (status != DTR_OK)
        fail("%s", error->message);
}

/* ---- Files ---- */

static struct bytes make_bytes(size_t size)
{
    struct bytes bytes = {size, calloc(size + 1, 1)};
    if (bytes.at == NULL)
        fail("out of memory");
    return bytes;
}

static struct bytes load(const char *path)
{
    struct stat about;
    FILE *file = fopen(path, "rb");
    if (file == NULL || fstat(fileno(file), &about) != 0)
        fail("cannot open %s", path);
    struct bytes bytes = make_bytes((size_t)about.st_size);
    if (fread(bytes.at, 1, bytes.size, file) != bytes.size)
        fail("cannot read %s", path);
    fclose(file);
    return bytes;
}

static void save(const char *path, const struct bytes *bytes)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(bytes->at, 1, bytes->size, file) != bytes->size || fclose(file) != 0)
        fail("cannot write %s", path);
}

static void run(const char *format, ...)
{
    char command[600];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    if (system(command) != 0)
        fail("%s", command);
}

/* Whether a file was refused, in the right way. */
static bool refuses(
    enum dtr_status status, const struct dtr_error *error, const struct subject *subject)
{
    if (status == DTR_OK)
        return false;
    if (status != DTR_INPUT || error->status != DTR_INPUT)
        fail("status %d: %s", status, error->message);
    if (strstr(error->message, subject->path) == NULL || strchr(error->message, '\n') != NULL)
        fail("not one line that names it: %s", error->message);
    return true;
}

/* ---- The checkpoint ---- */

static struct dtr_checkpoint_file intact;

static bool is_same_slab(const float *one, const float *other)
{
    return memcmp(one, other, (size_t)intact.model->slab_count * sizeof *one) == 0;
}

static bool is_intact(const struct dtr_checkpoint_file *file)
{
    return strcmp(file->model->text, intact.model->text) == 0 && file->step == intact.step &&
           file->epoch == intact.epoch && file->data_fingerprint == intact.data_fingerprint &&
           file->weights_hash == intact.weights_hash && file->seed == intact.seed &&
           file->options_bytes == intact.options_bytes &&
           memcmp(file->options, intact.options, (size_t)intact.options_bytes) == 0 &&
           is_same_slab(file->weights, intact.weights) &&
           is_same_slab(file->momentum, intact.momentum);
}

/* What cannot be read cannot be shown either. */
static bool checkpoint_is_refused(const struct subject *subject, const struct bytes *now)
{
    (void)now;
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_checkpoint_file file;
    bool refused = refuses(dtr_checkpoint_read(subject->path, &file, &error), &error, subject);
    if (!refused && !is_intact(&file))
        fail("it is read as another state");
    dtr_checkpoint_file_free(&file);
    error = DTR_ERROR_NONE;
    bool hidden = refuses(dtr_checkpoint_print(subject->path, &error), &error, subject);
    if (refused && !hidden)
        fail("it is shown, but cannot be read");
    return refused;
}

static const float *random_slab(const struct dtr_model *model, uint64_t seed)
{
    struct dtr_error error = DTR_ERROR_NONE;
    float *slab = dtr_alloc(model->slab_count, sizeof *slab, "a slab", &error);
    expect(error.status, &error);
    dtr_model_initialize(model, seed, slab);
    return slab;
}

static struct subject make_checkpoint(void)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_options options;
    struct dtr_model *model;
    struct dtr_checkpoint_writer *writer;
    struct subject subject = {.is_refused = checkpoint_is_refused};
    dtr_options_default(&options);
    expect(dtr_model_parse(model_text, "damage", &model, &error), &error);
    struct dtr_checkpoint state = {.model = model,
        .options = &options,
        .step = 860,
        .epoch = 1.0 / 3,
        .data_fingerprint = 0x0edcba9876543210,
        .weights = random_slab(model, 1),
        .momentum = random_slab(model, 2)};
    expect(dtr_checkpoint_writer_create(top, 1, NULL, false, &writer, &error), &error);
    expect(dtr_checkpoint_write(writer, &state, &error), &error);
    snprintf(subject.path, sizeof subject.path, "%s", dtr_checkpoint_written(writer));
    dtr_checkpoint_writer_free(writer);
    free((void *)(uintptr_t)state.weights);
    free((void *)(uintptr_t)state.momentum);
    dtr_model_free(model);
    expect(dtr_checkpoint_read(subject.path, &intact, &error), &error);
    subject.intact = load(subject.path);
    return subject;
}

/* ---- The data set ---- */

static struct bytes idx[IDX_FILES]; /* as they should be */

static bool holds_images(int file)
{
    return file == TRAIN_IMAGES || file == TEST_IMAGES;
}

static size_t header_bytes(int file)
{
    return holds_images(file) ? 16 : 8;
}

static void make_split(enum dtr_split split, uint32_t count, int images, int labels)
{
    const int64_t sizes[] = {count, SIDE, SIDE};
    idx[images] = make_bytes(header_bytes(images) + count * PIXELS);
    idx[labels] = make_bytes(header_bytes(labels) + count);
    put_idx_header(idx[images].at, 3, sizes);
    put_idx_header(idx[labels].at, 1, sizes);
    for (uint32_t i = 0; i < count; i++)
        idx[labels].at[header_bytes(labels) + i] = dtr_synthetic_digit(
            1, split, i, idx[images].at + header_bytes(images) + i * PIXELS);
}

/* Of the samples that the bytes stand for. */
static uint64_t fingerprint_of(const struct bytes files[IDX_FILES])
{
    const int64_t count[] = {TRAIN, TEST};
    uint64_t sum = 0;
    for (int split = DTR_TRAIN; split <= DTR_TEST; split++) {
        struct dtr_samples samples = {.count = count[split],
            .image_bytes = PIXELS,
            .images = files[2 * split].at + header_bytes(TRAIN_IMAGES),
            .labels = files[2 * split + 1].at + header_bytes(TRAIN_LABELS)};
        sum += dtr_samples_fingerprint(&samples, (enum dtr_split)split);
    }
    return sum;
}

static enum dtr_status read_data(uint64_t *fingerprint_out, struct dtr_error *error)
{
    struct dtr_dataset *dataset;
    enum dtr_status status = dtr_dataset_open(top, 1, &dataset, error);
    *fingerprint_out = 0;
    for (int split = DTR_TRAIN; split <= DTR_TEST && status == DTR_OK; split++) {
        struct dtr_samples samples;
        status = dtr_dataset_read(dataset, (enum dtr_split)split, 0,
            dtr_dataset_info(dataset)->count[split], DTR_SYNTHETIC_CLASSES, &samples, error);
        if (status == DTR_OK)
            *fingerprint_out += dtr_samples_fingerprint(&samples, (enum dtr_split)split);
        dtr_samples_free(&samples);
    }
    dtr_dataset_close(dataset);
    return status;
}

static bool data_is_refused(const struct subject *subject, const struct bytes files[IDX_FILES])
{
    struct dtr_error error = DTR_ERROR_NONE;
    uint64_t fingerprint;
    bool refused = refuses(read_data(&fingerprint, &error), &error, subject);
    if (!refused && fingerprint != fingerprint_of(files))
        fail("it is read as other samples than it holds");
    return refused;
}

/* A checksum tells all damage to the samples. */
static bool compressed_is_refused(const struct subject *subject, const struct bytes *now)
{
    (void)now;
    return data_is_refused(subject, idx);
}

/* Without one, pixels may be any, and labels those that there are. */
static bool plain_is_refused(const struct subject *subject, const struct bytes *now)
{
    struct bytes files[IDX_FILES];
    memcpy(files, idx, sizeof files);
    files[subject->file] = *now;
    bool sound = now->size == subject->intact.size &&
                 memcmp(now->at, subject->intact.at, header_bytes(subject->file)) == 0;
    for (size_t i = header_bytes(subject->file);
         sound && !holds_images(subject->file) && i < now->size; i++)
        sound = now->at[i] < DTR_SYNTHETIC_CLASSES;
    bool refused = data_is_refused(subject, sound ? files : idx);
    if (refused == sound)
        fail("%s", sound ? "refused, though nothing is wrong" : "it is not refused");
    return refused;
}

/* A file of the data set; the other three are sound. */
static struct subject make_idx(int file, bool compressed)
{
    struct subject subject = {
        .file = file, .is_refused = compressed ? compressed_is_refused : plain_is_refused};
    for (int i = 0; i < IDX_FILES; i++) {
        snprintf(subject.path, sizeof subject.path, "%s/%s", top, idx_name[i]);
        save(subject.path, &idx[i]);
    }
    snprintf(subject.path, sizeof subject.path, "%s/%s", top, idx_name[file]);
    if (compressed) {
        run("gzip -f '%s'", subject.path);
        strcat(subject.path, ".gz");
    }
    subject.intact = load(subject.path);
    return subject;
}

/* ---- The damage ---- */

static struct bytes copy_of(const struct bytes *bytes)
{
    struct bytes copy = make_bytes(bytes->size);
    memcpy(copy.at, bytes->at, bytes->size);
    return copy;
}

static bool is_refused(const struct subject *subject, const struct bytes *now)
{
    save(subject->path, now);
    return subject->is_refused(subject, now);
}

static int cut(const struct subject *subject)
{
    int cases = 0;
    for (size_t size = 0; size < subject->intact.size; size += BLOCK) {
        struct bytes now = {size, subject->intact.at};
        snprintf(doing, sizeof doing, "%s cut to %zu bytes", subject->path, size);
        if (!is_refused(subject, &now))
            fail("it is not refused");
        cases++;
    }
    return cases;
}

static int zero(const struct subject *subject, int *refused)
{
    int cases = 0;
    for (size_t at = 0; at < subject->intact.size; at += BLOCK) {
        size_t left = subject->intact.size - at;
        struct bytes now = copy_of(&subject->intact);
        memset(now.at + at, 0, left < BLOCK ? left : BLOCK);
        snprintf(doing, sizeof doing, "%s with zeros from %zu on", subject->path, at);
        *refused += is_refused(subject, &now);
        free(now.at);
        cases++;
    }
    return cases;
}

static bool flip(const struct subject *subject, size_t bit)
{
    struct bytes now = copy_of(&subject->intact);
    now.at[bit / 8] ^= (uint8_t)(1u << bit % 8);
    snprintf(
        doing, sizeof doing, "%s with bit %zu of byte %zu turned", subject->path, bit % 8, bit / 8);
    bool refused = is_refused(subject, &now);
    free(now.at);
    return refused;
}

static int damage(struct subject subject, int flips, uint64_t seed, FILE *report)
{
    struct dtr_random random = dtr_random_at(seed, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    size_t first = subject.intact.size < FIRST_BYTES ? subject.intact.size : FIRST_BYTES;
    int cuts = cut(&subject), refused = 0, zeroed = zero(&subject, &refused), noticed = 0;
    for (size_t bit = 0; bit < 8 * first; bit++)
        refused += flip(&subject, bit);
    for (int i = 0; i < flips; i++)
        noticed += flip(&subject, dtr_random_below(&random, (uint32_t)(8 * subject.intact.size)));
    int others = zeroed + 8 * (int)first + flips;
    fprintf(report, "%s, %zu bytes: %d cuts and %d of %d other cases are refused\n",
        strrchr(subject.path, '/') + 1, subject.intact.size, cuts, refused + noticed, others);
    if (subject.is_refused != plain_is_refused && 2 * noticed < flips)
        fail("only %d of %d turned bits were noticed", noticed, flips);
    unlink(subject.path);
    free(subject.intact.at);
    return cuts + others;
}

int main(int argc, char **argv)
{
    const char *parent = getenv("TMPDIR");
    FILE *report = fdopen(dup(STDOUT_FILENO), "w"); /* what is read is printed, and nobody looks */
    if (argc != 3 || freopen("/dev/null", "w", stdout) == NULL)
        fail("usage: damage FLIPS SEED");
    int flips = atoi(argv[1]);
    uint64_t seed = strtoull(argv[2], NULL, 10);
    snprintf(top, sizeof top, "%s/damage.XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(top) == NULL)
        fail("cannot make a folder");
    fprintf(report, "seed %" PRIu64 ", in %s\n", seed, top);
    fflush(report);
    int cases = damage(make_checkpoint(), flips, seed, report);
    dtr_checkpoint_file_free(&intact);
    make_split(DTR_TRAIN, TRAIN, TRAIN_IMAGES, TRAIN_LABELS);
    make_split(DTR_TEST, TEST, TEST_IMAGES, TEST_LABELS);
    for (int file = 0; file < IDX_FILES; file++) {
        cases += damage(make_idx(file, false), flips, seed, report);
        cases += damage(make_idx(file, true), flips, seed, report);
    }
    for (int file = 0; file < IDX_FILES; file++)
        free(idx[file].at);
    fprintf(report, "%d cases of damage: all refused, or read as what they hold\n", cases);
    fclose(report);
    run("rm -rf '%s'", top);
    return 0;
}
