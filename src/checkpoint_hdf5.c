/*
 * A file is built in memory and handed out as bytes: HDF5 1.10 crashes after a write that fails
 * while it closes a file, on a full disk for instance. It uses the format of HDF5 1.10, where every
 * piece of metadata carries a checksum, with texts of fixed length, which lie within that metadata:
 * with fletcher32 on the data, a flipped bit is noticed wherever it is.
 */
#include "checkpoint_hdf5.h"

#include "dtrain/log.h"
#include "dtrain/memory.h"

#include <hdf5.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef DTRAIN_VERSION
#define DTRAIN_VERSION "0.0.0"
#endif

/* 1 MiB: as much as HDF5 caches of a data set by default. */
enum { CHUNK_FLOATS = 1 << 18 };

/* Bounds what a damaged file can make us allocate; a model's text is far shorter. */
enum { MAX_TEXT_BYTES = 1 << 24 };

static const char weights_root[] = "/weights", momentum_root[] = "/optimizer/momentum";

static void close_id(hid_t *id)
{
    if (*id > 0)
        H5Idec_ref(*id);
}

/* Any HDF5 object, closed at the end of its scope. */
#define SCOPED_ID __attribute__((cleanup(close_id))) hid_t

/* HDF5's own account of its last failure, taken instead of printed on standard error. */
struct account {
    char text[200];
};

static herr_t take_innermost(unsigned depth, const H5E_error2_t *entry, void *data)
{
    struct account *account = data;
    if (depth == 0)
        snprintf(account->text, sizeof account->text, "%s", entry->desc);
    return 0;
}

static herr_t take_account(hid_t stack, void *data)
{
    return H5Ewalk2(stack, H5E_WALK_UPWARD, take_innermost, data);
}

static void account_begin(struct account *account)
{
    account->text[0] = '\0';
    H5Eset_auto2(H5E_DEFAULT, take_account, account);
}

