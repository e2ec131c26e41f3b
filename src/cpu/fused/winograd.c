#include "winograd.h"
#include "winograd_multiply.h"
#include "winograd_tile.h"

/*
 * Memory:
 *
 *     kernel    [pair of output vectors][point][input channel][2][VEC]
 *     sources   [point][input channels / VEC][tile of the batch][VEC]
 *     products  [pair][point][tile][2][VEC]
 *
 * (of a last pair that is one vector, the kernel is [VEC] only). From a point to the next it is an
 * odd number of cache lines: a transform works on all points at a time, and at a distance of a
 * power of two they would push each other out of the cache.
 *
 * Narrow tiles (winograd_transform.h) do without the last points, so at those points fewer tiles
 * are multiplied. A batch's tiles lie in an order in which those that a point needs are neighbours.
 */
enum {
    LINE = 16, /* floats of a cache line */
    /* Sources, products and kernel of a batch shall fit into the second-level cache ... */
    CACHE_FLOATS = (VEC == 16 ? 192 : 128) * 1024,
    /* ... unless that left less than FEW_TILES to share the kernel, which comes from memory: then
     * MANY_TILES do, and all output channels are computed point by point, so that it is the sources
     * and products of only one point that have to fit. */
    FEW_TILES = 20,
    MANY_TILES = 64,
};

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Of outputs, the last row is not computed where a pool leaves it out. */
static int64_t needed(int64_t outputs, bool pool)
{
    return pool ? outputs / 2 * 2 : outputs;
}

static bool ends_narrow(int64_t outputs)
{
    int64_t rest = outputs % WINOGRAD_OUTPUTS;
    return rest > 0 && rest <= WINOGRAD_NARROW;
}

/* Inputs that the tiles of a row of outputs reach over. */
static int64_t reach(int64_t outputs, int64_t kernel)
{
    int64_t whole = divide_up(outputs, WINOGRAD_OUTPUTS) * WINOGRAD_OUTPUTS;
    int64_t tiled = ends_narrow(outputs) ? whole - WINOGRAD_OUTPUTS + WINOGRAD_NARROW : whole;
    return tiled + kernel - 1;
}

bool ISA(winograd_suits)(const struct conv_shape *shape)
{
    return shape->kernel_h == shape->kernel_w && (shape->kernel_h == 3 || shape->kernel_h == 5) &&
           shape->in.c % VEC == 0 && shape->out.c % VEC == 0;
}

/* The backward pass as a convolution of its own. */
static struct conv_shape turned(const struct conv_shape *shape)
{
    struct conv_shape back = {
        .in = shape->out,
        .out = shape->in,
        .kernel_h = shape->kernel_h,
        .kernel_w = shape->kernel_w,
        .pad_top = shape->kernel_h - 1 - shape->pad_top,
        .pad_left = shape->kernel_w - 1 - shape->pad_left,
        .result = shape->in,
        .dst = shape->src,
    };
    back.src = ISA(winograd_layout)(&back);
    return back;
}

bool ISA(winograd_suits_backward)(const struct conv_shape *shape)
{
    return ISA(winograd_suits)(shape) && !shape->pool && shape->pad_top < shape->kernel_h &&
           shape->pad_left < shape->kernel_w;
}

struct dtr_layout ISA(winograd_layout)(const struct conv_shape *shape)
{
    int64_t rows = reach(needed(shape->out.h, shape->pool), shape->kernel_h);
    int64_t columns = reach(needed(shape->out.w, shape->pool), shape->kernel_w);
    return (struct dtr_layout){
        .block = VEC,
        .top = shape->pad_top,
        .left = shape->pad_left,
        .bottom = most(0, rows - shape->pad_top - shape->in.h),
        .right = most(0, columns - shape->pad_left - shape->in.w),
    };
}

struct dtr_layout ISA(winograd_backward_layout)(const struct conv_shape *shape)
{
    return turned(shape).src;
}

static int64_t points_of(const struct winograd *w)
{
    int64_t points = winograd_points(w->kernel, false);
    return points * points;
}

