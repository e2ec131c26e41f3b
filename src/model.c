/* A model's memory, parameters and hashes; the text is parsed in model_text.c. */
#include "dtrain/model.h"

#include "dtrain/random.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void dtr_model_free(struct dtr_model *model)
{
    if (model == NULL)
        return;
    free(model->text);
    free(model->layers);
    free(model->tensors);
    free(model);
}

enum dtr_status dtr_model_accepts(const struct dtr_model *model, const char *name,
    struct dtr_shape shape, struct dtr_error *error)
{
    const struct dtr_shape *input = &model->input;
    if (input->h == shape.h && input->w == shape.w && input->c == shape.c)
        return DTR_OK;
    return dtr_error_set(error, DTR_INPUT,
        "the model %s takes %lldx%lldx%lld images, the data has %lldx%lldx%lld", name,
        (long long)input->h, (long long)input->w, (long long)input->c, (long long)shape.h,
        (long long)shape.w, (long long)shape.c);
}

/* Elements drawn from one random sequence; a tensor's blocks can be drawn in any order. */
enum { INIT_BLOCK = 4096 };

static void draw_kernel(int number, int64_t count, uint64_t seed, float *kernel_out)
{
    for (int64_t first = 0; first < count; first += INIT_BLOCK) {
        int64_t end = first + INIT_BLOCK < count ? first + INIT_BLOCK : count;
        uint64_t block = (uint64_t)number << 32 | (uint64_t)(first / INIT_BLOCK);
        struct dtr_random random = dtr_random_at(seed, DTR_RANDOM_INIT, 0, 0, block);
        for (int64_t i = first; i < end; i += DTR_RANDOM_WORDS) {
            double values[DTR_RANDOM_WORDS];
            dtr_random_truncated_normals(&random, values);
            for (int64_t j = i; j < end && j < i + DTR_RANDOM_WORDS; j++)
                kernel_out[j] = (float)(0.1 * values[j - i]);
        }
    }
}

void dtr_model_initialize(const struct dtr_model *model, uint64_t seed, float *slab_out)
{
    memset(slab_out, 0, (size_t)model->slab_count * sizeof *slab_out);
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        float *values = slab_out + tensor->offset;
        if (tensor->dims > 1) {
            draw_kernel(i, tensor->count, seed, values);
            continue;
        }
        for (int64_t j = 0; j < tensor->count; j++)
            values[j] = tensor->initial_bias;
    }
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the hash is defined over little-endian floats"
#endif

uint64_t dtr_model_hash(const struct dtr_model *model, const float *slab)
{
    XXH64_state_t state;
    XXH64_reset(&state, 0);
    for (int i = 0; i < model->tensor_count; i++) {
        const struct dtr_tensor *tensor = &model->tensors[i];
        XXH64_update(&state, slab + tensor->offset, (size_t)tensor->count * sizeof *slab);
    }
    return XXH64_digest(&state);
}

uint64_t dtr_tensor_hash(const struct dtr_tensor *tensor, const float *slab)
{
    return XXH64(slab + tensor->offset, (size_t)tensor->count * sizeof *slab, 0);
}

static bool same_shape(struct dtr_shape a, struct dtr_shape b)
{
    return a.h == b.h && a.w == b.w && a.c == b.c;
}

static bool same_layer(const struct dtr_layer *a, const struct dtr_layer *b)
{
    return a->kind == b->kind && same_shape(a->out, b->out) && a->kernel_h == b->kernel_h &&
           a->kernel_w == b->kernel_w && a->stride == b->stride && a->pad_top == b->pad_top &&
           a->pad_left == b->pad_left && a->relu == b->relu && a->rate == b->rate;
}

bool dtr_model_equal(const struct dtr_model *a, const struct dtr_model *b)
{
    bool equal = same_shape(a->input, b->input) && a->layer_count == b->layer_count;
    for (int i = 0; equal && i < a->layer_count; i++)
        equal = same_layer(&a->layers[i], &b->layers[i]);
    return equal;
}
