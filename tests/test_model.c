#include "dtrain/model.h"

#include "dtrain/memory.h"
#include "unit_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static struct dtr_model *parse(const char *text)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model = NULL;
    enum dtr_status status = dtr_model_parse(text, "net.txt", &model, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    ck_assert_str_eq(model->text, text);
    return model;
}

static struct dtr_model *tutorial(void)
{
    return parse(dtr_model_builtin("mnist-cnn"));
}

static bool same_shape(struct dtr_shape one, struct dtr_shape other)
{
    return one.h == other.h && one.w == other.w && one.c == other.c;
}

/* All but the line. */
static bool same_layer(const struct dtr_layer *one, const struct dtr_layer *other)
{
    return one->kind == other->kind && strcmp(one->name, other->name) == 0 &&
           same_shape(one->in, other->in) && same_shape(one->out, other->out) &&
           one->kernel_h == other->kernel_h && one->kernel_w == other->kernel_w &&
           one->stride == other->stride && one->pad_top == other->pad_top &&
           one->pad_left == other->pad_left && one->relu == other->relu &&
           one->rate == other->rate && one->kernel == other->kernel && one->bias == other->bias;
}

static bool same_tensor(const struct dtr_tensor *one, const struct dtr_tensor *other)
{
    return strcmp(one->name, other->name) == 0 && one->dims == other->dims &&
           memcmp(one->dim, other->dim, (size_t)one->dims * sizeof *one->dim) == 0 &&
           one->offset == other->offset && one->count == other->count && one->dense == other->dense;
}

/* The tutorial's network. */

START_TEST(test_layers_of_the_tutorial)
{
    static const struct dtr_layer expected[] = {
        {DTR_LAYER_CONV, "conv1", 2, {28, 28, 1}, {28, 28, 32}, 5, 5, 1, 2, 2, true, 0, 0, 1, 0},
        {DTR_LAYER_MAXPOOL, "maxpool1", 3, {28, 28, 32}, {14, 14, 32}, 2, 2, 2, 0, 0, false, 0, -1,
            -1, 1},
        {DTR_LAYER_CONV, "conv2", 4, {14, 14, 32}, {14, 14, 64}, 5, 5, 1, 2, 2, true, 0, 2, 3, 2},
        {DTR_LAYER_MAXPOOL, "maxpool2", 5, {14, 14, 64}, {7, 7, 64}, 2, 2, 2, 0, 0, false, 0, -1,
            -1, 3},
        {DTR_LAYER_DENSE, "dense1", 6, {7, 7, 64}, {1, 1, 512}, 0, 0, 0, 0, 0, true, 0, 4, 5, 4},
        {DTR_LAYER_DROPOUT, "dropout1", 7, {1, 1, 512}, {1, 1, 512}, 0, 0, 0, 0, 0, false, 0.5, -1,
            -1, 5},
        {DTR_LAYER_DENSE, "dense2", 8, {1, 1, 512}, {1, 1, 10}, 0, 0, 0, 0, 0, false, 0, 6, 7, 6},
    };
    struct dtr_model *model = tutorial();
    ck_assert(same_shape(model->input, (struct dtr_shape){28, 28, 1}));
    ck_assert_int_eq(model->classes, 10);
    ck_assert_int_eq(model->layer_count, 7);
    for (int i = 0; i < 7; i++) {
        ck_assert_msg(same_layer(&model->layers[i], &expected[i]), "layer %d", i);
        ck_assert_int_eq(model->layers[i].line, expected[i].line);
        ck_assert_int_eq(model->layers[i].number, expected[i].number);
    }
    dtr_model_free(model);
}
END_TEST

START_TEST(test_tensors_of_the_tutorial)
{
    static const struct dtr_tensor expected[] = {
        {"conv1/kernel", 4, {5, 5, 1, 32}, 0, 800, false, 0},
        {"conv1/bias", 1, {32}, 800, 32, false, 0},
        {"conv2/kernel", 4, {5, 5, 32, 64}, 832, 51200, false, 0},
        {"conv2/bias", 1, {64}, 52032, 64, false, 0.1F},
        {"dense1/kernel", 2, {3136, 512}, 52096, 1605632, true, 0},
        {"dense1/bias", 1, {512}, 1657728, 512, true, 0.1F},
        {"dense2/kernel", 2, {512, 10}, 1658240, 5120, true, 0},
        {"dense2/bias", 1, {10}, 1663360, 10, true, 0.1F},
    };
    struct dtr_model *model = tutorial();
    ck_assert_int_eq(model->parameter_count, 1663370);
    ck_assert_int_eq(model->slab_count, 1663376);
    ck_assert_int_eq(model->tensor_count, 8);
    for (int i = 0; i < 8; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        ck_assert_msg(same_tensor(tensor, &expected[i]), "tensor %d", i);
        if (tensor->dims == 1)
            ck_assert(tensor->initial_bias == expected[i].initial_bias);
    }
    dtr_model_free(model);
}
END_TEST