static int64_t pairs_of(const struct winograd *w)
{
    return divide_up(w->shape.out.c, 2 * VEC);
}

/* From a point to the next: an odd number of cache lines. */
static int64_t stride_of(int64_t floats)
{
    return (divide_up(floats, LINE) | 1) * LINE;
}

static int64_t kernel_stride(const struct winograd *w)
{
    return stride_of(w->shape.in.c * 2 * VEC);
}

static int64_t sources_stride(const struct winograd *w)
{
    return stride_of(w->shape.in.c * w->batch);
}

static int64_t products_stride(const struct winograd *w)
{
    return stride_of(w->batch * 2 * VEC);
}

static void choose_batch(struct winograd *w)
{
    int64_t cached = CACHE_FLOATS / points_of(w) - kernel_stride(w);
    int64_t per_tile = w->shape.in.c + 2 * VEC;
    w->batch = cached / per_tile;
    w->together = 1;
    if (w->batch < FEW_TILES) {
        w->batch = MANY_TILES;
        w->together = pairs_of(w);
    }
}

static struct winograd pass_of(const struct conv_shape *shape)
{
    int64_t height = needed(shape->out.h, shape->pool), width = needed(shape->out.w, shape->pool);
    struct winograd w = {
        .shape = *shape,
        .kernel = (int)shape->kernel_h,
        .rows = divide_up(height, WINOGRAD_OUTPUTS),
        .columns = divide_up(width, WINOGRAD_OUTPUTS),
        .narrow_row = ends_narrow(height),
        .narrow_column = ends_narrow(width),
    };
    choose_batch(&w);
    w.transformed_floats = pairs_of(&w) * points_of(&w) * kernel_stride(&w);
    w.scratch_floats = points_of(&w) * (sources_stride(&w) + w.together * products_stride(&w));
    return w;
}

struct winograd ISA(winograd_of)(const struct conv_shape *shape)
{
    return pass_of(shape);
}

struct winograd ISA(winograd_backward_of)(const struct conv_shape *shape)
{
    struct conv_shape back = turned(shape);
    return pass_of(&back);
}

/* The kernel. */

/* Of a vector of output channels and one input channel. */
static void transform_taps(
    int kernel, const float *taps, int64_t tap_stride, float *to, int64_t stride)
{
    if (kernel == 3)
        transform_kernel(3, taps, tap_stride, to, stride);
    else
        transform_kernel(5, taps, tap_stride, to, stride);
}

/* Where a vector of output channels of an input channel begins in the transformed kernel. */
static float *transformed_at(
    const struct winograd *w, int64_t output_vector, int64_t input, float *transformed)
{
    int64_t pair = output_vector / 2, vectors = least(2, w->shape.out.c / VEC - 2 * pair);
    return transformed + pair * points_of(w) * kernel_stride(w) + input * vectors * VEC +
           output_vector % 2 * VEC;
}

/* VEC input times VEC output channels: taps [output][tap][input] are exchanged to [tap][input]
 * [output]. */
static void pack_block(const struct winograd *w, int64_t input_block, int64_t output_block,
    const float *kernel, float *transformed)
{
    float exchanged[5 * 5 * VEC * VEC];
    int64_t taps = w->kernel * w->kernel;
    const float *block = kernel + (input_block * w->shape.out.c + output_block * VEC) * taps * VEC;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t output = 0; output < VEC; output++)
            for (int64_t input = 0; input < VEC; input++)
                exchanged[(tap * VEC + input) * VEC + output] =
                    block[(output * taps + tap) * VEC + input];
    for (int64_t input = 0; input < VEC; input++)
        transform_taps(w->kernel, exchanged + input * VEC, VEC * VEC,
            transformed_at(w, output_block, input_block * VEC + input, transformed),
            kernel_stride(w));
}

