#include "dtrain/dataset.h"

#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "dtrain/synthetic.h"
#include "source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct dtr_dataset {
    const struct dtr_source *source;
    void *state; /* the source's own */
    struct dtr_dataset_info info;
};

enum dtr_status dtr_source_label_error(
    const char *origin, int64_t sample, int64_t label, int64_t classes, struct dtr_error *error)
{
    return dtr_error_set(error, DTR_INPUT,
        "%s: sample %" PRId64 " has label %" PRId64 ", but the model has %" PRId64
        " classes (labels 0 to %" PRId64 ")",
        origin, sample, label, classes, classes - 1);
}

enum dtr_status dtr_source_check_labels(
    const char *origin, const struct dtr_samples *samples, int64_t classes, struct dtr_error *error)
{
    for (int64_t i = 0; i < samples->count; i++)
        if (samples->labels[i] >= classes)
            return dtr_source_label_error(
                origin, samples->first + i, samples->labels[i], classes, error);
    return DTR_OK;
}

/* Synthetic digits. */

static const char synthetic_name[] = "synthetic";
static const int64_t synthetic_default_count = 60000;
static const int64_t synthetic_max_count = INT64_C(1) << 31;

struct synthetic {
    uint64_t seed;
};

static bool synthetic_accepts(const char *where)
{
    size_t length = strlen(synthetic_name);
    return strncmp(where, synthetic_name, length) == 0 &&
           (where[length] == '\0' || where[length] == ':');
}

/* The count in "synthetic" or "synthetic:COUNT", 0 when it is not one that can be had. */
static int64_t synthetic_count(const char *where)
{
    const char *rest = where + strlen(synthetic_name);
    if (*rest == '\0')
        return synthetic_default_count;
    int64_t count = 0;
    for (rest++; *rest >= '0' && *rest <= '9' && count <= synthetic_max_count; rest++)
        count = count * 10 + (*rest - '0');
    return *rest == '\0' && count <= synthetic_max_count ? count : 0;
}

static enum dtr_status synthetic_open(const char *where, uint64_t seed,
    struct dtr_dataset_info *info_out, void **state_out, struct dtr_error *error)
{
    int64_t count = synthetic_count(where);
    if (count == 0)
        return dtr_error_set(error, DTR_INPUT,
            "data '%s': 'synthetic:COUNT' takes a whole number of samples from 1 to %" PRId64
            " (a folder of that name can be given as './%s')",
            where, synthetic_max_count, where);
    struct synthetic *synthetic = dtr_alloc(1, sizeof *synthetic, "the synthetic data set", error);
    if (synthetic == NULL)
        return error->status;
    synthetic->seed = seed;
    *info_out = (struct dtr_dataset_info){
        .description = "synthetic digits",
        .shape = {DTR_SYNTHETIC_SIDE, DTR_SYNTHETIC_SIDE, 1},
        .count = {[DTR_TRAIN] = count, [DTR_TEST] = count < 6 ? 1 : count / 6},
    };
    *state_out = synthetic;
    return DTR_OK;
}

static enum dtr_status synthetic_read(void *state, enum dtr_split split, int64_t classes,
    const struct dtr_samples *samples, struct dtr_error *error)
{
    const struct synthetic *synthetic = state;
    for (int64_t i = 0; i < samples->count; i++) {
        samples->labels[i] = dtr_synthetic_digit(synthetic->seed, (uint32_t)split,
            samples->first + i, samples->images + i * samples->image_bytes);
        dtr_pulse_beat();
    }
    return dtr_source_check_labels("synthetic digits", samples, classes, error);
}

static const struct dtr_source source_synthetic = {
    .accepts = synthetic_accepts,
    .open = synthetic_open,
    .read = synthetic_read,
    .close = free,
};

/* Any source. */

static const struct dtr_source *const sources[] = {&source_synthetic, &dtr_source_idx};

static const struct dtr_source *find_source(const char *where)
{
    size_t i = 0;
    while (!sources[i]->accepts(where)) /* the last one accepts anything */
        i++;
    return sources[i];
}

enum dtr_status dtr_dataset_open(
    const char *where, uint64_t seed, struct dtr_dataset **dataset_out, struct dtr_error *error)
{
    struct dtr_dataset *dataset = dtr_alloc(1, sizeof *dataset, "the data set", error);
    *dataset_out = NULL;
    if (dataset == NULL)
        return error->status;
    dataset->source = find_source(where);
    enum dtr_status status = dataset->source->open(
        where, seed, &dataset->info, &dataset->state, error);
    if (status != DTR_OK) {
        free(dataset);
        return status;
    }
    *dataset_out = dataset;
    return DTR_OK;
}

void dtr_dataset_close(struct dtr_dataset *dataset)
{
    if (dataset == NULL)
        return;
    dataset->source->close(dataset->state);
    free(dataset);
}

const struct dtr_dataset_info *dtr_dataset_info(const struct dtr_dataset *dataset)
{
    return &dataset->info;
}

enum dtr_status dtr_samples_alloc(const struct dtr_dataset_info *info, int64_t first, int64_t count,
    struct dtr_samples *samples_out, struct dtr_error *error)
{
    int64_t image_bytes = dtr_shape_count(info->shape);
    *samples_out = (struct dtr_samples){.first = first,
        .count = count,
        .image_bytes = image_bytes,
        .images = dtr_alloc_unset(count, image_bytes, "images", error)};
    if (samples_out->images != NULL)
        samples_out->labels = dtr_alloc_unset(count, 1, "labels", error);
    if (samples_out->labels != NULL)
        return DTR_OK;
    dtr_samples_free(samples_out);
    return error->status;
}

enum dtr_status dtr_dataset_read(struct dtr_dataset *dataset, enum dtr_split split, int64_t first,
    int64_t count, int64_t classes, struct dtr_samples *samples_out, struct dtr_error *error)
{
    *samples_out = (struct dtr_samples){0};
    int64_t available = dataset->info.count[split];
    if (first < 0 || count < 0 || count > available - first)
        return dtr_error_set(error, DTR_FAILED,
            "%s: %" PRId64 " samples from %" PRId64 " on were asked of a split of %" PRId64,
            dataset->info.description, count, first, available);
    enum dtr_status status = dtr_samples_alloc(&dataset->info, first, count, samples_out, error);
    if (status == DTR_OK && count > 0)
        status = dataset->source->read(dataset->state, split, classes, samples_out, error);
    if (status != DTR_OK)
        dtr_samples_free(samples_out);
    return status;
}

void dtr_samples_free(struct dtr_samples *samples)
{
    free(samples->images);
    free(samples->labels);
    *samples = (struct dtr_samples){0};
}

uint64_t dtr_samples_fingerprint(const struct dtr_samples *samples, enum dtr_split split)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < samples->count; i++) {
        /* Different for any two (split, label, index); an index stays below 2^48. */
        uint64_t seed = (uint64_t)split << 56 | (uint64_t)samples->labels[i] << 48 |
                        (uint64_t)(samples->first + i);
        sum += XXH64(
            samples->images + i * samples->image_bytes, (size_t)samples->image_bytes, seed);
    }
    return sum;
}
