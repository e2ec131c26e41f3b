/*
 * The two-dimensional transforms of Winograd's convolution, one vector of channels at a time: first
 * along the columns, then along the rows. Inlined with constant `kernel`; the points of a tile are
 * [row][column], of which narrow tiles lack the last two rows or columns. `stride` is the floats
 * from a point to the next. Private to winograd.c and winograd_thin.c.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_TILE_H
#define DTRAIN_CPU_FUSED_WINOGRAD_TILE_H

#include "pool.h"
#include "winograd_transform.h"

/* Taps [kernel][kernel], tap_stride floats apart. */
INLINE void transform_kernel(
    int kernel, const float *taps, int64_t tap_stride, float *to, int64_t stride)
{
    vec half[WINOGRAD_POINTS][5];
    int points = winograd_points(kernel, false);
    for (int x = 0; x < kernel; x++) {
        vec column[5], values[WINOGRAD_POINTS];
        UNROLL for (int y = 0; y < kernel; y++)
            column[y] = vec_load(taps + (y * kernel + x) * tap_stride);
        winograd_kernels(kernel, column, values);
        UNROLL for (int i = 0; i < points; i++) half[i][x] = values[i];
    }
    for (int i = 0; i < points; i++) {
        vec values[WINOGRAD_POINTS];
        winograd_kernels(kernel, half[i], values);
        UNROLL for (int j = 0; j < points; j++)
            vec_store(to + (i * points + j) * stride, values[j]);
    }
}

INLINE void transform_columns(int kernel, bool narrow, int columns, const float *src,
    int64_t src_row, vec half_out[WINOGRAD_POINTS][WINOGRAD_POINTS])
{
    int points = winograd_points(kernel, narrow);
    for (int x = 0; x < columns; x++) {
        vec column[WINOGRAD_POINTS], values[WINOGRAD_POINTS];
        UNROLL for (int y = 0; y < points; y++) column[y] = vec_load(src + y * src_row + x * VEC);
        winograd_sources(kernel, narrow, column, values);
        UNROLL for (int i = 0; i < points; i++) half_out[i][x] = values[i];
    }
}

INLINE void transform_rows(int kernel, bool narrow, int rows,
    vec half[WINOGRAD_POINTS][WINOGRAD_POINTS], float *to, int64_t stride)
{
    int points = winograd_points(kernel, narrow), all = winograd_points(kernel, false);
    for (int i = 0; i < rows; i++) {
        vec values[WINOGRAD_POINTS];
        winograd_sources(kernel, narrow, half[i], values);
        UNROLL for (int j = 0; j < points; j++) vec_store(to + (i * all + j) * stride, values[j]);
    }
}

/* A tile's source: rows src_row floats apart. */
INLINE void transform_source(int kernel, bool narrow_row, bool narrow_column, const float *src,
    int64_t src_row, float *to, int64_t stride)
{
    vec half[WINOGRAD_POINTS][WINOGRAD_POINTS];
    int rows = winograd_points(kernel, narrow_row);
    int columns = winograd_points(kernel, narrow_column);
    if (narrow_row)
        transform_columns(kernel, true, columns, src, src_row, half);
    else
        transform_columns(kernel, false, columns, src, src_row, half);
    if (narrow_column)
        transform_rows(kernel, true, rows, half, to, stride);
    else
        transform_rows(kernel, false, rows, half, to, stride);
}

/* What becomes of a vector's outputs: the larger one of output + bias and floor, a NaN stays. */
struct finish {
    vec bias, floor;
};

/* Where a tile's results go. */
struct target {
    float *dst;
    uint8_t *winners;             /* NULL if not wanted */
    int64_t dst_row, winners_row; /* floats, bytes */
    int64_t rows, columns;        /* that exist: a tile may reach beyond */
};

/* A row of up to `count` outputs. */
INLINE void store_outputs(int count, const vec *outputs, struct finish finish, struct target target)
{
    UNROLL for (int x = 0; x < count; x++)
    {
        if (x < target.columns)
            vec_store(target.dst + x * VEC, vec_max(finish.floor, outputs[x] + finish.bias));
    }
}

/* Half as many windows; all exist, as the last column is not computed where a pool leaves it out.
 */
INLINE void store_pooled(
    int count, const vec *above, const vec *below, struct finish finish, struct target target)
{
    UNROLL for (int x = 0; x < count / 2; x++)
    {
        vec window[4] = {above[2 * x], above[2 * x + 1], below[2 * x], below[2 * x + 1]};
        ivec winner;
        vec result = pool_window(window, &winner);
        vec_store(target.dst + x * VEC, vec_max(finish.floor, result + finish.bias));
        if (target.winners != NULL)
            ivec_store_bytes(target.winners + x * VEC, winner);
    }
}

INLINE void finish_columns(int kernel, bool narrow, int columns, const float *products,
    int64_t stride, vec half_out[WINOGRAD_OUTPUTS][WINOGRAD_POINTS])
{
    int points = winograd_points(kernel, narrow), all = winograd_points(kernel, false);
    int outputs = narrow ? WINOGRAD_NARROW : WINOGRAD_OUTPUTS;
    for (int x = 0; x < columns; x++) {
        vec column[WINOGRAD_POINTS], values[WINOGRAD_OUTPUTS];
        UNROLL for (int i = 0; i < points; i++)
            column[i] = vec_load(products + (i * all + x) * stride);
        winograd_results(kernel, narrow, column, values);
        UNROLL for (int y = 0; y < outputs; y++) half_out[y][x] = values[y];
    }
}

INLINE void finish_rows(int kernel, bool narrow, bool pool,
    vec half[WINOGRAD_OUTPUTS][WINOGRAD_POINTS], struct finish finish, struct target target)
{
    int outputs = narrow ? WINOGRAD_NARROW : WINOGRAD_OUTPUTS;
    for (int64_t y = 0; y < target.rows; y++) {
        vec above[WINOGRAD_OUTPUTS], below[WINOGRAD_OUTPUTS];
        if (pool) {
            winograd_results(kernel, narrow, half[2 * y], above);
            winograd_results(kernel, narrow, half[2 * y + 1], below);
            store_pooled(outputs, above, below, finish, target);
        } else {
            winograd_results(kernel, narrow, half[y], above);
            store_outputs(outputs, above, finish, target);
        }
        target.dst += target.dst_row;
        if (target.winners != NULL)
            target.winners += target.winners_row;
    }
}

/* A tile's results from its products. */
INLINE void finish_tile(int kernel, bool narrow_row, bool narrow_column, bool pool,
    const float *products, int64_t stride, struct finish finish, struct target target)
{
    vec half[WINOGRAD_OUTPUTS][WINOGRAD_POINTS];
    int columns = winograd_points(kernel, narrow_column);
    if (narrow_row)
        finish_columns(kernel, true, columns, products, stride, half);
    else
        finish_columns(kernel, false, columns, products, stride, half);
    if (narrow_column)
        finish_rows(kernel, true, pool, half, finish, target);
    else
        finish_rows(kernel, false, pool, half, finish, target);
}

#endif