/* What the layer reads the pass puts out, so nothing is exchanged; the last tap comes first. */
static void pack_block_backward(const struct winograd *w, int64_t input_block, int64_t output_block,
    const float *kernel, float *transformed)
{
    int64_t taps = w->kernel * w->kernel;
    for (int64_t input = input_block * VEC; input < (input_block + 1) * VEC; input++)
        transform_taps(w->kernel,
            kernel + ((output_block * w->shape.in.c + input) * taps + taps - 1) * VEC, -VEC,
            transformed_at(w, output_block, input, transformed), kernel_stride(w));
}

typedef void pack_function(const struct winograd *w, int64_t input_block, int64_t output_block,
    const float *kernel, float *transformed);

static void pack_part(const struct winograd *w, int part, int parts, pack_function *pack,
    const float *kernel, float *transformed)
{
    int64_t inputs = w->shape.in.c / VEC, blocks = inputs * (w->shape.out.c / VEC);
    for (int64_t i = blocks * part / parts; i < blocks * (part + 1) / parts; i++)
        pack(w, i % inputs, i / inputs, kernel, transformed);
}

void ISA(winograd_pack)(
    const struct winograd *forward, int part, int parts, const float *kernel, float *transformed)
{
    pack_part(forward, part, parts, pack_block, kernel, transformed);
}

void ISA(winograd_pack_backward)(
    const struct winograd *backward, int part, int parts, const float *kernel, float *transformed)
{
    pack_part(backward, part, parts, pack_block_backward, kernel, transformed);
}

/* The tiles. */

struct tile {
    int64_t sample, row, column;
};

static inline struct tile next_tile(const struct winograd *w, struct tile tile)
{
    if (++tile.column < w->columns)
        return tile;
    tile.column = 0;
    if (++tile.row < w->rows)
        return tile;
    tile.row = 0;
    tile.sample++;
    return tile;
}

static struct tile tile_at(const struct winograd *w, int64_t index)
{
    int64_t row = index / w->columns;
    return (struct tile){row / w->rows, row % w->rows, index % w->columns};
}

static inline bool in_narrow_row(const struct winograd *w, struct tile tile)
{
    return w->narrow_row && tile.row == w->rows - 1;
}

static inline bool in_narrow_column(const struct winograd *w, struct tile tile)
{
    return w->narrow_column && tile.column == w->columns - 1;
}

/* The order of a batch's tiles: narrow columns, no narrow ones, narrow rows, both narrow. */
enum { KINDS = 4 };

static inline int kind_of(const struct winograd *w, struct tile tile)
{
    bool row = in_narrow_row(w, tile), column = in_narrow_column(w, tile);
    return row ? 2 + column : 1 - column;
}

struct batch {
    const struct winograd *w;
    struct tile first;
    int64_t count;
    int64_t begin[KINDS + 1]; /* the first tile of a kind, in the order above; the end */
};

static struct batch batch_of(const struct winograd *w, struct tile first, int64_t count)
{
    struct batch batch = {.w = w, .first = first, .count = count};
    struct tile tile = first;
    for (int64_t i = 0; i < count; i++, tile = next_tile(w, tile))
        batch.begin[kind_of(w, tile) + 1]++;
    for (int kind = 0; kind < KINDS; kind++)
        batch.begin[kind + 1] += batch.begin[kind];
    return batch;
}

/* The pixels that the tile below will be the first to read. */
INLINE void fetch_below(int kernel, const float *src, int64_t src_row)
{
    int rows = winograd_points(kernel, false);
    for (int y = rows; y < rows + WINOGRAD_OUTPUTS; y++)
        for (int x = (kernel - 1) * VEC; x < rows * VEC; x += LINE)
            __builtin_prefetch(src + y * src_row + x);
}

/* A block of channels of all tiles: neighbours read the same pixels and write the same cache lines.
 */
