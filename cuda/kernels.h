/*
 * What runs on the device, as the host sees it. Every function puts its kernels on a stream and
 * returns at once: cudaSuccess, or why they could not be started. Nothing is allocated, nothing is
 * waited for, so all of them can be captured in a graph.
 *
 * Arrays are on the device, float32 unless said: activations [n, h, w, c], convolution kernels
 * [kh, kw, in, out], biases [out]. Gradients have the shape of what they are the gradient of.
 * No array is written by two functions at a time, none overlaps another unless said.
 *
 * Sums have an order that depends on shapes alone, and nothing is added by atomics: the same input
 * gives the same bits, always.
 */
#ifndef DTRAIN_CUDA_KERNELS_H
#define DTRAIN_CUDA_KERNELS_H

#include "dtrain/precision.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a step needs to know besides its samples. In the device's memory, so that a captured step
 * never changes. */
struct dtr_cuda_step {
    float weight;   /* of a sample's loss: 1 / real samples of the global batch */
    float rate;     /* learning rate */
    uint32_t epoch; /* for dropout */
};
struct dtr_cuda_batch {
    const struct dtr_cuda_step *step;
    int64_t n;              /* samples */
    const uint8_t *images;  /* [any, image_count] pixels */
    const uint8_t *labels;  /* [any] */
    const int32_t *places;  /* [n] where a sample's image and label are; -1: padding */
    const int32_t *samples; /* [n] its number in the training set, for dropout */
};

/* dst [n, image_count] = (pixel - 127.5) / 255 of the samples, 0 where padded. */
cudaError_t dtr_cuda_gather(
    const struct dtr_cuda_batch *batch, int64_t image_count, float *dst, cudaStream_t stream);

/* A convolution with its bias, and what is fused with it. Outside the source is zero. */
struct dtr_cuda_conv {
    int64_t n, h, w, in;
    int64_t kh, kw, stride, pad_top, pad_left;
    int64_t oh, ow, out; /* of the convolution itself */
    bool relu;
    bool pool; /* and a 2x2 max-pool with stride 2: the result is [n, oh / 2, ow / 2, out] */
    enum dtr_precision precision;
};

/* dst = pool(relu(conv(src) + bias)). winners, as dst in bytes: the number (2 y + x) of the first
 * largest of each window's four; NULL without pool, or where no backward pass follows. A NaN is
 * never lost: relu(NaN) and the largest of any values and a NaN are NaN. */
cudaError_t dtr_cuda_conv_forward(const struct dtr_cuda_conv *conv, const float *src,
    const float *kernel, const float *bias, float *dst, uint8_t *winners, cudaStream_t stream);

/* diff_src from diff_dst, the gradient of dst; where relu has cut off (dst <= 0) there is none. */
cudaError_t dtr_cuda_conv_backward_source(const struct dtr_cuda_conv *conv, const float *kernel,
    const float *dst, const uint8_t *winners, const float *diff_dst, float *diff_src,
    cudaStream_t stream);

/* diff_kernel and diff_bias likewise. workspace: dtr_cuda_conv_workspace() bytes, any contents. */
int64_t dtr_cuda_conv_workspace(const struct dtr_cuda_conv *conv);
cudaError_t dtr_cuda_conv_backward_parameters(const struct dtr_cuda_conv *conv, const float *src,
    const float *dst, const uint8_t *winners, const float *diff_dst, void *workspace,
    float *diff_kernel, float *diff_bias, cudaStream_t stream);

/* Max-pool k x k without padding, [n, h, w, c] to [n, (h - k) / stride + 1, ..., c]. winners, as
 * dst: y k + x of the first largest in the window (a NaN is larger than all); NULL where no
 * backward pass follows. Windows may overlap. */
struct dtr_cuda_pool {
    int64_t n, h, w, c;
    int64_t k, stride;
};
cudaError_t dtr_cuda_pool_forward(const struct dtr_cuda_pool *pool, const float *src, float *dst,
    uint16_t *winners, cudaStream_t stream);
cudaError_t dtr_cuda_pool_backward(const struct dtr_cuda_pool *pool, const uint16_t *winners,
    const float *diff_dst, float *diff_src, cudaStream_t stream);

/* What follows a dense layer's product: bias (NULL: none), relu, dropout, in this order, in place
 * on values [n, units]. Dropout keeps unit u of a sample iff word u of
 * dtr_random_at(seed, DTR_RANDOM_DROPOUT, layer, epoch, sample) is at least threshold
 * (dtrain/random.h), times scale; scale 0: there is no dropout. Padded samples become zero where
 * there is dropout. */
struct dtr_cuda_activation {
    int64_t n, units;
    bool relu;
    float scale;
    uint32_t threshold, layer;
    uint64_t seed;
};
cudaError_t dtr_cuda_activate(const struct dtr_cuda_activation *activation,
    const struct dtr_cuda_batch *batch, const float *bias, float *values, cudaStream_t stream);

/* The same backwards, in place: diff becomes the gradient before the activation, `values` are those
 * after it. The mask is computed again. Then diff_bias [units] (NULL: none): sums over samples. */
cudaError_t dtr_cuda_activate_backward(const struct dtr_cuda_activation *activation,
    const struct dtr_cuda_batch *batch, const float *values, float *diff, float *diff_bias,
    cudaStream_t stream);

/* A step's result on this device: sums over its samples, in double. */
struct dtr_cuda_result {
    double loss; /* natural log, not weighted */
    double errors;
};

/* Softmax cross-entropy of logits [n, classes] (classes <= 256), as dtr_softmax_head()
 * (dtrain/kernel.h) has it, NaN included: diff = (softmax - one-hot) weight, zero where
 * padded. Computed in double. losses: room for n results. */
cudaError_t dtr_cuda_head(const struct dtr_cuda_batch *batch, int64_t classes, const float *logits,
    struct dtr_cuda_result *losses, float *diff, struct dtr_cuda_result *result_out,
    cudaStream_t stream);

/* Adds to *errors how many of the first `count` samples have another class than their
 * label's, as dtr_count_errors(). One block. */
cudaError_t dtr_cuda_count_errors(const struct dtr_cuda_batch *batch, int64_t count,
    int64_t classes, const float *logits, int64_t *errors, cudaStream_t stream);

/* dtr_sgd_update() with the step's rate, on `count` elements, a multiple of 16; where decayed
 * [count / 16] is 0 without decay. The same bits as the CPU's. */
struct dtr_cuda_sgd {
    float mu, decay;
    const uint8_t *decayed;
};
cudaError_t dtr_cuda_update(const struct dtr_cuda_sgd *sgd, const struct dtr_cuda_step *step,
    int64_t count, const float *gradient, float *momentum, float *weights, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
