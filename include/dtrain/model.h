/*
 * A network: its text, its layers with all shapes, and its parameters as named tensors in one slab.
 * Knows neither ranks nor backends. All functions are local.
 *
 * Text: one layer a line, '#' starts a comment.
 *     input H W C
 *     conv OUT KHxKW [relu] [stride N] [valid]      padding is SAME unless `valid`
 *     maxpool K [stride N]                          no padding; stride is K unless given
 *     dense OUT [relu]                              flattens [h, w, c] in that order
 *     dropout RATE                                  RATE of the units are dropped in training
 * The first line is `input`, the last layer a `dense` without relu: its outputs are the classes'
 * logits, and the loss is their softmax cross-entropy.
 */
#ifndef DTRAIN_MODEL_H
#define DTRAIN_MODEL_H

#include "dtrain/status.h"

#include <stdbool.h>
#include <stdint.h>

/* One sample's activations, [h, w, c]; [1, 1, c] after a dense layer. */
struct dtr_shape {
    int64_t h, w, c;
};

static inline int64_t dtr_shape_count(struct dtr_shape shape)
{
    return shape.h * shape.w * shape.c;
}

enum dtr_layer_kind { DTR_LAYER_CONV, DTR_LAYER_MAXPOOL, DTR_LAYER_DENSE, DTR_LAYER_DROPOUT };

struct dtr_layer {
    enum dtr_layer_kind kind;
    char name[24]; /* kind and number: "conv1", "maxpool1", "conv2", ... */
    int line;      /* in the model text, for messages */
    struct dtr_shape in, out;
    int64_t kernel_h, kernel_w, stride; /* conv, maxpool */
    int64_t pad_top, pad_left; /* conv; what lies beyond bottom and right counts as zero too */
    bool relu;                 /* conv, dense: fused into the output */
    double rate;               /* dropout: share of units dropped */
    int kernel, bias;          /* conv, dense: indices of their tensors; -1 without */
    int number;                /* place in the network, from 0; below 256 */
};

/* A view of the slab. Kernels are [kh, kw, in, out] or [in, out], biases [out]: Keras's order. */
struct dtr_tensor {
    char name[32]; /* "conv1/kernel" */
    int dims;
    int64_t dim[4];
    int64_t offset, count; /* floats, in the slab */
    bool dense;            /* of a dense layer: where weight decay applies by default */
    float initial_bias;    /* biases: the value they start with */
};

struct dtr_model {
    char *text; /* as given, for the checkpoint */
    struct dtr_shape input;
    int64_t classes;
    int layer_count, tensor_count;
    struct dtr_layer *layers;
    struct dtr_tensor *tensors;
    int64_t slab_count; /* floats, tensors aligned by DTR_ALIGN_FLOATS; padding stays zero */
    int64_t parameter_count;
};

/* `name` is a built-in network ("mnist-cnn") or a model file. DTR_INPUT with the line number and
 * the reason when it is neither or wrong. Free with dtr_model_free(). */
enum dtr_status dtr_model_load(
    const char *name, struct dtr_model **model_out, struct dtr_error *error);

/* The same from text; `where` begins the messages ("net.txt", "runs/a/ckpt-s000000100.h5"). */
enum dtr_status dtr_model_parse(
    const char *text, const char *where, struct dtr_model **model_out, struct dtr_error *error);

void dtr_model_free(struct dtr_model *model);

/* DTR_INPUT when the model, called `name`, does not take images of this shape. */
enum dtr_status dtr_model_accepts(const struct dtr_model *model, const char *name,
    struct dtr_shape shape, struct dtr_error *error);

/* Whether two networks are the same, whatever their texts look like. */
bool dtr_model_equal(const struct dtr_model *a, const struct dtr_model *b);

/* The text of a built-in network, NULL when there is none of that name. */
const char *dtr_model_builtin(const char *name);

/* Fills a slab in canonical layout: kernels truncated normal with standard deviation 0.1, the
 * first layer's bias 0 and all other biases 0.1, as the TensorFlow tutorial does. A function of the
 * seed and the tensor alone. */
void dtr_model_initialize(const struct dtr_model *model, uint64_t seed, float *slab_out);

/* XXH64 (seed 0) of all parameters in canonical order, little-endian float32, padding left out. */
uint64_t dtr_model_hash(const struct dtr_model *model, const float *slab);

/* The same of one tensor. */
uint64_t dtr_tensor_hash(const struct dtr_tensor *tensor, const float *slab);

#endif
