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

static struct dtr_shape result_shape(const struct fixture *fixture)
{
    return fixture->next != NULL ? fixture->next->out : fixture->layer.out;
}

void fixture_fill(struct fixture *fixture, double step, struct dtr_random *random)
{
    const struct dtr_layer *layer = &fixture->layer;
    int64_t samples = fixture->run.count * fixture->n;
    fixture->kernel_count = kernel_count(layer);
    fixture->bias_count = fixture->kernel_count > 0 ? layer->out.c : 0;
    fixture->src_count = samples * dtr_shape_count(layer->in);
    fixture->dst_count = samples * dtr_shape_count(result_shape(fixture));
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

/* [samples] in a layout, from plain [samples, h, w, c]. */
static float *laid_out(
    struct dtr_shape shape, struct dtr_layout layout, int64_t samples, const float *plain)
{
    float *values = floats_alloc(samples * dtr_layout_sample(shape, layout));
    dtr_layout_convert(
        shape, samples, plain, (struct dtr_layout){.block = shape.c}, values, layout);
    return values;
}

static float *plain(
    struct dtr_shape shape, struct dtr_layout layout, int64_t samples, const float *values)
{
    float *result = floats_alloc(samples * dtr_shape_count(shape));
    dtr_layout_convert(
        shape, samples, values, layout, result, (struct dtr_layout){.block = shape.c});
    return result;
}

/* Whether pixel `i` of a plane, its border included, belongs to the image. */
static bool is_inside(struct dtr_shape shape, struct dtr_layout layout, int64_t i)
{
    int64_t row = layout.left + shape.w + layout.right;
    int64_t y = i / row - layout.top, x = i % row - layout.left;
    return y >= 0 && y < shape.h && x >= 0 && x < shape.w;
}

/* Sets the border around all images to zero, or checks that it still is. */
static void visit_borders(
    struct dtr_shape shape, struct dtr_layout layout, int64_t samples, float *values, bool check)
{
    int64_t pixels = dtr_layout_plane(shape, layout) / layout.block;
    int64_t planes = samples * dtr_layout_sample(shape, layout) / dtr_layout_plane(shape, layout);
    for (int64_t i = 0; i < planes * pixels; i++) {
        for (int64_t c = 0; c < layout.block && !is_inside(shape, layout, i % pixels); c++) {
            float *value = &values[i * layout.block + c];
            if (check && *value != 0)
                ck_abort_msg("pixel %d beside an image was written", (int)(i % pixels));
            *value = 0;
        }
    }
}

/* A plan at work, and the buffers of all slices. */
struct bench {
    const struct fixture *fixture;
    struct dtr_plan plan;
    struct dtr_threads *threads;
    enum dtr_division division;   /* of the pass that runs */
    int64_t src_count, dst_count; /* floats of a slice */
    float *kernel, *src, *dst, *diff_dst, *diff_src;
    struct dtr_gradient_sink sink;
    float *slab; /* the gradients of kernel and bias, once for each open node */
    int64_t slab_count;
};

typedef void piece_work(struct bench *bench, struct dtr_piece piece);

struct pass {
    struct bench *bench;
    piece_work *work;
    bool together;
    int parts;
};

static void run_piece(void *context, int64_t item, int thread)
{
    const struct pass *pass = context;
    int64_t slice = pass->together ? 0 : item / pass->parts;
    pass->work(
        pass->bench, (struct dtr_piece){slice, (int)(item % pass->parts), pass->parts, thread});
}

/* All pieces of a pass, on as many threads as the plan has. */
static void run_pieces(struct bench *bench, enum dtr_division division, piece_work *work)
{
    const struct dtr_plan *plan = &bench->plan;
    struct pass pass = {bench, work, .together = plan->training && division == DTR_TOGETHER};
    bool divided = plan->training && division != DTR_BY_SLICE;
    pass.parts = divided ? plan->threads : 1;
    dtr_threads_run(
        bench->threads, pass.together ? pass.parts : plan->lanes * pass.parts, run_piece, &pass);
}

static void update_piece(struct bench *bench, struct dtr_piece piece)
{
    bench->plan.kernel->update(&bench->plan, piece, bench->kernel, bench->fixture->bias);
}

static void load_piece(struct bench *bench, struct dtr_piece piece)
{
    bench->plan.kernel->load(&bench->plan, piece, bench->src + piece.slice * bench->src_count);
}

static void forward_piece(struct bench *bench, struct dtr_piece piece)
{
    bench->plan.kernel->forward(&bench->plan, piece, bench->src + piece.slice * bench->src_count,
        bench->dst + piece.slice * bench->dst_count);
}

static void collect_piece(struct bench *bench, struct dtr_piece piece)
{
    bench->plan.kernel->collect(&bench->plan, piece, bench->dst + piece.slice * bench->dst_count,
        bench->diff_dst + piece.slice * bench->plan.diff_stride);
}

static void backward_piece(struct bench *bench, struct dtr_piece piece)
{
    int64_t diff = piece.slice * bench->plan.diff_stride;
    bench->plan.kernel->backward(&bench->plan, piece, bench->src + piece.slice * bench->src_count,
        bench->dst + piece.slice * bench->dst_count, bench->diff_dst + diff,
        bench->plan.first ? NULL : bench->diff_src + diff);
}

static void reduce_piece(struct bench *bench, struct dtr_piece piece)
{
    bench->plan.kernel->reduce(&bench->plan, piece, bench->src, bench->diff_dst, &bench->sink);
}

static void take(void *context, int64_t first, int64_t count, const float *gradient)
{
    const struct bench *bench = context;
    ck_assert(first >= 0 && count > 0 && first + count <= bench->slab_count);
    for (int64_t i = first; i < first + count; i++) {
        if (!isnan(bench->slab[i])) /* ck_assert() writes to a file each time */
            ck_abort_msg("gradient %d was given twice", (int)i);
    }
    memcpy(bench->slab + first, gradient, (size_t)count * sizeof *gradient);
}

/* Nothing may have been written beside the gradients of kernel and bias. */
static void check_gaps(const struct bench *bench)
{
    for (int64_t i = 0; i < bench->slab_count; i++) {
        int64_t place = i % bench->sink.stride;
        bool inside = place < bench->fixture->kernel_count ||
                      (place >= bench->sink.bias &&
                          place < bench->sink.bias + bench->fixture->bias_count);
        if (!inside && !isnan(bench->slab[i]))
            ck_abort_msg("%d of a slab, beside the gradients of open node %d, was written",
                (int)place, (int)(i / bench->sink.stride));
    }
}

/* `count` floats at `place` of every open node, one after another. */
static float *packed(const struct bench *bench, int64_t nodes, int64_t place, int64_t count)
{
    float *values = floats_alloc(nodes * count);
    for (int64_t k = 0; k < nodes; k++)
        memcpy(values + k * count, bench->slab + k * bench->sink.stride + place,
            (size_t)count * sizeof *values);
    return values;
}

static float *canonical(const struct bench *bench, int64_t nodes, float *ordered)
{
    int64_t count = bench->fixture->kernel_count;
    if (bench->plan.kernel->canonical == NULL)
        return ordered;
    float *values = floats_alloc(nodes * count);
    for (int64_t k = 0; k < nodes; k++)
        bench->plan.kernel->canonical(&bench->plan, ordered + k * count, values + k * count);
    free(ordered);
    return values;
}

static void run_reduce(struct bench *bench, struct fixture_result *result)
{
    const struct fixture *fixture = bench->fixture;
    int64_t nodes = result->open_nodes, bias = fixture->kernel_count + 5;
    bench->sink = (struct dtr_gradient_sink){
        .stride = bias + fixture->bias_count + 7, .bias = bias, .context = bench};
    bench->slab_count = (nodes - 1) * bench->sink.stride + bias + fixture->bias_count;
    bench->slab = floats_alloc(bench->slab_count);
    if (fixture->take)
        bench->sink.take = take;
    else
        bench->sink.slab = bench->slab;
    run_pieces(bench, DTR_TOGETHER, reduce_piece);
    check_gaps(bench);
    result->diff_kernel = canonical(bench, nodes, packed(bench, nodes, 0, fixture->kernel_count));
    result->diff_bias = packed(bench, nodes, bias, fixture->bias_count);
    free(bench->slab);
}

/* From src and dst as forward left them, in the plan's layouts. */
static void run_backward(struct bench *bench, struct fixture_result *result)
{
    const struct fixture *fixture = bench->fixture;
    struct dtr_plan *plan = &bench->plan;
    struct dtr_shape in = plan->layer->in, out = dtr_plan_out(plan);
    plan->diff_stride = larger(bench->src_count, bench->dst_count);
    bench->diff_dst = floats_alloc(plan->lanes * plan->diff_stride);
    bench->diff_src = floats_alloc(plan->lanes * plan->diff_stride);
    for (int64_t i = 0; i < plan->lanes; i++)
        dtr_layout_convert(out, plan->n, fixture->diff_dst + i * plan->n * dtr_shape_count(out),
            (struct dtr_layout){.block = out.c}, bench->diff_dst + i * plan->diff_stride,
            plan->dst);
    if (plan->kernel->collect != NULL)
        run_pieces(bench, DTR_BY_SLICE, collect_piece);
    run_pieces(bench, plan->divide_backward, backward_piece);
    result->diff_src = plan->first ? NULL : floats_alloc(fixture->src_count);
    for (int64_t i = 0; i < plan->lanes && !plan->first; i++)
        dtr_layout_convert(in, plan->n, bench->diff_src + i * plan->diff_stride, plan->src,
            result->diff_src + i * plan->n * dtr_shape_count(in),
            (struct dtr_layout){.block = in.c});
    if (plan->kernel->reduce != NULL)
        run_reduce(bench, result);
    free(bench->diff_src);
    free(bench->diff_dst);
}

static void run_update(struct bench *bench)
{
    const struct fixture *fixture = bench->fixture;
    const struct dtr_kernel *kernel = bench->plan.kernel;
    if (fixture->kernel_count == 0)
        return;
    memcpy(bench->kernel, fixture->kernel, (size_t)fixture->kernel_count * sizeof(float));
    if (kernel->order != NULL)
        kernel->order(&bench->plan, fixture->kernel, bench->kernel);
    struct pass all = {bench, update_piece, .together = true, .parts = bench->plan.threads};
    dtr_threads_run(bench->threads, all.parts, run_piece, &all);
}

static void run_plan(struct bench *bench, struct fixture_result *result)
{
    const struct fixture *fixture = bench->fixture;
    const struct dtr_plan *plan = &bench->plan;
    struct dtr_shape in = plan->layer->in, out = dtr_plan_out(plan);
    int64_t samples = plan->lanes * plan->n;
    bench->src_count = plan->n * dtr_layout_sample(in, plan->src);
    bench->dst_count = plan->n * dtr_layout_sample(out, plan->dst);
    bench->kernel = floats_alloc(fixture->kernel_count);
    bench->src = laid_out(in, plan->src, samples, fixture->src);
    bench->dst = floats_alloc(plan->lanes * bench->dst_count);
    visit_borders(in, plan->src, samples, bench->src, false);
    visit_borders(out, plan->dst, samples, bench->dst, false);
    run_update(bench);
    if (plan->kernel->load != NULL)
        run_pieces(bench, DTR_BY_SLICE, load_piece);
    run_pieces(bench, plan->divide_forward, forward_piece);
    visit_borders(out, plan->dst, samples, bench->dst, true);
    result->dst = plain(out, plan->dst, samples, bench->dst);
    if (plan->training) {
        result->open_nodes = dtr_tree_of(plan->run).depth;
        run_backward(bench, result);
    }
    free(bench->src);
    free(bench->dst);
    free(bench->kernel);
}

void fixture_run(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct fixture_result *result_out)
{
    struct dtr_error error = DTR_ERROR_NONE;
    int64_t block = fixture->src_block > 0 ? fixture->src_block : fixture->layer.in.c;
    struct bench bench = {.fixture = fixture,
        .plan = {.kernel = kernel,
            .layer = &fixture->layer,
            .next = fixture->next,
            .n = fixture->n,
            .run = fixture->inference ? (struct dtr_shard_run){0} : fixture->run,
            .sum = fixture->inference ? (struct dtr_shard_run){0} : fixture->run,
            .lanes = fixture->run.count,
            .threads = (int)(fixture->inference ? fixture->run.count : larger(fixture->parts, 1)),
            .isa = dtr_isa_detect(),
            .training = !fixture->inference,
            .first = fixture->first,
            .src = {.block = block},
            .dst = fixture->wanted,
            .dropout = fixture->dropout}};
    *result_out = (struct fixture_result){0};
    if (dtr_threads_create(bench.plan.threads, &bench.threads, &error) != DTR_OK ||
        kernel->create(&bench.plan, &error) != DTR_OK)
        ck_abort_msg("%s: %s", fixture_describe(fixture), error.message);
    for (int step = 0; step < larger(fixture->steps, 1); step++) {
        fixture_result_free(result_out);
        run_plan(&bench, result_out);
    }
    result_out->src_layout = bench.plan.src;
    result_out->dst_layout = bench.plan.dst;
    snprintf(result_out->detail, sizeof result_out->detail, "%s", bench.plan.detail);
    kernel->destroy(&bench.plan);
    dtr_threads_free(bench.threads);
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
    slice.dropout = fixture->dropout == NULL ? NULL : fixture->dropout + i;
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
