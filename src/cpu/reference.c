/*
 * Convolution and dense layers in plain loops over [n, h, w, c]: the truth that faster kernels are
 * tested against. A dense layer is a convolution whose window is the whole input.
 *
 * Sums are in float. An output adds its terms to the bias in the order of the kernel's rows (ky,
 * kx, input channel); an input's gradient is summed over output channels first, then over the
 * outputs that it reaches, in their order; a kernel's over samples and positions in their order.
 */
#include "dtrain/kernel.h"
#include "dtrain/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct window {
    int64_t h, w, stride, pad_top, pad_left;
};

struct reference {
    struct window window;
    int64_t kernel_count, bias_count;
    int64_t stride;             /* floats from one slice's partial gradients to the next's */
    float *partials;            /* [lanes][stride]: kernel, then bias; NULL in inference */
    const float *kernel, *bias; /* the caller's */
};

static void destroy(struct dtr_plan *plan)
{
    struct reference *reference = plan->state;
    if (reference == NULL)
        return;
    free(reference->partials);
    free(reference);
    plan->state = NULL;
}

static enum dtr_status create(struct dtr_plan *plan, struct window window, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    plan->state = dtr_alloc(1, sizeof(struct reference), layer->name, error);
    if (plan->state == NULL)
        return error->status;
    struct reference *reference = plan->state;
    reference->window = window;
    reference->kernel_count = window.h * window.w * layer->in.c * layer->out.c;
    reference->bias_count = layer->out.c;
    reference->stride = dtr_align_floats(reference->kernel_count + reference->bias_count);
    plan->src = (struct dtr_layout){.block = layer->in.c};
    plan->dst = (struct dtr_layout){.block = layer->out.c};
    snprintf(plan->detail, sizeof plan->detail, "plain C");
    if (!plan->training)
        return DTR_OK;
    reference->partials = dtr_alloc(
        plan->lanes * reference->stride, sizeof(float), "a layer's partial gradients", error);
    if (reference->partials != NULL)
        return DTR_OK;
    destroy(plan);
    return error->status;
}

static enum dtr_status create_conv(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    struct window window = {
        layer->kernel_h, layer->kernel_w, layer->stride, layer->pad_top, layer->pad_left};
    return create(plan, window, error);
}

static enum dtr_status create_dense(struct dtr_plan *plan, struct dtr_error *error)
{
    struct window window = {.h = plan->layer->in.h, .w = plan->layer->in.w, .stride = 1};
    return create(plan, window, error);
}

static void update(
    struct dtr_plan *plan, struct dtr_piece piece, const float *kernel, const float *bias)
{
    struct reference *reference = plan->state;
    if (piece.part > 0)
        return;
    reference->kernel = kernel;
    reference->bias = bias;
}

/* Where in a sample the input under tap (ky, kx) of output (y, x) is; -1 in the padding. */
static int64_t input_offset(
    const struct dtr_plan *plan, int64_t y, int64_t x, int64_t ky, int64_t kx)
{
    const struct reference *reference = plan->state;
    struct dtr_shape in = plan->layer->in;
    int64_t in_y = y * reference->window.stride + ky - reference->window.pad_top;
    int64_t in_x = x * reference->window.stride + kx - reference->window.pad_left;
    if (in_y < 0 || in_y >= in.h || in_x < 0 || in_x >= in.w)
        return -1;
    return (in_y * in.w + in_x) * in.c;
}

