/*
 * Shows a checkpoint for `dtrain info`: what it is, the options of its run, and a line for every
 * tensor with the range of its values. All that is read is verified as for any other reader.
 */
#include "dtrain/log.h"
#include "format.h"
#include "hdf5_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static enum dtr_status print_options(const struct dtr_hdf5_source *source)
{
    enum dtr_status status = DTR_OK;
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    dtr_print("Options:\n");
    for (int i = 0; status == DTR_OK && i < count; i++) {
        char *value;
        if (!dtr_hdf5_has_option(source, &table[i]))
            continue;
        status = dtr_hdf5_get_option(source, &table[i], &value);
        if (status == DTR_OK)
            dtr_print("  %-20s %s\n", table[i].name, value[0] != '\0' ? value : "-");
        free(value);
    }
    return status;
}

static enum dtr_status print_facts(
    const struct dtr_hdf5_source *source, const struct dtr_checkpoint_file *file)
{
    char *version;
    enum dtr_status status = dtr_hdf5_get_text(source, "dtrain_version", &version);
    if (status != DTR_OK)
        return status;
    dtr_print("Checkpoint: %s\nFormat: %d, written by dtrain %s\n", source->path,
        DTR_CHECKPOINT_FORMAT, version);
    dtr_print("Step: %" PRId64 "\nEpoch: %.6g\nParameters: %" PRId64 "\n", file->step, file->epoch,
        file->model->parameter_count);
    dtr_print("Weights: %016" PRIx64 "\nData fingerprint: %016" PRIx64 "\n", file->weights_hash,
        file->data_fingerprint);
    free(version);
    return print_options(source);
}

static void print_values(const float *values, int64_t count)
{
    float min = values[0], max = values[0];
    double sum = 0, square_sum = 0;
    for (int64_t i = 0; i < count; i++) {
        min = values[i] < min ? values[i] : min;
        max = values[i] > max ? values[i] : max;
        sum += values[i];
        square_sum += (double)values[i] * values[i];
    }
    dtr_print(
        " %10.3g %10.3g %10.3g %10.3g  OK\n", min, max, sum / (double)count, sqrt(square_sum));
}

static enum dtr_status print_tensor(const struct dtr_hdf5_source *source, const char *root,
    const struct dtr_tensor *tensor, float *slab)
{
    char name[64], shape[DTR_HDF5_SHAPE_BYTES];
    hsize_t extent[4];
    dtr_hdf5_extent(tensor, extent);
    dtr_hdf5_format_shape(tensor->dims, extent, shape);
    snprintf(name, sizeof name, "%s/%s", root, tensor->name);
    dtr_print("  %-34s %14s", name, shape);
    enum dtr_status status = dtr_hdf5_get_tensor(source, root, tensor, slab);
    if (status == DTR_OK)
        print_values(slab + tensor->offset, tensor->count);
    else
        dtr_print(" %10s %10s %10s %10s  BAD\n", "-", "-", "-", "-");
    return status;
}

/* A bad tensor does not hide those after it; the last failure is the one told. */
static enum dtr_status print_slab(const struct dtr_hdf5_source *source, const char *root,
    const struct dtr_model *model, float *slab)
{
    enum dtr_status verdict = DTR_OK;
    for (int i = 0; i < model->tensor_count; i++) {
        enum dtr_status status = print_tensor(source, root, &model->tensors[i], slab);
        verdict = status != DTR_OK ? status : verdict;
    }
    return verdict;
}

static enum dtr_status print_tensors(
    const struct dtr_hdf5_source *source, const struct dtr_checkpoint_file *file)
{
    dtr_print("Tensors: %42s %10s %10s %10s %10s  hash\n", "shape", "min", "max", "mean", "norm");
    enum dtr_status weights = print_slab(source, DTR_HDF5_WEIGHTS, file->model, file->weights);
    if (weights == DTR_OK)
        weights = dtr_hdf5_check_weights(source, file);
    enum dtr_status momentum = print_slab(source, DTR_HDF5_MOMENTUM, file->model, file->weights);
    return weights != DTR_OK ? weights : momentum;
}

enum dtr_status dtr_checkpoint_describe(const char *path, struct dtr_error *error)
{
    __attribute__((cleanup(dtr_checkpoint_file_free))) struct dtr_checkpoint_file file = {0};
    SCOPED_SOURCE source;
    enum dtr_status status = dtr_hdf5_open(path, &source, error);
    if (status == DTR_OK)
        status = dtr_hdf5_get_facts(&source, &file);
    if (status == DTR_OK)
        status = print_facts(&source, &file);
    return status == DTR_OK ? print_tensors(&source, &file) : status;
}