/* Shapes and the slab. */

/* Output and padding before the first pixel of one side, by definition. */
struct side {
    int64_t out, pad;
};

static struct side same_side(int64_t in, int64_t kernel, int64_t stride)
{
    struct side side = {0, 0};
    int64_t last = 0, padding = 0;
    for (int64_t position = 0; position < in; position += stride) {
        side.out++;
        last = position;
    }
    while (last + kernel > in + padding)
        padding++;
    side.pad = padding / 2;
    return side;
}

static struct side valid_side(int64_t in, int64_t kernel, int64_t stride)
{
    struct side side = {0, 0};
    for (int64_t position = 0; position + kernel <= in; position += stride)
        side.out++;
    return side;
}

static void check_sides(const struct dtr_layer *layer, struct side h, struct side w)
{
    if (layer->out.h != h.out || layer->out.w != w.out || layer->pad_top != h.pad ||
        layer->pad_left != w.pad)
        ck_abort_msg("%s: %lldx%lld, kernel %lldx%lld, stride %lld", layer->name,
            (long long)layer->in.h, (long long)layer->in.w, (long long)layer->kernel_h,
            (long long)layer->kernel_w, (long long)layer->stride);
}

static void check_conv(int64_t h, int64_t kernel, int64_t stride, bool valid)
{
    int64_t w = h * 7 % 17 + 3, kernel_w = kernel * 3 % 8 + 1;
    char text[200];
    snprintf(text, sizeof text, "input %d %d 2\nconv 3 %dx%d stride %d%s\ndense 4\n", (int)h,
        (int)w, (int)kernel, (int)kernel_w, (int)stride, valid ? " valid" : "");
    struct dtr_model *model = NULL;
    struct dtr_error error = DTR_ERROR_NONE;
    enum dtr_status status = dtr_model_parse(text, "net.txt", &model, &error);
    if (valid && (kernel > h || kernel_w > w)) {
        ck_assert_int_eq(status, DTR_INPUT);
        ck_assert_ptr_nonnull(strstr(error.message, "does not fit"));
        return;
    }
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    struct side (*side)(int64_t, int64_t, int64_t) = valid ? valid_side : same_side;
    check_sides(&model->layers[0], side(h, kernel, stride), side(w, kernel_w, stride));
    ck_assert_int_eq(model->layers[0].out.c, 3);
    const int64_t dim[4] = {kernel, kernel_w, 2, 3};
    ck_assert_mem_eq(model->tensors[0].dim, dim, sizeof dim);
    ck_assert_int_eq(model->tensors[2].dim[0], dtr_shape_count(model->layers[0].out));
    dtr_model_free(model);
}

START_TEST(test_conv_sizes)
{
    for (int64_t h = 1; h <= 16; h++) {
        for (int64_t kernel = 1; kernel <= 8; kernel++) {
            for (int64_t stride = 1; stride <= 5; stride++) {
                check_conv(h, kernel, stride, false);
                check_conv(h, kernel, stride, true);
            }
        }
    }
}
END_TEST

START_TEST(test_maxpool_sizes)
{
    for (int64_t h = 1; h <= 16; h++) {
        for (int64_t size = 1; size <= h; size++) {
            for (int64_t stride = 0; stride <= 5; stride++) {
                char text[200], option[20] = "";
                if (stride > 0)
                    snprintf(option, sizeof option, " stride %d", (int)stride);
                snprintf(text, sizeof text, "input %d %d 2\nmaxpool %d%s\ndense 4\n", (int)h,
                    (int)h + 3, (int)size, option);
                struct dtr_model *model = parse(text);
                int64_t step = stride > 0 ? stride : size;
                ck_assert_int_eq(model->layers[0].kernel_w, size);
                check_sides(
                    &model->layers[0], valid_side(h, size, step), valid_side(h + 3, size, step));
                ck_assert_int_eq(model->layers[0].out.c, 2);
                dtr_model_free(model);
            }
        }
    }
}
END_TEST

