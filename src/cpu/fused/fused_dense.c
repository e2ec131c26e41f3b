/* The table of dense layers with bias [+ ReLU] [+ dropout] (dense_math.h). */
#include "dense_math.h"
#include "fused.h"

#include "../dropout.h"
#include "dtrain/memory.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    NARROW = 32,           /* layers of fewer outputs go slice by slice in the forward pass */
    ROWS_AT_ONCE = 64,     /* of the kernel's gradient: what is updated while it is in the cache */
    SHARED_LEAST = 1 << 16 /* elements of a kernel whose factors are worth sharing */
};

struct dense {
    struct dense_shape shape;
    struct dense_slices own, all; /* the plan's, and those that reduce() sums */
    int64_t first;                /* of all slices, the plan's own come from here on */
    const float *kernel, *bias;   /* the caller's */
    int64_t packed_samples;       /* of a forward pass: all slices', in inference a lane's */
    float *packed;                /* [packed_samples][in], in inference once per lane */
    void *memory;                 /* of the factors; NULL where they are shared */
    int64_t scratch_bytes;        /* of a thread */
    char *scratch;                /* [threads][scratch_bytes] */

    /* Training. */
    uint8_t *keep; /* [lanes][n][out]; NULL without dropout */
    struct dense_lists lists;
    struct dense_group *groups;
    struct dense_run run;
    int64_t bias_stride;
    float *bias_partials; /* [all slices][bias_stride] */
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
    free(dense->memory);
    free(dense->scratch);
    free(dense->keep);
    free(dense->groups);
    free(dense->rows);
    free(dense);
    plan->state = NULL;
}

static void *alloc(
    const struct dtr_plan *plan, int64_t count, size_t bytes, struct dtr_error *error)
{
    return dtr_alloc(count, (int64_t)bytes, plan->layer->name, error);
}

static struct dense_shape shape_of(const struct dtr_plan *plan)
{
    const struct dtr_layer *layer = plan->layer;
    return (struct dense_shape){.in = dtr_shape_count(layer->in),
        .out = layer->out.c,
        .pixels = layer->in.h * layer->in.w,
        .block = wants(layer, plan->next).block,
        .relu = layer->relu,
        .dropout = plan->next != NULL,
        .scale = plan->next != NULL ? (float)(1 / (1 - plan->next->rate)) : 1};
}

/* What reduce() reads, of all slices: inputs, lists, and each slice's gradient of the bias. */
struct factors {
    int64_t lists, biases, bytes; /* bytes before them, and of all; the inputs come first */
};

static int64_t rounded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static struct factors place_in(const struct dense_shape *shape, struct dense_slices slices)
{
    struct factors factors;
    factors.lists = rounded(slices.count * slices.n * shape->in * (int64_t)sizeof(float));
    factors.biases = factors.lists + ISA(dense_lists_bytes)(shape, slices);
    factors.bytes = factors.biases +
                    slices.count * dtr_align_floats(shape->out) * (int64_t)sizeof(float);
    return factors;
}

/* Every rank reads the factors of all samples; otherwise it would write and read gradients. */
static int64_t factor_bytes(const struct dtr_plan *plan, int64_t slices)
{
    struct dense_shape shape = shape_of(plan);
    struct dense_slices all = {slices, plan->n};
    if (shape.in * shape.out < SHARED_LEAST || all.count * all.n > 2 * shape.out)
        return 0;
    return place_in(&shape, all).bytes;
}

static bool place_factors(struct dtr_plan *plan, struct dtr_error *error)
{
    struct dense *dense = plan->state;
    struct factors place = place_in(&dense->shape, dense->all);
    char *factors = plan->factors;
    if (factors == NULL)
        factors = dense->memory = alloc(plan, plan->training ? place.bytes : place.lists, 1, error);
    if (factors == NULL)
        return false;
    dense->packed = (float *)factors;
    if (plan->training) {
        dense->lists = ISA(dense_lists_in)(&dense->shape, dense->all, factors + place.lists);
        dense->bias_stride = dtr_align_floats(dense->shape.out);
        dense->bias_partials = (float *)(factors + place.biases);
    }
    return true;
}

