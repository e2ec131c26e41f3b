/*
 * Dense layers by oneDNN's matrix multiplication, straight on the canonical kernel.
 *
 * A slice's own gradient of the kernel is as large as the kernel, too much to keep for every slice:
 * reduce() makes them, tile by tile, and adds them in tree order while they are in the cache.
 */
#include "onednn.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Floats of a tile: a stack of them fits in the second-level cache. */
enum { TILE_FLOATS = 8192 };

struct dense {
    int64_t in, out;            /* the kernel is [in, out] */
    const float *kernel, *bias; /* the caller's */
    float *transposed;          /* [lanes][in, n], see diff_source(); NULL: not used */
    int64_t bias_stride;
    float *bias_partials; /* [lanes][bias_stride] */
    int64_t tile_rows;    /* a tile is [tile_rows, out] of the kernel */
    int64_t stack_floats;
    float *stacks; /* [threads][stack_floats] */
};

/* Row-major: c [rows, columns] = a [rows, terms] x b [terms, columns]; a or b may be stored
 * transposed ('T'). a_stride and b_stride are the floats from one stored row to the next. */
static void multiply(const struct dtr_plan *plan, char transposed_a, char transposed_b,
    int64_t rows, int64_t columns, int64_t terms, const float *a, int64_t a_stride, const float *b,
    int64_t b_stride, float *c)
{
    onednn_use_one_thread();
    onednn_require(dnnl_sgemm(transposed_a, transposed_b, rows, columns, terms, 1.0F, a, a_stride,
                       b, b_stride, 0.0F, c, columns),
        plan);
}

static void destroy(struct dtr_plan *plan)
{
    struct dense *dense = plan->state;
    free(dense->transposed);
    free(dense->bias_partials);
    free(dense->stacks);
    free(dense);
    plan->state = NULL;
}

static enum dtr_status alloc_floats(int64_t count, float **floats_out, struct dtr_error *error)
{
    *floats_out = dtr_alloc(count, sizeof(float), "a dense layer's gradients", error);
    return *floats_out == NULL ? error->status : DTR_OK;
}

static enum dtr_status create(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    if (onednn_limit(plan, error) != DTR_OK)
        return error->status;
    plan->state = dtr_alloc(1, sizeof(struct dense), layer->name, error);
    if (plan->state == NULL)
        return error->status;
    struct dense *dense = plan->state;
    dense->in = dtr_shape_count(layer->in);
    dense->out = layer->out.c;
    dense->bias_stride = dtr_align_floats(dense->out);
    plan->src = (struct dtr_layout){.block = layer->in.c};
    plan->dst = (struct dtr_layout){.block = layer->out.c};
    plan->reduce_reads = true;
    snprintf(plan->detail, sizeof plan->detail, "sgemm");
    if (!plan->training)
        return DTR_OK;
    /* Tiles of the layer alone, not of the rank: the library may round by a tile's size. */
    dense->tile_rows = dense->out < TILE_FLOATS ? TILE_FLOATS / dense->out : 1;
    dense->stack_floats = dtr_tree_most_entries(plan->run) * dense->tile_rows * dense->out;
    bool transpose = !plan->first && plan->n % 8 == 0;
    if ((transpose &&
            alloc_floats(plan->lanes * dense->in * plan->n, &dense->transposed, error) != DTR_OK) ||
        alloc_floats(plan->lanes * dense->bias_stride, &dense->bias_partials, error) != DTR_OK ||
        alloc_floats(plan->threads * dense->stack_floats, &dense->stacks, error) != DTR_OK) {
        destroy(plan);
        return error->status;
    }
    return DTR_OK;
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

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    (void)piece;
    const struct dense *dense = plan->state;
    multiply(plan, 'N', 'N', plan->n, dense->out, dense->in, src, dense->in, dense->kernel,
        dense->out, dst);
    for (int64_t i = 0; i < plan->n; i++) {
        float *row = dst + i * dense->out;
        for (int64_t o = 0; o < dense->out; o++)
            row[o] += dense->bias[o];
    }
    if (plan->layer->relu)
        onednn_relu(plan->n * dense->out, dst);
}

