#include "winograd_thin.h"
#include "winograd_tile.h"

/* The sizes of a pass. A *row* is what the transform makes of the pixels of a row of tiles: floats
 * [w, c], in whole vectors. */
struct pass {
    struct conv_shape shape;
    int64_t height, width; /* outputs that are computed: a pool may leave out the last ones */
    int64_t values;        /* floats of a row of values: from the first tile's to the last one's */
    int64_t inputs;        /* floats of a row that they need */
    int64_t src_row, dst_row, dst_plane, winner_plane;
};

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t at_least_zero(int64_t a)
{
    return a < 0 ? 0 : a;
}

static inline int64_t in_vectors(int64_t floats)
{
    return (floats + VEC - 1) / VEC * VEC;
}

static struct pass pass_of(const struct conv_shape *shape)
{
    struct pass pass = {.shape = *shape, .height = shape->out.h, .width = shape->out.w};
    if (shape->pool) {
        pass.height -= pass.height % 2;
        pass.width -= pass.width % 2;
    }
    int64_t channels = shape->in.c, reach = winograd_points((int)shape->kernel_h, false) - 1;
    pass.values = in_vectors((pass.width - WINOGRAD_OUTPUTS + 1) * channels);
    pass.inputs = in_vectors(pass.values + reach * channels);
    pass.src_row = dtr_layout_row(shape->in, shape->src);
    pass.dst_row = dtr_layout_row(shape->result, shape->dst);
    pass.dst_plane = dtr_layout_plane(shape->result, shape->dst);
    pass.winner_plane = shape->result.h * shape->result.w * VEC;
    return pass;
}

static int64_t points_of(const struct conv_shape *shape)
{
    int64_t points = winograd_points((int)shape->kernel_h, false);
    return points * points;
}

/* Where it was measured to be faster: of small images too many tiles overlap, without a pool
 * outputs of one channel cost little more than to store them, and 3x3 needs the registers. */
bool ISA(winograd_thin_suits)(const struct conv_shape *shape)
{
    int64_t size = shape->kernel_h, channels = shape->in.c;
    bool saves = size == 5   ? channels == 3 || (channels == 1 && shape->pool)
                 : size == 3 ? channels == 3 && shape->pool && VEC_REGISTERS >= 32
                             : false;
    return saves && shape->kernel_w == size && shape->out.h >= 2 * WINOGRAD_OUTPUTS &&
           shape->out.w >= 2 * WINOGRAD_OUTPUTS;
}

struct dtr_layout ISA(winograd_thin_layout)(const struct conv_shape *shape)
{
    struct pass pass = pass_of(shape);
    int64_t columns = (pass.inputs + shape->in.c - 1) / shape->in.c;
    return (struct dtr_layout){
        .block = shape->in.c,
        .top = shape->pad_top,
        .left = shape->pad_left,
        .bottom = at_least_zero(pass.height + shape->kernel_h - 1 - shape->pad_top - shape->in.h),
        .right = at_least_zero(columns - shape->pad_left - shape->in.w),
    };
}

int64_t ISA(winograd_thin_kernel_floats)(const struct conv_shape *shape)
{
    return points_of(shape) * shape->in.c * shape->out.c;
}

int64_t ISA(winograd_thin_scratch_floats)(const struct conv_shape *shape)
{
    struct pass pass = pass_of(shape);
    return WINOGRAD_POINTS * pass.inputs + points_of(shape) * pass.values;
}

/* Transformed: [out.c / VEC][point][in.c][VEC]. */
void ISA(winograd_thin_pack)(
    const struct conv_shape *shape, const float *kernel, float *transformed)
{
    int64_t inputs = shape->in.c, outputs = shape->out.c;
    for (int64_t output = 0; output < outputs; output += VEC) {
        for (int64_t input = 0; input < inputs; input++) {
            const float *taps = kernel + input * outputs + output;
            float *to = transformed + output * points_of(shape) * inputs + input * VEC;
            if (shape->kernel_h == 3)
                transform_kernel(3, taps, inputs * outputs, to, inputs * VEC);
            else
                transform_kernel(5, taps, inputs * outputs, to, inputs * VEC);
        }
    }
}

/* The functions below are inlined with constant sizes; `channels` is in.c. */

