/* The layers, tensors and parameters of a network. */
#include "dtrain/memory.h"
#include "model_fixture.h"
#include "unit_main.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static struct dtr_model *tutorial(void)
{
    return model_parse(dtr_model_builtin("mnist-cnn"));
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
    ck_assert(model_same_shape(model->input, (struct dtr_shape){28, 28, 1}));
    ck_assert_int_eq(model->classes, 10);
    ck_assert_int_eq(model->layer_count, 7);
    for (int i = 0; i < 7; i++) {
        ck_assert_msg(model_same_layer(&model->layers[i], &expected[i]), "layer %d", i);
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
        ck_assert_msg(model_same_tensor(tensor, &expected[i]), "tensor %d", i);
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
                struct dtr_model *model = model_parse(text);
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
    struct dtr_model *model = model_parse(odd_text);
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
    struct dtr_model *other = model_parse("input 9 9 1\nconv 32 5x5 valid\ndense 7\n");
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

    char *text = model_deep_text(LAYERS);
    model = model_parse(text);
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
    struct dtr_model *model = model_parse(odd_text);
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
    struct dtr_model *model = model_parse(odd_text);
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
    struct dtr_model *model = model_parse(odd_text);
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

    TCase *parameters = add_case(suite, "parameters");
    tcase_add_test(parameters, test_initialize_is_a_function_of_the_seed);
    tcase_add_test(parameters, test_initialize_is_a_function_of_the_tensor);
    tcase_add_test(parameters, test_initial_biases);
    tcase_add_test(parameters, test_initial_kernels);
    tcase_add_test(parameters, test_initial_kernels_do_not_repeat);
    tcase_add_test(parameters, test_padding_is_zero);
    tcase_add_test(parameters, test_hash);
    tcase_add_test(parameters, test_hash_sees_every_parameter);
    return suite;
}
