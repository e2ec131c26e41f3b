/*
 * Images and labels: where they come from and what they are. Pixels stay uint8 in memory. All
 * functions are local: a rank opens the data set itself and reads only the ranges it owns, or lets
 * another of its host read them (host_read.h).
 */
#ifndef DTRAIN_DATASET_H
#define DTRAIN_DATASET_H

#include "dtrain/model.h"
#include "dtrain/status.h"

#include <stdbool.h>
#include <stdint.h>

enum dtr_split { DTR_TRAIN, DTR_TEST };

/* Samples [first, first + count) of a split: images [count, h, w, c] uint8, labels [count]. */
struct dtr_samples {
    int64_t first, count;
    int64_t image_bytes; /* h * w * c */
    uint8_t *images, *labels;
};

struct dtr_dataset;

/* What can be known without reading pixels. */
struct dtr_dataset_info {
    char description[256]; /* for the plan: "MNIST-format IDX in /data/mnist", "synthetic digits" */
    struct dtr_shape shape;
    int64_t count[2]; /* by enum dtr_split */
    bool sequential;  /* a range is reached only by passing over all before it: compressed */
};

/*
 * Opens
 * - a folder with the four IDX files of MNIST (train-images-idx3-ubyte, train-labels-idx1-ubyte,
 *   t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte), each plain or with .gz; headers, counts and
 *   sizes are verified at once;
 * - "synthetic" or "synthetic:COUNT": built-in digits, COUNT (default 60000) for training and
 *   max(1, COUNT / 6) for the test set.
 * DTR_INPUT with a line that names the file, what was expected and what was found. `seed` is used
 * by synthetic data alone. Close with dtr_dataset_close().
 */
enum dtr_status dtr_dataset_open(
    const char *where, uint64_t seed, struct dtr_dataset **dataset_out, struct dtr_error *error);
void dtr_dataset_close(struct dtr_dataset *dataset);

const struct dtr_dataset_info *dtr_dataset_info(const struct dtr_dataset *dataset);

/*
 * Reads samples [first, first + count) of a split; the range must lie within the split. A label of
 * `classes` or more is DTR_INPUT naming file, sample and label. Reading ranges in ascending order
 * passes over a compressed file once. The result is the caller's: dtr_samples_free().
 */
enum dtr_status dtr_dataset_read(struct dtr_dataset *dataset, enum dtr_split split, int64_t first,
    int64_t count, int64_t classes, struct dtr_samples *samples_out, struct dtr_error *error);
void dtr_samples_free(struct dtr_samples *samples);

/* Room for a range; what is in it is unset. After a failure there is nothing to free. */
enum dtr_status dtr_samples_alloc(const struct dtr_dataset_info *info, int64_t first, int64_t count,
    struct dtr_samples *samples_out, struct dtr_error *error);

/* Sum modulo 2^64 over samples of a hash of (split, index, label, pixels): adding the values of any
 * partition of the data gives the same fingerprint. */
uint64_t dtr_samples_fingerprint(const struct dtr_samples *samples, enum dtr_split split);

#endif
