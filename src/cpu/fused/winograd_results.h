/*
 * What becomes of a batch's products in Winograd's convolution: outputs, which are pooled, biased,
 * rectified and stored; tile by tile, or, of tiles of 7x7, sample by sample. Private to winograd.c.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_RESULTS_H
#define DTRAIN_CPU_FUSED_WINOGRAD_RESULTS_H

#include "winograd_batch.h"
#include "winograd_tile.h"

#include <math.h>

struct results {
    const struct batch *batch;
    const float *bias; /* [out.c]; NULL in the backward pass, that has no ReLU either */
    float *dst;        /* of the pass */
    uint8_t *winners;  /* NULL if not wanted */
};

/* Where a tile's results go, of output vector `first`; or, where tiles are 7x7, all of its
 * sample's: windows reach over several. */
static struct target target_of(
    const struct results *results, const struct tile *tile, int64_t first)
{
    const struct winograd *w = results->batch->w;
    const struct conv_shape *shape = &w->shape;
    struct dtr_shape result = shape->result;
    int64_t size = is_seven(w)   ? most(result.h, result.w)
                   : shape->pool ? WINOGRAD_OUTPUTS / 2
                                 : WINOGRAD_OUTPUTS;
    int64_t y = tile->row * size, x = tile->column * size;
    int64_t row = dtr_layout_row(result, shape->dst);
    struct target target = {
        .dst = results->dst + tile->sample * dtr_layout_sample(result, shape->dst) +
               first * dtr_layout_plane(result, shape->dst) +
               dtr_layout_origin(result, shape->dst) + y * row + x * VEC,
        .dst_row = row,
        .winners_row = result.w * VEC,
        .rows = least(size, result.h - y),
        .columns = least(size, result.w - x),
    };
    int64_t plane = tile->sample * (shape->out.c / VEC) + first;
    if (results->winners != NULL)
        target.winners = results->winners + ((plane * result.h + y) * result.w + x) * VEC;
    return target;
}

static inline struct finish finish_of(const struct results *results, int64_t output_vector)
{
    if (results->bias == NULL)
        return (struct finish){vec_zero(), vec_all(-INFINITY)};
    return (struct finish){vec_load(results->bias + output_vector * VEC), vec_zero()};
}

/* The `pairs` of output vectors from pair `first` on. */
INLINE void finish_pairs(int kernel, bool pool, const struct results *results,
    const struct tile *tile, int64_t first, int64_t pairs, const float *products)
{
    const struct winograd *w = results->batch->w;
    bool narrow_row = in_narrow_row(w, *tile), narrow_column = in_narrow_column(w, *tile);
    int64_t end = least(2 * (first + pairs), w->shape.out.c / VEC), stride = products_stride(w);
    int64_t dst_plane = dtr_layout_plane(w->shape.result, w->shape.dst);
    struct target target = target_of(results, tile, 2 * first);
    for (int64_t v = 2 * first; v < end; v++) {
        finish_tile(kernel, narrow_row, narrow_column, pool, products, stride,
            finish_of(results, v), target);
        target.dst += dst_plane;
        if (target.winners != NULL)
            target.winners += w->shape.result.h * target.winners_row;
        products += v % 2 == 0 ? VEC : points_of(w) * stride - VEC;
    }
}

/* All results of a sample, a vector of channels, from a plane of outputs. */
INLINE void store_plane(
    bool pool, const float *plane, int64_t plane_row, struct finish finish, struct target target)
{
    int64_t size = pool ? 2 : 1;
    for (int64_t y = 0; y < target.rows; y++, plane += size * plane_row) {
        struct target place = target;
        for (int64_t x = 0; x < target.columns; x++) {
            vec above[2], below[2];
            UNROLL for (int i = 0; i < size; i++) above[i] = vec_load(plane + (size * x + i) * VEC);
            if (pool) {
                UNROLL for (int i = 0; i < 2; i++)
                    below[i] = vec_load(plane + plane_row + (2 * x + i) * VEC);
                store_pooled(2, above, below, finish, place);
            } else {
                store_outputs(1, above, finish, place);
            }
            place.dst += VEC;
            if (place.winners != NULL)
                place.winners += VEC;
        }
        target.dst += target.dst_row;
        if (target.winners != NULL)
            target.winners += target.winners_row;
    }
}

/* One pair of output vectors of tiles of 7x7, whose windows reach over several. */
static void finish_sevens(
    const struct results *results, int64_t pair, const float *products, float *plane)
{
    const struct winograd *w = results->batch->w;
    int64_t end = least(2 * pair + 2, w->shape.out.c / VEC), stride = products_stride(w);
    int64_t plane_row = w->columns * SEVEN_OUTPUTS * VEC, tiles = w->rows * w->columns;
    struct tile tile = results->batch->first;
    for (int64_t i = 0; i < results->batch->count; i += tiles, tile.sample++) {
        for (int64_t v = 2 * pair; v < end; v++) {
            for (int64_t t = 0; t < tiles; t++)
                seven_finish_tile(products + ((i + t) * 2 + v % 2) * VEC, stride,
                    plane + t / w->columns * SEVEN_OUTPUTS * plane_row +
                        t % w->columns * SEVEN_OUTPUTS * VEC,
                    plane_row);
            if (w->shape.pool)
                store_plane(
                    true, plane, plane_row, finish_of(results, v), target_of(results, &tile, v));
            else
                store_plane(
                    false, plane, plane_row, finish_of(results, v), target_of(results, &tile, v));
        }
    }
}

static void finish_batch(const struct results *results, int64_t first, int64_t pairs,
    const float *products, float *plane)
{
    const struct winograd *w = results->batch->w;
    if (is_seven(w)) {
        finish_sevens(results, first, products, plane);
        return;
    }
    int64_t next[KINDS];
    memcpy(next, results->batch->begin, sizeof next);
    struct tile tile = results->batch->first;
    for (int64_t i = 0; i < results->batch->count; i++, tile = next_tile(w, tile)) {
        const float *from = products + next[kind_of(w, tile)]++ * 2 * VEC;
        if (w->kernel == 3 && w->shape.pool)
            finish_pairs(3, true, results, &tile, first, pairs, from);
        else if (w->kernel == 3)
            finish_pairs(3, false, results, &tile, first, pairs, from);
        else if (w->shape.pool)
            finish_pairs(5, true, results, &tile, first, pairs, from);
        else
            finish_pairs(5, false, results, &tile, first, pairs, from);
    }
}

#endif
