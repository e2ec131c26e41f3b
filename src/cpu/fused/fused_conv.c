/*
 * The table of conv + bias + ReLU [+ 2x2 max-pool of stride 2] (conv.h).
 *
 * Forward: Winograd for blocked sources, direct for thin ones. Backward: the kernel's gradient from
 * lists of the outputs that have a gradient (conv_sparse.h), the source's too where there is a
 * pool, else by Winograd.
 */
#include "conv_direct.h"
#include "conv_sparse.h"
#include "fused.h"
#include "winograd.h"
#include "winograd_thin.h"

#include "dtrain/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TILES_AT_ONCE = 64 }; /* samples are handed over together up to this */

/* How the forward pass is computed: the first two are for thin sources. */
enum method { DIRECT, WINOGRAD_THIN, WINOGRAD };

struct conv {
    struct conv_shape shape;
    enum method method;
    struct winograd forward, backward; /* backward: blocked, without a pool */
    const float *kernel, *bias;        /* the caller's */
    float *transformed;     /* the kernel, as the forward pass reads it; NULL for DIRECT */
    float *backward_kernel; /* as `backward` or conv_sparse reads it; NULL if neither does */
    uint8_t *winners;       /* [lanes][n] samples; NULL in inference, or without a pool */
    int64_t kernel_count, partial_count, partial_stride;
    float *partials;        /* [lanes][partial_stride]: gradients of kernel, then (aligned) bias */
    float *sums, *unpacked; /* of a thin kernel: [open nodes][partial_count], [kernel_count] */
    int64_t scratch_floats, masked_floats; /* of a thread */
    float *scratch;                        /* [threads][scratch_floats] */
    float *masked; /* [threads][masked_floats]: gradients of outputs, for `backward` */
    int64_t masked_samples;
    struct dtr_layout masked_layout;
};

static bool is_pool(const struct dtr_layer *layer)
{
    return layer != NULL && layer->kind == DTR_LAYER_MAXPOOL && layer->kernel_h == 2 &&
           layer->stride == 2;
}

/* Without layouts that depend on the neighbours: dst is plain. */
static struct conv_shape shape_of(const struct dtr_layer *layer, const struct dtr_layer *next)
{
    struct conv_shape shape = {.in = layer->in,
        .out = layer->out,
        .kernel_h = layer->kernel_h,
        .kernel_w = layer->kernel_w,
        .pad_top = layer->pad_top,
        .pad_left = layer->pad_left,
        .pool = is_pool(next),
        .result = is_pool(next) ? next->out : layer->out,
        .src = {.block = layer->in.c % VEC == 0 ? VEC : layer->in.c},
        .dst = {.block = VEC}};
    return shape;
}

static bool suits(const struct conv_shape *shape, bool first)
{
    if (!ISA(conv_sparse_suits)(shape))
        return false;
    if (conv_is_thin(shape))
        return first;
    return ISA(winograd_suits)(shape) && (shape->pool || ISA(winograd_suits_backward)(shape));
}

