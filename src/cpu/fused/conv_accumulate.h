/*
 * Where the sparse backward pass of a convolution spends its time: the sums of a few taps stay in
 * registers while a list of gradients runs through them. Private to src/cpu/fused/.
 */
#ifndef DTRAIN_CPU_FUSED_CONV_ACCUMULATE_H
#define DTRAIN_CPU_FUSED_CONV_ACCUMULATE_H

#include "compress.h"
#include "conv_lists.h"

/* A tile is `rows` rows of `columns` vectors; with a gradient it fills the registers. */
enum { TILE_VECTORS = VEC_REGISTERS - 1, TILE_ROWS = 7, TILE_COLUMNS = 7 };

enum tile_kind {
    TILE_GO_ON,      /* terms are added one after another to what is there */
    TILE_GO_ON_HALF, /* of the only column, the first half of the vector: the rest is undefined */
    TILE_SLIDE,      /* each list's taps lie one column further: a column's terms are added up while
                        the tile slides over it, and their sum to what is there */
};

struct conv_tile {
    struct conv_entries entries;
    const float *from;      /* an entry's factors begin `at` * unit floats further on ... */
    int64_t unit, from_row; /* ... and their rows lie so far apart */
    float *to;      /* a list's sums; its rows follow one another, but with TILE_SLIDE ... */
    int64_t to_row; /* ... they lie so far apart */
    bool from_zero; /* nothing is there yet; not for TILE_SLIDE */
};

/* The functions below are inlined with constant kind, rows and columns. */

/* sums += each of the entries' gradients * its factors. */
INLINE void add_terms(enum tile_kind kind, int rows, int columns, const struct conv_tile *tile,
    struct conv_list list, vec sums[TILE_ROWS][TILE_COLUMNS])
{
    const int32_t *at = tile->entries.at + list.first;
    const float *gradients = tile->entries.gradients + list.first;
    for (int64_t i = 0; i < list.count; i++) {
        const float *from = tile->from + at[i] * tile->unit;
        const vec gradient = vec_all(gradients[i]);
        UNROLL for (int r = 0; r < rows; r++, from += tile->from_row)
            UNROLL for (int c = 0; c < columns; c++)
        {
            const vec factor = kind == TILE_GO_ON_HALF ? vec_load_half(from + c * VEC)
                                                       : vec_load(from + c * VEC);
            sums[r][c] = vec_fma(gradient, factor, sums[r][c]);
        }
    }
}

INLINE void accumulate_list(
    enum tile_kind kind, int rows, int columns, const struct conv_tile *tile, struct conv_list list)
{
    vec sums[TILE_ROWS][TILE_COLUMNS];
    float *to = tile->to + list.to;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < columns; c++)
        sums[r][c] = tile->from_zero ? vec_zero() : vec_load(to + (r * columns + c) * VEC);
    add_terms(kind, rows, columns, tile, list, sums);
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < columns; c++)
        vec_store(to + (r * columns + c) * VEC, sums[r][c]);
}

/* The first column's sums go to memory, the others move up. */
INLINE void slide(
    int rows, int columns, int64_t to_row, float *to, vec sums[TILE_ROWS][TILE_COLUMNS])
{
    UNROLL for (int r = 0; r < rows; r++)
    {
        vec_store(to + r * to_row, vec_load(to + r * to_row) + sums[r][0]);
        UNROLL for (int c = 1; c < columns; c++) sums[r][c - 1] = sums[r][c];
        sums[r][columns - 1] = vec_zero();
    }
}

/* The lists of a row of outputs. */
INLINE void slide_along_row(int rows, int columns, const struct conv_tile *tile,
    const struct conv_list *lists, int64_t count)
{
    vec sums[TILE_ROWS][TILE_COLUMNS];
    float *to = tile->to + lists->to;
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int c = 0; c < columns; c++)
        sums[r][c] = vec_zero();
    for (int64_t i = 0; i < count; i++, to += VEC) {
        add_terms(TILE_SLIDE, rows, columns, tile, lists[i], sums);
        slide(rows, columns, tile->to_row, to, sums);
    }
    UNROLL for (int c = 1; c < columns; c++, to += VEC)
        slide(rows, columns, tile->to_row, to, sums);
}

INLINE void accumulate_lists(enum tile_kind kind, int rows, int columns, struct conv_tile tile,
    const struct conv_list *lists, int64_t count)
{
    if (kind == TILE_SLIDE) {
        slide_along_row(rows, columns, &tile, lists, count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        accumulate_list(kind, rows, columns, &tile, lists[i]);
}

#define CASE(rows, columns)                                                                        \
    case 8 * (rows) + (columns):                                                                   \
        if ((rows) * (columns) <= TILE_VECTORS && ((columns) == 1 || kind != TILE_GO_ON_HALF))     \
            accumulate_lists(kind, rows, columns, tile, lists, count);                             \
        break;
#define CASES(rows)                                                                                \
    CASE(rows, 1)                                                                                  \
    CASE(rows, 2)                                                                                  \
    CASE(rows, 3)                                                                                  \
    CASE(rows, 4)                                                                                  \
    CASE(rows, 5)                                                                                  \
    CASE(rows, 6)                                                                                  \
    CASE(rows, 7)

INLINE void accumulate_tile(enum tile_kind kind, int64_t rows, int64_t columns,
    struct conv_tile tile, const struct conv_list *lists, int64_t count)
{
    switch (8 * rows + columns) {
        CASES(1)
        CASES(2)
        CASES(3)
        CASES(4)
        CASES(5)
        CASES(6)
        CASES(7)
    }
}

#undef CASES
#undef CASE

/* Every list's entries times their factors. rows * columns is at most TILE_VECTORS. */
static void conv_accumulate(enum tile_kind kind, int64_t rows, int64_t columns,
    struct conv_tile tile, const struct conv_list *lists, int64_t count)
{
    switch (kind) {
    case TILE_GO_ON:
        accumulate_tile(TILE_GO_ON, rows, columns, tile, lists, count);
        break;
    case TILE_GO_ON_HALF:
        accumulate_tile(TILE_GO_ON_HALF, rows, columns, tile, lists, count);
        break;
    case TILE_SLIDE:
        accumulate_tile(TILE_SLIDE, rows, columns, tile, lists, count);
        break;
    }
}

#endif
