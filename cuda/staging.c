#include "staging.h"

#include "failure.h"

#include <string.h>

enum { ALIGNMENT = 256 };

static bool is_resident(const struct dtr_cuda_staging *staging)
{
    return staging->resident != NULL && staging->resident->samples != NULL;
}

enum dtr_status dtr_cuda_resident_create(const struct dtr_samples *samples,
    struct dtr_cuda_memory *memory, struct dtr_cuda_resident *resident_out, struct dtr_error *error)
{
    size_t free_bytes = 0, all_bytes = 0;
    size_t labels = (size_t)samples->count;
    size_t images = labels * (size_t)samples->image_bytes;
    *resident_out = (struct dtr_cuda_resident){0};
    CUDA(cudaMemGetInfo(&free_bytes, &all_bytes));
    if (images + labels > free_bytes / 2)
        return DTR_OK;
    resident_out->images = dtr_cuda_alloc(memory, (int64_t)images, 1, "the training set", error);
    resident_out->labels = dtr_cuda_alloc(memory, (int64_t)labels, 1, "the training set", error);
    if (error->status != DTR_OK)
        return error->status;
    CUDA(cudaMemcpy(resident_out->images, samples->images, images, cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(resident_out->labels, samples->labels, labels, cudaMemcpyHostToDevice));
    resident_out->samples = samples;
    return DTR_OK;
}

/* Room for so many bytes at the block's end: where it begins. */
static size_t reserve(struct dtr_cuda_staging *staging, size_t bytes)
{
    size_t begin = staging->bytes;
    staging->bytes += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return begin;
}

enum dtr_status dtr_cuda_staging_create(int64_t n, int64_t image_bytes,
    const struct dtr_cuda_resident *resident, struct dtr_cuda_memory *memory,
    struct dtr_cuda_staging *staging_out, struct dtr_error *error)
{
    struct dtr_cuda_staging staging = {.resident = resident, .image_bytes = image_bytes};
    bool stays = is_resident(&staging);
    size_t step = reserve(&staging, sizeof *staging.step);
    size_t places = reserve(&staging, (size_t)n * sizeof *staging.places);
    size_t samples = reserve(&staging, (size_t)n * sizeof *staging.samples);
    size_t labels = reserve(&staging, stays ? 0 : (size_t)n);
    size_t images = reserve(&staging, stays ? 0 : (size_t)(n * image_bytes));
    int64_t bytes = (int64_t)staging.bytes;
    unsigned char *host = dtr_cuda_alloc_host(memory, bytes, 1, "a batch", error);
    unsigned char *device = dtr_cuda_alloc(memory, bytes, 1, "a batch", error);
    if (error->status != DTR_OK)
        return error->status;
    staging.host = host;
    staging.device = device;
    staging.step = (struct dtr_cuda_step *)(host + step);
    staging.places = (int32_t *)(host + places);
    staging.samples = (int32_t *)(host + samples);
    staging.labels = host + labels;
    staging.images = host + images;
    staging.batch = (struct dtr_cuda_batch){.step = (const struct dtr_cuda_step *)(device + step),
        .n = n,
        .images = stays ? resident->images : device + images,
        .labels = stays ? resident->labels : device + labels,
        .places = (const int32_t *)(device + places),
        .samples = (const int32_t *)(device + samples)};
    *staging_out = staging;
    return DTR_OK;
}

/* Where the device finds a sample that is the i-th of its batch. */
static int32_t place_sample(
    struct dtr_cuda_staging *staging, int64_t i, const uint8_t *image, uint8_t label)
{
    size_t bytes = (size_t)staging->image_bytes;
    if (is_resident(staging))
        return (int32_t)((size_t)(image - staging->resident->samples->images) / bytes);
    memcpy(staging->images + (size_t)i * bytes, image, bytes);
    staging->labels[i] = label;
    return (int32_t)i;
}

void dtr_cuda_staging_place(
    struct dtr_cuda_staging *staging, const struct dtr_batch *batch, float rate)
{
    int64_t i = 0;
    for (int64_t s = 0; s < batch->slice_count; s++) {
        const struct dtr_slice *slice = &batch->slices[s];
        for (int64_t j = 0; j < batch->slice_size; j++, i++) {
            bool real = slice->images[j] != NULL;
            staging->places[i] = real ? place_sample(staging, i, slice->images[j], slice->labels[j])
                                      : -1;
            staging->samples[i] = (int32_t)slice->samples[j];
        }
    }
    *staging->step = (struct dtr_cuda_step){
        .weight = 1 / (float)batch->real, .rate = rate, .epoch = (uint32_t)batch->epoch};
}

void dtr_cuda_staging_place_samples(
    struct dtr_cuda_staging *staging, const uint8_t *images, const uint8_t *labels, int64_t count)
{
    for (int64_t i = 0; i < staging->batch.n; i++)
        staging->places[i] = i < count ? place_sample(staging, i, images + i * staging->image_bytes,
                                             labels[i])
                                       : -1;
}

enum dtr_status dtr_cuda_staging_copy(
    const struct dtr_cuda_staging *staging, cudaStream_t stream, struct dtr_error *error)
{
    CUDA(cudaMemcpyAsync(
        staging->device, staging->host, staging->bytes, cudaMemcpyHostToDevice, stream));
    return DTR_OK;
}