static int covers(const struct dtr_layer *layer, const struct dtr_layer *next)
{
    struct conv_shape shape = shape_of(layer, next);
    if (layer->stride != 1 || !layer->relu || layer->out.c % VEC != 0 ||
        !suits(&shape, layer->number == 0))
        return 0;
    return shape.pool ? 2 : 1;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static enum method method_of(const struct conv_shape *shape)
{
    if (!conv_is_thin(shape))
        return WINOGRAD;
    return ISA(winograd_thin_suits)(shape) ? WINOGRAD_THIN : DIRECT;
}

static struct dtr_layout wants(const struct dtr_layer *layer, const struct dtr_layer *next)
{
    struct conv_shape shape = shape_of(layer, next);
    if (conv_is_thin(&shape)) {
        struct dtr_layout layout = ISA(conv_direct_layout)(&shape);
        if (method_of(&shape) == WINOGRAD_THIN) {
            struct dtr_layout tiles = ISA(winograd_thin_layout)(&shape);
            layout.bottom = larger(layout.bottom, tiles.bottom);
            layout.right = larger(layout.right, tiles.right);
        }
        return layout;
    }
    struct dtr_layout layout = ISA(winograd_layout)(&shape);
    layout.bottom = larger(layout.bottom, shape.kernel_h - 1 - shape.pad_top);
    layout.right = larger(layout.right, shape.kernel_w - 1 - shape.pad_left);
    return layout;
}

static void destroy(struct dtr_plan *plan)
{
    struct conv *conv = plan->state;
    free(conv->transformed);
    free(conv->backward_kernel);
    free(conv->winners);
    free(conv->partials);
    free(conv->sums);
    free(conv->unpacked);
    free(conv->scratch);
    free(conv->masked);
    free(conv);
    plan->state = NULL;
}

static bool alloc(
    const struct dtr_plan *plan, int64_t floats, float **floats_out, struct dtr_error *error)
{
    *floats_out = dtr_alloc(floats, sizeof **floats_out, plan->layer->name, error);
    return *floats_out != NULL;
}

/* What only training needs. */
static bool prepare_backward(struct dtr_plan *plan, struct dtr_error *error)
{
    struct conv *conv = plan->state;
    const struct conv_shape *shape = &conv->shape;
    struct dtr_shape out = shape->result;
    int64_t threads = plan->threads, nodes = dtr_tree_of(plan->run).depth, kernel_floats = 0;
    bool thin = conv_is_thin(shape), winograd = !thin && !shape->pool && !plan->first;
    int64_t sparse_bytes = ISA(conv_sparse_scratch_bytes)(shape);
    conv->scratch_floats = larger(conv->scratch_floats, (sparse_bytes + 3) / 4);
    conv->partial_count = thin ? shape->out.c * shape->kernel_h * thin_row(shape)
                               : conv->kernel_count;
    conv->partial_stride = dtr_align_floats(conv->partial_count) + dtr_align_floats(shape->out.c);
    if (winograd) {
        int64_t tiles;
        conv->backward = ISA(winograd_backward_of)(shape);
        tiles = conv->backward.rows * conv->backward.columns;
        kernel_floats = conv->backward.transformed_floats;
        conv->scratch_floats = larger(conv->scratch_floats, conv->backward.scratch_floats);
        conv->masked_layout = ISA(winograd_backward_layout)(shape);
        conv->masked_samples = (TILES_AT_ONCE + tiles - 1) / tiles;
        conv->masked_floats = conv->masked_samples *
                              dtr_layout_sample(shape->out, conv->masked_layout);
    } else if (!thin && !plan->first) {
        kernel_floats = ISA(conv_sparse_packed_floats)(shape);
    }
    if (shape->pool) {
        conv->winners = dtr_alloc(
            plan->lanes * plan->n, dtr_shape_count(out), "max pooling", error);
        if (conv->winners == NULL)
            return false;
    }
    return alloc(plan, kernel_floats, &conv->backward_kernel, error) &&
           alloc(plan, plan->lanes * conv->partial_stride, &conv->partials, error) &&
           alloc(plan, thin ? nodes * conv->partial_count : 0, &conv->sums, error) &&
           alloc(plan, thin ? nodes * conv->kernel_count : 0, &conv->unpacked, error) &&
           alloc(plan, threads * conv->masked_floats, &conv->masked, error);
}

static enum dtr_status create(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    plan->state = dtr_alloc(1, sizeof(struct conv), layer->name, error);
    if (plan->state == NULL)
        return error->status;
    struct conv *conv = plan->state;
    conv->shape = shape_of(layer, plan->next);
    conv->shape.src = plan->src = wants(layer, plan->next);
    if (plan->dst.block == VEC)
        conv->shape.dst = plan->dst;
    plan->dst = conv->shape.dst;
    plan->divide_forward = plan->divide_backward = DTR_WITHIN_SLICE;
    conv->kernel_count = layer->kernel_h * layer->kernel_w * layer->in.c * layer->out.c;
    conv->method = method_of(&conv->shape);
    int64_t kernel_floats = 0;
    if (conv->method == WINOGRAD_THIN) {
        kernel_floats = ISA(winograd_thin_kernel_floats)(&conv->shape);
        conv->scratch_floats = ISA(winograd_thin_scratch_floats)(&conv->shape);
    } else if (conv->method == WINOGRAD) {
        conv->forward = ISA(winograd_of)(&conv->shape);
        kernel_floats = conv->forward.transformed_floats;
        conv->scratch_floats = conv->forward.scratch_floats;
    }
    bool done = alloc(plan, kernel_floats, &conv->transformed, error) &&
                (!plan->training || prepare_backward(plan, error));
    conv->scratch_floats = dtr_align_floats(conv->scratch_floats);
    if (!done || !alloc(plan, plan->threads * conv->scratch_floats, &conv->scratch, error)) {
        destroy(plan);
        return error->status;
    }
    snprintf(plan->detail, sizeof plan->detail, "%s%s",
        conv->method == DIRECT ? "direct" : "winograd",
        !plan->training           ? ""
        : conv->backward.rows > 0 ? ", winograd and sparse backward"
                                  : ", sparse backward");
    return DTR_OK;
}

/* Where element [icb][o][ky][kx][lane] of a blocked kernel is in the canonical order. */
static int64_t canonical_place(const struct dtr_layer *layer, int64_t place)
{
    int64_t lane = place % VEC, kx = place / VEC % layer->kernel_w;
    int64_t ky = place / VEC / layer->kernel_w % layer->kernel_h;
    int64_t rest = place / VEC / layer->kernel_w / layer->kernel_h;
    int64_t o = rest % layer->out.c, in = rest / layer->out.c * VEC + lane;
    return ((ky * layer->kernel_w + kx) * layer->in.c + in) * layer->out.c + o;
}

static void order(const struct dtr_plan *plan, const float *canonical, float *slab_out)
{
    const struct conv *conv = plan->state;
    bool thin = conv_is_thin(&conv->shape);
    for (int64_t i = 0; i < conv->kernel_count; i++)
        slab_out[i] = canonical[thin ? i : canonical_place(plan->layer, i)];
}

static void canonical(const struct dtr_plan *plan, const float *slab, float *canonical_out)
{
    const struct conv *conv = plan->state;
    bool thin = conv_is_thin(&conv->shape);
    for (int64_t i = 0; i < conv->kernel_count; i++)
        canonical_out[thin ? i : canonical_place(plan->layer, i)] = slab[i];
}

static void update(
    struct dtr_plan *plan, struct dtr_piece piece, const float *kernel, const float *bias)
{
    struct conv *conv = plan->state;
    if (piece.part == 0) {
        conv->kernel = kernel;
        conv->bias = bias;
    }
    if (conv->method == WINOGRAD_THIN && piece.part == 0)
        ISA(winograd_thin_pack)(&conv->shape, kernel, conv->transformed);
    if (conv->method != WINOGRAD)
        return;
    ISA(winograd_pack)(&conv->forward, piece.part, piece.parts, kernel, conv->transformed);
    if (conv->backward.rows > 0)
        ISA(winograd_pack_backward)
    (&conv->backward, piece.part, piece.parts, kernel, conv->backward_kernel);
    else if (plan->training && !plan->first)
        ISA(conv_sparse_pack)(&conv->shape, piece.part, piece.parts, kernel, conv->backward_kernel);
}

static uint8_t *winners_of(const struct dtr_plan *plan, int64_t slice)
{
    const struct conv *conv = plan->state;
    if (conv->winners == NULL)
        return NULL;
    return conv->winners + slice * plan->n * dtr_shape_count(conv->shape.result);
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    const struct conv *conv = plan->state;
    const struct conv_shape *shape = &conv->shape;
    uint8_t *winners = winners_of(plan, piece.slice);
    int64_t first, end;
    dtr_piece_range(piece, plan->n, &first, &end);
    src += first * dtr_layout_sample(shape->in, shape->src);
    dst += first * dtr_layout_sample(shape->result, shape->dst);
    if (winners != NULL)
        winners += first * dtr_shape_count(shape->result);
    float *scratch = conv->scratch + piece.thread * conv->scratch_floats;
    if (conv->method == DIRECT)
        ISA(conv_direct_forward)
    (shape, end - first, conv->kernel, conv->bias, src, dst, winners);
    else if (conv->method == WINOGRAD_THIN) ISA(winograd_thin_forward)(
        shape, end - first, conv->transformed, conv->bias, src, dst, winners, scratch);
    else ISA(winograd_forward)(
        &conv->forward, end - first, conv->transformed, conv->bias, src, dst, winners, scratch);
}

/* The gradient of one sample's outputs: zero where ReLU made the output so. */
static void mask(const struct conv *conv, const float *dst, const float *diff_dst, float *masked)
{
    struct dtr_shape out = conv->shape.out;
    struct dtr_layout from = conv->shape.dst, to = conv->masked_layout;
    int64_t from_row = dtr_layout_row(out, from), to_row = dtr_layout_row(out, to);
    for (int64_t c = 0; c < out.c; c += VEC) {
        int64_t at = dtr_layout_origin(out, from) + c / VEC * dtr_layout_plane(out, from);
        float *row = masked + dtr_layout_origin(out, to) + c / VEC * dtr_layout_plane(out, to);
        for (int64_t y = 0; y < out.h; y++, at += from_row, row += to_row) {
            for (int64_t x = 0; x < out.w * VEC; x += VEC) {
                vec value = vec_load(dst + at + x), diff = vec_load(diff_dst + at + x);
                vec_store(row + x, vec_select(value <= vec_zero(), vec_zero(), diff));
            }
        }
    }
}

/* The gradient of the source of samples [first, end) of a slice, by Winograd. */
static void backward_source(const struct dtr_plan *plan, struct dtr_piece piece, const float *dst,
    const float *diff_dst, float *diff_src)
{
    const struct conv *conv = plan->state;
    const struct conv_shape *shape = &conv->shape;
    float *masked = conv->masked + piece.thread * conv->masked_floats;
    float *scratch = conv->scratch + piece.thread * conv->scratch_floats;
    int64_t src_sample = dtr_layout_sample(shape->in, shape->src), first, end;
    int64_t dst_sample = dtr_layout_sample(shape->out, shape->dst);
    int64_t masked_sample = dtr_layout_sample(shape->out, conv->masked_layout);
    dtr_piece_range(piece, plan->n, &first, &end);
    for (; first < end; first += conv->masked_samples) {
        int64_t count = end - first < conv->masked_samples ? end - first : conv->masked_samples;
        for (int64_t i = 0; i < count; i++)
            mask(conv, dst + (first + i) * dst_sample, diff_dst + (first + i) * dst_sample,
                masked + i * masked_sample);
        ISA(winograd_backward_data)
        (&conv->backward, count, conv->backward_kernel, masked, diff_src + first * src_sample,
            scratch);
    }
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    const struct conv *conv = plan->state;
    float *partial = conv->partials + piece.slice * conv->partial_stride;
    struct conv_sparse_slice slice = {.count = plan->n,
        .src = src,
        .dst = dst,
        .diff_dst = diff_dst,
        .winners = winners_of(plan, piece.slice)};
    if (conv->backward.rows > 0)
        backward_source(plan, piece, dst, diff_dst, diff_src);
    ISA(conv_sparse_backward)
    (&conv->shape, &slice, conv->backward_kernel, piece.part, piece.parts,
        conv->scratch + piece.thread * conv->scratch_floats,
        conv->backward.rows > 0 ? NULL : diff_src, partial,
        partial + dtr_align_floats(conv->partial_count));
}

/* A thin kernel's sums [out.c][kernel_h][thin_row] to the canonical order. */
static void unpack(const struct dtr_layer *layer, int64_t row, const float *sums, float *unpacked)
{
    int64_t used = layer->kernel_w * layer->in.c;
    for (int64_t o = 0; o < layer->out.c; o++) {
        for (int64_t ky = 0; ky < layer->kernel_h; ky++, sums += row) {
            for (int64_t i = 0; i < used; i++)
                unpacked[(ky * used + i) * layer->out.c + o] = sums[i];
        }
    }
}

static void reduce_thin(
    const struct dtr_plan *plan, struct dtr_piece piece, const struct dtr_gradient_sink *sink)
{
    const struct conv *conv = plan->state;
    int64_t nodes = dtr_tree_of(plan->run).depth;
    if (piece.part > 0)
        return; /* it is a few thousand floats */
    dtr_tree_sum(plan->run, conv->partials, conv->partial_stride, 0, conv->partial_count,
        conv->sums, conv->partial_count);
    for (int64_t k = 0; k < nodes; k++)
        unpack(plan->layer, thin_row(&conv->shape), conv->sums + k * conv->partial_count,
            conv->unpacked + k * conv->kernel_count);
    dtr_sink_put(
        sink, sink->kernel, 0, conv->kernel_count, nodes, conv->unpacked, conv->kernel_count);
}

static void reduce(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *diff_dst, const struct dtr_gradient_sink *sink)
{
    (void)src;
    (void)diff_dst;
    const struct conv *conv = plan->state;
    int64_t stride = conv->partial_stride;
    if (conv_is_thin(&conv->shape))
        reduce_thin(plan, piece, sink);
    else
        dtr_reduce_partials(
            plan, piece, conv->partials, stride, conv->kernel_count, sink, sink->kernel);
    dtr_reduce_partials(plan, piece, conv->partials + dtr_align_floats(conv->partial_count), stride,
        plan->layer->out.c, sink, sink->bias);
}

const struct dtr_kernel ISA(fused_conv) = {.name = "fused",
    .covers = covers,
    .wants = wants,
    .create = create,
    .destroy = destroy,
    .order = order,
    .canonical = canonical,
    .update = update,
    .forward = forward,
    .backward = backward,
    .reduce = reduce};
