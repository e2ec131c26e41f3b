/*
 * Gradients are looked at a vector at a time, and those that are zero squeezed out: without
 * branches, as which ones are is hard to predict.
 */
#include "conv_lists.h"
#include "compress.h"

/* The gradient where the result is not <= 0 (so that a NaN passes), else zero. */
INLINE vec passing(const float *result, const float *gradient)
{
    return vec_select(vec_load(result) <= vec_zero(), vec_zero(), vec_load(gradient));
}

/* Writes VEC entries, those first whose bits are set; returns how many these are. */
INLINE int64_t append(
    uint32_t bits, ivec at, vec gradients, int64_t first, struct conv_entries entries_out)
{
    const ivec chosen = ivec_bit_numbers(bits), chosen_at = ivec_choose(at, chosen);
    memcpy(entries_out.at + first, &chosen_at, sizeof chosen_at);
    vec_store(entries_out.gradients + first, vec_choose(gradients, chosen));
    return __builtin_popcount(bits);
}

/* A row of results of a block of output channels, and how far the channels' lists have come. */
struct channels {
    const float *dst, *diff_dst;
    const uint8_t *winners;
    int64_t at; /* the first result's first tap */
    vec bias;
    int64_t next[VEC];
};

/* Results [x, x + VEC), as far as there are. */
INLINE void list_tile(const struct conv_sizes *sizes, int64_t x, bool pool,
    struct channels *channels, struct conv_entries entries)
{
    const int32_t step = (int32_t)sizes->step_x, first = (int32_t)(channels->at + x * step);
    const int32_t pixel = (int32_t)sizes->shape->src.block, row = (int32_t)sizes->src_row;
    vec gradients[VEC], at[VEC]; /* [result][channel], then [channel][result] */
    UNROLL for (int i = 0; i < VEC; i++)
    {
        gradients[i] = at[i] = vec_zero();
        if (x + i < sizes->shape->result.w) {
            const int64_t result = (x + i) * VEC;
            gradients[i] = passing(channels->dst + result, channels->diff_dst + result);
            channels->bias += gradients[i];
            if (pool) {
                const ivec winners = ivec_load_bytes(channels->winners + result);
                at[i] = (vec)((-(winners & 1) & pixel) + (-(winners >> 1) & row));
            }
        }
    }
    vec_transpose(gradients);
    if (pool)
        vec_transpose(at);
    UNROLL for (int i = 0; i < VEC; i++)
    {
        const uint32_t bits = vec_bits(gradients[i] != vec_zero());
        const ivec places = (ivec)at[i] + ivec_numbers() * step + first;
        channels->next[i] += append(bits, places, gradients[i], channels->next[i], entries);
    }
}

INLINE void list_block(const struct conv_sizes *sizes, const struct conv_band *band, int64_t block,
    bool pool, struct conv_entries entries_out, struct conv_list *lists_out, float *bias)
{
    const int64_t width = sizes->shape->result.w;
    struct channels channels = {.bias = vec_load(bias + block * VEC)};
    for (int i = 0; i < VEC; i++)
        channels.next[i] = (block * VEC + i) * sizes->capacity;
    for (int64_t sample = 0; sample < band->samples; sample++) {
        for (int64_t y = band->begin; y < band->end; y++) {
            const int64_t row = sample * sizes->dst_sample + block * sizes->dst_plane +
                                sizes->dst_origin + y * sizes->dst_row;
            channels.dst = band->dst + row;
            channels.diff_dst = band->diff_dst + row;
            if (pool)
                channels.winners = band->winners + sample * sizes->winners_sample +
                                   block * sizes->winners_plane + y * width * VEC;
            channels.at = sizes->corner + sample * sizes->src_sample + y * sizes->step_y;
            for (int64_t x = 0; x < width; x += VEC)
                list_tile(sizes, x, pool, &channels, entries_out);
        }
    }
    vec_store(bias + block * VEC, channels.bias);
    for (int i = 0; i < VEC; i++) {
        const int64_t channel = block * VEC + i, first = channel * sizes->capacity;
        lists_out[channel] = (struct conv_list){
            first, channels.next[i] - first, channel * sizes->taps};
    }
}

void ISA(conv_list_channels)(const struct conv_sizes *sizes, const struct conv_band *band,
    int64_t first_block, int64_t end_block, struct conv_entries entries_out,
    struct conv_list *lists_out, float *bias)
{
    for (int64_t block = first_block; block < end_block; block++) {
        if (sizes->shape->pool)
            list_block(sizes, band, block, true, entries_out, lists_out, bias);
        else
            list_block(sizes, band, block, false, entries_out, lists_out, bias);
    }
}

/* All channels of a result, the distances between blocks being the planes'. */
struct result {
    const float *dst, *diff_dst;
    const uint8_t *winners;
};

/* bits_out[position][block]: the channels that have a gradient there. */
INLINE void find_gradients(
    const struct conv_sizes *sizes, struct result result, int64_t blocks, uint32_t *bits_out)
{
    for (int64_t block = 0; block < blocks; block++, bits_out++) {
        const int64_t at = block * sizes->dst_plane;
        const uint32_t bits = vec_bits(
            passing(result.dst + at, result.diff_dst + at) != vec_zero());
        if (sizes->positions == 1) {
            *bits_out = bits;
            continue;
        }
        const ivec winners = ivec_load_bytes(result.winners + block * sizes->winners_plane);
        const uint32_t right = vec_bits(-(winners & 1)), lower = vec_bits(-(winners >> 1));
        bits_out[0] = bits & ~lower & ~right;
        bits_out[blocks] = bits & ~lower & right;
        bits_out[2 * blocks] = bits & lower & ~right;
        bits_out[3 * blocks] = bits & lower & right;
    }
}

/* Appends the channels whose bits [block] are set; returns how many. */
INLINE int64_t list_result(const struct conv_sizes *sizes, struct result result, int64_t blocks,
    const uint32_t *bits, int64_t first, struct conv_entries entries_out)
{
    int64_t end = first;
    for (int64_t block = 0; block < blocks; block++)
        end += append(bits[block], ivec_numbers() + (int32_t)(block * VEC),
            vec_load(result.diff_dst + block * sizes->dst_plane), end, entries_out);
    return end - first;
}

void ISA(conv_list_positions)(const struct conv_sizes *sizes, const struct conv_band *band,
    uint32_t *bits, struct conv_entries entries_out, struct conv_list *lists_out)
{
    const struct conv_shape *shape = sizes->shape;
    const int64_t blocks = shape->out.c / VEC, width = shape->result.w, step = shape->pool ? 2 : 1;
    int64_t first = 0;
    for (int64_t i = band->begin * width; i < band->end * width; i++) {
        const int64_t y = i / width, x = i % width;
        const int64_t at = sizes->dst_origin + y * sizes->dst_row + x * VEC;
        const struct result result = {.dst = band->dst + at,
            .diff_dst = band->diff_dst + at,
            .winners = shape->pool ? band->winners + i * VEC : NULL};
        find_gradients(sizes, result, blocks, bits);
        for (int64_t position = 0; position < sizes->positions; position++) {
            const int64_t row = position / 2, column = step * x + position % 2;
            const int64_t count = list_result(
                sizes, result, blocks, bits + position * blocks, first, entries_out);
            lists_out[(step * (y - band->begin) + row) * step * width + column] =
                (struct conv_list){first, count,
                    sizes->corner + y * sizes->step_y + row * sizes->src_row +
                        column * shape->src.block};
            first += count;
        }
    }
}
