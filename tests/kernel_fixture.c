#include "kernel_fixture.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Output size of one dimension and, through pad_out, how much of the padding comes first. */
static int64_t output_size(int64_t in, int64_t window, int64_t stride, bool same, int64_t *pad_out)
{
    *pad_out = 0;
    if (!same)
        return (in - window) / stride + 1;
    int64_t out = (in + stride - 1) / stride;
    *pad_out = larger((out - 1) * stride + window - in, 0) / 2;
    return out;
}

struct dtr_layer fixture_conv(struct dtr_shape in, int64_t out, int64_t kernel_h, int64_t kernel_w,
    int64_t stride, bool same, bool relu)
{
    struct dtr_layer layer = {.kind = DTR_LAYER_CONV,
        .name = "conv1",
        .line = 2,
        .in = in,
        .kernel_h = kernel_h,
        .kernel_w = kernel_w,
        .stride = stride,
        .relu = relu,
        .kernel = 0,
        .bias = 1};
    layer.out.h = output_size(in.h, kernel_h, stride, same, &layer.pad_top);
    layer.out.w = output_size(in.w, kernel_w, stride, same, &layer.pad_left);
    layer.out.c = out;
    return layer;
}

struct dtr_layer fixture_dense(struct dtr_shape in, int64_t out, bool relu)
{
    return (struct dtr_layer){.kind = DTR_LAYER_DENSE,
        .name = "dense1",
        .line = 2,
        .in = in,
        .out = {1, 1, out},
        .relu = relu,
        .kernel = 0,
        .bias = 1};
}

struct dtr_layer fixture_maxpool(struct dtr_shape in, int64_t window, int64_t stride)
{
    struct dtr_layer layer = fixture_conv(in, in.c, window, window, stride, false, false);
    layer.kind = DTR_LAYER_MAXPOOL;
    snprintf(layer.name, sizeof layer.name, "maxpool1");
    layer.kernel = layer.bias = -1;
    return layer;
}

struct dtr_layer fixture_dropout(struct dtr_shape in, double rate)
{
    return (struct dtr_layer){.kind = DTR_LAYER_DROPOUT,
        .name = "dropout1",
        .line = 2,
        .in = in,
        .out = in,
        .rate = rate,
        .kernel = -1,
        .bias = -1};
}

struct dtr_random fixture_random(uint64_t seed)
{
    return dtr_random_at(seed, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
}

int64_t fixture_below(struct dtr_random *random, int64_t bound)
{
    return dtr_random_below(random, (uint32_t)bound);
}

struct dtr_layer fixture_random_conv(struct dtr_random *random, int64_t channels)
{
    int64_t kernel_h = 1 + fixture_below(random, 5), kernel_w = 1 + fixture_below(random, 5);
    struct dtr_shape in = {kernel_h + fixture_below(random, 8), kernel_w + fixture_below(random, 8),
        1 + fixture_below(random, channels)};
    int64_t out = 1 + fixture_below(random, channels), stride = 1 + fixture_below(random, 3);
    bool same = fixture_below(random, 2) == 0, relu = fixture_below(random, 2) == 0;
    return fixture_conv(in, out, kernel_h, kernel_w, stride, same, relu);
}

void fixture_random_values(struct dtr_random *random, double step, int64_t count, float *values)
{
    int64_t steps = (int64_t)(1 / step);
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)((double)(fixture_below(random, 2 * steps + 1) - steps) * step);
}

/* NaN shows what is not written; malloc's exact size lets the sanitizer see what is too much. */
static float *floats_alloc(int64_t count)
{
    float *floats = malloc((size_t)larger(count, 1) * sizeof *floats);
    ck_assert_ptr_nonnull(floats);
    for (int64_t i = 0; i < count; i++)
        floats[i] = NAN;
    return floats;
}

