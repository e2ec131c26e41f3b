/*
 * The products of Winograd's convolution at one point: [tiles] x [input channels] times
 * [input channels] x [one or two vectors of output channels]. Private to winograd.c.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_MULTIPLY_H
#define DTRAIN_CPU_FUSED_WINOGRAD_MULTIPLY_H

#include "vec.h"

/* Tiles x vectors whose sums are in registers, beside the kernel's vectors and a source. */
enum { MULTIPLY_VECTORS = 2, MULTIPLY_TILES = (VEC_REGISTERS - 4) / MULTIPLY_VECTORS };

/* Input channels whose products are added one by one; the sums of such chunks are then added, which
 * of many channels halves the rounding errors. */
enum { MULTIPLY_CHUNK = 64 };

struct multiply {
    int64_t channels; /* input channels */
    int64_t stride;   /* of sources, [channels / VEC][tiles][VEC]: from a block to the next */
};

/* sums += the products of some channels. */
INLINE void multiply_chunk(struct multiply size, int tiles, int vectors, const float *sources,
    const float *kernel, vec sums[MULTIPLY_TILES * MULTIPLY_VECTORS])
{
    enum { UNROLLED = 4 };
    for (int64_t block = 0; block < size.channels; block += VEC, sources += size.stride) {
        for (int quarter = 0; quarter < VEC; quarter += UNROLLED) {
            UNROLL for (int channel = quarter; channel < quarter + UNROLLED; channel++)
            {
                vec weights[MULTIPLY_VECTORS];
                UNROLL for (int v = 0; v < vectors; v++) weights[v] = vec_load(kernel + v * VEC);
                UNROLL for (int t = 0; t < tiles; t++)
                {
                    vec x = vec_all(sources[t * VEC + channel]);
                    UNROLL for (int v = 0; v < vectors; v++)
                        sums[t * vectors + v] = vec_fma(x, weights[v], sums[t * vectors + v]);
                }
                kernel += vectors * VEC;
            }
        }
    }
}

/* products[tile][MULTIPLY_VECTORS][VEC] of the first `vectors`; kernel [channels][vectors][VEC].
 * Inlined with constant tiles and vectors. */
INLINE void multiply_tiles(struct multiply size, int tiles, int vectors, const float *sources,
    const float *kernel, float *products)
{
    for (int64_t done = 0; done < size.channels; done += MULTIPLY_CHUNK) {
        struct multiply chunk = size;
        chunk.channels = size.channels - done < MULTIPLY_CHUNK ? size.channels - done
                                                               : MULTIPLY_CHUNK;
        vec sums[MULTIPLY_TILES * MULTIPLY_VECTORS];
        UNROLL for (int i = 0; i < tiles * vectors; i++) sums[i] = vec_zero();
        multiply_chunk(chunk, tiles, vectors, sources + done / VEC * size.stride,
            kernel + done * vectors * VEC, sums);
        UNROLL for (int i = 0; i < tiles * vectors; i++)
        {
            float *to = products + (i / vectors * MULTIPLY_VECTORS + i % vectors) * VEC;
            vec_store(to, done > 0 ? vec_load(to) + sums[i] : sums[i]);
        }
    }
}

/* Up to MULTIPLY_TILES tiles. */
INLINE void multiply_some(struct multiply size, int tiles, int vectors, const float *sources,
    const float *kernel, float *products)
{
#define CASE(count)                                                                                \
    case count:                                                                                    \
        if (count <= MULTIPLY_TILES)                                                               \
            multiply_tiles(                                                                        \
                size, count <= MULTIPLY_TILES ? count : 1, vectors, sources, kernel, products);    \
        break;
    switch (tiles) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
        CASE(9)
        CASE(10)
        CASE(11)
        CASE(12)
        CASE(13)
        CASE(14)
    }
#undef CASE
}

/* Any number of tiles, in groups of the same size or one more: a small one would not do justice to
 * the registers. */
static void multiply(struct multiply size, int tiles, int vectors, const float *sources,
    const float *kernel, float *products)
{
    int groups = (tiles + MULTIPLY_TILES - 1) / MULTIPLY_TILES;
    for (int group = 0; group < groups; group++) {
        int count = tiles / groups + (group < tiles % groups);
        if (vectors == MULTIPLY_VECTORS)
            multiply_some(size, count, MULTIPLY_VECTORS, sources, kernel, products);
        else
            multiply_some(size, count, 1, sources, kernel, products);
        sources += count * VEC;
        products += count * MULTIPLY_VECTORS * VEC;
    }
}

#endif