/* Odd counts everywhere, so that every tensor is followed by padding. */
static const char odd_text[] = "input 5 7 3\nconv 5 3x3 relu\nconv 7 2x2 relu stride 2\n"
                               "dense 9 relu\ndense 3\n";

START_TEST(test_slab_is_aligned_and_disjoint)
{
    struct dtr_model *model = parse(odd_text);
    int64_t end = 0, parameters = 0;
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        int64_t count = 1;
        for (int j = 0; j < tensor->dims; j++)
            count *= tensor->dim[j];
        ck_assert_int_eq(tensor->count, count);
        ck_assert_int_eq(tensor->offset % DTR_ALIGN_FLOATS, 0);
        ck_assert_int_ge(tensor->offset, end);
        ck_assert_int_lt(tensor->offset, end + DTR_ALIGN_FLOATS);
        end = tensor->offset + count;
        parameters += count;
    }
    ck_assert_int_eq(model->tensor_count, 8);
    ck_assert_int_eq(model->parameter_count, parameters);
    ck_assert_int_eq(model->slab_count, dtr_align_floats(end));
    dtr_model_free(model);
}
END_TEST

START_TEST(test_accepts)
{
    static const struct dtr_shape others[] = {{27, 28, 1}, {28, 27, 1}, {28, 28, 3}};
    struct dtr_model *model = tutorial();
    struct dtr_error error = DTR_ERROR_NONE;
    ck_assert_int_eq(
        dtr_model_accepts(model, "mine", (struct dtr_shape){28, 28, 1}, &error), DTR_OK);
    ck_assert_int_eq(error.status, DTR_OK);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(dtr_model_accepts(model, "mine", others[i], &error), DTR_INPUT);
    ck_assert_str_eq(error.message, "the model mine takes 28x28x1 images, the data has 28x28x3");
    dtr_model_free(model);
}
END_TEST

/* Texts that are unusual but right. */

START_TEST(test_ways_to_write_the_same)
{
    static const char *const texts[] = {
        "input 9 8 3\nconv 4 3x2 relu stride 2 valid\nmaxpool 2 stride 1\ndropout 0.25\ndense 5\n",
        "input 9 8 3\nconv 4 3x2 relu stride 2 valid\nmaxpool 2 stride 1\ndropout 0.25\ndense 5",
        "input 9 8 3\r\nconv 4 3x2 relu stride 2 valid\r\nmaxpool 2 stride 1\r\ndropout 0.25\r\n"
        "dense 5\r\n",
        "\tinput\t9\t8\t3\t\n\tconv 4\t3x2  valid stride 2 relu\n maxpool  2 stride 1 \n"
        "dropout 2.5e-1\n\n\n  dense 5\n   ",
        "# a network\n\n input 009 8 3# pixels\nconv 4 3x2 stride 2 valid relu # stride 3\n#\n"
        "maxpool 2 stride 1\n# dense 7\ndropout .25\ndense 5 #relu",
    };
    struct dtr_model *expected = parse(texts[0]);
    for (size_t i = 1; i < sizeof texts / sizeof *texts; i++) {
        struct dtr_model *model = parse(texts[i]);
        ck_assert(same_shape(model->input, expected->input));
        ck_assert_int_eq(model->classes, 5);
        ck_assert_int_eq(model->layer_count, 4);
        ck_assert_int_eq(model->tensor_count, 4);
        for (int j = 0; j < 4; j++) {
            ck_assert_msg(same_layer(&model->layers[j], &expected->layers[j]), "text %zu", i);
            ck_assert_msg(same_tensor(&model->tensors[j], &expected->tensors[j]), "text %zu", i);
        }
        ck_assert_int_eq(model->slab_count, expected->slab_count);
        dtr_model_free(model);
    }
    dtr_model_free(expected);
}
END_TEST

