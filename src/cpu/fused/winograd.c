/*
 * The passes of Winograd's convolution. Its parts: winograd_transform.h, winograd_tile.h: the
 * transforms, in one and two dimensions; winograd_seven.h: those of large tiles;
 * winograd_multiply.h: the products; winograd_results.h: what is made of them; winograd_batch.h:
 * order and memory of what is computed together.
 */
#include "winograd.h"
#include "../../stream.h"
#include "compress.h"
#include "winograd_batch.h"
#include "winograd_multiply.h"
#include "winograd_results.h"
#include "winograd_tile.h"

/* Of outputs, the last row is not computed where a pool leaves it out. */
static inline int64_t needed(int64_t outputs, bool pool)
{
    return pool ? outputs / 2 * 2 : outputs;
}

static inline bool ends_narrow(int64_t outputs)
{
    int64_t rest = outputs % WINOGRAD_OUTPUTS;
    return rest > 0 && rest <= WINOGRAD_NARROW;
}

/* Points along a row of tiles of 4. */
static int64_t points_along(int64_t outputs, int64_t kernel)
{
    return divide_up(outputs, WINOGRAD_OUTPUTS) * winograd_points((int)kernel, false) -
           (ends_narrow(outputs) ? WINOGRAD_OUTPUTS - WINOGRAD_NARROW : 0);
}

/* The larger tiles where they take fewer multiplications, and a sample's are a batch. */
static int tile_outputs(const struct conv_shape *shape)
{
    int64_t height = needed(shape->out.h, shape->pool), width = needed(shape->out.w, shape->pool);
    int64_t tiles = divide_up(height, SEVEN_OUTPUTS) * divide_up(width, SEVEN_OUTPUTS);
    bool fewer = tiles * SEVEN_PRODUCTS <
                 points_along(height, shape->kernel_h) * points_along(width, shape->kernel_w);
    bool seven = shape->kernel_h == SEVEN_TAPS && tiles <= SEVEN_TILES && fewer;
    return seven ? SEVEN_OUTPUTS : WINOGRAD_OUTPUTS;
}

