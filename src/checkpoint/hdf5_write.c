/*
 * Makes a checkpoint: facts and options as attributes of the file, tensors as data sets.
 *
 * A file is built in memory and handed out as bytes: HDF5 1.10 crashes after a write that fails
 * while it closes a file, on a full disk for instance. It uses the format of HDF5 1.10, where every
 * piece of metadata carries a checksum, with texts of fixed length, which lie within that metadata:
 * with fletcher32 on the data, a flipped bit is noticed wherever it is.
 */
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "fletcher32.h"
#include "format.h"
#include "hdf5_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef DTRAIN_VERSION
#define DTRAIN_VERSION "0.0.0"
#endif

/* 1 MiB: as much as HDF5 caches of a data set by default. */
enum { CHUNK_FLOATS = 1 << 18 };

/* A chunk as the file has it, whose checksum is behind the values, however many there are. */
struct chunk {
    float values[CHUNK_FLOATS + 1];
};

static bool put_attribute(
    hid_t object, const char *name, hid_t file_type, hid_t memory_type, const void *value)
{
    SCOPED_ID space = H5Screate(H5S_SCALAR);
    SCOPED_ID attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    return attribute >= 0 && H5Awrite(attribute, memory_type, value) >= 0;
}

static bool put_int(hid_t object, const char *name, int64_t value)
{
    return put_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

static bool put_real(hid_t object, const char *name, double value)
{
    return put_attribute(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

static bool put_text(hid_t object, const char *name, const char *text)
{
    SCOPED_ID type = H5Tcopy(H5T_C_S1);
    return H5Tset_size(type, strlen(text) + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0 &&
           put_attribute(object, name, type, type, text);
}

static bool put_hash(hid_t object, const char *name, uint64_t hash)
{
    char digits[17];
    snprintf(digits, sizeof digits, "%016" PRIx64, hash);
    return put_text(object, name, digits);
}

static bool put_option(
    hid_t file, const struct dtr_option *option, const struct dtr_options *options)
{
    const void *value = (const char *)options + option->offset;
    char text[64];
    if (option->type == DTR_OPTION_INT)
        return put_int(file, option->name, *(const int64_t *)value);
    if (option->type == DTR_OPTION_REAL)
        return put_real(file, option->name, *(const double *)value);
    if (option->type == DTR_OPTION_TEXT) {
        const char *given = *(const char *const *)value;
        return put_text(file, option->name, given != NULL ? given : "");
    }
    dtr_option_format(option, options, text, sizeof text);
    return put_text(file, option->name, text);
}

static bool put_options(hid_t file, const struct dtr_options *options)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (int i = 0; i < count; i++) {
        if (table[i].recorded && !put_option(file, &table[i], options))
            return false;
    }
    return true;
}

static bool put_facts(hid_t file, const struct dtr_checkpoint *checkpoint)
{
    const struct dtr_model *model = checkpoint->model;
    return put_int(file, "format_version", DTR_CHECKPOINT_FORMAT) &&
           put_text(file, "dtrain_version", DTRAIN_VERSION) &&
           put_text(file, "model_text", model->text) &&
           put_int(file, "parameters", model->parameter_count) &&
           put_int(file, "step", checkpoint->step) && put_real(file, "epoch", checkpoint->epoch) &&
           put_hash(file, "data_fingerprint", checkpoint->data_fingerprint) &&
           put_hash(file, "weights_hash", dtr_model_hash(model, checkpoint->weights)) &&
           put_options(file, checkpoint->options);
}

/* The groups that lead to `path`; HDF5 would stamp those it makes by itself with the time. */
static bool put_groups(hid_t file, const char *path)
{
    char group[64];
    SCOPED_ID properties = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(properties, false);
    for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        snprintf(group, sizeof group, "%.*s", (int)(slash - path), path);
        if (H5Lexists(file, group, H5P_DEFAULT) > 0)
            continue;
        SCOPED_ID made = H5Gcreate2(file, group, H5P_DEFAULT, properties, H5P_DEFAULT);
        if (made < 0)
            return false;
    }
    return true;
}

/* Whole rows of at most CHUNK_FLOATS in all, the first dimension cut into nearly equal parts. */
static void choose_chunk(const struct dtr_tensor *tensor, hsize_t shape_out[4])
{
    int64_t row = tensor->count;
    for (int i = 0; i < tensor->dims; i++) {
        int64_t extent = tensor->dim[i];
        row /= extent;
        int64_t fit = row < CHUNK_FLOATS ? CHUNK_FLOATS / row : 1;
        int64_t parts = (extent + fit - 1) / fit;
        shape_out[i] = (hsize_t)((extent + parts - 1) / parts);
    }
}

/* Goes to the chunk that follows; false after the last one. */
static bool next_chunk(const struct dtr_tensor *tensor, const hsize_t shape[4], hsize_t offset[4])
{
    for (int i = tensor->dims - 1; i >= 0; i--) {
        offset[i] += shape[i];
        if (offset[i] < (hsize_t)tensor->dim[i])
            return true;
        offset[i] = 0;
    }
    return false;
}

/* Copies a chunk, whose values are neighbours in the tensor too; beyond the tensor's end are zeros.
 * Returns its bytes. */
static size_t fill_chunk(const struct dtr_tensor *tensor, const hsize_t shape[4],
    const hsize_t offset[4], const float *slab, struct chunk *chunk)
{
    size_t first = 0, inside = 1, all = 1;
    for (int i = 0; i < tensor->dims; i++) {
        size_t extent = (size_t)tensor->dim[i], left = extent - offset[i];
        first = first * extent + offset[i];
        inside *= left < shape[i] ? left : shape[i];
        all *= shape[i];
    }
    memcpy(chunk->values, slab + tensor->offset + first, inside * sizeof(float));
    memset(chunk->values + inside, 0, (all - inside) * sizeof(float));
    uint32_t checksum = fletcher32(chunk->values, all * sizeof(float));
    memcpy(chunk->values + all, &checksum, sizeof checksum);
    return all * sizeof(float) + sizeof checksum;
}

/* Writes what HDF5 would make of the slab, but that its own filter fletcher32 takes longer than all
 * the rest. */
static bool put_chunks(hid_t data, const struct dtr_tensor *tensor, const hsize_t shape[4],
    const float *slab, struct chunk *chunk)
{
    hsize_t offset[4] = {0};
    do {
        size_t bytes = fill_chunk(tensor, shape, offset, slab, chunk);
        if (H5Dwrite_chunk(data, H5P_DEFAULT, 0, offset, bytes, chunk) < 0)
            return false;
    } while (next_chunk(tensor, shape, offset));
    return true;
}

static bool put_tensor(hid_t file, const char *root, const struct dtr_tensor *tensor,
    const float *slab, struct chunk *chunk)
{
    char path[64];
    hsize_t extent[4], shape[4];
    snprintf(path, sizeof path, "%s/%s", root, tensor->name);
    dtr_hdf5_extent(tensor, extent);
    choose_chunk(tensor, shape);
    if (!put_groups(file, path))
        return false;
    SCOPED_ID space = H5Screate_simple(tensor->dims, extent, NULL);
    SCOPED_ID properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(properties, false);
    H5Pset_chunk(properties, tensor->dims, shape);
    H5Pset_fletcher32(properties);
    SCOPED_ID data = H5Dcreate2(
        file, path, H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    return data >= 0 && put_chunks(data, tensor, shape, slab, chunk) &&
           put_hash(data, "xxh64", dtr_tensor_hash(tensor, slab));
}

static bool put_slab(hid_t file, const char *root, const struct dtr_model *model, const float *slab,
    struct chunk *chunk)
{
    for (int i = 0; i < model->tensor_count; i++) {
        if (!put_tensor(file, root, &model->tensors[i], slab, chunk))
            return false;
        dtr_pulse_beat();
    }
    return true;
}

/* Whatever HDF5 asks for is there already. */
static void *grow_image(void *bytes, size_t size, H5FD_file_image_op_t operation, void *data)
{
    (void)bytes, (void)operation;
    struct dtr_checkpoint_image *image = data;
    return size <= image->capacity ? image->bytes : NULL;
}

/* When the file is closed, its memory stays. */
static herr_t keep_image(void *bytes, H5FD_file_image_op_t operation, void *data)
{
    (void)bytes, (void)operation, (void)data;
    return 0;
}

static void *share_image(void *data)
{
    return data;
}

static herr_t unshare_image(void *data)
{
    (void)data;
    return 0;
}

/* HDF5 crashes when the memory runs out under it, so it gets more than it can need in advance: both
 * slabs, half as much again for chunks that are not full, and much for everything else. What is not
 * used takes no room; HDF5 zeroes what it uses. Behind it is a chunk. */
static bool reserve_image(
    const struct dtr_model *model, struct dtr_checkpoint_image *image, struct dtr_error *error)
{
    size_t slab_bytes = (size_t)model->slab_count * sizeof(float);
    size_t capacity = 3 * slab_bytes + ((size_t)16 << 20);
    if (image->capacity >= capacity)
        return true;
    free(image->bytes);
    image->bytes = dtr_alloc_unset(
        (int64_t)(capacity + sizeof(struct chunk)), 1, "a checkpoint", error);
    image->capacity = image->bytes != NULL ? capacity : 0;
    return image->bytes != NULL;
}

/* H5Fget_file_image() would be simpler, but what HDF5 1.10 gives then has a wrong checksum. */
static hid_t create_in_memory(struct dtr_checkpoint_image *image)
{
    SCOPED_ID create = H5Pcreate(H5P_FILE_CREATE);
    SCOPED_ID access = H5Pcreate(H5P_FILE_ACCESS);
    H5FD_file_image_callbacks_t callbacks = {
        .image_realloc = grow_image,
        .image_free = keep_image,
        .udata_copy = share_image,
        .udata_free = unshare_image,
        .udata = image,
    };
    H5Pset_obj_track_times(create, false);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_fapl_core(access, 1 << 20, false);
    H5Pset_file_image_callbacks(access, &callbacks);
    /* No space is set aside for later, so the size does not change when the file is closed. */
    H5Pset_meta_block_size(access, 0);
    H5Pset_small_data_block_size(access, 0);
    /* HDF5 looks for a file of that name even so: none can have this one. */
    return H5Fcreate("/dev/null/checkpoint", H5F_ACC_TRUNC, create, access);
}

static bool build_image(const struct dtr_checkpoint *checkpoint, struct dtr_checkpoint_image *image)
{
    const struct dtr_model *model = checkpoint->model;
    struct chunk *chunk = (void *)(image->bytes + image->capacity);
    hid_t file = create_in_memory(image);
    bool good = file >= 0 && put_facts(file, checkpoint) &&
                put_slab(file, DTR_HDF5_WEIGHTS, model, checkpoint->weights, chunk) &&
                put_slab(file, DTR_HDF5_MOMENTUM, model, checkpoint->momentum, chunk) &&
                H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
    ssize_t size = good ? H5Fget_file_image(file, NULL, 0) : -1;
    image->size = (size_t)size;
    return file >= 0 && H5Fclose(file) >= 0 && size > 0;
}

enum dtr_status dtr_checkpoint_encode(const struct dtr_checkpoint *checkpoint,
    struct dtr_checkpoint_image *image, struct dtr_error *error)
{
    __attribute__((cleanup(dtr_hdf5_account_end))) struct dtr_hdf5_account account;
    dtr_hdf5_account_begin(&account);
    if (!reserve_image(checkpoint->model, image, error))
        return error->status;
    if (build_image(checkpoint, image))
        return DTR_OK;
    return dtr_error_set(error, DTR_FAILED, "HDF5 cannot build the file: %s", account.text);
}