/* All channels of output (y, x). src is the sample, dst that output. */
static void forward_output(
    const struct dtr_plan *plan, int64_t y, int64_t x, const float *src, float *dst)
{
    const struct reference *reference = plan->state;
    int64_t in = plan->layer->in.c, out = plan->layer->out.c;
    const float *row = reference->kernel; /* [out] */
    memcpy(dst, reference->bias, (size_t)out * sizeof *dst);
    for (int64_t ky = 0; ky < reference->window.h; ky++) {
        for (int64_t kx = 0; kx < reference->window.w; kx++, row += in * out) {
            int64_t offset = input_offset(plan, y, x, ky, kx);
            for (int64_t c = 0; c < in && offset >= 0; c++) {
                for (int64_t o = 0; o < out; o++)
                    dst[o] += src[offset + c] * row[c * out + o];
            }
        }
    }
    for (int64_t o = 0; o < out && plan->layer->relu; o++)
        dst[o] = dst[o] < 0 ? 0 : dst[o]; /* NaN stays */
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    (void)piece;
    struct dtr_shape out = plan->layer->out;
    int64_t in_count = dtr_shape_count(plan->layer->in);
    for (int64_t i = 0; i < plan->n; i++) {
        for (int64_t y = 0; y < out.h; y++) {
            for (int64_t x = 0; x < out.w; x++, dst += out.c)
                forward_output(plan, y, x, src + i * in_count, dst);
        }
    }
}

/* The transpose of forward_output(): adds to the sample's diff_src and to the slice's partials. */
static void backward_output(const struct dtr_plan *plan, int64_t y, int64_t x, const float *src,
    const float *diff_dst, float *diff_src, float *partial)
{
    const struct reference *reference = plan->state;
    int64_t in = plan->layer->in.c, out = plan->layer->out.c;
    const float *row = reference->kernel;
    float *diff_row = partial;
    for (int64_t ky = 0; ky < reference->window.h; ky++) {
        for (int64_t kx = 0; kx < reference->window.w;
             kx++, row += in * out, diff_row += in * out) {
            int64_t offset = input_offset(plan, y, x, ky, kx);
            for (int64_t c = 0; c < in && offset >= 0; c++) {
                float sum = 0;
                for (int64_t o = 0; o < out; o++) {
                    sum += row[c * out + o] * diff_dst[o];
                    diff_row[c * out + o] += src[offset + c] * diff_dst[o];
                }
                if (diff_src != NULL)
                    diff_src[offset + c] += sum;
            }
        }
    }
    for (int64_t o = 0; o < out; o++)
        diff_row[o] += diff_dst[o]; /* the bias, behind the kernel's last row */
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    const struct reference *reference = plan->state;
    struct dtr_shape out = plan->layer->out;
    int64_t in_count = dtr_shape_count(plan->layer->in);
    float *partial = reference->partials + piece.slice * reference->stride;
    memset(partial, 0, (size_t)reference->stride * sizeof *partial);
    if (diff_src != NULL)
        memset(diff_src, 0, (size_t)(plan->n * in_count) * sizeof *diff_src);
    for (int64_t j = 0; j < plan->n * dtr_shape_count(out) && plan->layer->relu; j++)
        diff_dst[j] = dst[j] > 0 ? diff_dst[j] : 0;
    for (int64_t i = 0; i < plan->n; i++) {
        for (int64_t y = 0; y < out.h; y++) {
            for (int64_t x = 0; x < out.w; x++, diff_dst += out.c)
                backward_output(plan, y, x, src + i * in_count, diff_dst,
                    diff_src == NULL ? NULL : diff_src + i * in_count, partial);
        }
    }
}

static void reduce(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *diff_dst, const struct dtr_gradient_sink *sink)
{
    (void)src;
    (void)diff_dst;
    const struct reference *reference = plan->state;
    dtr_reduce_partials(plan, piece, reference->partials, reference->stride,
        reference->kernel_count, sink, sink->kernel);
    dtr_reduce_partials(plan, piece, reference->partials + reference->kernel_count,
        reference->stride, reference->bias_count, sink, sink->bias);
}

const struct dtr_kernel dtr_reference_conv = {.name = "reference",
    .create = create_conv,
    .destroy = destroy,
    .update = update,
    .forward = forward,
    .backward = backward,
    .reduce = reduce};

const struct dtr_kernel dtr_reference_dense = {.name = "reference",
    .create = create_dense,
    .destroy = destroy,
    .update = update,
    .forward = forward,
    .backward = backward,
    .reduce = reduce};