/* Inputs that the tiles of a row of outputs reach over. */
static int64_t reach(const struct conv_shape *shape, int64_t outputs)
{
    int tile = tile_outputs(shape);
    int64_t whole = divide_up(outputs, tile) * tile;
    bool narrow = tile == WINOGRAD_OUTPUTS && ends_narrow(outputs);
    return whole - (narrow ? WINOGRAD_OUTPUTS - WINOGRAD_NARROW : 0) + shape->kernel_h - 1;
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
    int64_t rows = reach(shape, needed(shape->out.h, shape->pool));
    int64_t columns = reach(shape, needed(shape->out.w, shape->pool));
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

static struct winograd pass_of(const struct conv_shape *shape)
{
    int64_t height = needed(shape->out.h, shape->pool), width = needed(shape->out.w, shape->pool);
    struct winograd w = {
        .shape = *shape,
        .kernel = (int)shape->kernel_h,
        .outputs = tile_outputs(shape),
    };
    w.rows = divide_up(height, w.outputs);
    w.columns = divide_up(width, w.outputs);
    w.narrow_row = !is_seven(&w) && ends_narrow(height);
    w.narrow_column = !is_seven(&w) && ends_narrow(width);
    choose_batch(&w);
    w.transformed_floats = pairs_of(&w) * points_of(&w) * kernel_stride(&w);
    w.scratch_floats = points_of(&w) * (sources_stride(&w) + w.together * products_stride(&w)) +
                       plane_floats(&w);
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

/* Of a vector of output channels and one input channel: points go `stride` floats apart. */
static void transform_taps(
    const struct winograd *w, const float *taps, int64_t tap_stride, float *to, int64_t stride)
{
    if (is_seven(w))
        seven_transform_kernel(taps, tap_stride, to, stride);
    else if (w->kernel == 3)
        transform_kernel(3, taps, tap_stride, to, stride);
    else
        transform_kernel(5, taps, tap_stride, to, stride);
}

/* The taps of VEC input channels and of a pair of vectors of output channels, or of one. */
struct taps {
    const float *begin[2];         /* of each vector's first input channel */
    int64_t input_stride, stride;  /* floats to the next input channel, to the next tap */
    int64_t pair, vectors, inputs; /* inputs: number of VEC */
};

/* Other threads read a kernel that is transformed in parts: whole lines go past the caches. */
static void transform_inputs(
    const struct winograd *w, const struct taps *taps, bool shared, float *transformed)
{
    float points[SEVEN_PRODUCTS * 2 * VEC];
    int64_t row = taps->vectors * VEC, stride = kernel_stride(w);
    float *to = transformed + taps->pair * points_of(w) * stride + taps->inputs * VEC * row;
    for (int64_t input = 0; input < VEC; input++, to += row) {
        for (int64_t v = 0; v < taps->vectors; v++)
            transform_taps(w, taps->begin[v] + input * taps->input_stride, taps->stride,
                (shared ? points : to) + v * VEC, shared ? row : stride);
        for (int64_t point = 0; shared && point < points_of(w); point++)
            stream_floats(to + point * stride, points + point * row, row);
    }
}

/* Input times output channels [output][tap][input] are exchanged to [tap][input][output]. */
static void exchange_channels(int64_t taps, const float *block, float *exchanged)
{
    for (int64_t tap = 0; tap < taps; tap++) {
        vec rows[VEC];
        UNROLL for (int i = 0; i < VEC; i++) rows[i] = vec_load(block + (i * taps + tap) * VEC);
        vec_transpose(rows);
        UNROLL for (int i = 0; i < VEC; i++) vec_store(exchanged + (tap * VEC + i) * VEC, rows[i]);
    }
}

static void pack_block(const struct winograd *w, struct taps taps, const float *kernel, bool shared,
    float *transformed)
{
    float exchanged[2][5 * 5 * VEC * VEC];
    int64_t count = w->kernel * w->kernel;
    const float *block = kernel +
                         (taps.inputs * w->shape.out.c + 2 * taps.pair * VEC) * count * VEC;
    for (int64_t v = 0; v < taps.vectors; v++, block += count * VEC * VEC) {
        exchange_channels(count, block, exchanged[v]);
        taps.begin[v] = exchanged[v];
    }
    taps.input_stride = VEC;
    taps.stride = VEC * VEC;
    transform_inputs(w, &taps, shared, transformed);
}

/* What the layer reads the pass puts out, so nothing is exchanged; the last tap comes first. */
static void pack_block_backward(const struct winograd *w, struct taps taps, const float *kernel,
    bool shared, float *transformed)
{
    int64_t count = w->kernel * w->kernel;
    for (int64_t v = 0; v < taps.vectors; v++) {
        int64_t row = (2 * taps.pair + v) * w->shape.in.c + taps.inputs * VEC;
        taps.begin[v] = kernel + (row * count + count - 1) * VEC;
    }
    taps.input_stride = count * VEC;
    taps.stride = -VEC;
    transform_inputs(w, &taps, shared, transformed);
}

typedef void pack_function(const struct winograd *w, struct taps taps, const float *kernel,
    bool shared, float *transformed);

static void pack_part(const struct winograd *w, int part, int parts, pack_function *pack,
    const float *kernel, float *transformed)
{
    int64_t inputs = w->shape.in.c / VEC, blocks = inputs * pairs_of(w);
    for (int64_t i = blocks * part / parts; i < blocks * (part + 1) / parts; i++) {
        struct taps taps = {.pair = i / inputs, .inputs = i % inputs};
        taps.vectors = least(2, w->shape.out.c / VEC - 2 * taps.pair);
        pack(w, taps, kernel, parts > 1, transformed);
    }
    stream_end();
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

/* The source. */

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
                            w->outputs * (tile.row * row + tile.column * VEC);
        float *to = sources + next[kind_of(w, tile)]++ * VEC;
        if (is_seven(w)) {
            seven_transform_source(from, row, to, stride);
            continue;
        }
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

/* `pairs` of output vectors from pair `first` on. Where no tile is narrow, as of 7x7 outputs, all
 * are multiplied at every point, whichever are called wide. */
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

/* All output channels of the tiles of `count` samples, in batches of equal size, or of whole
 * samples. */
static void convolve(const struct winograd *w, int64_t count, const float *transformed,
    const float *src, struct results results, float *scratch)
{
    int64_t unit = is_seven(w) ? w->rows * w->columns : 1; /* tiles that stay together */
    int64_t units = count * w->rows * w->columns / unit;
    int64_t batches = divide_up(units, w->batch / unit);
    float *sources = scratch, *products = scratch + points_of(w) * sources_stride(w);
    float *plane = products + points_of(w) * w->together * products_stride(w);
    for (int64_t i = 0; i < batches; i++) {
        int64_t begin = units * i / batches * unit, end = units * (i + 1) / batches * unit;
        struct batch batch = batch_of(w, tile_at(w, begin), end - begin);
        results.batch = &batch;
        transform_sources(&batch, src, sources);
        for (int64_t pair = 0; pair < pairs_of(w); pair += w->together) {
            multiply_batch(&batch, pair, w->together, transformed, sources, products);
            finish_batch(&results, pair, w->together, products, plane);
        }
    }
}

void ISA(winograd_forward)(const struct winograd *forward, int64_t count, const float *transformed,
    const float *bias, const float *src, float *dst, uint8_t *winners, float *scratch)
{
    struct results results = {.bias = bias, .dst = dst, .winners = winners};
    convolve(forward, count, transformed, src, results, scratch);
}

void ISA(winograd_backward_data)(const struct winograd *backward, int64_t count,
    const float *transformed, const float *diff, float *diff_src, float *scratch)
{
    struct results results = {.dst = diff_src};
    convolve(backward, count, transformed, diff, results, scratch);
}