/* A row of tiles whose first tap is at src: values [values / VEC][point][VEC]. */
INLINE void transform_row(
    struct pass pass, int kernel, int64_t channels, const float *src, float *half, float *values)
{
    int points = winograd_points(kernel, false);
    for (int64_t x = 0; x < pass.inputs; x += VEC) {
        vec column[WINOGRAD_POINTS], down[WINOGRAD_POINTS];
        UNROLL for (int y = 0; y < points; y++) column[y] = vec_load(src + y * pass.src_row + x);
        winograd_sources(kernel, false, column, down);
        UNROLL for (int i = 0; i < points; i++) vec_store(half + i * pass.inputs + x, down[i]);
    }
    for (int64_t x = 0; x < pass.values; x += VEC) {
        for (int i = 0; i < points; i++, values += points * VEC) {
            const float *from = half + i * pass.inputs + x;
            vec row[WINOGRAD_POINTS], along[WINOGRAD_POINTS];
            UNROLL for (int k = 0; k < points; k++) row[k] = vec_load(from + k * channels);
            winograd_sources(kernel, false, row, along);
            UNROLL for (int j = 0; j < points; j++) vec_store(values + j * VEC, along[j]);
        }
    }
}

/* A tile and a vector of output channels. */
struct tile {
    const float *values; /* of its row */
    int64_t at;          /* in them: its first channel's */
    const float *transformed;
};

INLINE vec value_at(int kernel, struct tile tile, int64_t c, int point)
{
    int64_t points = winograd_points(kernel, false), i = tile.at + c;
    return vec_all(tile.values[(i / VEC * points * points + point) * VEC + i % VEC]);
}

INLINE vec weights_at(int64_t channels, struct tile tile, int64_t c, int point)
{
    return vec_load_apart(tile.transformed + (point * channels + c) * VEC);
}

/* sum + the products of channels [first, channels) at a point. */
INLINE vec add_products(
    int kernel, int64_t channels, struct tile tile, int point, int64_t first, vec sum)
{
    for (int64_t c = first; c < channels; c++)
        sum = vec_fma(value_at(kernel, tile, c, point), weights_at(channels, tile, c, point), sum);
    return sum;
}

INLINE vec products(int kernel, int64_t channels, struct tile tile, int point)
{
    vec first = value_at(kernel, tile, 0, point) * weights_at(channels, tile, 0, point);
    return add_products(kernel, channels, tile, point, 1, first);
}

/* Adds a pair's part of the results, of its products at +-p. `first`: nothing is there yet. */
INLINE void add_pair(float p, bool first, vec plus, vec minus, vec *results)
{
    vec even = plus + minus, odd = plus - minus;
    results[0] = first ? even : results[0] + even;
    results[1] = first ? p * odd : vec_fma(vec_all(p), odd, results[1]);
    results[2] = first ? p * p * even : vec_fma(vec_all(p * p), even, results[2]);
    results[3] = first ? p * p * p * odd : vec_fma(vec_all(p * p * p), odd, results[3]);
    UNROLL for (int i = 0; i < WINOGRAD_OUTPUTS; i++) results[i] = vec_settle(results[i]);
}

/* The results of a column of products. */
INLINE void column_results(
    int kernel, int64_t channels, struct tile tile, int column, vec results_out[WINOGRAD_OUTPUTS])
{
    int points = winograd_points(kernel, false);
    UNROLL for (int i = 2; i < points; i += 2)
    {
        vec plus = products(kernel, channels, tile, i * points + column);
        vec minus = products(kernel, channels, tile, (i + 1) * points + column);
        add_pair(winograd_point(kernel, i), i == 2, plus, minus, results_out);
    }
    results_out[0] = add_products(kernel, channels, tile, column, 0, results_out[0]);
    results_out[3] = add_products(kernel, channels, tile, points + column, 0, results_out[3]);
}

/* The outputs stay in registers; what a pair of columns adds to them is added at once. */
INLINE void compute_tile(int kernel, int64_t channels, bool pool, struct tile tile,
    struct finish finish, struct target target)
{
    vec outputs[WINOGRAD_OUTPUTS][WINOGRAD_OUTPUTS], plus[WINOGRAD_OUTPUTS],
        minus[WINOGRAD_OUTPUTS];
    UNROLL for (int i = 2; i < winograd_points(kernel, false); i += 2)
    {
        column_results(kernel, channels, tile, i, plus);
        column_results(kernel, channels, tile, i + 1, minus);
        UNROLL for (int y = 0; y < WINOGRAD_OUTPUTS; y++)
            add_pair(winograd_point(kernel, i), i == 2, plus[y], minus[y], outputs[y]);
    }
    column_results(kernel, channels, tile, 0, plus);
    column_results(kernel, channels, tile, 1, minus);
    UNROLL for (int y = 0; y < WINOGRAD_OUTPUTS; y++)
    {
        outputs[y][0] = outputs[y][0] + plus[y];
        outputs[y][3] = outputs[y][3] + minus[y];
    }
    if (pool) {
        store_pooled(WINOGRAD_OUTPUTS, outputs[0], outputs[1], finish, target);
        target.dst += target.dst_row;
        if (target.winners != NULL)
            target.winners += target.winners_row;
        store_pooled(WINOGRAD_OUTPUTS, outputs[2], outputs[3], finish, target);
    } else {
        UNROLL for (int y = 0; y < WINOGRAD_OUTPUTS; y++, target.dst += target.dst_row)
            store_outputs(WINOGRAD_OUTPUTS, outputs[y], finish, target);
    }
}

