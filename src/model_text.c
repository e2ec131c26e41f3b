/* From a model's text to its layers and tensors. */
#include "dtrain/model.h"

#include "dtrain/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_WORDS = 8, MAX_LAYERS = 200, MAX_FILE_BYTES = 1 << 20 };

static const int64_t max_extent = 65535;          /* of an image side, a kernel side, a stride */
static const int64_t max_units = 1 << 24;         /* channels, or outputs of a dense layer */
static const int64_t max_parameters = 1LL << 31;  /* 8 GB a slab */
static const int64_t max_activations = 1LL << 31; /* of one sample, in one layer */

/* What a line is read with. */
struct reader {
    struct dtr_model *model;
    const char *where;
    int line;
    char *words[MAX_WORDS];
    int count, next; /* words of the line, and the one that is looked at */
    int numbers[4];  /* layers of each kind so far */
    bool has_input;
    struct dtr_shape shape; /* what the last layer puts out */
    struct dtr_error *error;
};

__attribute__((format(printf, 2, 3))) static enum dtr_status wrong(
    struct reader *reader, const char *format, ...)
{
    char reason[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return dtr_error_set(
        reader->error, DTR_INPUT, "%s, line %d: %s", reader->where, reader->line, reason);
}

static const char *next_word(struct reader *reader)
{
    return reader->next < reader->count ? reader->words[reader->next++] : NULL;
}

/* Takes the next word if it is this one. */
static bool take_word(struct reader *reader, const char *word)
{
    if (reader->next < reader->count && strcmp(reader->words[reader->next], word) == 0) {
        reader->next++;
        return true;
    }
    return false;
}

/* A whole number in 1 .. limit at *text, which moves behind it. */
static bool parse_count(const char **text, int64_t limit, int64_t *value_out)
{
    int64_t value = 0;
    const char *digit = *text;
    for (; *digit >= '0' && *digit <= '9' && value <= limit; digit++)
        value = value * 10 + (*digit - '0');
    bool good = digit != *text && value >= 1 && value <= limit;
    *text = digit;
    *value_out = value;
    return good;
}

static enum dtr_status read_count(
    struct reader *reader, const char *what, int64_t limit, int64_t *value_out)
{
    const char *word = next_word(reader), *end = word;
    if (word == NULL)
        return wrong(reader, "%s needs %s", reader->words[0], what);
    if (!parse_count(&end, limit, value_out) || *end != '\0')
        return wrong(reader, "%s: %s is '%s', must be a whole number from 1 to %lld",
            reader->words[0], what, word, (long long)limit);
    return DTR_OK;
}

/* "5x5" */
static enum dtr_status read_kernel(struct reader *reader, struct dtr_layer *layer)
{
    const char *word = next_word(reader), *end = word;
    if (word == NULL)
        return wrong(reader, "conv needs a kernel such as 5x5");
    bool good = parse_count(&end, max_extent, &layer->kernel_h) && *end == 'x';
    end += good;
    good = good && parse_count(&end, max_extent, &layer->kernel_w) && *end == '\0';
    return good ? DTR_OK : wrong(reader, "conv: kernel is '%s', must be like 5x5", word);
}

static enum dtr_status expect_end(struct reader *reader, const char *known)
{
    if (reader->next == reader->count)
        return DTR_OK;
    return wrong(reader, "%s: unexpected '%s'; takes %s", reader->words[0],
        reader->words[reader->next], known);
}

static enum dtr_status add_tensor(struct reader *reader, const struct dtr_layer *layer,
    const char *what, int dims, const int64_t dim[4], int *index_out)
{
    struct dtr_model *model = reader->model;
    struct dtr_tensor *tensor = &model->tensors[model->tensor_count];
    snprintf(tensor->name, sizeof tensor->name, "%s/%s", layer->name, what);
    tensor->dims = dims;
    tensor->count = 1;
    for (int i = 0; i < dims; i++) {
        tensor->dim[i] = dim[i];
        if (__builtin_mul_overflow(tensor->count, dim[i], &tensor->count) ||
            tensor->count > max_parameters)
            return wrong(
                reader, "%s has more than %lld parameters", layer->name, (long long)max_parameters);
    }
    tensor->offset = model->slab_count;
    tensor->dense = layer->kind == DTR_LAYER_DENSE;
    /* The tutorial starts its first layer's bias at 0 and the others at 0.1. */
    tensor->initial_bias = dims == 1 && model->tensor_count > 1 ? 0.1F : 0.0F;
    model->slab_count += dtr_align_floats(tensor->count);
    model->parameter_count += tensor->count;
    if (model->slab_count > max_parameters)
        return wrong(
            reader, "the network has more than %lld parameters here", (long long)max_parameters);
    *index_out = model->tensor_count++;
    return DTR_OK;
}

static enum dtr_status read_input(struct reader *reader)
{
    struct dtr_shape *shape = &reader->shape;
    if (reader->has_input)
        return wrong(reader, "input is given twice");
    if (read_count(reader, "a height", max_extent, &shape->h) != DTR_OK ||
        read_count(reader, "a width", max_extent, &shape->w) != DTR_OK ||
        read_count(reader, "a number of channels", max_extent, &shape->c) != DTR_OK ||
        expect_end(reader, "HEIGHT WIDTH CHANNELS") != DTR_OK)
        return reader->error->status;
    reader->model->input = *shape;
    reader->has_input = true;
    return DTR_OK;
}

static enum dtr_status read_conv(struct reader *reader, struct dtr_layer *layer)
{
    static const char known[] = "OUT KHxKW [relu] [stride N] [valid]";
    bool valid = false;
    if (read_count(reader, "a number of output channels", max_units, &layer->out.c) != DTR_OK ||
        read_kernel(reader, layer) != DTR_OK)
        return reader->error->status;
    for (;;) { /* each at most once */
        if (!layer->relu && take_word(reader, "relu"))
            layer->relu = true;
        else if (!valid && take_word(reader, "valid"))
            valid = true;
        else if (layer->stride > 0 || !take_word(reader, "stride"))
            break;
        else if (read_count(reader, "a stride", max_extent, &layer->stride) != DTR_OK)
            return reader->error->status;
    }
    if (expect_end(reader, known) != DTR_OK)
        return reader->error->status;
    if (layer->stride == 0)
        layer->stride = 1;