START_TEST(test_limits_are_allowed)
{
    static const char *const texts[] = {
        "input 1 1 1\ndense 2\n",
        "input 1 1 1\ndense 256\n",
        "input 65535 1 1\nconv 1 1x65535 stride 65535\ndense 2\n",
        "input 300 300 1\nmaxpool 255 stride 65535\ndense 2\n",
        "input 4 4 1\ndropout 0\ndropout 0.999999\ndense 2\n",
        "input 1 1 1\ndense 16777216\ndense 2\n",
        "input 2 3 1\nconv 1 9x9\ndense 2\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        dtr_model_free(parse(texts[i]));
}
END_TEST

/* As many layers as asked for, none of which changes the shape. */
static char *deep_text(int layers)
{
    char *text = calloc((size_t)layers + 2, 16);
    strcpy(text, "input 1 1 4\n");
    for (int i = 0; i < layers; i++)
        strcat(text, "dense 4\n");
    return text;
}

START_TEST(test_number_of_layers)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model;
    char *text = deep_text(200);
    model = parse(text);
    ck_assert_int_eq(model->layer_count, 200);
    ck_assert_str_eq(model->layers[199].name, "dense200");
    ck_assert_str_eq(model->tensors[399].name, "dense200/bias");
    dtr_model_free(model);
    free(text);
    text = deep_text(201);
    ck_assert_int_eq(dtr_model_parse(text, "net.txt", &model, &error), DTR_INPUT);
    ck_assert_str_eq(error.message, "net.txt, line 202: more than 200 layers");
    free(text);
}
END_TEST

/* Texts that are wrong: the line, 0 if none is named, and part of the reason. */

#define IN "input 8 8 3\n"

