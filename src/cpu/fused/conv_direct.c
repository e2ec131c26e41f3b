/*
 * The taps of a kernel row, [kernel_w][in.c], are neighbours in the kernel as in the source, so
 * they are one row of kernel_w * in.c taps; outputs side by side lie in.c floats apart.
 */
#include "conv_direct.h"
#include "pool.h"

/*
 * A tile: outputs x vectors of output channels, whose sums are in registers. Half of the registers
 * hold sums: enough to hide the latency of vec_fma.
 */
enum {
    SUMS = VEC_REGISTERS / 2,
    MOST_VECTORS = SUMS < 8 ? 1 : 2,
    MOST_OUTPUTS = 8,
};

struct pass {
    struct dtr_shape result;
    int64_t out_channels, kernel_h;
    int64_t taps;         /* of a kernel row */
    int64_t src_row;      /* floats, as all that follow */
    int64_t dst_row;      /* from a row of results to the next */
    int64_t dst_plane;    /* from a vector of channels to the next */
    int64_t winner_plane; /* bytes */
};

/* Of a sample, and then of a tile: its first tap, channel and result. */
struct place {
    const float *kernel; /* [kernel_h][taps][out.c] */
    const float *bias;   /* [out.c] */
    const float *src;
    float *dst;
    uint8_t *winners; /* NULL if not wanted */
};

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t at_least_zero(int64_t a)
{
    return a < 0 ? 0 : a;
}

struct dtr_layout ISA(conv_direct_layout)(const struct conv_shape *shape)
{
    int64_t channels = shape->in.c;
    int64_t row_pixels = shape->out.w - 1 + (thin_row(shape) + channels - 1) / channels;
    int64_t rows = shape->out.h - 1 + shape->kernel_h;
    return (struct dtr_layout){
        .block = channels,
        .top = shape->pad_top,
        .left = shape->pad_left,
        .bottom = at_least_zero(rows - shape->pad_top - shape->in.h),
        .right = at_least_zero(row_pixels - shape->pad_left - shape->in.w),
    };
}

/*
 * The functions below are inlined with constant sizes, `channels` (in.c) too where that is usual:
 * one text, several machine codes. They take structures by value, as otherwise a store of winners
 * might change them for all that the compiler knows.
 */

/* sums[row][column][vector] of rows x columns outputs. */
INLINE void sum_tile(struct pass pass, int64_t channels, int rows, int columns, int vectors,
    const float *src, const float *kernel, vec sums[MOST_OUTPUTS * MOST_VECTORS])
{
    int outputs = rows * columns;
    UNROLL for (int i = 0; i < outputs * vectors; i++) sums[i] = vec_zero();
    for (int64_t kernel_row = 0; kernel_row < pass.kernel_h; kernel_row++) {
        for (int64_t tap = 0; tap < pass.taps; tap++, kernel += pass.out_channels) {
            vec weights[MOST_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) weights[v] = vec_load(kernel + v * VEC);
            UNROLL for (int o = 0; o < outputs; o++)
            {
                vec x = vec_all(src[o / columns * pass.src_row + o % columns * channels + tap]);
                UNROLL for (int v = 0; v < vectors; v++)
                    sums[o * vectors + v] = vec_fma(x, weights[v], sums[o * vectors + v]);
            }
        }
        src += pass.src_row;
    }
}

/* `results` of them side by side. */
INLINE void compute_tile(
    struct pass pass, int64_t channels, bool pool, int results, int vectors, struct place place)
{
    vec sums[MOST_OUTPUTS * MOST_VECTORS];
    int step = pool ? 2 : 1, columns = step * results;
    sum_tile(pass, channels, step, columns, vectors, place.src, place.kernel, sums);
    UNROLL for (int i = 0; i < vectors * results; i++)
    {
        int v = i / results, r = i % results;
        vec *above = sums + step * r * vectors + v, *below = above + columns * vectors;
        vec result = *above;
        if (pool) {
            vec window[4] = {above[0], above[vectors], below[0], below[vectors]};
            ivec winner;
            result = pool_window(window, &winner);
            if (place.winners != NULL)
                ivec_store_bytes(place.winners + v * pass.winner_plane + r * VEC, winner);
        }
        vec bias = vec_load(place.bias + v * VEC);
        vec_store(place.dst + v * pass.dst_plane + r * VEC, vec_relu(result + bias));
    }
}

