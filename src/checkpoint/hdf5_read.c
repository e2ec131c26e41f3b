/*
 * Reads a checkpoint, and believes nothing in it: every attribute and tensor is asked for its type
 * and size first, and the values for their hashes. What is wrong is told with the file's name and,
 * where HDF5 noticed it, with HDF5's own words.
 */
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "format.h"
#include "hdf5_file.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds what a damaged file can make us allocate; a model's text is far shorter. */
enum { MAX_TEXT_BYTES = 1 << 24 };

pthread_mutex_t dtr_hdf5_mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- The file ---- */

void dtr_hdf5_close(struct dtr_hdf5_source *source)
{
    dtr_hdf5_close_id(&source->file);
    dtr_hdf5_account_end(&source->account);
}

__attribute__((format(printf, 2, 3))) static enum dtr_status bad(
    const struct dtr_hdf5_source *source, const char *format, ...)
{
    char reason[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return dtr_error_set(source->error, DTR_INPUT, "%s: %s", source->path, reason);
}

enum dtr_status dtr_hdf5_open(
    const char *path, struct dtr_hdf5_source *source, struct dtr_error *error)
{
    dtr_hdf5_account_begin(&source->account);
    source->path = path;
    source->error = error;
    SCOPED_ID access = H5Pcreate(H5P_FILE_ACCESS);
    /* Some cluster file systems cannot lock, and a checkpoint is only replaced, never changed. */
    H5Pset_file_locking(access, false, true);
    source->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (source->file < 0)
        return bad(source, "damaged or cut short: %s; use another file", source->account.text);
    return DTR_OK;
}

/* ---- Attributes ---- */

/* An object of the file that has attributes. */
struct owner {
    hid_t id;
    const char *name; /* for messages */
};

static struct owner root_of(const struct dtr_hdf5_source *source)
{
    return (struct owner){source->file, "/"};
}

/* An attribute that holds one value of a class; the caller closes it and its type. */
static enum dtr_status open_attribute(const struct dtr_hdf5_source *source, struct owner owner,
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
static enum dtr_status get_number(const struct dtr_hdf5_source *source, const char *name,
    H5T_class_t class, hid_t memory_type, void *value_out)
{
    SCOPED_ID attribute, type;
    enum dtr_status status = open_attribute(
        source, root_of(source), name, class, &attribute, &type);
    if (status == DTR_OK && H5Aread(attribute, memory_type, value_out) < 0)
        status = bad(source, "cannot read attribute %s: %s", name, source->account.text);
    return status;
}

enum dtr_status dtr_hdf5_get_int(
    const struct dtr_hdf5_source *source, const char *name, int64_t *value_out)
{
    return get_number(source, name, H5T_INTEGER, H5T_NATIVE_INT64, value_out);
}

enum dtr_status dtr_hdf5_get_real(
    const struct dtr_hdf5_source *source, const char *name, double *value_out)
{
    return get_number(source, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, value_out);
}

/* Free *text_out with free(); NULL on failure. */
static enum dtr_status get_text_of(
    const struct dtr_hdf5_source *source, struct owner owner, const char *name, char **text_out)
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

enum dtr_status dtr_hdf5_get_text(
    const struct dtr_hdf5_source *source, const char *name, char **text_out)
{
    return get_text_of(source, root_of(source), name, text_out);
}

static enum dtr_status get_hash(
    const struct dtr_hdf5_source *source, struct owner owner, const char *name, uint64_t *hash_out)
{
    char *digits;
    enum dtr_status status = get_text_of(source, owner, name, &digits);
    if (status != DTR_OK)
        return status;
    if (strlen(digits) != 16 || strspn(digits, "0123456789abcdef") != 16)
        status = bad(source, "attribute %s of %s is '%.40s', expected 16 hex digits", name,
            owner.name, digits);
    *hash_out = strtoull(digits, NULL, 16);
    free(digits);
    return status;
}

/* ---- Facts ---- */

static enum dtr_status check_format(const struct dtr_hdf5_source *source)
{
    int64_t format;
    enum dtr_status status = dtr_hdf5_get_int(source, "format_version", &format);
    if (status != DTR_OK || format == DTR_CHECKPOINT_FORMAT)
        return status;
    return bad(source, "made by %s dtrain: format %" PRId64 ", this program reads %d",
        format > DTR_CHECKPOINT_FORMAT ? "a newer" : "an older", format, DTR_CHECKPOINT_FORMAT);
}

static enum dtr_status get_model(const struct dtr_hdf5_source *source, struct dtr_model **model_out)
{
    char *text;
    enum dtr_status status = dtr_hdf5_get_text(source, "model_text", &text);
    if (status == DTR_OK)
        status = dtr_model_parse(text, source->path, model_out, source->error);
    free(text);
    return status;
}

enum dtr_status dtr_hdf5_get_option(
    const struct dtr_hdf5_source *source, const struct dtr_option *option, char **text_out)
{
    struct dtr_options value = {0};
    void *field = (char *)&value + option->offset;
    enum dtr_status status;
    *text_out = NULL;
    if (option->type != DTR_OPTION_INT && option->type != DTR_OPTION_REAL)
        return dtr_hdf5_get_text(source, option->name, text_out);
    if (option->type == DTR_OPTION_INT)
        status = dtr_hdf5_get_int(source, option->name, field);
    else
        status = dtr_hdf5_get_real(source, option->name, field);
    if (status != DTR_OK)
        return status;
    *text_out = dtr_alloc(64, 1, "an option of a checkpoint", source->error);
    if (*text_out == NULL)
        return source->error->status;
    if (option->fallback != NULL || *(int64_t *)field != 0)
        dtr_option_format(option, &value, *text_out, 64);
    return DTR_OK;
}

bool dtr_hdf5_has_option(const struct dtr_hdf5_source *source, const struct dtr_option *option)
{
    return option->recorded && H5Aexists(source->file, option->name) > 0;
}

/* All recorded options, as dtr_options_resume() takes them. */
static enum dtr_status get_options(
    const struct dtr_hdf5_source *source, struct dtr_checkpoint_file *file_out)
{
    enum dtr_status status = DTR_OK;
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    size_t bytes;
    FILE *texts = open_memstream(&file_out->options, &bytes);
    for (int i = 0; status == DTR_OK && texts != NULL && i < count; i++) {
        char *value;
        if (!dtr_hdf5_has_option(source, &table[i]))
            continue;
        status = dtr_hdf5_get_option(source, &table[i], &value);
        if (status == DTR_OK)
            fprintf(texts, "%s=%s%c", table[i].name, value, '\0');
        free(value);
    }
    if (texts == NULL || putc('\0', texts) != '\0' || fclose(texts) != 0)
        return dtr_error_set(
            source->error, DTR_FAILED, "out of memory for the options of a checkpoint");
    file_out->options_bytes = (int64_t)bytes;
    return status;
}

static enum dtr_status alloc_slabs(
    const struct dtr_hdf5_source *source, struct dtr_checkpoint_file *file_out)
{
    int64_t count = file_out->model->slab_count;
    file_out->weights = dtr_alloc(
        count, sizeof(float), "the weights of a checkpoint", source->error);
    file_out->momentum = dtr_alloc(
        count, sizeof(float), "the momenta of a checkpoint", source->error);
    if (file_out->weights == NULL || file_out->momentum == NULL)
        return source->error->status;
    return DTR_OK;
}

enum dtr_status dtr_hdf5_get_facts(
    const struct dtr_hdf5_source *source, struct dtr_checkpoint_file *file_out)
{
    struct owner root = root_of(source);
    enum dtr_status status = check_format(source);
    if (status == DTR_OK)
        status = dtr_hdf5_get_int(source, "step", &file_out->step);
    if (status == DTR_OK)
        status = dtr_hdf5_get_real(source, "epoch", &file_out->epoch);
    if (status == DTR_OK)
        status = get_hash(source, root, "data_fingerprint", &file_out->data_fingerprint);
    if (status == DTR_OK)
        status = get_hash(source, root, "weights_hash", &file_out->weights_hash);
    if (status == DTR_OK)
        status = dtr_hdf5_get_int(source, "seed", &file_out->seed);
    if (status == DTR_OK)
        status = get_options(source, file_out);
    if (status == DTR_OK)
        status = get_model(source, &file_out->model);
    return status == DTR_OK ? alloc_slabs(source, file_out) : status;
}

/* ---- Tensors ---- */

void dtr_hdf5_format_shape(int dims, const hsize_t extent[], char text_out[DTR_HDF5_SHAPE_BYTES])
{
    snprintf(text_out, DTR_HDF5_SHAPE_BYTES, "no shape");
    for (int i = 0, used = 0; i < dims; i++)
        used += snprintf(text_out + used, (size_t)(DTR_HDF5_SHAPE_BYTES - used), "%s%llu",
            i == 0 ? "" : "x", (unsigned long long)extent[i]);
}

static enum dtr_status check_shape(
    const struct dtr_hdf5_source *source, struct owner data, const struct dtr_tensor *tensor)
{
    hsize_t expected[4], found[H5S_MAX_RANK];
    dtr_hdf5_extent(tensor, expected);
    SCOPED_ID space = H5Dget_space(data.id);
    int dims = H5Sget_simple_extent_dims(space, found, NULL);
    if (dims == tensor->dims && memcmp(found, expected, (size_t)dims * sizeof *found) == 0)
        return DTR_OK;
    char expected_text[DTR_HDF5_SHAPE_BYTES], found_text[DTR_HDF5_SHAPE_BYTES];
    dtr_hdf5_format_shape(tensor->dims, expected, expected_text);
    dtr_hdf5_format_shape(dims, found, found_text);
    return bad(source, "tensor %s has shape %.80s, the model needs %s", data.name, found_text,
        expected_text);
}

enum dtr_status dtr_hdf5_get_tensor(const struct dtr_hdf5_source *source, const char *root,
    const struct dtr_tensor *tensor, float *slab)
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

enum dtr_status dtr_hdf5_check_weights(
    const struct dtr_hdf5_source *source, const struct dtr_checkpoint_file *file)
{
    uint64_t found = dtr_model_hash(file->model, file->weights);
    if (found == file->weights_hash)
        return DTR_OK;
    return bad(source, "the hash of the weights is %016" PRIx64 ", not %016" PRIx64, found,
        file->weights_hash);
}

/* ---- The whole ---- */

static enum dtr_status get_slab(const struct dtr_hdf5_source *source, const char *root,
    const struct dtr_model *model, float *slab)
{
    enum dtr_status status = DTR_OK;
    for (int i = 0; status == DTR_OK && i < model->tensor_count; i++) {
        status = dtr_hdf5_get_tensor(source, root, &model->tensors[i], slab);
        dtr_pulse_beat();
    }
    return status;
}

enum dtr_status dtr_checkpoint_decode(
    const char *path, struct dtr_checkpoint_file *file_out, struct dtr_error *error)
{
    SCOPED_SOURCE source;
    *file_out = (struct dtr_checkpoint_file){0};
    enum dtr_status status = dtr_hdf5_open(path, &source, error);
    if (status == DTR_OK)
        status = dtr_hdf5_get_facts(&source, file_out);
    if (status == DTR_OK)
        status = get_slab(&source, DTR_HDF5_WEIGHTS, file_out->model, file_out->weights);
    if (status == DTR_OK)
        status = dtr_hdf5_check_weights(&source, file_out);
    if (status == DTR_OK)
        status = get_slab(&source, DTR_HDF5_MOMENTUM, file_out->model, file_out->momentum);
    if (status != DTR_OK)
        dtr_checkpoint_file_free(file_out);
    return status;
}