    if (valid && (layer->kernel_h > layer->in.h || layer->kernel_w > layer->in.w))
        return wrong(reader, "conv: a valid %lldx%lld kernel does not fit into %lldx%lld",
            (long long)layer->kernel_h, (long long)layer->kernel_w, (long long)layer->in.h,
            (long long)layer->in.w);
    if (valid) {
        layer->out.h = (layer->in.h - layer->kernel_h) / layer->stride + 1;
        layer->out.w = (layer->in.w - layer->kernel_w) / layer->stride + 1;
    } else {
        /* TensorFlow's SAME: an odd pixel of padding goes to the bottom and the right. */
        layer->out.h = (layer->in.h + layer->stride - 1) / layer->stride;
        layer->out.w = (layer->in.w + layer->stride - 1) / layer->stride;
        int64_t pad_h = (layer->out.h - 1) * layer->stride + layer->kernel_h - layer->in.h;
        int64_t pad_w = (layer->out.w - 1) * layer->stride + layer->kernel_w - layer->in.w;
        layer->pad_top = pad_h > 0 ? pad_h / 2 : 0;
        layer->pad_left = pad_w > 0 ? pad_w / 2 : 0;
    }
    const int64_t kernel[4] = {layer->kernel_h, layer->kernel_w, layer->in.c, layer->out.c};
    const int64_t bias[4] = {layer->out.c};
    if (add_tensor(reader, layer, "kernel", 4, kernel, &layer->kernel) != DTR_OK)
        return reader->error->status;
    return add_tensor(reader, layer, "bias", 1, bias, &layer->bias);
}

static enum dtr_status read_maxpool(struct reader *reader, struct dtr_layer *layer)
{
    if (read_count(reader, "a window size", 255, &layer->kernel_h) != DTR_OK)
        return reader->error->status;
    layer->kernel_w = layer->stride = layer->kernel_h;
    if (take_word(reader, "stride") &&
        read_count(reader, "a stride", max_extent, &layer->stride) != DTR_OK)
        return reader->error->status;
    if (expect_end(reader, "SIZE [stride N]") != DTR_OK)
        return reader->error->status;
    if (layer->kernel_h > layer->in.h || layer->kernel_w > layer->in.w)
        return wrong(reader, "maxpool: a window of %lld does not fit into %lldx%lld",
            (long long)layer->kernel_h, (long long)layer->in.h, (long long)layer->in.w);
    layer->out = (struct dtr_shape){(layer->in.h - layer->kernel_h) / layer->stride + 1,
        (layer->in.w - layer->kernel_w) / layer->stride + 1, layer->in.c};
    return DTR_OK;
}

static enum dtr_status read_dense(struct reader *reader, struct dtr_layer *layer)
{
    if (read_count(reader, "a number of outputs", max_units, &layer->out.c) != DTR_OK)
        return reader->error->status;
    layer->out.h = layer->out.w = 1;
    layer->relu = take_word(reader, "relu");
    if (expect_end(reader, "OUT [relu]") != DTR_OK)
        return reader->error->status;
    const int64_t kernel[4] = {dtr_shape_count(layer->in), layer->out.c};
    const int64_t bias[4] = {layer->out.c};
    if (add_tensor(reader, layer, "kernel", 2, kernel, &layer->kernel) != DTR_OK)
        return reader->error->status;
    return add_tensor(reader, layer, "bias", 1, bias, &layer->bias);
}

static enum dtr_status read_dropout(struct reader *reader, struct dtr_layer *layer)
{
    const char *word = next_word(reader);
    char *end = NULL;
    if (word == NULL)
        return wrong(reader, "dropout needs a rate");
    layer->rate = strtod(word, &end);
    if (end == word || *end != '\0' || !(layer->rate >= 0 && layer->rate < 1))
        return wrong(reader, "dropout: rate is '%s', must be at least 0 and less than 1", word);
    layer->out = layer->in;
    return expect_end(reader, "RATE");
}

struct layer_reader {
    const char *word;
    enum dtr_status (*read)(struct reader *, struct dtr_layer *);
};

static const struct layer_reader layer_readers[] = {
    [DTR_LAYER_CONV] = {"conv", read_conv},
    [DTR_LAYER_MAXPOOL] = {"maxpool", read_maxpool},
    [DTR_LAYER_DENSE] = {"dense", read_dense},
    [DTR_LAYER_DROPOUT] = {"dropout", read_dropout},
};

static enum dtr_status read_layer(struct reader *reader, enum dtr_layer_kind kind)
{
    struct dtr_model *model = reader->model;
    if (!reader->has_input)
        return wrong(reader, "the first line must be 'input HEIGHT WIDTH CHANNELS'");
    if (model->layer_count == MAX_LAYERS)
        return wrong(reader, "more than %d layers", MAX_LAYERS);
    int number = model->layer_count++;
    struct dtr_layer *layer = &model->layers[number];
    *layer = (struct dtr_layer){.kind = kind,
        .number = number,
        .line = reader->line,
        .in = reader->shape,
        .kernel = -1,
        .bias = -1};
    snprintf(
        layer->name, sizeof layer->name, "%s%d", layer_readers[kind].word, ++reader->numbers[kind]);
    if (layer_readers[kind].read(reader, layer) != DTR_OK)
        return reader->error->status;
    /* No side is over 65535 and no channel count over 2^24, so the product fits into 64 bits. */
    if (dtr_shape_count(layer->out) > max_activations)
        return wrong(reader, "%s puts out more than %lld values a sample", layer->name,
            (long long)max_activations);
    reader->shape = layer->out;
    return DTR_OK;
}

static enum dtr_status read_line(struct reader *reader, char *line)
{
    char *comment = strchr(line, '#'), *position = NULL;
    if (comment != NULL)
        *comment = '\0';
    reader->count = 0;
    reader->next = 1;
    for (char *word = strtok_r(line, " \t\r", &position); word != NULL;
         word = strtok_r(NULL, " \t\r", &position)) {
        if (reader->count == MAX_WORDS)
            return wrong(reader, "more than %d words", MAX_WORDS);
        reader->words[reader->count++] = word;
    }
    if (reader->count == 0)
        return DTR_OK;
    if (strcmp(reader->words[0], "input") == 0)
        return read_input(reader);
    for (int kind = 0; kind < 4; kind++) {
        if (strcmp(reader->words[0], layer_readers[kind].word) == 0)
            return read_layer(reader, (enum dtr_layer_kind)kind);
    }
    return wrong(reader, "unknown layer '%s'; known are input, conv, maxpool, dense, dropout",
        reader->words[0]);
}

static enum dtr_status read_lines(struct reader *reader, char *text)
{
    for (char *line = text, *end; line != NULL; line = end) {
        end = strchr(line, '\n');
        if (end != NULL)
            *end++ = '\0';
        reader->line++;
        if (read_line(reader, line) != DTR_OK)
            return reader->error->status;
    }
    struct dtr_model *model = reader->model;
    if (model->layer_count == 0)
        return dtr_error_set(reader->error, DTR_INPUT,
            "%s: has no layers; dtrain info mnist-cnn shows what a network is made of",
            reader->where);
    const struct dtr_layer *last = &model->layers[model->layer_count - 1];
    reader->line = last->line;
    if (last->kind != DTR_LAYER_DENSE || last->relu)
        return wrong(reader, "the last layer must be 'dense CLASSES' without relu");
    if (last->out.c < 2 || last->out.c > 256)
        return wrong(reader, "%lld classes; labels are bytes, so 2 to 256 are possible",
            (long long)last->out.c);
    model->classes = last->out.c;
    return DTR_OK;
}

enum dtr_status dtr_model_parse(
    const char *text, const char *where, struct dtr_model **model_out, struct dtr_error *error)
{
    struct dtr_model *model = calloc(1, sizeof *model);
    char *copy = strdup(text);
    enum dtr_status status = DTR_FAILED;
    *model_out = NULL;
    if (model != NULL && copy != NULL) {
        model->text = strdup(text);
        model->layers = calloc(MAX_LAYERS, sizeof *model->layers);
        model->tensors = calloc(2 * MAX_LAYERS, sizeof *model->tensors);
    }
    if (model == NULL || copy == NULL || model->text == NULL || model->layers == NULL ||
        model->tensors == NULL) {
        dtr_error_set(error, DTR_FAILED, "out of memory for the model %s", where);
    } else {
        struct reader reader = {.model = model, .where = where, .error = error};
        status = read_lines(&reader, copy);
    }
    free(copy);
    if (status != DTR_OK) {
        dtr_model_free(model);
        return status;
    }
    *model_out = model;
    return DTR_OK;
}

static const struct {
    const char *name, *text;
} builtins[] = {
    /* The network of the TensorFlow MNIST tutorial (convolutional.py). */
    {"mnist-cnn", "input 28 28 1\n"
                  "conv 32 5x5 relu\n"
                  "maxpool 2\n"
                  "conv 64 5x5 relu\n"
                  "maxpool 2\n"
                  "dense 512 relu\n"
                  "dropout 0.5\n"
                  "dense 10\n"},
};

const char *dtr_model_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++) {
        if (strcmp(builtins[i].name, name) == 0)
            return builtins[i].text;
    }
    return NULL;
}