static const struct {
    const char *text;
    int line;
    const char *reason;
} wrong[] = {
    {"", 0, "has no layers"},
    {"# nothing\n", 0, "has no layers"},
    {IN, 0, "has no layers"},
    {"dense 10\n", 1, "the first line must be 'input HEIGHT WIDTH CHANNELS'"},
    {"\n\ndense 10\n" IN, 3, "the first line must be 'input"},
    {IN IN "dense 10\n", 2, "input is given twice"},
    {"input\n", 1, "input needs a height"},
    {"input 8\n", 1, "input needs a width"},
    {"input 8 8\n", 1, "input needs a number of channels"},
    {"input 8 8 3 4\n", 1, "unexpected '4'; takes HEIGHT WIDTH CHANNELS"},
    {"input 0 8 3\n", 1, "a height is '0', must be a whole number from 1 to 65535"},
    {"input 8 65536 3\n", 1, "a width is '65536', must be a whole number from 1 to 65535"},
    {"input 8 8 -3\n", 1, "a number of channels is '-3'"},
    {"input 8 8 +3\n", 1, "'+3'"},
    {"input 8 8 3.0\n", 1, "'3.0'"},
    {"input 8 8 0x3\n", 1, "'0x3'"},
    {"input 8 8 3,\n", 1, "'3,'"},
    {"input 8 8 18446744073709551619\n", 1, "'18446744073709551619'"},
    {IN "Conv 8 3x3\n", 2, "unknown layer 'Conv'; known are input, conv, maxpool, dense, dropout"},
    {IN "relu\n", 2, "unknown layer 'relu'"},
    {IN "convolution 8 3x3\n", 2, "unknown layer 'convolution'"},
    {"\xEF\xBB\xBF" IN, 1, "unknown layer"},
    {"# a\r\n\r\n" IN "\tbad\r\n", 4, "unknown layer 'bad'"},
    {IN "conv\n", 2, "conv needs a number of output channels"},
    {IN "conv 0 3x3\n", 2, "a number of output channels is '0'"},
    {IN "conv 16777217 1x1\n", 2, "must be a whole number from 1 to 16777216"},
    {IN "conv 3x3 8\n", 2, "a number of output channels is '3x3'"},
    {IN "conv 8\n", 2, "conv needs a kernel such as 5x5"},
    {IN "conv 8 3\n", 2, "conv: kernel is '3', must be like 5x5"},
    {IN "conv 8 3x\n", 2, "kernel is '3x'"},
    {IN "conv 8 x3\n", 2, "kernel is 'x3'"},
    {IN "conv 8 3X3\n", 2, "kernel is '3X3'"},
    {IN "conv 8 3x3x3\n", 2, "kernel is '3x3x3'"},
    {IN "conv 8 0x3\n", 2, "kernel is '0x3'"},
    {IN "conv 8 3x0\n", 2, "kernel is '3x0'"},
    {IN "conv 8 -3x3\n", 2, "kernel is '-3x3'"},
    {IN "conv 8 3x65536\n", 2, "kernel is '3x65536'"},
    {IN "conv 8 3x3 same\n", 2, "unexpected 'same'; takes OUT KHxKW [relu] [stride N] [valid]"},
    {IN "conv 8 3x3 stride\n", 2, "conv needs a stride"},
    {IN "conv 8 3x3 stride 0\n", 2, "conv: a stride is '0'"},
    {IN "conv 8 3x3 stride relu\n", 2, "a stride is 'relu'"},
    {IN "conv 8 9x3 valid\n", 2, "a valid 9x3 kernel does not fit into 8x8"},
    {IN "conv 8 3x9 valid\n", 2, "a valid 3x9 kernel does not fit into 8x8"},
    {IN "conv 8 3x3 relu valid stride 1 2 3\n", 2, "more than 8 words"},
    {IN "maxpool\n", 2, "maxpool needs a window size"},
    {IN "maxpool 0\n", 2, "a window size is '0', must be a whole number from 1 to 255"},
    {IN "maxpool 256\n", 2, "a window size is '256'"},
    {IN "maxpool 2x2\n", 2, "a window size is '2x2'"},
    {IN "maxpool 2 2\n", 2, "unexpected '2'; takes SIZE [stride N]"},
    {IN "maxpool 2 relu\n", 2, "unexpected 'relu'"},
    {IN "maxpool 2 stride\n", 2, "maxpool needs a stride"},
    {IN "maxpool 2 stride 0\n", 2, "a stride is '0'"},
    {IN "maxpool 9\n", 2, "a window of 9 does not fit into 8x8"},
    {"input 8 2 1\nmaxpool 3\n", 2, "a window of 3 does not fit into 8x2"},
    {IN "maxpool 2\nmaxpool 2\nmaxpool 2\nmaxpool 2\n", 5, "does not fit into 1x1"},
    {IN "dense\n", 2, "dense needs a number of outputs"},
    {IN "dense 0\n", 2, "a number of outputs is '0'"},
    {IN "dense ten\n", 2, "a number of outputs is 'ten'"},
    {IN "dense 10 softmax\n", 2, "unexpected 'softmax'; takes OUT [relu]"},
    {IN "dense 10 relu relu\n", 2, "unexpected 'relu'"},
    {IN "dropout\ndense 10\n", 2, "dropout needs a rate"},
    {IN "dropout 1\ndense 10\n", 2, "rate is '1', must be at least 0 and less than 1"},
    {IN "dropout -0.1\ndense 10\n", 2, "rate is '-0.1'"},
    {IN "dropout nan\ndense 10\n", 2, "rate is 'nan'"},
    {IN "dropout half\ndense 10\n", 2, "rate is 'half'"},
    {IN "dropout 50%\ndense 10\n", 2, "rate is '50%'"},
    {IN "dropout 0,5\ndense 10\n", 2, "rate is '0,5'"},
    {IN "dropout 0.5 0.5\ndense 10\n", 2, "unexpected '0.5'; takes RATE"},
    {IN "conv 8 3x3\n", 2, "the last layer must be 'dense CLASSES' without relu"},
    {IN "dense 10 relu\n", 2, "the last layer must be 'dense CLASSES' without relu"},
    {IN "dense 10\ndropout 0.5\n# end\n", 3, "the last layer must be 'dense CLASSES'"},
    {IN "dense 1\n", 2, "1 classes; labels are bytes, so 2 to 256 are possible"},
    {IN "dense 257\n", 2, "257 classes"},
    {"input 1 1 65535\ndense 16777216\n", 2, "dense1 has more than 2147483648 parameters"},
    {"input 65535 65535 65535\nconv 16777216 65535x65535\n", 2, "conv1 has more than 2147483648"},
    {"input 65535 65535 65535\ndense 16777216\n", 2, "dense1 has more than 2147483648"},
    {"input 1 1 1024\ndense 1048576\ndense 1024\n", 3,
        "the network has more than 2147483648 parameters here"},
    {"input 65535 65535 1\nconv 1 1x1\n", 2, "conv1 puts out more than 2147483648 values a sample"},
    {"input 65535 65535 1\ndropout 0.5\n", 2, "dropout1 puts out more than 2147483648"},
};

