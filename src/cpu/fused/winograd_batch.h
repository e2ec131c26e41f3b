/*
 * How Winograd's convolution divides its tiles into batches, and where the values of a batch lie:
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
 * Private to winograd.c.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_BATCH_H
#define DTRAIN_CPU_FUSED_WINOGRAD_BATCH_H

#include "winograd.h"
#include "winograd_seven.h"
#include "winograd_transform.h"

enum {
    LINE = 16, /* floats of a cache line */
    /* Sources, products and kernel of a batch shall fit into the second-level cache ... */
    CACHE_FLOATS = (VEC == 16 ? 192 : 128) * 1024,
    /* ... unless that left less than FEW_TILES to share the kernel, which comes from memory: then
     * MANY_TILES do, and all output channels are computed point by point, so that it is the sources
     * and products of only one point that have to fit. */
    FEW_TILES = 20,
    MANY_TILES = 64,
    /* Of 7x7 outputs, at most, in whole samples. */
    SEVEN_TILES = 16,
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

/* Tiles of 7x7 outputs. */
static inline bool is_seven(const struct winograd *w)
{
    return w->outputs == SEVEN_OUTPUTS;
}

static inline int64_t points_of(const struct winograd *w)
{
    int64_t points = winograd_points(w->kernel, false);
    return is_seven(w) ? SEVEN_PRODUCTS : points * points;
}

static inline int64_t pairs_of(const struct winograd *w)
{
    return divide_up(w->shape.out.c, 2 * VEC);
}

/* From a point to the next: an odd number of cache lines. */
static inline int64_t stride_of(int64_t floats)
{
    return (divide_up(floats, LINE) | 1) * LINE;
}

static inline int64_t kernel_stride(const struct winograd *w)
{
    return stride_of(w->shape.in.c * 2 * VEC);
}

static inline int64_t sources_stride(const struct winograd *w)
{
    return stride_of(w->shape.in.c * w->batch);
}

static inline int64_t products_stride(const struct winograd *w)
{
    return stride_of(w->batch * 2 * VEC);
}

/* Outputs of a vector of channels of a sample, in whole tiles of 7x7; 0 where tiles are smaller. */
static inline int64_t plane_floats(const struct winograd *w)
{
    return is_seven(w) ? w->rows * w->columns * SEVEN_OUTPUTS * SEVEN_OUTPUTS * VEC : 0;
}

static inline void choose_batch(struct winograd *w)
{
    w->together = 1;
    if (is_seven(w)) {
        int64_t tiles = w->rows * w->columns;
        w->batch = SEVEN_TILES / tiles * tiles;
        return;
    }
    int64_t cached = CACHE_FLOATS / points_of(w) - kernel_stride(w);
    int64_t per_tile = w->shape.in.c + 2 * VEC;
    w->batch = cached / per_tile;
    if (w->batch < FEW_TILES) {
        w->batch = MANY_TILES;
        w->together = pairs_of(w);
    }
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

static inline struct tile tile_at(const struct winograd *w, int64_t index)
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

static inline struct batch batch_of(const struct winograd *w, struct tile first, int64_t count)
{
    struct batch batch = {.w = w, .first = first, .count = count};
    struct tile tile = first;
    for (int64_t i = 0; i < count; i++, tile = next_tile(w, tile))
        batch.begin[kind_of(w, tile) + 1]++;
    for (int kind = 0; kind < KINDS; kind++)
        batch.begin[kind + 1] += batch.begin[kind];
    return batch;
}

#endif