static enum dtr_status read_file(const char *path, char **text_out, struct dtr_error *error)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return dtr_error_set(error, DTR_INPUT,
            "%s is neither a built-in model (mnist-cnn) nor a readable model file: %s", path,
            strerror(errno));
    if (!S_ISREG(status.st_mode) || status.st_size > MAX_FILE_BYTES)
        return dtr_error_set(
            error, DTR_INPUT, "%s is not a model file (a text of at most 1 MB)", path);
    FILE *file = fopen(path, "r");
    char *text = calloc(1, (size_t)status.st_size + 1);
    bool good = file != NULL && text != NULL &&
                fread(text, 1, (size_t)status.st_size, file) == (size_t)status.st_size;
    int code = errno;
    if (file != NULL)
        fclose(file);
    if (good && strlen(text) == (size_t)status.st_size) {
        *text_out = text;
        return DTR_OK;
    }
    free(text);
    if (good)
        return dtr_error_set(error, DTR_INPUT, "%s is not a model file: it is binary", path);
    return dtr_error_set(
        error, DTR_INPUT, "cannot read the model file %s: %s", path, strerror(code));
}

enum dtr_status dtr_model_load(
    const char *name, struct dtr_model **model_out, struct dtr_error *error)
{
    const char *builtin = dtr_model_builtin(name);
    if (builtin != NULL)
        return dtr_model_parse(builtin, name, model_out, error);
    char *text = NULL;
    *model_out = NULL;
    if (read_file(name, &text, error) != DTR_OK)
        return error->status;
    enum dtr_status status = dtr_model_parse(text, name, model_out, error);
    free(text);
    return status;
}
