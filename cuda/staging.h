/*
 * A batch's way to the device: the host writes it into pinned memory, one copy brings all of it
 * over. Where the training set is on the device already, images and labels stay at home and only
 * their places travel.
 */
#ifndef DTRAIN_CUDA_STAGING_H
#define DTRAIN_CUDA_STAGING_H

#include "device_memory.h"
#include "dtrain/loader.h"
#include "kernels.h"

/* A training set on the device. */
struct dtr_cuda_resident {
    const struct dtr_samples *samples; /* of which this is a copy; NULL: there is none */
    uint8_t *images, *labels;          /* device */
};

/* Copies the samples to the device if they take at most half of the memory that is free. */
enum dtr_status dtr_cuda_resident_create(const struct dtr_samples *samples,
    struct dtr_cuda_memory *memory, struct dtr_cuda_resident *resident_out,
    struct dtr_error *error);

struct dtr_cuda_staging {
    struct dtr_cuda_batch batch; /* what kernels read, once it has been copied */
    const struct dtr_cuda_resident *resident;
    int64_t image_bytes;
    size_t bytes;
    unsigned char *host, *device; /* [bytes]; pinned */
    struct dtr_cuda_step *step;   /* in host, as are: */
    int32_t *places, *samples;
    uint8_t *labels, *images;
};

/* For n samples a time; of a resident training set, which must outlive it, or (NULL) of any. */
enum dtr_status dtr_cuda_staging_create(int64_t n, int64_t image_bytes,
    const struct dtr_cuda_resident *resident, struct dtr_cuda_memory *memory,
    struct dtr_cuda_staging *staging_out, struct dtr_error *error);

/* Writes a batch, or up to n samples to evaluate. The last copy has to be over. */
void dtr_cuda_staging_place(
    struct dtr_cuda_staging *staging, const struct dtr_batch *batch, float rate);
void dtr_cuda_staging_place_samples(
    struct dtr_cuda_staging *staging, const uint8_t *images, const uint8_t *labels, int64_t count);

/* Puts the copy on a stream. */
enum dtr_status dtr_cuda_staging_copy(
    const struct dtr_cuda_staging *staging, cudaStream_t stream, struct dtr_error *error);

#endif
