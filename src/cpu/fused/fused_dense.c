/* The table of dense layers with bias [+ ReLU] [+ dropout] (dense_math.h). */
#include "dense_math.h"
#include "fused.h"

#include "../dropout.h"
#include "dtrain/memory.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    NARROW = 32,     /* layers of fewer outputs go slice by slice in the forward pass */
    ROWS_AT_ONCE = 8 /* of the kernel's gradient: what is updated while it is in the cache */
};

struct dense {
    struct dense_shape shape;
    struct dense_slices slices;
    const float *kernel, *bias; /* the caller's */
    int64_t packed_samples;     /* of a forward pass: all slices', in inference a lane's */
    float *packed;              /* [packed_samples][in], in inference once per lane */
    int64_t scratch_bytes;      /* of a thread */
    char *scratch;              /* [threads][scratch_bytes] */

    /* Training. */
    uint8_t *keep; /* [lanes][n][out]; NULL without dropout */
    void *lists_memory;
    struct dense_lists lists;
    struct dense_group *groups;
    struct dense_run run;
    int64_t bias_stride;
    float *bias_partials; /* [lanes][bias_stride] */
    float *rows;          /* [threads][ROWS_AT_ONCE][DENSE_CHUNK] */
};

static int covers(const struct dtr_layer *layer, const struct dtr_layer *next)
{
    if (dtr_shape_count(layer->in) % VEC != 0)
        return 0;
    return next != NULL && next->kind == DTR_LAYER_DROPOUT ? 2 : 1;
}

static struct dtr_layout wants(const struct dtr_layer *layer, const struct dtr_layer *next)
{
    struct dtr_shape in = layer->in;
    (void)next;
    return (struct dtr_layout){.block = in.h * in.w > 1 && in.c % VEC == 0 ? VEC : in.c};
}

static void destroy(struct dtr_plan *plan)
{
    struct dense *dense = plan->state;
    free(dense->packed);
    free(dense->scratch);
    free(dense->keep);
    free(dense->lists_memory);
    free(dense->groups);
    free(dense->bias_partials);
    free(dense->rows);
    free(dense);
    plan->state = NULL;
}

static void *alloc(
    const struct dtr_plan *plan, int64_t count, size_t bytes, struct dtr_error *error)
{
    return dtr_alloc(count, (int64_t)bytes, plan->layer->name, error);
}

static bool prepare_backward(struct dtr_plan *plan, struct dtr_error *error)
{
    struct dense *dense = plan->state;
    const struct dense_shape *shape = &dense->shape;
    int64_t keep = shape->dropout ? plan->lanes * plan->n * shape->out : 0;
    dense->bias_stride = dtr_align_floats(shape->out);
    dense->keep = alloc(plan, keep, 1, error);
    dense->lists_memory = alloc(plan, ISA(dense_lists_bytes)(shape, dense->slices), 1, error);
    dense->groups = alloc(plan, plan->run.count, sizeof *dense->groups, error);
    dense->bias_partials = alloc(plan, plan->lanes * dense->bias_stride, sizeof(float), error);
    dense->rows = alloc(plan, plan->threads * ROWS_AT_ONCE * DENSE_CHUNK, sizeof(float), error);
    if (dense->keep == NULL || dense->lists_memory == NULL || dense->groups == NULL ||
        dense->bias_partials == NULL || dense->rows == NULL)
        return false;
    dense->lists = ISA(dense_lists_in)(shape, dense->slices, dense->lists_memory);
    dense->run = ISA(dense_run_of)(plan->run, dense->groups);
    return true;
}

static enum dtr_status create(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    plan->state = alloc(plan, 1, sizeof(struct dense), error);
    if (plan->state == NULL)
        return error->status;
    struct dense *dense = plan->state;
    plan->src = wants(layer, plan->next);
    plan->dst = (struct dtr_layout){.block = layer->out.c};
    plan->divide_forward = layer->out.c < NARROW ? DTR_BY_SLICE : DTR_TOGETHER;
    plan->divide_backward = DTR_TOGETHER;
    dense->shape = (struct dense_shape){.in = dtr_shape_count(layer->in),
        .out = layer->out.c,
        .pixels = layer->in.h * layer->in.w,
        .block = plan->src.block,
        .relu = layer->relu,
        .dropout = plan->next != NULL,
        .scale = plan->next != NULL ? (float)(1 / (1 - plan->next->rate)) : 1};
    dense->slices = (struct dense_slices){plan->lanes, plan->n};
    dense->packed_samples = plan->training ? plan->lanes * plan->n : plan->n;
    struct dense_part most = {.units = layer->out.c, .samples = dense->packed_samples};
    dense->scratch_bytes = (ISA(dense_forward_bytes)(&most) + 63) / 64 * 64;
    dense->packed = alloc(plan, plan->lanes * plan->n * dense->shape.in, sizeof(float), error);
    dense->scratch = alloc(plan, plan->threads * dense->scratch_bytes, 1, error);
    if (dense->packed == NULL || dense->scratch == NULL ||
        (plan->training && !prepare_backward(plan, error))) {
        destroy(plan);
        return error->status;
    }
    snprintf(plan->detail, sizeof plan->detail, "%s%s",
        dense->shape.dropout ? "kept units alone" : "dot products",
        plan->training && layer->relu ? ", positive ones backward" : "");
    return DTR_OK;
}