/* Stays silent from then on: a damaged file can make HDF5 complain even when the process ends. */
static void account_end(struct account *account)
{
    (void)account;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static void tensor_extent(const struct dtr_tensor *tensor, hsize_t extent_out[4])
{
    for (int i = 0; i < tensor->dims; i++)
        extent_out[i] = (hsize_t)tensor->dim[i];
}

/* ---- Writing ---- */

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
static void choose_chunk(const struct dtr_tensor *tensor, hsize_t chunk_out[4])
{
    int64_t row = tensor->count;
    for (int i = 0; i < tensor->dims; i++) {
        int64_t extent = tensor->dim[i];
        row /= extent;
        int64_t fit = row < CHUNK_FLOATS ? CHUNK_FLOATS / row : 1;
        int64_t parts = (extent + fit - 1) / fit;
        chunk_out[i] = (hsize_t)((extent + parts - 1) / parts);
    }
}

static bool put_tensor(
    hid_t file, const char *root, const struct dtr_tensor *tensor, const float *slab)
{
    char path[64];
    hsize_t extent[4], chunk[4];
    snprintf(path, sizeof path, "%s/%s", root, tensor->name);
    tensor_extent(tensor, extent);
    choose_chunk(tensor, chunk);
    if (!put_groups(file, path))
        return false;
    SCOPED_ID space = H5Screate_simple(tensor->dims, extent, NULL);
    SCOPED_ID properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(properties, false);
    H5Pset_chunk(properties, tensor->dims, chunk);
    H5Pset_fletcher32(properties);
    SCOPED_ID data = H5Dcreate2(
        file, path, H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (H5Dwrite(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, slab + tensor->offset) < 0)
        return false;
    return put_hash(data, "xxh64", dtr_tensor_hash(tensor, slab));
}

static bool put_slab(hid_t file, const char *root, const struct dtr_model *model, const float *slab)
{
    for (int i = 0; i < model->tensor_count; i++) {
        if (!put_tensor(file, root, &model->tensors[i], slab))
            return false;
    }
    return true;
}

/* The memory that a file is built in. */
struct image {
    char *bytes;
    size_t capacity, size;
};

/* Whatever HDF5 asks for is there already. */
static void *grow_image(void *bytes, size_t size, H5FD_file_image_op_t operation, void *data)
{
    (void)bytes, (void)operation;
    struct image *image = data;
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
 * slabs, half as much again for chunks that are not full, and much for everything else. It is
 * zeroed, for equal bytes, and what is not used takes no room. */
static bool reserve_image(const struct dtr_model *model, struct image *image)
{
    size_t slab_bytes = (size_t)model->slab_count * sizeof(float);
    image->capacity = 3 * slab_bytes + ((size_t)16 << 20);
    image->bytes = calloc(1, image->capacity);
    return image->bytes != NULL;
}

/* H5Fget_file_image() would be simpler, but what HDF5 1.10 gives then has a wrong checksum. */
static hid_t create_in_memory(struct image *image)
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

static bool build_image(const struct dtr_checkpoint *checkpoint, struct image *image)
{
    const struct dtr_model *model = checkpoint->model;
    hid_t file = create_in_memory(image);
    bool good = file >= 0 && put_facts(file, checkpoint) &&
                put_slab(file, weights_root, model, checkpoint->weights) &&
                put_slab(file, momentum_root, model, checkpoint->momentum) &&
                H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0;
    ssize_t size = good ? H5Fget_file_image(file, NULL, 0) : -1;
    image->size = (size_t)size;
    return file >= 0 && H5Fclose(file) >= 0 && size > 0;
}

enum dtr_status dtr_checkpoint_encode(const struct dtr_checkpoint *checkpoint, void **bytes_out,
    size_t *size_out, struct dtr_error *error)
{
    __attribute__((cleanup(account_end))) struct account account;
    account_begin(&account);
    *bytes_out = NULL;
    struct image image = {0};
    if (!reserve_image(checkpoint->model, &image))
        return dtr_error_set(error, DTR_FAILED, "out of memory for a checkpoint");
    if (!build_image(checkpoint, &image)) {
        free(image.bytes);
        return dtr_error_set(error, DTR_FAILED, "HDF5 cannot build the file: %s", account.text);
    }
    *bytes_out = image.bytes;
    *size_out = image.size;
    return DTR_OK;
}

/* ---- Reading ---- */

/* A file that is being read, and where its failures are told. */
struct source {
    const char *path;
    hid_t file;
    struct account account;
    struct dtr_error *error;
};

#define SCOPED_SOURCE __attribute__((cleanup(close_source))) struct source

static void close_source(struct source *source)
{
    close_id(&source->file);
    account_end(&source->account);
}

__attribute__((format(printf, 2, 3))) static enum dtr_status bad(
    const struct source *source, const char *format, ...)
{
    char reason[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return dtr_error_set(source->error, DTR_INPUT, "%s: %s", source->path, reason);
}

static enum dtr_status open_source(const char *path, struct source *source, struct dtr_error *error)
{
    account_begin(&source->account);
    source->path = path;
    source->error = error;
    SCOPED_ID access = H5Pcreate(H5P_FILE_ACCESS);
    /* Some cluster file systems cannot lock, and a checkpoint never changes: it is only replaced.
     */
    H5Pset_file_locking(access, false, true);
    source->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (source->file < 0)
        return bad(source, "damaged or cut short: %s; use another file", source->account.text);
    return DTR_OK;
}

/* An object of the file that has attributes. */
struct owner {
    hid_t id;
    const char *name; /* for messages */
};

static struct owner root_of(const struct source *source)
{
    return (struct owner){source->file, "/"};
}

/* An attribute that holds one value of a class; the caller closes it and its type. */
static enum dtr_status open_attribute(const struct source *source, struct owner owner,
    const char *name, H5T_class_t class, hid_t *attribute_out, hid_t *type_out)
{
    *type_out = H5I_INVALID_HID;
    *attribute_out = H5Aopen(owner.id, name, H5P_DEFAULT);
    if (*attribute_out < 0)
        return bad(source, "cannot read attribute %s of %s: %s; is this a dtrain checkpoint?", name,
            owner.name, source->account.text);
    *type_out = H5Aget_type(*attribute_out);
    SCOPED_ID space = H5Aget_space(*attribute_out);
    if (H5Tget_class(*type_out) == class && H5Tis_variable_str(*type_out) <= 0 &&
        H5Sget_simple_extent_npoints(space) == 1)
        return DTR_OK;
    return bad(source, "attribute %s of %s is not one %s", name, owner.name,
        class == H5T_STRING ? "text of fixed length" : "number of the right kind");
}

/* A number of the file itself; class and memory type belong together. */
static enum dtr_status get_number(const struct source *source, const char *name, H5T_class_t class,
    hid_t memory_type, void *value_out)
{
    SCOPED_ID attribute, type;
    enum dtr_status status = open_attribute(
        source, root_of(source), name, class, &attribute, &type);
    if (status == DTR_OK && H5Aread(attribute, memory_type, value_out) < 0)
        status = bad(source, "cannot read attribute %s: %s", name, source->account.text);
    return status;
}

static enum dtr_status get_int(const struct source *source, const char *name, int64_t *value_out)
{
    return get_number(source, name, H5T_INTEGER, H5T_NATIVE_INT64, value_out);
}

static enum dtr_status get_real(const struct source *source, const char *name, double *value_out)
{
    return get_number(source, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, value_out);
}

/* Free *text_out with free(); NULL on failure. */
static enum dtr_status get_text(
    const struct source *source, struct owner owner, const char *name, char **text_out)
{
    SCOPED_ID attribute, type;
    *text_out = NULL;
    enum dtr_status status = open_attribute(source, owner, name, H5T_STRING, &attribute, &type);
    if (status != DTR_OK)
        return status;
    size_t size = H5Tget_size(type);
    if (size > MAX_TEXT_BYTES)
        return bad(source, "attribute %s of %s is too long: %zu bytes", name, owner.name, size);
    char *text = dtr_alloc((int64_t)size + 1, 1, "a text of a checkpoint", source->error);
    if (text == NULL)
        return source->error->status;
    if (H5Aread(attribute, type, text) < 0)
        status = bad(
            source, "cannot read attribute %s of %s: %s", name, owner.name, source->account.text);
    if (status == DTR_OK)
        *text_out = text;
    else
        free(text);
    return status;
}

static enum dtr_status get_hash(
    const struct source *source, struct owner owner, const char *name, uint64_t *hash_out)
{
    char *digits;
    enum dtr_status status = get_text(source, owner, name, &digits);
    if (status != DTR_OK)
        return status;
    if (strlen(digits) != 16 || strspn(digits, "0123456789abcdef") != 16)
        status = bad(source, "attribute %s of %s is '%.40s', expected 16 hex digits", name,
            owner.name, digits);
    *hash_out = strtoull(digits, NULL, 16);
    free(digits);
    return status;
}

static enum dtr_status check_format(const struct source *source)
{
    int64_t format;
    enum dtr_status status = get_int(source, "format_version", &format);
    if (status != DTR_OK || format == DTR_CHECKPOINT_FORMAT)
        return status;
    return bad(source, "made by %s dtrain: format %" PRId64 ", this program reads %d",
        format > DTR_CHECKPOINT_FORMAT ? "a newer" : "an older", format, DTR_CHECKPOINT_FORMAT);
}

static enum dtr_status get_model(const struct source *source, struct dtr_model **model_out)
{
    char *text;
    enum dtr_status status = get_text(source, root_of(source), "model_text", &text);
    if (status == DTR_OK)
        status = dtr_model_parse(text, source->path, model_out, source->error);
    free(text);
    return status;
}

/* Everything but the weights. */
static enum dtr_status get_facts(const struct source *source, struct dtr_checkpoint_file *file_out)
{
    struct owner root = root_of(source);
    enum dtr_status status = check_format(source);
    if (status == DTR_OK)
        status = get_int(source, "step", &file_out->step);
    if (status == DTR_OK)
        status = get_real(source, "epoch", &file_out->epoch);
    if (status == DTR_OK)
        status = get_hash(source, root, "data_fingerprint", &file_out->data_fingerprint);
    if (status == DTR_OK)
        status = get_hash(source, root, "weights_hash", &file_out->weights_hash);
    return status == DTR_OK ? get_model(source, &file_out->model) : status;
}

/* "5x5x1x32"; room for all the dimensions that HDF5 allows. */
enum { SHAPE_BYTES = 22 * H5S_MAX_RANK };

static void format_shape(int dims, const hsize_t extent[], char text_out[SHAPE_BYTES])
{
    snprintf(text_out, SHAPE_BYTES, "no shape");
    for (int i = 0, used = 0; i < dims; i++)
        used += snprintf(text_out + used, (size_t)(SHAPE_BYTES - used), "%s%llu", i == 0 ? "" : "x",
            (unsigned long long)extent[i]);
}

static enum dtr_status check_shape(
    const struct source *source, struct owner data, const struct dtr_tensor *tensor)
{
    hsize_t expected[4], found[H5S_MAX_RANK];
    tensor_extent(tensor, expected);
    SCOPED_ID space = H5Dget_space(data.id);
    int dims = H5Sget_simple_extent_dims(space, found, NULL);
    if (dims == tensor->dims && memcmp(found, expected, (size_t)dims * sizeof *found) == 0)
        return DTR_OK;
    char expected_text[SHAPE_BYTES], found_text[SHAPE_BYTES];
    format_shape(tensor->dims, expected, expected_text);
    format_shape(dims, found, found_text);
    return bad(source, "tensor %s has shape %.80s, the model needs %s", data.name, found_text,
        expected_text);
}

/* Reads a tensor into its place in the slab and verifies it. */
static enum dtr_status get_tensor(
    const struct source *source, const char *root, const struct dtr_tensor *tensor, float *slab)
{
    char name[64];
    snprintf(name, sizeof name, "%s/%s", root, tensor->name);
    SCOPED_ID id = H5Dopen2(source->file, name, H5P_DEFAULT);
    struct owner data = {id, name};
    if (id < 0)
        return bad(source, "cannot open tensor %s: %s", name, source->account.text);
    SCOPED_ID type = H5Dget_type(id);
    if (H5Tequal(type, H5T_IEEE_F32LE) <= 0)
        return bad(source, "tensor %s does not hold little-endian 32-bit floats", name);
    enum dtr_status status = check_shape(source, data, tensor);
    if (status != DTR_OK)
        return status;
    if (H5Dread(id, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, slab + tensor->offset) < 0)
        return bad(
            source, "tensor %s is damaged: %s; use another file", name, source->account.text);
    uint64_t recorded, found = dtr_tensor_hash(tensor, slab);
    status = get_hash(source, data, "xxh64", &recorded);
    if (status == DTR_OK && found != recorded)
        status = bad(source, "tensor %s is damaged: its hash is %016" PRIx64 ", not %016" PRIx64,
            name, found, recorded);
    return status;
}

static enum dtr_status alloc_weights(
    const struct source *source, struct dtr_checkpoint_file *file_out)
{
    file_out->weights = dtr_alloc(file_out->model->slab_count, sizeof *file_out->weights,
        "the weights of a checkpoint", source->error);
    return file_out->weights == NULL ? source->error->status : DTR_OK;
}

static enum dtr_status check_weights(
    const struct source *source, const struct dtr_checkpoint_file *file)
{
    uint64_t found = dtr_model_hash(file->model, file->weights);
    if (found == file->weights_hash)
        return DTR_OK;
    return bad(source, "the hash of the weights is %016" PRIx64 ", not %016" PRIx64, found,
        file->weights_hash);
}

enum dtr_status dtr_checkpoint_decode(
    const char *path, struct dtr_checkpoint_file *file_out, struct dtr_error *error)
{
    SCOPED_SOURCE source;
    *file_out = (struct dtr_checkpoint_file){0};
    enum dtr_status status = open_source(path, &source, error);
    if (status == DTR_OK)
        status = get_facts(&source, file_out);
    if (status == DTR_OK)
        status = alloc_weights(&source, file_out);
    for (int i = 0; status == DTR_OK && i < file_out->model->tensor_count; i++)
        status = get_tensor(&source, weights_root, &file_out->model->tensors[i], file_out->weights);
    if (status == DTR_OK)
        status = check_weights(&source, file_out);
    if (status != DTR_OK)
        dtr_checkpoint_file_free(file_out);
    return status;
}

/* ---- Printing ---- */

/* An option's recorded value, cut if it does not fit. */
static enum dtr_status get_option(
    const struct source *source, const struct dtr_option *option, char *text_out, size_t text_bytes)
{
    enum dtr_status status;
    int64_t count = 0;
    double real = 0;
    char *text = NULL;
    if (option->type == DTR_OPTION_INT) {
        status = get_int(source, option->name, &count);
        snprintf(text_out, text_bytes, "%" PRId64, count);
    } else if (option->type == DTR_OPTION_REAL) {
        status = get_real(source, option->name, &real);
        snprintf(text_out, text_bytes, "%.10g", real);
    } else {
        status = get_text(source, root_of(source), option->name, &text);
        snprintf(text_out, text_bytes, "%s", text != NULL && text[0] != '\0' ? text : "-");
        free(text);
    }
    return status;
}

/* An option that the program that wrote the file did not know yet is left out. */
static enum dtr_status print_options(const struct source *source)
{
    enum dtr_status status = DTR_OK;
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    dtr_print("Options:\n");
    for (int i = 0; status == DTR_OK && i < count; i++) {
        char text[512];
        if (!table[i].recorded || H5Aexists(source->file, table[i].name) == 0)
            continue;
        status = get_option(source, &table[i], text, sizeof text);
        if (status == DTR_OK)
            dtr_print("  %-20s %s\n", table[i].name, text);
    }
    return status;
}

static enum dtr_status print_facts(
    const struct source *source, const struct dtr_checkpoint_file *file)
{
    char *version;
    enum dtr_status status = get_text(source, root_of(source), "dtrain_version", &version);
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

static enum dtr_status print_tensor(
    const struct source *source, const char *root, const struct dtr_tensor *tensor, float *slab)
{
    char name[64], shape[SHAPE_BYTES];
    hsize_t extent[4];
    tensor_extent(tensor, extent);
    format_shape(tensor->dims, extent, shape);
    snprintf(name, sizeof name, "%s/%s", root, tensor->name);
    dtr_print("  %-34s %14s", name, shape);
    enum dtr_status status = get_tensor(source, root, tensor, slab);
    if (status == DTR_OK)
        print_values(slab + tensor->offset, tensor->count);
    else
        dtr_print(" %10s %10s %10s %10s  BAD\n", "-", "-", "-", "-");
    return status;
}

/* A bad tensor does not hide those after it; the last failure is the one told. */
static enum dtr_status print_slab(
    const struct source *source, const char *root, const struct dtr_model *model, float *slab)
{
    enum dtr_status verdict = DTR_OK;
    for (int i = 0; i < model->tensor_count; i++) {
        enum dtr_status status = print_tensor(source, root, &model->tensors[i], slab);
        verdict = status != DTR_OK ? status : verdict;
    }
    return verdict;
}

static enum dtr_status print_tensors(
    const struct source *source, const struct dtr_checkpoint_file *file)
{
    dtr_print("Tensors: %42s %10s %10s %10s %10s  hash\n", "shape", "min", "max", "mean", "norm");
    enum dtr_status weights = print_slab(source, weights_root, file->model, file->weights);
    if (weights == DTR_OK)
        weights = check_weights(source, file);
    enum dtr_status momentum = print_slab(source, momentum_root, file->model, file->weights);
    return weights != DTR_OK ? weights : momentum;
}

enum dtr_status dtr_checkpoint_describe(const char *path, struct dtr_error *error)
{
    __attribute__((cleanup(dtr_checkpoint_file_free))) struct dtr_checkpoint_file file = {0};
    SCOPED_SOURCE source;
    enum dtr_status status = open_source(path, &source, error);
    if (status == DTR_OK)
        status = get_facts(&source, &file);
    if (status == DTR_OK)
        status = alloc_weights(&source, &file);
    if (status == DTR_OK)
        status = print_facts(&source, &file);
    return status == DTR_OK ? print_tensors(&source, &file) : status;
}