/* A row of tiles; `tile` and `target` are those of the first. */
INLINE void compute_row(struct pass pass, int kernel, int64_t channels, bool pool, struct tile tile,
    struct finish finish, struct target target)
{
    struct target first = target;
    for (int64_t column = 0; column < pass.width; column += WINOGRAD_OUTPUTS) {
        int64_t x = least(column, pass.width - WINOGRAD_OUTPUTS), result = pool ? x / 2 : x;
        tile.at = x * channels;
        target.dst = first.dst + result * VEC;
        if (target.winners != NULL)
            target.winners = first.winners + result * VEC;
        compute_tile(kernel, channels, pool, tile, finish, target);
    }
}

/* Of a sample: its first tap, and where its results go. */
struct place {
    const float *src;
    float *dst;
    uint8_t *winners; /* NULL if not wanted */
};

/* Where the results of a vector of channels go, from row y of the outputs on. */
INLINE struct target target_at(
    struct pass pass, bool pool, struct place place, int64_t vector, int64_t y)
{
    int64_t size = pool ? 2 : 1;
    struct target target = {
        .dst = place.dst + vector * pass.dst_plane + y / size * pass.dst_row,
        .dst_row = pass.dst_row,
        .winners_row = pass.shape.result.w * VEC,
        .rows = WINOGRAD_OUTPUTS / size,
        .columns = WINOGRAD_OUTPUTS / size,
    };
    if (place.winners != NULL)
        target.winners = place.winners + vector * pass.winner_plane + y / size * target.winners_row;
    return target;
}

INLINE void compute_sample(struct pass pass, int kernel, int64_t channels, bool pool,
    const float *transformed, const float *bias, struct place place, float *scratch)
{
    int64_t points = winograd_points(kernel, false);
    float *values = scratch + WINOGRAD_POINTS * pass.inputs;
    for (int64_t row = 0; row < pass.height; row += WINOGRAD_OUTPUTS) {
        int64_t y = least(row, pass.height - WINOGRAD_OUTPUTS);
        transform_row(pass, kernel, channels, place.src + y * pass.src_row, scratch, values);
        for (int64_t v = 0; v < pass.shape.out.c / VEC; v++) {
            struct tile tile = {values, 0, transformed + v * points * points * channels * VEC};
            struct finish finish = {vec_load(bias + v * VEC), vec_zero()};
            compute_row(
                pass, kernel, channels, pool, tile, finish, target_at(pass, pool, place, v, y));
        }
    }
}

typedef void sample_function(struct pass pass, const float *transformed, const float *bias,
    struct place place, float *scratch);

#define SAMPLE(name, kernel, channels, pool)                                                       \
    static void name(struct pass pass, const float *transformed, const float *bias,                \
        struct place place, float *scratch)                                                        \
    {                                                                                              \
        compute_sample(pass, kernel, channels, pool, transformed, bias, place, scratch);           \
    }
SAMPLE(gray_5_pool, 5, 1, true)
SAMPLE(colour_5, 5, 3, false)
SAMPLE(colour_5_pool, 5, 3, true)
SAMPLE(colour_3_pool, 3, 3, true)

static sample_function *choose(const struct conv_shape *shape)
{
    if (shape->kernel_h == 3)
        return colour_3_pool;
    if (shape->in.c == 1)
        return gray_5_pool;
    return shape->pool ? colour_5_pool : colour_5;
}

void ISA(winograd_thin_forward)(const struct conv_shape *shape, int64_t count,
    const float *transformed, const float *bias, const float *src, float *dst, uint8_t *winners,
    float *scratch)
{
    struct pass pass = pass_of(shape);
    sample_function *compute = choose(shape);
    struct place place = {
        .src = src + dtr_layout_origin(shape->in, shape->src) - shape->pad_top * pass.src_row -
               shape->pad_left * shape->src.block,
        .dst = dst + dtr_layout_origin(shape->result, shape->dst),
        .winners = winners,
    };
    for (int64_t i = 0; i < count; i++) {
        compute(pass, transformed, bias, place, scratch);
        place.src += dtr_layout_sample(shape->in, shape->src);
        place.dst += dtr_layout_sample(shape->result, shape->dst);
        if (winners != NULL)
            place.winners += shape->out.c / VEC * pass.winner_plane;
    }
}
