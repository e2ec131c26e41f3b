#include "dense_math.h"

#include "../../stream.h"

/* Samples whose sums are kept at a time, so that they need the kernel only once. */
enum { PASS = 4 * DENSE_BLOCK };

/* Units of a tile without dropout, four samples each; samples of a tile with it, one unit each. An
 * addition has to wait for the one before, so there are several sums; with more than 8, there are
 * not enough registers for all addresses. */
#if VEC_REGISTERS == 32
enum { TILE_UNITS = 4, LISTED_TILE = 8 };
#elif VEC_REGISTERS == 16
enum { TILE_UNITS = 3, LISTED_TILE = 8 };
#else
enum { TILE_UNITS = 1, LISTED_TILE = 4 };
#endif

/* The place in canonical order of input i of the source's memory. */
static int64_t canonical_input(const struct dense_shape *shape, int64_t i)
{
    int64_t channels = shape->in / shape->pixels, plane = shape->pixels * shape->block;
    int64_t pixel = i % plane / shape->block;
    return pixel * channels + i / plane * shape->block + i % shape->block;
}

/* The place in the slab of input i of unit 0, and the floats from there to the next unit's. */
static int64_t slab_input(const struct dense_shape *shape, int64_t i, int64_t *step_out)
{
    int64_t chunk = i / DENSE_CHUNK;
    *step_out = dense_chunk_length(shape, chunk);
    return chunk * DENSE_CHUNK * shape->out + i % DENSE_CHUNK;
}

void ISA(dense_order)(const struct dense_shape *shape, const float *canonical, float *slab)
{
    for (int64_t i = 0; i < shape->in; i++) {
        int64_t step, place = slab_input(shape, i, &step);
        const float *row = canonical + canonical_input(shape, i) * shape->out;
        for (int64_t u = 0; u < shape->out; u++)
            slab[place + u * step] = row[u];
    }
}

void ISA(dense_canonical)(const struct dense_shape *shape, const float *slab, float *canonical)
{
    for (int64_t i = 0; i < shape->in; i++) {
        int64_t step, place = slab_input(shape, i, &step);
        float *row = canonical + canonical_input(shape, i) * shape->out;
        for (int64_t u = 0; u < shape->out; u++)
            row[u] = slab[place + u * step];
    }
}

void ISA(dense_load)(const struct dense_shape *shape, int64_t samples, int64_t first, int64_t count,
    const float *src, bool shared, float *packed)
{
    for (int64_t chunk = 0; chunk < dense_chunks(shape); chunk++) {
        int64_t length = dense_chunk_length(shape, chunk);
        const float *from = src + chunk * DENSE_CHUNK;
        float *to = packed + chunk * DENSE_CHUNK * samples + first * length;
        for (int64_t s = 0; s < count; s++, from += shape->in, to += length) {
            if (shared)
                stream_floats(to, from, length);
            else
                memcpy(to, from, (size_t)length * sizeof *to);
        }
    }
    stream_end();
}