static int64_t kernel_count(const struct dtr_layer *layer)
{
    if (layer->kind == DTR_LAYER_CONV)
        return layer->kernel_h * layer->kernel_w * layer->in.c * layer->out.c;
    if (layer->kind == DTR_LAYER_DENSE)
        return dtr_shape_count(layer->in) * layer->out.c;
    return 0;
}

void fixture_fill(struct fixture *fixture, double step, struct dtr_random *random)
{
    const struct dtr_layer *layer = &fixture->layer;
    int64_t samples = fixture->run.count * fixture->n;
    fixture->kernel_count = kernel_count(layer);
    fixture->bias_count = fixture->kernel_count > 0 ? layer->out.c : 0;
    fixture->src_count = samples * dtr_shape_count(layer->in);
    fixture->dst_count = samples * dtr_shape_count(layer->out);
    fixture->src = floats_alloc(fixture->src_count);
    fixture->diff_dst = floats_alloc(fixture->dst_count);
    fixture_random_values(random, step, fixture->src_count, fixture->src);
    fixture_random_values(random, step, fixture->dst_count, fixture->diff_dst);
    if (fixture->kernel_count == 0)
        return;
    fixture->kernel = floats_alloc(fixture->kernel_count);
    fixture->bias = floats_alloc(fixture->bias_count);
    fixture_random_values(random, step, fixture->kernel_count, fixture->kernel);
    fixture_random_values(random, step, fixture->bias_count, fixture->bias);
}

void fixture_free(struct fixture *fixture)
{
    free(fixture->kernel);
    free(fixture->bias);
    free(fixture->src);
    free(fixture->diff_dst);
}

/* All slices from or to [n, h, w, c]; every slice has its own place in both. */
static float *converted(const struct fixture *fixture, struct dtr_shape shape, const float *values,
    int64_t from, int64_t to)
{
    int64_t slices = fixture->run.count;
    int64_t from_count = dtr_layout_count(shape, from, fixture->n);
    int64_t to_count = dtr_layout_count(shape, to, fixture->n);
    float *result = floats_alloc(slices * to_count);
    for (int64_t i = 0; i < slices; i++)
        dtr_layout_convert(
            shape, fixture->n, values + i * from_count, from, result + i * to_count, to);
    return result;
}

/* The gradients of open nodes, one after another. Nothing may have been written between them. */
static float *packed(int64_t nodes, int64_t stride, int64_t count, const float *spread)
{
    float *values = floats_alloc(nodes * count);
    for (int64_t i = 0; i < (nodes - 1) * stride + count; i++) {
        if (i % stride < count)
            values[i / stride * count + i % stride] = spread[i];
        else if (!isnan(spread[i]))
            ck_abort_msg("gradient [%d], beside those of open node %d, was written", (int)i,
                (int)(i / stride));
    }
    return values;
}

static void reduce_parts(const struct fixture *fixture, struct dtr_plan *plan, const float *src,
    const float *diff_dst, struct fixture_result *result)
{
    int64_t nodes = result->open_nodes, before_last = (nodes - 1) * plan->sum_stride;
    float *diff_kernel = floats_alloc(before_last + fixture->kernel_count);
    float *diff_bias = floats_alloc(before_last + fixture->bias_count);
    for (int part = 0; part < plan->threads; part++)
        plan->kernel->reduce(plan, part, plan->threads, src, diff_dst, diff_kernel, diff_bias);
    result->diff_kernel = packed(nodes, plan->sum_stride, fixture->kernel_count, diff_kernel);
    result->diff_bias = packed(nodes, plan->sum_stride, fixture->bias_count, diff_bias);
    free(diff_kernel);
    free(diff_bias);
}