static void transform_block(const struct batch *batch, const float *src, float *sources)
{
    const struct winograd *w = batch->w;
    int64_t row = dtr_layout_row(w->shape.in, w->shape.src);
    int64_t sample = dtr_layout_sample(w->shape.in, w->shape.src);
    int64_t stride = sources_stride(w), next[KINDS];
    memcpy(next, batch->begin, sizeof next);
    struct tile tile = batch->first;
    for (int64_t i = 0; i < batch->count; i++, tile = next_tile(w, tile)) {
        bool narrow_row = in_narrow_row(w, tile), narrow_column = in_narrow_column(w, tile);
        const float *from = src + tile.sample * sample +
                            WINOGRAD_OUTPUTS * (tile.row * row + tile.column * VEC);
        float *to = sources + next[kind_of(w, tile)]++ * VEC;
        if (tile.row < w->rows - 1)
            fetch_below(w->kernel, from, row);
        if (w->kernel == 3)
            transform_source(3, narrow_row, narrow_column, from, row, to, stride);
        else
            transform_source(5, narrow_row, narrow_column, from, row, to, stride);
    }
}

static void transform_sources(const struct batch *batch, const float *src, float *sources)
{
    const struct winograd *w = batch->w;
    struct dtr_shape in = w->shape.in;
    struct dtr_layout layout = w->shape.src;
    int64_t row = dtr_layout_row(in, layout), plane = dtr_layout_plane(in, layout);
    src += dtr_layout_origin(in, layout) - w->shape.pad_top * row - w->shape.pad_left * VEC;
    for (int64_t block = 0; block < in.c / VEC; block++)
        transform_block(batch, src + block * plane, sources + block * w->batch * VEC);
}

/* The products. */

/* `pairs` of output vectors from pair `first` on. */
static void multiply_batch(const struct batch *batch, int64_t first, int64_t pairs,
    const float *transformed, const float *sources, float *products)
{
    const struct winograd *w = batch->w;
    int points = winograd_points(w->kernel, false);
    struct multiply size = {.channels = w->shape.in.c, .stride = w->batch * VEC};
    for (int64_t point = 0; point < points_of(w); point++) {
        bool wide_row = point / points >= points - 2, wide_column = point % points >= points - 2;
        int64_t begin = wide_column ? batch->begin[1] : 0;
        int64_t end = batch->begin[wide_row ? 2 : wide_column ? 3 : 4];
        for (int64_t pair = 0; pair < pairs; pair++) {
            int64_t vectors = least(2, w->shape.out.c / VEC - 2 * (first + pair));
            multiply(size, (int)(end - begin), (int)vectors,
                sources + point * sources_stride(w) + begin * VEC,
                transformed + ((first + pair) * points_of(w) + point) * kernel_stride(w),
                products + (pair * points_of(w) + point) * products_stride(w) + begin * 2 * VEC);
        }
    }
}

/* The results. */

struct results {
    const struct batch *batch;
    enum finish finish;
    const float *bias; /* [out.c]; NULL in the backward pass */
    float *dst;        /* of the pass */
    uint8_t *winners;
};

/* A tile's target, for the first vector of output channels. */
static struct target target_of(const struct results *results, const struct tile *tile)
{
    const struct conv_shape *shape = &results->batch->w->shape;
    struct dtr_shape result = shape->result;
    int64_t size = shape->pool ? WINOGRAD_OUTPUTS / 2 : WINOGRAD_OUTPUTS;
    int64_t y = tile->row * size, x = tile->column * size;
    int64_t row = dtr_layout_row(result, shape->dst);
    return (struct target){
        .dst = results->dst + tile->sample * dtr_layout_sample(result, shape->dst) +
               dtr_layout_origin(result, shape->dst) + y * row + x * VEC,
        .dst_row = row,
        .winners = results->winners,
        .winners_at = (tile->sample * result.h * shape->out.c + y * VEC) * result.w + x * VEC,
        .winners_row = result.w * VEC,
        .rows = least(size, result.h - y),
        .columns = least(size, result.w - x),
    };
}