/* diff_src [n, in]. Samples by eights fill the library's vectors: then the transpose, which reads
 * the kernel as it lies in memory, takes a fifth less time, the way back included. */
static void diff_source(
    const struct dtr_plan *plan, int64_t slice, const float *diff_dst, float *diff_src)
{
    const struct dense *dense = plan->state;
    int64_t in = dense->in, out = dense->out, n = plan->n;
    if (dense->transposed == NULL) {
        multiply(plan, 'N', 'T', n, in, out, diff_dst, out, dense->kernel, out, diff_src);
        return;
    }
    float *transposed = dense->transposed + slice * in * n;
    multiply(plan, 'N', 'T', in, n, out, dense->kernel, out, diff_dst, out, transposed);
    for (int64_t row = 0; row < in; row++) {
        for (int64_t i = 0; i < n; i++)
            diff_src[i * in + row] = transposed[row * n + i];
    }
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    (void)src;
    const struct dense *dense = plan->state;
    float *diff_bias = dense->bias_partials + piece.slice * dense->bias_stride;
    if (plan->layer->relu)
        onednn_relu_backward(plan->n * dense->out, dst, diff_dst);
    memset(diff_bias, 0, (size_t)dense->out * sizeof *diff_bias);
    for (int64_t i = 0; i < plan->n; i++) {
        for (int64_t o = 0; o < dense->out; o++)
            diff_bias[o] += diff_dst[i * dense->out + o];
    }
    if (diff_src != NULL)
        diff_source(plan, piece.slice, diff_dst, diff_src);
}

/* The gradient of rows [row, row + rows) of the kernel, open node k in entry k of the stack of
 * partial sums. Returns the number of open nodes. */
static int64_t reduce_tile(const struct dtr_plan *plan, float *stack, int64_t row, int64_t rows,
    const float *src, const float *diff_dst)
{
    const struct dense *dense = plan->state;
    int64_t in = dense->in, out = dense->out, count = rows * out;
    struct dtr_tree tree = dtr_tree_begin(plan->run.shards, plan->run.first);
    for (int64_t i = 0; i < plan->run.count; i++) {
        float *top = stack + tree.depth * count;
        multiply(plan, 'T', 'N', rows, out, plan->n, src + i * plan->n * in + row, in,
            diff_dst + i * plan->diff_stride, out, top);
        for (int merges = dtr_tree_push(&tree, plan->run.first + i + 1); merges > 0; merges--) {
            top -= count;
            for (int64_t j = 0; j < count; j++)
                top[j] += top[count + j];
        }
    }
    return tree.depth;
}

static void reduce(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *diff_dst, const struct dtr_gradient_sink *sink)
{
    const struct dense *dense = plan->state;
    float *stack = dense->stacks + piece.thread * dense->stack_floats;
    int64_t first, end;
    dtr_piece_range(piece, (dense->in + dense->tile_rows - 1) / dense->tile_rows, &first, &end);
    for (int64_t tile = first; tile < end; tile++) {
        int64_t row = tile * dense->tile_rows, left = dense->in - row;
        int64_t rows = left < dense->tile_rows ? left : dense->tile_rows;
        int64_t nodes = reduce_tile(plan, stack, row, rows, src, diff_dst);
        dtr_sink_put(sink, sink->kernel, row * dense->out, rows * dense->out, nodes, stack,
            rows * dense->out);
    }
    dtr_reduce_partials(
        plan, piece, dense->bias_partials, dense->bias_stride, dense->out, sink, sink->bias);
}

const struct dtr_kernel dtr_onednn_dense = {.name = "onednn",
    .create = create,
    .destroy = destroy,
    .update = update,
    .forward = forward,
    .backward = backward,
    .reduce = reduce};