/* From src and dst as forward left them, in the plan's blocks. */
static void run_backward(const struct fixture *fixture, struct dtr_plan *plan, const float *src,
    const float *dst, struct fixture_result *result)
{
    const struct dtr_layer *layer = plan->layer;
    int64_t src_count = dtr_layout_count(layer->in, plan->src_block, plan->n);
    int64_t dst_count = dtr_layout_count(layer->out, plan->dst_block, plan->n);
    float *diff_dst = converted(
        fixture, layer->out, fixture->diff_dst, layer->out.c, plan->dst_block);
    float *diff_src = fixture->first ? NULL : floats_alloc(plan->lanes * src_count);
    for (int64_t i = 0; i < plan->lanes; i++)
        plan->kernel->backward(plan, i, src + i * src_count, dst + i * dst_count,
            diff_dst + i * dst_count, fixture->first ? NULL : diff_src + i * src_count);
    if (!fixture->first)
        result->diff_src = converted(fixture, layer->in, diff_src, plan->src_block, layer->in.c);
    if (plan->kernel->reduce != NULL)
        reduce_parts(fixture, plan, src, diff_dst, result);
    free(diff_src);
    free(diff_dst);
}

static void run_plan(
    const struct fixture *fixture, struct dtr_plan *plan, struct fixture_result *result)
{
    const struct dtr_layer *layer = plan->layer;
    int64_t src_count = dtr_layout_count(layer->in, plan->src_block, plan->n);
    int64_t dst_count = dtr_layout_count(layer->out, plan->dst_block, plan->n);
    float *src = converted(fixture, layer->in, fixture->src, layer->in.c, plan->src_block);
    float *dst = floats_alloc(plan->lanes * dst_count);
    if (plan->kernel->update != NULL)
        plan->kernel->update(plan, fixture->kernel, fixture->bias);
    for (int64_t i = 0; i < plan->lanes; i++)
        plan->kernel->forward(plan, i, src + i * src_count, dst + i * dst_count);
    result->dst = converted(fixture, layer->out, dst, plan->dst_block, layer->out.c);
    if (plan->training) {
        result->open_nodes = dtr_tree_of(plan->run).depth;
        run_backward(fixture, plan, src, dst, result);
    }
    free(src);
    free(dst);
}

void fixture_run(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct fixture_result *result_out)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_plan plan = {.kernel = kernel,
        .layer = &fixture->layer,
        .n = fixture->n,
        .run = fixture->inference ? (struct dtr_shard_run){0} : fixture->run,
        .lanes = fixture->run.count,
        .threads = (int)larger(fixture->parts, 1),
        .sum_stride = larger(fixture->kernel_count, fixture->bias_count) + 7,
        .training = !fixture->inference,
        .first = fixture->first,
        .src_block = fixture->src_block > 0 ? fixture->src_block : fixture->layer.in.c,
        .dropout = fixture->dropout};
    *result_out = (struct fixture_result){0};
    if (kernel->create(&plan, &error) != DTR_OK)
        ck_abort_msg("%s: %s", fixture_describe(fixture), error.message);
    for (int step = 0; step < larger(fixture->steps, 1); step++) {
        fixture_result_free(result_out);
        run_plan(fixture, &plan, result_out);
    }
    result_out->src_block = plan.src_block;
    result_out->dst_block = plan.dst_block;
    snprintf(result_out->detail, sizeof result_out->detail, "%s", plan.detail);
    kernel->destroy(&plan);
}

/* What one run of shards gave, one after another. */
struct terms {
    struct dtr_shard_run run;
    int64_t count; /* floats of a shard */
    const float *partials;
    float *sums; /* where the next open node's go */
};

static float node_sum(const struct terms *terms, int64_t j, int64_t first, int64_t width)
{
    if (width == 1)
        return terms->partials[(first - terms->run.first) * terms->count + j];
    float left = node_sum(terms, j, first, width / 2);
    if (first + width / 2 >= terms->run.shards)
        return left;
    return left + node_sum(terms, j, first + width / 2, width / 2);
}

/* The largest nodes that lie in the run, of the one that covers [first, first + width). */
static void add_nodes(struct terms *terms, int64_t first, int64_t width)
{
    int64_t run_end = terms->run.first + terms->run.count;
    int64_t end = smaller(first + width, terms->run.shards);
    if (first >= end || end <= terms->run.first || first >= run_end)
        return;
    if (first >= terms->run.first && end <= run_end) {
        for (int64_t j = 0; j < terms->count; j++)
            *terms->sums++ = node_sum(terms, j, first, width);
        return;
    }
    add_nodes(terms, first, width / 2);
    add_nodes(terms, first + width / 2, width / 2);
}