static void order(const struct dtr_plan *plan, const float *canonical, float *slab_out)
{
    const struct dense *dense = plan->state;
    ISA(dense_order)(&dense->shape, canonical, slab_out);
}

static void canonical(const struct dtr_plan *plan, const float *slab, float *canonical_out)
{
    const struct dense *dense = plan->state;
    ISA(dense_canonical)(&dense->shape, slab, canonical_out);
}

static void update(
    struct dtr_plan *plan, struct dtr_piece piece, const float *kernel, const float *bias)
{
    struct dense *dense = plan->state;
    if (piece.part > 0)
        return;
    dense->kernel = kernel;
    dense->bias = bias;
}

static uint8_t *keep_of(const struct dtr_plan *plan, int64_t slice)
{
    const struct dense *dense = plan->state;
    return dense->keep + slice * plan->n * dense->shape.out;
}

static void load(struct dtr_plan *plan, struct dtr_piece piece, const float *src)
{
    const struct dense *dense = plan->state;
    int64_t first = piece.slice * plan->n;
    float *packed = dense->packed;
    if (!plan->training) {
        packed += first * dense->shape.in;
        first = 0;
    }
    ISA(dense_load)(&dense->shape, dense->packed_samples, first, plan->n, src, packed);
    if (plan->training && dense->shape.dropout)
        dropout_keep(plan->next, &plan->dropout[piece.slice], plan->n, keep_of(plan, piece.slice));
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    const struct dense *dense = plan->state;
    const struct dense_shape *shape = &dense->shape;
    struct dense_part part = {.units = shape->out, .samples = dense->packed_samples};
    const float *packed = dense->packed;
    (void)src; /* load() has it */
    if (!plan->training) {
        packed += piece.slice * plan->n * shape->in;
    } else if (plan->divide_forward == DTR_BY_SLICE) {
        part.sample = piece.slice * plan->n;
        part.samples = plan->n;
        dst -= part.sample * shape->out;
    } else {
        int64_t end;
        dtr_piece_range(piece, shape->out, &part.unit, &end);
        part.units = end - part.unit;
    }
    ISA(dense_forward)
    (shape, dense->packed_samples, &part, packed, dense->kernel, dense->bias,
        plan->training && shape->dropout ? dense->keep : NULL,
        dense->scratch + piece.thread * dense->scratch_bytes, dst);
}

static void collect(
    struct dtr_plan *plan, struct dtr_piece piece, const float *dst, const float *diff_dst)
{
    const struct dense *dense = plan->state;
    ISA(dense_collect)
    (&dense->shape, dense->slices, piece.slice, dst,
        dense->shape.dropout ? keep_of(plan, piece.slice) : NULL, diff_dst, &dense->lists,
        dense->bias_partials + piece.slice * dense->bias_stride);
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    const struct dense *dense = plan->state;
    int64_t first, end;
    (void)src, (void)dst, (void)diff_dst; /* collect() has what counts */
    dtr_piece_range(piece, dense_blocks(dense->shape.out), &first, &end);
    ISA(dense_transpose)(&dense->shape, dense->slices, first, end - first, &dense->lists);
    dtr_piece_range(piece, dense_chunks(&dense->shape), &first, &end);
    if (diff_src != NULL)
        ISA(dense_backward)
    (&dense->shape, dense->slices, first, end - first, &dense->lists, dense->kernel, diff_src,
        plan->diff_stride);
}

/* Rows [unit, unit + units) of a chunk of the kernel's gradient. */
static void reduce_rows(const struct dtr_plan *plan, int thread, int64_t chunk, int64_t unit,
    int64_t units, const struct dtr_gradient_sink *sink)
{
    const struct dense *dense = plan->state;
    const struct dense_shape *shape = &dense->shape;
    int64_t length = dense_chunk_length(shape, chunk);
    int64_t place = sink->kernel + chunk * DENSE_CHUNK * shape->out + unit * length;
    float *rows = sink->take != NULL ? dense->rows + thread * ROWS_AT_ONCE * DENSE_CHUNK
                                     : sink->slab + place;
    ISA(dense_gradient)
    (shape, &dense->run, dense->packed_samples, chunk, unit, units, &dense->lists, dense->packed,
        rows, sink->stride);
    if (sink->take != NULL)
        sink->take(sink->context, place, units * length, rows);
}

static void reduce(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *diff_dst, const struct dtr_gradient_sink *sink)
{
    const struct dense *dense = plan->state;
    int64_t out = dense->shape.out, groups = (out + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, first, end;
    (void)src, (void)diff_dst;
    dtr_piece_range(piece, dense_chunks(&dense->shape) * groups, &first, &end);
    for (int64_t i = first; i < end; i++) {
        int64_t unit = i % groups * ROWS_AT_ONCE, left = out - unit;
        reduce_rows(
            plan, piece.thread, i / groups, unit, left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE, sink);
    }
    dtr_reduce_partials(
        plan, piece, dense->bias_partials, dense->bias_stride, out, sink, sink->bias);
}

const struct dtr_kernel ISA(fused_dense) = {.name = "fused",
    .covers = covers,
    .wants = wants,
    .create = create,
    .destroy = destroy,
    .order = order,
    .canonical = canonical,
    .update = update,
    .load = load,
    .forward = forward,
    .collect = collect,
    .backward = backward,
    .reduce = reduce};