INLINE struct place result_at(
    struct pass pass, int64_t channels, bool pool, int64_t y, int64_t x, struct place sample)
{
    sample.src += (pool ? 2 : 1) * (y * pass.src_row + x * channels);
    sample.dst += y * pass.dst_row + x * VEC;
    if (sample.winners != NULL)
        sample.winners += (y * pass.result.w + x) * VEC;
    return sample;
}

/* All results of some vectors of channels. A row's last tile ends with the row: results that it
 * shares with the one before are computed twice, the same way. */
INLINE void compute_channels(
    struct pass pass, int64_t channels, bool pool, int vectors, struct place place)
{
    int outputs = SUMS / vectors < MOST_OUTPUTS ? SUMS / vectors : MOST_OUTPUTS;
    int results = pool ? outputs / 4 : outputs;
    int64_t width = pass.result.w;
    for (int64_t y = 0; y < pass.result.h; y++) {
        if (width >= results) {
            for (int64_t x = 0; x < width; x += results)
                compute_tile(pass, channels, pool, results, vectors,
                    result_at(pass, channels, pool, y, least(x, width - results), place));
        } else {
            for (int64_t x = 0; x < width; x++)
                compute_tile(
                    pass, channels, pool, 1, vectors, result_at(pass, channels, pool, y, x, place));
        }
    }
}

INLINE struct place channel_at(struct pass pass, int64_t channel, struct place place)
{
    place.kernel += channel;
    place.bias += channel;
    place.dst += channel / VEC * pass.dst_plane;
    if (place.winners != NULL)
        place.winners += channel / VEC * pass.winner_plane;
    return place;
}

INLINE void compute_sample(struct pass pass, int64_t channels, bool pool, struct place place)
{
    int64_t channel = 0, end = pass.out_channels;
    for (; channel + MOST_VECTORS * VEC <= end; channel += MOST_VECTORS * VEC)
        compute_channels(pass, channels, pool, MOST_VECTORS, channel_at(pass, channel, place));
    for (; channel < end; channel += VEC)
        compute_channels(pass, channels, pool, 1, channel_at(pass, channel, place));
}

/* Gray and coloured images with a pool or without, and all others. */
static void choose(struct pass pass, int64_t channels, bool pool, struct place place)
{
    if (channels == 1 && pool)
        compute_sample(pass, 1, true, place);
    else if (channels == 1)
        compute_sample(pass, 1, false, place);
    else if (channels == 3 && pool)
        compute_sample(pass, 3, true, place);
    else if (channels == 3)
        compute_sample(pass, 3, false, place);
    else if (pool)
        compute_sample(pass, channels, true, place);
    else
        compute_sample(pass, channels, false, place);
}

void ISA(conv_direct_forward)(const struct conv_shape *shape, int64_t count, const float *kernel,
    const float *bias, const float *src, float *dst, uint8_t *winners)
{
    struct pass pass = {
        .result = shape->result,
        .out_channels = shape->out.c,
        .kernel_h = shape->kernel_h,
        .taps = shape->kernel_w * shape->in.c,
        .src_row = dtr_layout_row(shape->in, shape->src),
        .dst_row = dtr_layout_row(shape->result, shape->dst),
        .dst_plane = dtr_layout_plane(shape->result, shape->dst),
        .winner_plane = shape->result.h * shape->result.w * VEC,
    };
    struct place place = {
        .kernel = kernel,
        .bias = bias,
        .src = src + dtr_layout_origin(shape->in, shape->src) - shape->pad_top * pass.src_row -
               shape->pad_left * shape->src.block,
        .dst = dst + dtr_layout_origin(shape->result, shape->dst),
        .winners = winners,
    };
    for (int64_t i = 0; i < count; i++) {
        choose(pass, shape->in.c, shape->pool, place);
        place.src += dtr_layout_sample(shape->in, shape->src);
        place.dst += dtr_layout_sample(shape->result, shape->dst);
        if (winners != NULL)
            place.winners += shape->out.c / VEC * pass.winner_plane;
    }
}