static float *sums_of(struct dtr_shard_run run, int64_t nodes, int64_t count, const float *partials)
{
    float *sums = floats_alloc(nodes * count);
    int64_t width = 1;
    while (width < run.shards)
        width *= 2;
    struct terms terms = {run, count, partials, sums};
    add_nodes(&terms, 0, width);
    return sums;
}

static struct fixture slice_of(const struct fixture *fixture, int64_t i)
{
    struct fixture slice = *fixture;
    slice.run = (struct dtr_shard_run){fixture->run.first + i, 1, fixture->run.shards};
    slice.src_count /= fixture->run.count;
    slice.dst_count /= fixture->run.count;
    slice.src += i * slice.src_count;
    slice.diff_dst += i * slice.dst_count;
    return slice;
}

/* values_out [i] = the slice's. */
static void keep(int64_t i, int64_t count, const float *slice, float *values_out)
{
    if (slice != NULL)
        memcpy(values_out + i * count, slice, (size_t)count * sizeof *slice);
}

void fixture_run_apart(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct fixture_result *result_out)
{
    struct dtr_shard_run run = fixture->run;
    float *kernels = floats_alloc(run.count * fixture->kernel_count);
    float *biases = floats_alloc(run.count * fixture->bias_count);
    *result_out = (struct fixture_result){.open_nodes = dtr_tree_of(run).depth,
        .dst = floats_alloc(fixture->dst_count),
        .diff_src = fixture->first ? NULL : floats_alloc(fixture->src_count)};
    for (int64_t i = 0; i < run.count; i++) {
        struct fixture slice = slice_of(fixture, i);
        struct fixture_result result;
        fixture_run(&slice, kernel, &result);
        keep(i, slice.dst_count, result.dst, result_out->dst);
        keep(i, slice.src_count, result.diff_src, result_out->diff_src);
        keep(i, slice.kernel_count, result.diff_kernel, kernels);
        keep(i, slice.bias_count, result.diff_bias, biases);
        fixture_result_free(&result);
    }
    result_out->diff_kernel = sums_of(run, result_out->open_nodes, fixture->kernel_count, kernels);
    result_out->diff_bias = sums_of(run, result_out->open_nodes, fixture->bias_count, biases);
    free(kernels);
    free(biases);
}

void fixture_result_free(struct fixture_result *result)
{
    free(result->dst);
    free(result->diff_src);
    free(result->diff_kernel);
    free(result->diff_bias);
}

double fixture_distance(int64_t count, const float *actual, const float *expected)
{
    double difference = 0, scale = 0;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(actual[i]) != isnan(expected[i]))
            return INFINITY;
        difference = fmax(difference, fabs((double)actual[i] - (double)expected[i]));
        scale = fmax(scale, fabs((double)expected[i]));
    }
    return difference == 0 ? 0 : difference / scale;
}

const char *fixture_describe(const struct fixture *fixture)
{
    static char text[200];
    const struct dtr_layer *layer = &fixture->layer;
    snprintf(text, sizeof text,
        "%s %dx%dx%d -> %dx%dx%d kernel %dx%d stride %d pad %d,%d%s n %d run %d+%d of %d",
        layer->name, (int)layer->in.h, (int)layer->in.w, (int)layer->in.c, (int)layer->out.h,
        (int)layer->out.w, (int)layer->out.c, (int)layer->kernel_h, (int)layer->kernel_w,
        (int)layer->stride, (int)layer->pad_top, (int)layer->pad_left, layer->relu ? " relu" : "",
        (int)fixture->n, (int)fixture->run.first, (int)fixture->run.count,
        (int)fixture->run.shards);
    return text;
}