static bool prepare_backward(struct dtr_plan *plan, struct dtr_error *error)
{
    struct dense *dense = plan->state;
    const struct dense_shape *shape = &dense->shape;
    int64_t keep = shape->dropout ? plan->lanes * plan->n * shape->out : 0;
    dense->keep = alloc(plan, keep, 1, error);
    dense->groups = alloc(plan, plan->sum.count, sizeof *dense->groups, error);
    dense->rows = alloc(plan, plan->threads * ROWS_AT_ONCE * DENSE_CHUNK, sizeof(float), error);
    if (dense->keep == NULL || dense->groups == NULL || dense->rows == NULL)
        return false;
    dense->run = ISA(dense_run_of)(plan->sum, dense->groups);
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
    dense->shape = shape_of(plan);
    dense->own = dense->all = (struct dense_slices){plan->lanes, plan->n};
    dense->packed_samples = plan->n;
    if (plan->training) {
        dense->all.count = plan->sum.count;
        dense->first = plan->run.first - plan->sum.first;
        dense->packed_samples = plan->sum.count * plan->n;
    }
    struct dense_part most = {.units = layer->out.c, .samples = plan->lanes * plan->n};
    dense->scratch_bytes = rounded(ISA(dense_forward_bytes)(&most));
    dense->scratch = alloc(plan, plan->threads * dense->scratch_bytes, 1, error);
    if (dense->scratch == NULL || !place_factors(plan, error) ||
        (plan->training && !prepare_backward(plan, error))) {
        destroy(plan);
        return error->status;
    }
    snprintf(plan->detail, sizeof plan->detail, "%s%s%s",
        dense->shape.dropout ? "kept units alone" : "dot products",
        plan->training && layer->relu ? ", positive ones backward" : "",
        plan->factors != NULL ? ", shared factors" : "");
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
    int64_t first = (dense->first + piece.slice) * plan->n;
    float *packed = dense->packed;
    if (!plan->training) {
        packed += first * dense->shape.in;
        first = 0;
    }
    bool shared = plan->training && (plan->threads > 1 || plan->factors != NULL);
    ISA(dense_load)(&dense->shape, dense->packed_samples, first, plan->n, src, shared, packed);
    if (plan->training && dense->shape.dropout)
        dropout_keep(plan->next, &plan->dropout[piece.slice], plan->n, keep_of(plan, piece.slice));
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    const struct dense *dense = plan->state;
    const struct dense_shape *shape = &dense->shape;
    struct dense_part part = {.units = shape->out, .samples = plan->n};
    const float *packed = dense->packed;
    const uint8_t *keep = plan->training && shape->dropout ? dense->keep : NULL;
    (void)src; /* load() has it */
    if (!plan->training) {
        packed += piece.slice * plan->n * shape->in;
    } else if (plan->divide_forward == DTR_BY_SLICE) {
        part.sample = (dense->first + piece.slice) * plan->n;
        dst -= piece.slice * plan->n * shape->out;
    } else {
        int64_t end;
        dtr_piece_range(piece, shape->out, &part.unit, &end);
        part.units = end - part.unit;
        part.sample = dense->first * plan->n;
        part.samples = plan->lanes * plan->n;
    }
    int64_t before = dense->first * plan->n * shape->out; /* of others, they have no place here */
    ISA(dense_forward)
    (shape, dense->packed_samples, &part, packed, dense->kernel, dense->bias,
        keep == NULL ? NULL : keep - before, dense->scratch + piece.thread * dense->scratch_bytes,
        dst - before);
}

static void collect(
    struct dtr_plan *plan, struct dtr_piece piece, const float *dst, const float *diff_dst)
{
    const struct dense *dense = plan->state;
    ISA(dense_collect)
    (&dense->shape, dense->all, dense->first + piece.slice, dst,
        dense->shape.dropout ? keep_of(plan, piece.slice) : NULL, diff_dst, &dense->lists,
        dense->bias_partials + (dense->first + piece.slice) * dense->bias_stride);
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    const struct dense *dense = plan->state;
    int64_t first, end;
    (void)src, (void)dst, (void)diff_dst; /* collect() has what counts */
    if (diff_src == NULL)
        return;
    struct dense_lists lists = ISA(dense_lists_from)(
        &dense->shape, dense->all, dense->first, &dense->lists);
    dtr_piece_range(piece, dense_chunks(&dense->shape), &first, &end);
    ISA(dense_backward)
    (&dense->shape, dense->own, first, end - first, &lists, dense->kernel, diff_src,
        plan->diff_stride);
}