START_TEST(test_wrong_text)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model untouched, *model = &untouched; /* must become NULL */
    char expected[100] = "net.txt: ";
    if (wrong[_i].line > 0)
        snprintf(expected, sizeof expected, "net.txt, line %d: ", wrong[_i].line);
    ck_assert_int_eq(dtr_model_parse(wrong[_i].text, "net.txt", &model, &error), DTR_INPUT);
    ck_assert_int_eq(error.status, DTR_INPUT);
    ck_assert_ptr_null(model);
    ck_assert_msg(strncmp(error.message, expected, strlen(expected)) == 0, "'%s': %s",
        wrong[_i].text, error.message);
    ck_assert_msg(
        strstr(error.message, wrong[_i].reason) != NULL, "'%s': %s", wrong[_i].text, error.message);
    ck_assert_ptr_null(strchr(error.message, '\n'));
}
END_TEST

START_TEST(test_endless_word)
{
    enum { LENGTH = 100000 };
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model;
    char *text = malloc(LENGTH + 1);
    memset(text, 'x', LENGTH);
    text[LENGTH] = '\0';
    ck_assert_int_eq(dtr_model_parse(text, "net.txt", &model, &error), DTR_INPUT);
    ck_assert_ptr_nonnull(strstr(error.message, "net.txt, line 1: unknown layer 'xxx"));
    free(text);
}
END_TEST

/* Parameters. */

static float *initialized(const struct dtr_model *model, uint64_t seed)
{
    float *slab = malloc((size_t)model->slab_count * sizeof *slab);
    ck_assert_ptr_nonnull(slab);
    memset(slab, 0xFF, (size_t)model->slab_count * sizeof *slab); /* NaN */
    dtr_model_initialize(model, seed, slab);
    return slab;
}

static bool same_values(const struct dtr_tensor *tensor, const float *one, const float *other)
{
    return memcmp(one + tensor->offset, other + tensor->offset,
               (size_t)tensor->count * sizeof *one) == 0;
}

START_TEST(test_initialize_is_a_function_of_the_seed)
{
    struct dtr_model *model = tutorial();
    float *one = initialized(model, 1), *again = initialized(model, 1);
    float *two = initialized(model, 2);
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        ck_assert(same_values(tensor, one, again));
        ck_assert_int_eq(same_values(tensor, one, two), tensor->dims == 1);
    }
    free(one);
    free(again);
    free(two);
    dtr_model_free(model);
}
END_TEST

START_TEST(test_initialize_is_a_function_of_the_tensor)
{
    struct dtr_model *model = tutorial();
    struct dtr_model *other = parse("input 9 9 1\nconv 32 5x5 valid\ndense 7\n");
    float *one = initialized(model, 1), *two = initialized(other, 1);
    ck_assert(same_values(&model->tensors[0], one, two));
    free(one);
    free(two);
    dtr_model_free(model);
    dtr_model_free(other);
}
END_TEST

START_TEST(test_initial_biases)
{
    struct dtr_model *model = tutorial();
    float *slab = initialized(model, 1);
    for (int i = 1; i < model->tensor_count; i += 2) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        for (int64_t j = 0; j < tensor->count; j++)
            ck_assert(slab[tensor->offset + j] == (i == 1 ? 0 : 0.1F));
    }
    free(slab);
    dtr_model_free(model);
}
END_TEST

/* A normal distribution that is cut off at two standard deviations has a standard deviation of
 * 0.8796, and 71.5 % of it lie within one. */
START_TEST(test_initial_kernels)
{
    struct dtr_model *model = tutorial();
    float *slab = initialized(model, 66478);
    for (int i = 0; i < model->tensor_count; i += 2) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        const double deviation = 0.1 * 0.879626, count = (double)tensor->count;
        double sum = 0, squares = 0, central = 0;
        for (int64_t j = 0; j < tensor->count; j++) {
            double value = (double)slab[tensor->offset + j];
            if (!(fabs(value) <= (double)0.2F))
                ck_abort_msg("%s: %g", tensor->name, value);
            sum += value;
            squares += value * value;
            central += fabs(value) < 0.1;
        }
        ck_assert_double_eq_tol(sum / count, 0, 5 * deviation / sqrt(count));
        /* The sample's deviation itself deviates by 0.59 / sqrt(n) of it. */
        ck_assert_double_eq_tol(
            sqrt(squares / count), deviation, 5 * 0.59 * deviation / sqrt(count));
        ck_assert_double_eq_tol(central / count, 0.71523, 5 * 0.45 / sqrt(count));
    }
    free(slab);
    dtr_model_free(model);
}
END_TEST

