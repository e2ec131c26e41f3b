#include "dtrain/loader.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"

#include <stdlib.h>

/* A shard that this rank owns. */
struct shard {
    int64_t first, count; /* of the training set */
    uint32_t *order;      /* [count] the epoch's order, relative to first */
    const uint8_t **images;
    uint8_t *labels;
    int64_t *samples;
};

struct dtr_loader {
    struct dtr_loader_config config;
    struct dtr_samples data; /* a view of the caller's memory */
    int64_t data_first;      /* of the training set: the first sample that data holds */
    int64_t steps_per_epoch;
    int64_t epoch; /* whose order the shards hold; -1 before the first */
    struct shard *shards;
    struct dtr_slice *slices;
    struct dtr_batch batch;
};

int64_t dtr_shard_first(int64_t train_count, int64_t shards, int64_t shard)
{
    int64_t rest = train_count % shards;
    return train_count / shards * shard + (shard < rest ? shard : rest);
}

int64_t dtr_steps_per_epoch(int64_t train_count, int64_t shards, int64_t slice)
{
    int64_t largest = dtr_shard_first(train_count, shards, 1);
    return (largest + slice - 1) / slice;
}

static enum dtr_status open_shard(
    struct dtr_loader *loader, int64_t index, struct shard *shard, struct dtr_error *error)
{
    const struct dtr_loader_config *config = &loader->config;
    int64_t number = config->first_shard + index;
    shard->first = dtr_shard_first(config->train_count, config->shards, number);
    shard->count = dtr_shard_first(config->train_count, config->shards, number + 1) - shard->first;
    shard->order = dtr_alloc(shard->count, sizeof *shard->order, "the order of a shard", error);
    shard->images = dtr_alloc(config->slice, sizeof *shard->images, "a batch", error);
    shard->labels = dtr_alloc(config->slice, 1, "a batch", error);
    shard->samples = dtr_alloc(config->slice, sizeof *shard->samples, "a batch", error);
    if (shard->order == NULL || shard->images == NULL || shard->labels == NULL ||
        shard->samples == NULL)
        return error->status;
    for (int64_t i = 0; i < shard->count; i++)
        shard->order[i] = (uint32_t)i;
    loader->slices[index] = (struct dtr_slice){shard->images, shard->labels, shard->samples};
    return DTR_OK;
}

enum dtr_status dtr_loader_create(const struct dtr_loader_config *config,
    const struct dtr_samples *samples, int64_t train_first, struct dtr_loader **loader_out,
    struct dtr_error *error)
{
    struct dtr_loader *loader = dtr_alloc(1, sizeof *loader, "the loader", error);
    *loader_out = NULL;
    if (loader == NULL)
        return error->status;
    loader->config = *config;
    loader->data = *samples;
    loader->data_first = samples->first - train_first;
    loader->steps_per_epoch = dtr_steps_per_epoch(
        config->train_count, config->shards, config->slice);
    loader->epoch = -1;
    loader->shards = dtr_alloc(config->shard_count, sizeof *loader->shards, "shards", error);
    loader->slices = dtr_alloc(config->shard_count, sizeof *loader->slices, "slices", error);
    if (loader->shards == NULL || loader->slices == NULL) {
        dtr_loader_free(loader);
        return error->status;
    }
    for (int64_t i = 0; i < config->shard_count; i++) {
        if (open_shard(loader, i, &loader->shards[i], error) != DTR_OK) {
            dtr_loader_free(loader);
            return error->status;
        }
    }
    loader->batch.slice_count = config->shard_count;
    loader->batch.slice_size = config->slice;
    loader->batch.slices = loader->slices;
    *loader_out = loader;
    return DTR_OK;
}

void dtr_loader_free(struct dtr_loader *loader)
{
    if (loader == NULL)
        return;
    for (int64_t i = 0; loader->shards != NULL && i < loader->config.shard_count; i++) {
        free(loader->shards[i].order);
        free(loader->shards[i].images);
        free(loader->shards[i].labels);
        free(loader->shards[i].samples);
    }
    free(loader->shards);
    free(loader->slices);
    free(loader);
}

/* Fisher and Yates's shuffle of the identity, so that an epoch's order needs no earlier epoch. */
static void shuffle(const struct dtr_loader *loader, int64_t number, struct shard *shard)
{
    struct dtr_random random = dtr_random_at(
        loader->config.seed, DTR_RANDOM_SHUFFLE, 0, (uint32_t)loader->epoch, (uint64_t)number);
    for (int64_t i = 0; i < shard->count; i++)
        shard->order[i] = (uint32_t)i;
    for (int64_t i = shard->count - 1; i > 0; i--) {
        uint32_t j = dtr_random_below(&random, (uint32_t)i + 1);
        uint32_t other = shard->order[j];
        shard->order[j] = shard->order[i];
        shard->order[i] = other;
    }
}

static void begin_epoch(struct dtr_loader *loader, int64_t epoch)
{
    loader->epoch = epoch;
    for (int64_t i = 0; loader->config.shuffle && i < loader->config.shard_count; i++)
        shuffle(loader, loader->config.first_shard + i, &loader->shards[i]);
}

static void fill_slice(const struct dtr_loader *loader, struct shard *shard, int64_t position)
{
    const struct dtr_samples *data = &loader->data;
    for (int64_t i = 0; i < loader->config.slice; i++, position++) {
        if (position >= shard->count) {
            shard->images[i] = NULL;
            shard->labels[i] = 0;
            shard->samples[i] = -1;
            continue;
        }
        int64_t sample = shard->first + shard->order[position];
        int64_t place = sample - loader->data_first;
        shard->images[i] = data->images + place * data->image_bytes;
        shard->labels[i] = data->labels[place];
        shard->samples[i] = sample;
    }
}

/* Samples of all shards, everyone's, in the slices that begin at `position`. */
static int64_t count_real(const struct dtr_loader_config *config, int64_t position)
{
    int64_t real = 0;
    for (int64_t shard = 0; shard < config->shards; shard++) {
        int64_t count = dtr_shard_first(config->train_count, config->shards, shard + 1) -
                        dtr_shard_first(config->train_count, config->shards, shard);
        int64_t left = count > position ? count - position : 0;
        real += left < config->slice ? left : config->slice;
    }
    return real;
}

const struct dtr_batch *dtr_loader_step(struct dtr_loader *loader, int64_t step)
{
    int64_t epoch = step / loader->steps_per_epoch;
    int64_t position = step % loader->steps_per_epoch * loader->config.slice;
    if (epoch != loader->epoch)
        begin_epoch(loader, epoch);
    for (int64_t i = 0; i < loader->config.shard_count; i++)
        fill_slice(loader, &loader->shards[i], position);
    loader->batch.step = step;
    loader->batch.epoch = epoch;
    loader->batch.real = count_real(&loader->config, position);
    return &loader->batch;
}