/* A few rows of a chunk of the kernel's gradient. */
struct rows {
    int64_t chunk, unit, units;
    int64_t first, count; /* elements of the kernel */
};

static struct rows rows_of(const struct dense_shape *shape, int64_t number)
{
    int64_t groups = (shape->out + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    struct rows rows = {.chunk = number / groups, .unit = number % groups * ROWS_AT_ONCE};
    int64_t left = shape->out - rows.unit, length = dense_chunk_length(shape, rows.chunk);
    rows.units = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
    rows.first = rows.chunk * DENSE_CHUNK * shape->out + rows.unit * length;
    rows.count = rows.units * length;
    return rows;
}

static void reduce_rows(
    const struct dtr_plan *plan, int thread, struct rows rows, const struct dtr_gradient_sink *sink)
{
    const struct dense *dense = plan->state;
    int64_t place = sink->kernel + rows.first;
    float *gradient = sink->take != NULL ? dense->rows + thread * ROWS_AT_ONCE * DENSE_CHUNK
                                         : sink->slab + place;
    ISA(dense_gradient)
    (&dense->shape, &dense->run, plan->n, rows.chunk, rows.unit, rows.units, &dense->lists,
        dense->packed, gradient, sink->stride);
    if (sink->take != NULL)
        sink->take(sink->context, place, rows.count, gradient);
}

/* Without rows at either end that the sink does not want, a few at a time. */
static struct rows trimmed(struct rows rows, const struct dtr_gradient_sink *sink)
{
    enum { FEW = 8 };
    int64_t few = rows.count / rows.units * FEW;
    while (rows.units > FEW && !dtr_sink_wants(sink, sink->kernel + rows.first, few)) {
        rows.unit += FEW;
        rows.units -= FEW;
        rows.first += few;
        rows.count -= few;
    }
    while (rows.units > FEW &&
           !dtr_sink_wants(sink, sink->kernel + rows.first + rows.count - few, few)) {
        rows.units -= FEW;
        rows.count -= few;
    }
    return rows;
}

/* Goes through the groups of rows that the sink wants: returns how many there are, and reduces
 * those of them that are numbered [first, end). */
static int64_t reduce_wanted(const struct dtr_plan *plan, int thread, int64_t first, int64_t end,
    const struct dtr_gradient_sink *sink)
{
    const struct dense_shape *shape = &((const struct dense *)plan->state)->shape;
    int64_t groups = dense_chunks(shape) * ((shape->out + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
    int64_t wanted = 0;
    for (int64_t i = 0; i < groups; i++) {
        struct rows rows = rows_of(shape, i);
        if (!dtr_sink_wants(sink, sink->kernel + rows.first, rows.count))
            continue;
        if (wanted >= first && wanted < end)
            reduce_rows(plan, thread, trimmed(rows, sink), sink);
        wanted++;
    }
    return wanted;
}

static void reduce(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *diff_dst, const struct dtr_gradient_sink *sink)
{
    const struct dense *dense = plan->state;
    int64_t first, end;
    (void)src, (void)diff_dst;
    int64_t wanted = piece.parts == 1 ? INT64_MAX : reduce_wanted(plan, piece.thread, 0, 0, sink);
    dtr_piece_range(piece, wanted, &first, &end);
    reduce_wanted(plan, piece.thread, first, end, sink);
    dtr_reduce_partials(
        plan, piece, dense->bias_partials, dense->bias_stride, dense->shape.out, sink, sink->bias);
}

const struct dtr_kernel ISA(fused_dense) = {.name = "fused",
    .covers = covers,
    .wants = wants,
    .factor_bytes = factor_bytes,
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