START_TEST(test_initial_kernels_do_not_repeat)
{
    enum { LAYERS = 200, SIZE = 16 };
    struct dtr_model *model = tutorial();
    float *slab = initialized(model, 1);
    const float *kernel = slab + model->tensors[4].offset;
    for (int64_t lag = 1; lag + SIZE <= model->tensors[4].count; lag++) {
        if (memcmp(kernel, kernel + lag, SIZE * sizeof *kernel) == 0)
            ck_abort_msg("dense1/kernel repeats after %lld", (long long)lag);
    }
    free(slab);
    dtr_model_free(model);

    char *text = deep_text(LAYERS);
    model = parse(text);
    slab = initialized(model, 1);
    for (int i = 0; i < LAYERS; i++) {
        for (int j = 0; j < i; j++) {
            if (memcmp(slab + model->tensors[2 * i].offset, slab + model->tensors[2 * j].offset,
                    SIZE * sizeof *slab) == 0)
                ck_abort_msg(
                    "%s equals %s", model->tensors[2 * i].name, model->tensors[2 * j].name);
        }
    }
    free(slab);
    free(text);
    dtr_model_free(model);
}
END_TEST

START_TEST(test_padding_is_zero)
{
    struct dtr_model *model = parse(odd_text);
    float *slab = initialized(model, 1);
    float *zeros = calloc((size_t)model->slab_count, sizeof *zeros);
    for (int i = 0; i < model->tensor_count; i++)
        memset(slab + model->tensors[i].offset, 0, (size_t)model->tensors[i].count * sizeof *slab);
    ck_assert_int_gt(model->slab_count, model->parameter_count);
    ck_assert_mem_eq(slab, zeros, (size_t)model->slab_count * sizeof *slab);
    free(zeros);
    free(slab);
    dtr_model_free(model);
}
END_TEST

START_TEST(test_hash)
{
    struct dtr_model *model = parse(odd_text);
    size_t slab_bytes = (size_t)model->slab_count * sizeof(float), bytes = 0;
    float *slab = initialized(model, 1), *spoiled = malloc(slab_bytes);
    char *packed = malloc(slab_bytes);
    memset(spoiled, 0xFF, slab_bytes);
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        size_t size = (size_t)tensor->count * sizeof *slab;
        memcpy(packed + bytes, slab + tensor->offset, size);
        memcpy(spoiled + tensor->offset, slab + tensor->offset, size);
        ck_assert_uint_eq(dtr_tensor_hash(tensor, slab), XXH64(packed + bytes, size, 0));
        bytes += size;
    }
    ck_assert_uint_eq(dtr_model_hash(model, slab), XXH64(packed, bytes, 0));
    ck_assert_uint_eq(dtr_model_hash(model, spoiled), XXH64(packed, bytes, 0));
    free(packed);
    free(spoiled);
    free(slab);
    dtr_model_free(model);
}
END_TEST

START_TEST(test_hash_sees_every_parameter)
{
    struct dtr_model *model = parse(odd_text);
    float *slab = initialized(model, 1);
    uint64_t before = dtr_model_hash(model, slab);
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        uint64_t tensor_before = dtr_tensor_hash(tensor, slab);
        for (int64_t j = tensor->offset; j < tensor->offset + tensor->count; j++) {
            float value = slab[j];
            slab[j] = nextafterf(value, 1);
            ck_assert_uint_ne(dtr_model_hash(model, slab), before);
            ck_assert_uint_ne(dtr_tensor_hash(tensor, slab), tensor_before);
            slab[j] = value;
        }
    }
    ck_assert_uint_eq(dtr_model_hash(model, slab), before);
    free(slab);
    dtr_model_free(model);
}
END_TEST

/* Files. The folder is made and removed in the parent process, so that failed tests leave none. */

static char folder[256], path[300];

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_model.XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(folder) == NULL)
        abort();
    snprintf(path, sizeof path, "%s/net.txt", folder);
}

static void remove_file(void)
{
    remove(path);
}

static void remove_folder(void)
{
    remove_file();
    rmdir(folder);
}

static void write_file(const char *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, count, file), count);
    ck_assert_int_eq(fclose(file), 0);
}

static void check_refused(const char *name, const char *reason)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model untouched, *model = &untouched; /* must become NULL */
    ck_assert_int_eq(dtr_model_load(name, &model, &error), DTR_INPUT);
    ck_assert_int_eq(error.status, DTR_INPUT);
    ck_assert_ptr_null(model);
    ck_assert_msg(strstr(error.message, name) != NULL, "%s", error.message);
    ck_assert_msg(strstr(error.message, reason) != NULL, "%s", error.message);
}