/* The `pairs` of output vectors from pair `first` on. */
INLINE void finish_pairs(int kernel, enum finish finish, const struct results *results,
    const struct tile *tile, int64_t first, int64_t pairs, const float *products)
{
    const struct winograd *w = results->batch->w;
    bool narrow_row = in_narrow_row(w, *tile), narrow_column = in_narrow_column(w, *tile);
    int64_t end = least(2 * (first + pairs), w->shape.out.c / VEC), stride = products_stride(w);
    int64_t dst_plane = dtr_layout_plane(w->shape.result, w->shape.dst);
    int64_t winners_plane = w->shape.result.h * w->shape.result.w * VEC;
    struct target target = target_of(results, tile);
    target.dst += 2 * first * dst_plane;
    target.winners_at += 2 * first * winners_plane;
    for (int64_t v = 2 * first; v < end; v++) {
        vec bias = vec_zero();
        if (finish != FINISH_LINEAR)
            bias = vec_load(results->bias + v * VEC);
        finish_tile(kernel, narrow_row, narrow_column, finish, products, stride, bias, target);
        target.dst += dst_plane;
        target.winners_at += winners_plane;
        products += v % 2 == 0 ? VEC : points_of(w) * stride - VEC;
    }
}

INLINE void finish_kernel(int kernel, const struct results *results, const struct tile *tile,
    int64_t first, int64_t pairs, const float *products)
{
    switch (results->finish) {
    case FINISH_LINEAR:
        finish_pairs(kernel, FINISH_LINEAR, results, tile, first, pairs, products);
        break;
    case FINISH_RELU:
        finish_pairs(kernel, FINISH_RELU, results, tile, first, pairs, products);
        break;
    case FINISH_POOL:
        finish_pairs(kernel, FINISH_POOL, results, tile, first, pairs, products);
        break;
    case FINISH_POOL_NOTE:
        finish_pairs(kernel, FINISH_POOL_NOTE, results, tile, first, pairs, products);
        break;
    }
}

static void finish_batch(
    const struct results *results, int64_t first, int64_t pairs, const float *products)
{
    const struct winograd *w = results->batch->w;
    int64_t next[KINDS];
    memcpy(next, results->batch->begin, sizeof next);
    struct tile tile = results->batch->first;
    for (int64_t i = 0; i < results->batch->count; i++, tile = next_tile(w, tile)) {
        const float *from = products + next[kind_of(w, tile)]++ * 2 * VEC;
        if (w->kernel == 3)
            finish_kernel(3, results, &tile, first, pairs, from);
        else
            finish_kernel(5, results, &tile, first, pairs, from);
    }
}

/* All output channels of the tiles of `count` samples, in batches of equal size. */
static void convolve(const struct winograd *w, int64_t count, const float *transformed,
    const float *src, struct results results, float *scratch)
{
    int64_t tiles = count * w->rows * w->columns, batches = divide_up(tiles, w->batch);
    float *sources = scratch, *products = scratch + points_of(w) * sources_stride(w);
    for (int64_t i = 0; i < batches; i++) {
        int64_t begin = tiles * i / batches, end = tiles * (i + 1) / batches;
        struct batch batch = batch_of(w, tile_at(w, begin), end - begin);
        results.batch = &batch;
        transform_sources(&batch, src, sources);
        for (int64_t pair = 0; pair < pairs_of(w); pair += w->together) {
            multiply_batch(&batch, pair, w->together, transformed, sources, products);
            finish_batch(&results, pair, w->together, products);
        }
    }
}

void ISA(winograd_forward)(const struct winograd *forward, int64_t count, const float *transformed,
    const float *bias, const float *src, float *dst, uint8_t *winners, float *scratch)
{
    enum finish finish = !forward->shape.pool ? FINISH_RELU
                         : winners == NULL    ? FINISH_POOL
                                              : FINISH_POOL_NOTE;
    struct results results = {.finish = finish, .bias = bias, .dst = dst, .winners = winners};
    convolve(forward, count, transformed, src, results, scratch);
}

void ISA(winograd_backward_data)(const struct winograd *backward, int64_t count,
    const float *transformed, const float *diff, float *diff_src, float *scratch)
{
    struct results results = {.finish = FINISH_LINEAR, .dst = diff_src};
    convolve(backward, count, transformed, diff, results, scratch);
}