/* A block of samples on its way through the chunks. */
struct block {
    int64_t first, samples;
    float *sums;     /* [units][DENSE_BLOCK], of the samples that are listed or of all */
    uint8_t *lists;  /* [units][DENSE_BLOCK] samples that keep a unit, in rising order; the last one
                        is repeated to make it a multiple of 4 */
    uint8_t *counts; /* [units] without what is repeated */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Units in whole tiles. */
static int64_t tiled(int64_t units)
{
    return (units + TILE_UNITS - 1) / TILE_UNITS * TILE_UNITS;
}

static int64_t block_bytes(int64_t units)
{
    int64_t bytes = tiled(units) * (DENSE_BLOCK * (int64_t)(sizeof(float) + 1) + 1);
    return (bytes + 63) / 64 * 64;
}

int64_t ISA(dense_forward_bytes)(const struct dense_part *part)
{
    int64_t samples = part->samples < PASS ? part->samples : PASS;
    return dense_blocks(samples) * block_bytes(part->units);
}

static struct block block_in(
    const struct dense_part *part, int64_t first, int64_t samples, char *scratch)
{
    int64_t units = tiled(part->units);
    struct block block = {.first = first, .samples = samples, .sums = (float *)scratch};
    block.lists = (uint8_t *)(block.sums + units * DENSE_BLOCK);
    block.counts = block.lists + units * DENSE_BLOCK;
    memset(block.sums, 0, (size_t)(units * DENSE_BLOCK) * sizeof(float));
    return block;
}

/* The numbers of the bits that are set. Returns how many. */
static uint8_t list_bits(uint64_t bits, uint8_t *list)
{
    uint8_t count = 0;
    for (; bits != 0; bits &= bits - 1)
        list[count++] = (uint8_t)__builtin_ctzll(bits);
    for (int i = count; i % 4 != 0; i++)
        list[i] = list[count - 1];
    return count;
}

/* keep is of the block's first sample and the part's first unit. */
static void list_kept(int64_t out, int64_t units, const uint8_t *keep, const struct block *block)
{
    for (int64_t first = 0; first < units; first += DENSE_BLOCK) {
        int64_t count = units - first < DENSE_BLOCK ? units - first : DENSE_BLOCK;
        uint64_t kept[DENSE_BLOCK] = {0}; /* by unit, a bit for each sample */
        for (int64_t s = 0; s < block->samples; s++)
            for (int64_t u = 0; u < count; u++)
                kept[u] |= (uint64_t)keep[s * out + first + u] << s;
        for (int64_t u = 0; u < count; u++)
            block->counts[first + u] = list_bits(kept[u], block->lists + (first + u) * DENSE_BLOCK);
    }
}

INLINE void add_sums(float *sums, const vec dots[4])
{
    vec4_store(sums, vec4_load(sums) + vec_sums(dots[0], dots[1], dots[2], dots[3]));
}

/* One unit and `count` of the samples, a multiple of 4: their dot products over a chunk. */
INLINE void dots_listed(const int count, int64_t length, const float *restrict row,
    const float *packed, const uint8_t *list, float *restrict sums)
{
    const float *sample[LISTED_TILE];
    vec dots[LISTED_TILE];
    UNROLL for (int i = 0; i < count; i++)
    {
        sample[i] = packed + list[i] * length;
        dots[i] = vec_zero();
    }
    for (int64_t k = 0; k < length; k += VEC) {
        UNROLL for (int i = 0; i < count; i++)
            dots[i] = vec_fma(vec_load(row + k), vec_load(sample[i] + k), dots[i]);
    }
    UNROLL for (int i = 0; i < count; i += 4) add_sums(sums + i, dots + i);
}

/* One unit and all samples that keep it. `restrict`, so that where there are 32 registers a row of
 * the usual length can stay there. */
INLINE void unit_listed(int count, int64_t length, const float *restrict row, const float *packed,
    const uint8_t *list, float *restrict sums)
{
    for (; count > LISTED_TILE - 4; count -= LISTED_TILE, list += LISTED_TILE, sums += LISTED_TILE)
        dots_listed(LISTED_TILE, length, row, packed, list, sums);
    for (; count > 0; count -= 4, list += 4, sums += 4)
        dots_listed(4, length, row, packed, list, sums);
}

/* Units from the one that is computed to the one whose row is fetched into the cache. */
enum { AHEAD = 3 };

/* The part's units and the block's samples: kernel and packed are the first ones' in a chunk. */
INLINE void chunk_listed(int64_t length, int64_t units, const float *kernel, const float *packed,
    const struct block *block)
{
    for (int64_t u = 0; u < units; u++) {
        vec_fetch(length, kernel + least(u + AHEAD, units - 1) * length);
        unit_listed(block->counts[u], length, kernel + u * length, packed,
            block->lists + u * DENSE_BLOCK, block->sums + u * DENSE_BLOCK);
    }
}

/* TILE_UNITS units and four samples from row and sample on. Where there are less, up to last_row
 * and last_sample, the last one again. */
INLINE void tile_all(int64_t length, const float *row, int64_t last_row, const float *sample,
    int64_t last_sample, float *sums)
{
    const float *rows[TILE_UNITS], *samples[4];
    UNROLL for (int u = 0; u < TILE_UNITS; u++) rows[u] = row + least(u, last_row) * length;
    UNROLL for (int i = 0; i < 4; i++) samples[i] = sample + least(i, last_sample) * length;
    vec dots[TILE_UNITS][4];
    UNROLL for (int i = 0; i < TILE_UNITS * 4; i++) dots[i / 4][i % 4] = vec_zero();
    for (int64_t k = 0; k < length; k += VEC) {
        vec weights[TILE_UNITS];
        UNROLL for (int u = 0; u < TILE_UNITS; u++) weights[u] = vec_load(rows[u] + k);
        UNROLL for (int i = 0; i < 4; i++)
        {
            vec inputs = vec_load(samples[i] + k);
            UNROLL for (int u = 0; u < TILE_UNITS; u++)
                dots[u][i] = vec_fma(weights[u], inputs, dots[u][i]);
        }
    }
    UNROLL for (int u = 0; u < TILE_UNITS; u++) add_sums(sums + u * DENSE_BLOCK, dots[u]);
}

INLINE void chunk_all(int64_t length, int64_t units, const float *kernel, const float *packed,
    const struct block *block)
{
    for (int64_t u = 0; u < units; u += TILE_UNITS)
        for (int64_t s = 0; s < block->samples; s += 4) {
            const float *row = kernel + u * length, *sample = packed + s * length;
            float *sums = block->sums + u * DENSE_BLOCK + s;
            int64_t last_row = units - 1 - u, last_sample = block->samples - 1 - s;
            if (last_row >= TILE_UNITS - 1 && last_sample >= 3)
                tile_all(length, row, TILE_UNITS - 1, sample, 3, sums);
            else
                tile_all(length, row, last_row, sample, last_sample, sums);
        }
}

/* The same, fit for a chunk of the usual length: one register more for addresses. */
static void add_chunk(int64_t length, int64_t units, const float *kernel, const float *packed,
    bool listed, const struct block *block)
{
    if (listed && length == DENSE_CHUNK)
        chunk_listed(DENSE_CHUNK, units, kernel, packed, block);
    else if (listed)
        chunk_listed(length, units, kernel, packed, block);
    else if (length == DENSE_CHUNK)
        chunk_all(DENSE_CHUNK, units, kernel, packed, block);
    else
        chunk_all(length, units, kernel, packed, block);
}

/* The sums of a unit become its values; whole vectors of them. */
static void activate(
    const struct dense_shape *shape, int64_t count, float bias, float scale, float *sums)
{
    for (int64_t i = 0; i < count; i += VEC) {
        vec v = vec_load(sums + i) + vec_all(bias);
        v = shape->relu ? vec_relu(v) : v;
        vec_store(sums + i, v * vec_all(scale));
    }
}

/* From the block's sums to dst, that of its first sample and the part's first unit. Some units go
 * through a buffer, as samples lie far apart in dst. */
static void finish(const struct dense_shape *shape, int64_t units, const float *bias, bool listed,
    const struct block *block, float *dst)
{
    enum { COLUMNS = 16 };
    for (int64_t first = 0; first < units; first += COLUMNS) {
        int64_t columns = least(units - first, COLUMNS);
        float values[DENSE_BLOCK][COLUMNS];
        if (listed)
            memset(values, 0, sizeof values);
        for (int64_t u = 0; u < columns; u++) {
            float *sums = block->sums + (first + u) * DENSE_BLOCK;
            const uint8_t *list = block->lists + (first + u) * DENSE_BLOCK;
            int64_t count = listed ? block->counts[first + u] : block->samples;
            activate(shape, count, bias[first + u], listed ? shape->scale : 1, sums);
            for (int64_t i = 0; i < count; i++)
                values[listed ? list[i] : i][u] = sums[i];
        }
        for (int64_t s = 0; s < block->samples; s++)
            memcpy(dst + s * shape->out + first, values[s], (size_t)columns * sizeof(float));
    }
}

/* At most PASS samples. */
static void forward_pass(const struct dense_shape *shape, int64_t samples,
    const struct dense_part *part, const float *packed, const float *kernel, const float *bias,
    const uint8_t *keep, char *scratch, float *dst)
{
    struct block blocks[PASS / DENSE_BLOCK];
    int64_t count = dense_blocks(part->samples), units = part->units;
    for (int64_t b = 0; b < count; b++) {
        int64_t done = b * DENSE_BLOCK, first = part->sample + done;
        blocks[b] = block_in(part, first, least(part->samples - done, DENSE_BLOCK),
            scratch + b * block_bytes(units));
        if (keep != NULL)
            list_kept(shape->out, units, keep + first * shape->out + part->unit, &blocks[b]);
    }
    for (int64_t chunk = 0; chunk < dense_chunks(shape); chunk++) {
        int64_t length = dense_chunk_length(shape, chunk);
        const float *rows = kernel + chunk * DENSE_CHUNK * shape->out + part->unit * length;
        for (int64_t b = 0; b < count; b++) {
            const float *inputs = packed + chunk * DENSE_CHUNK * samples + blocks[b].first * length;
            add_chunk(length, units, rows, inputs, keep != NULL, &blocks[b]);
        }
    }
    for (int64_t b = 0; b < count; b++)
        finish(shape, units, bias + part->unit, keep != NULL, &blocks[b],
            dst + blocks[b].first * shape->out + part->unit);
}

void ISA(dense_forward)(const struct dense_shape *shape, int64_t samples,
    const struct dense_part *part, const float *packed, const float *kernel, const float *bias,
    const uint8_t *keep, void *scratch, float *dst)
{
    struct dense_part pass = *part;
    for (int64_t done = 0; done < part->samples; done += PASS) {
        pass.sample = part->sample + done;
        pass.samples = least(part->samples - done, PASS);
        forward_pass(shape, samples, &pass, packed, kernel, bias, keep, scratch, dst);
    }
}