static void check_loads(const char *name, const char *text)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model = NULL;
    ck_assert_msg(dtr_model_load(name, &model, &error) == DTR_OK, "%s", error.message);
    ck_assert_str_eq(model->text, text);
    dtr_model_free(model);
}

START_TEST(test_load)
{
    ck_assert_ptr_null(dtr_model_builtin("mnist"));
    ck_assert_ptr_null(dtr_model_builtin(""));
    check_loads("mnist-cnn", dtr_model_builtin("mnist-cnn"));
    write_file(odd_text, strlen(odd_text));
    check_loads(path, odd_text);
    dtr_model_free(NULL);
}
END_TEST

START_TEST(test_load_wrong_files)
{
    char below[400];
    check_refused(path, "neither a built-in model (mnist-cnn) nor a readable model file: No such");
    check_refused("mnist_cnn", "neither a built-in model (mnist-cnn) nor a readable model file");
    check_refused("", "neither a built-in model");
    check_refused(folder, "is not a model file");
    check_refused("/dev/null", "is not a model file");
    write_file("", 0);
    check_refused(path, "has no layers");
    write_file("input 8 8 3\ndense ten\n", 22);
    check_refused(path, "net.txt, line 2: dense: a number of outputs is 'ten'");
    write_file("input 8 8 3\0dense 10\n", 21);
    check_refused(path, "it is binary");
    write_file("\0", 1);
    check_refused(path, "it is binary");
    snprintf(below, sizeof below, "%s/below", path);
    check_refused(below, "Not a directory");
    remove_file();
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    check_refused(path, "is not a model file");
}
END_TEST

START_TEST(test_load_large_files)
{
    enum { LIMIT = 1 << 20 };
    const size_t count = strlen(odd_text);
    char *text = malloc(LIMIT + 2);
    memset(text, ' ', LIMIT + 1);
    text[LIMIT] = text[LIMIT + 1] = '\0';
    memcpy(text, odd_text, count);
    write_file(text, LIMIT);
    check_loads(path, text);
    text[LIMIT] = ' ';
    write_file(text, LIMIT + 1);
    check_refused(path, "is not a model file (a text of at most 1 MB)");
    free(text);
}
END_TEST

START_TEST(test_load_unreadable)
{
    if (geteuid() == 0)
        return; /* may read everything */
    write_file(odd_text, strlen(odd_text));
    ck_assert_int_eq(chmod(path, 0), 0);
    check_refused(path, "Permission denied");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("model");
    TCase *shapes = add_case(suite, "shapes");
    tcase_add_test(shapes, test_layers_of_the_tutorial);
    tcase_add_test(shapes, test_tensors_of_the_tutorial);
    tcase_add_test(shapes, test_conv_sizes);
    tcase_add_test(shapes, test_maxpool_sizes);
    tcase_add_test(shapes, test_slab_is_aligned_and_disjoint);
    tcase_add_test(shapes, test_accepts);

    TCase *text = add_case(suite, "text");
    tcase_add_test(text, test_ways_to_write_the_same);
    tcase_add_test(text, test_limits_are_allowed);
    tcase_add_test(text, test_number_of_layers);
    tcase_add_loop_test(text, test_wrong_text, 0, sizeof wrong / sizeof *wrong);
    tcase_add_test(text, test_endless_word);

    TCase *parameters = add_case(suite, "parameters");
    tcase_add_test(parameters, test_initialize_is_a_function_of_the_seed);
    tcase_add_test(parameters, test_initialize_is_a_function_of_the_tensor);
    tcase_add_test(parameters, test_initial_biases);
    tcase_add_test(parameters, test_initial_kernels);
    tcase_add_test(parameters, test_initial_kernels_do_not_repeat);
    tcase_add_test(parameters, test_padding_is_zero);
    tcase_add_test(parameters, test_hash);
    tcase_add_test(parameters, test_hash_sees_every_parameter);

    TCase *files = add_case(suite, "files");
    tcase_add_unchecked_fixture(files, make_folder, remove_folder);
    tcase_add_checked_fixture(files, remove_file, NULL);
    tcase_add_test(files, test_load);
    tcase_add_test(files, test_load_wrong_files);
    tcase_add_test(files, test_load_large_files);
    tcase_add_test(files, test_load_unreadable);
    return suite;
}
