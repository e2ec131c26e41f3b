/*
 * A model on the device, for n samples at a time: its layers as stages, with all memory that they
 * need. A stage is a layer, or two that are computed as one: a convolution and the 2x2 max-pool
 * behind it, a dense layer and the dropout behind it. What is called here puts work on the stream
 * and returns; nothing is waited for.
 */
#ifndef DTRAIN_CUDA_NETWORK_H
#define DTRAIN_CUDA_NETWORK_H

#include "dense.h"
#include "device_memory.h"
#include "dtrain/model.h"
#include "kernels.h"

#include <stdbool.h>

struct dtr_cuda_stage {
    const struct dtr_layer *layer, *fused; /* NULL: nothing is */
    int64_t in, out;                       /* floats of a sample */
    struct dtr_cuda_conv conv;
    struct dtr_cuda_pool pool;
    struct dtr_cuda_dense dense;
    struct dtr_cuda_activation activation; /* dense, dropout */
    float *values, *diff;                  /* [n, out]; diff is the gradient of values */
    void *winners;                         /* as values: uint8 of conv, uint16 of pool */
};

struct dtr_cuda_network_config {
    const struct dtr_model *model; /* must outlive the network */
    int64_t n;
    bool training;
    uint64_t seed; /* of dropout */
    enum dtr_precision precision;
    cudaStream_t stream;
    cublasHandle_t blas; /* on that stream */
    float *weights;      /* the model's slab, canonical */
    float *gradients;    /* another; training */
};

struct dtr_cuda_network {
    struct dtr_cuda_network_config config;
    struct dtr_cuda_batch batch; /* set by the owner */
    int count;
    struct dtr_cuda_stage *stages;
    float *source;                           /* [n, input] */
    void *workspace;                         /* of convolutions' gradients */
    struct dtr_cuda_result *losses, *result; /* [n], their sum */
};

/* Memory is `memory`'s. */
enum dtr_status dtr_cuda_network_compile(const struct dtr_cuda_network_config *config,
    struct dtr_cuda_memory *memory, struct dtr_cuda_network *network_out, struct dtr_error *error);
void dtr_cuda_network_free(struct dtr_cuda_network *network);

/* The batch's logits: the last stage's values. */
enum dtr_status dtr_cuda_network_forward(
    const struct dtr_cuda_network *network, struct dtr_error *error);
const float *dtr_cuda_network_logits(const struct dtr_cuda_network *network);

/* Losses, and the gradient of the logits. */
enum dtr_status dtr_cuda_network_loss(
    const struct dtr_cuda_network *network, struct dtr_error *error);

/* One stage backwards, the last one first: the gradients of its parameters, and of what is below
 * it. */
enum dtr_status dtr_cuda_network_backward(
    const struct dtr_cuda_network *network, int stage, struct dtr_error *error);

#endif
