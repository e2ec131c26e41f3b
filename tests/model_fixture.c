#include "model_fixture.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

struct dtr_model *model_parse(const char *text)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model = NULL;
    enum dtr_status status = dtr_model_parse(text, "net.txt", &model, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    ck_assert_str_eq(model->text, text);
    return model;
}

char *model_deep_text(int layers)
{
    char *text = calloc((size_t)layers + 2, 16);
    strcpy(text, "input 1 1 4\n");
    for (int i = 0; i < layers; i++)
        strcat(text, "dense 4\n");
    return text;
}

bool model_same_shape(struct dtr_shape one, struct dtr_shape other)
{
    return one.h == other.h && one.w == other.w && one.c == other.c;
}

bool model_same_layer(const struct dtr_layer *one, const struct dtr_layer *other)
{
    return one->kind == other->kind && strcmp(one->name, other->name) == 0 &&
           model_same_shape(one->in, other->in) && model_same_shape(one->out, other->out) &&
           one->kernel_h == other->kernel_h && one->kernel_w == other->kernel_w &&
           one->stride == other->stride && one->pad_top == other->pad_top &&
           one->pad_left == other->pad_left && one->relu == other->relu &&
           one->rate == other->rate && one->kernel == other->kernel && one->bias == other->bias;
}

bool model_same_tensor(const struct dtr_tensor *one, const struct dtr_tensor *other)
{
    return strcmp(one->name, other->name) == 0 && one->dims == other->dims &&
           memcmp(one->dim, other->dim, (size_t)one->dims * sizeof *one->dim) == 0 &&
           one->offset == other->offset && one->count == other->count && one->dense == other->dense;
}
