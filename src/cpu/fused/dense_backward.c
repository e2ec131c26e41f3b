#include "dense_math.h"

/* Vectors of a tile: one sum for each, or two sums for each where slices are added in registers.
 * What is left of a chunk is done in tiles of REST, then one by one. */
#if VEC_REGISTERS == 32
enum { ROW_TILE = 7, ROW_REST = 4, TREE_TILE = 7, TREE_REST = 4 };
#elif VEC_REGISTERS == 16
enum { ROW_TILE = 14, ROW_REST = 4, TREE_TILE = 7, TREE_REST = 4 };
#else
enum { ROW_TILE = 7, ROW_REST = 4, TREE_TILE = 2, TREE_REST = 1 };
#endif

static int64_t rounded(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

static int64_t entries_bytes(const struct dense_shape *shape, struct dense_slices slices)
{
    return rounded(slices.count * slices.n * shape->out * (int64_t)sizeof(struct dense_entry));
}

static int64_t sample_ends_bytes(const struct dense_shape *shape, struct dense_slices slices)
{
    int64_t ends = slices.count * slices.n * dense_blocks(shape->out);
    return rounded(ends * (int64_t)sizeof(int32_t));
}

static int64_t unit_ends_bytes(const struct dense_shape *shape, struct dense_slices slices)
{
    return rounded(slices.count * (shape->out + 2) * (int64_t)sizeof(int32_t));
}

int64_t ISA(dense_lists_bytes)(const struct dense_shape *shape, struct dense_slices slices)
{
    return 2 * entries_bytes(shape, slices) + sample_ends_bytes(shape, slices) +
           unit_ends_bytes(shape, slices);
}

struct dense_lists ISA(dense_lists_in)(
    const struct dense_shape *shape, struct dense_slices slices, void *memory)
{
    char *by_sample = memory, *by_unit = by_sample + entries_bytes(shape, slices);
    char *sample_ends = by_unit + entries_bytes(shape, slices);
    char *unit_ends = sample_ends + sample_ends_bytes(shape, slices);
    return (struct dense_lists){(struct dense_entry *)by_sample, (int32_t *)sample_ends,
        (struct dense_entry *)by_unit, (int32_t *)unit_ends};
}

struct dense_lists ISA(dense_lists_from)(const struct dense_shape *shape,
    struct dense_slices slices, int64_t slice, const struct dense_lists *lists)
{
    int64_t sample = slice * slices.n;
    return (struct dense_lists){.by_sample = lists->by_sample + sample * shape->out,
        .sample_ends = lists->sample_ends + sample * dense_blocks(shape->out)};
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* A bit for each of up to 64 values that are positive or NaN. */
static uint64_t positive_bits(int64_t count, const float *values)
{
    uint64_t bits = 0;
    int64_t i = 0;
    for (; i + VEC <= count; i += VEC)
        bits |= (uint64_t)vec_bits(~(vec_load(values + i) <= vec_zero())) << i;
    for (; i < count; i++)
        bits |= (uint64_t) !(values[i] <= 0) << i;
    return bits;
}

static uint64_t byte_bits(int64_t count, const uint8_t *bytes)
{
    uint64_t bits = 0;
    for (int64_t i = 0; i < count; i++)
        bits |= (uint64_t)bytes[i] << i;
    return bits;
}

/* Lists those of a sample's units that take part. */
static void collect_sample(const struct dense_shape *shape, const float *dst, const uint8_t *keep,
    const float *diff_dst, struct dense_entry *list, int32_t *ends, float *diff_bias)
{
    int32_t listed = 0;
    for (int64_t first = 0; first < shape->out; first += DENSE_BLOCK) {
        int64_t count = least(shape->out - first, DENSE_BLOCK);
        uint64_t bits = UINT64_MAX >> (DENSE_BLOCK - count);
        if (shape->relu)
            bits = positive_bits(count, dst + first);
        else if (shape->dropout)
            bits = byte_bits(count, keep + first);
        for (; bits != 0; bits &= bits - 1) {
            int64_t u = first + __builtin_ctzll(bits);
            float gradient = diff_dst[u] * shape->scale;
            list[listed++] = (struct dense_entry){(int32_t)u, gradient};
            diff_bias[u] += gradient;
        }
        *ends++ = listed;
    }
}

/* Sorts the slice's entries by unit: counts them, and places each behind those before it. */
static void list_by_unit(const struct dense_shape *shape, struct dense_slices slices, int64_t slice,
    const struct dense_lists *lists)
{
    int64_t out = shape->out, first = slice * slices.n, blocks = dense_blocks(out);
    int32_t *ends = lists->unit_ends + slice * (out + 2);
    struct dense_entry *by_unit = lists->by_unit + first * out;
    memset(ends, 0, (size_t)(out + 2) * sizeof *ends);
    for (int64_t s = first; s < first + slices.n; s++) {
        const struct dense_entry *list = lists->by_sample + s * out;
        for (int32_t i = 0; i < lists->sample_ends[(s + 1) * blocks - 1]; i++)
            ends[list[i].index + 2]++;
    }
    for (int64_t u = 0; u < out; u++)
        ends[u + 2] += ends[u + 1];
    for (int64_t s = first; s < first + slices.n; s++) {
        const struct dense_entry *list = lists->by_sample + s * out;
        for (int32_t i = 0; i < lists->sample_ends[(s + 1) * blocks - 1]; i++)
            by_unit[ends[list[i].index + 1]++] = (struct dense_entry){(int32_t)s, list[i].gradient};
    }
}

void ISA(dense_collect)(const struct dense_shape *shape, struct dense_slices slices, int64_t slice,
    const float *dst, const uint8_t *keep, const float *diff_dst, const struct dense_lists *lists,
    float *diff_bias)
{
    int64_t out = shape->out, first = slice * slices.n;
    memset(diff_bias, 0, (size_t)out * sizeof *diff_bias);
    for (int64_t i = 0; i < slices.n; i++)
        collect_sample(shape, dst + i * out, keep == NULL ? NULL : keep + i * out,
            diff_dst + i * out, lists->by_sample + (first + i) * out,
            lists->sample_ends + (first + i) * dense_blocks(out), diff_bias);
    list_by_unit(shape, slices, slice, lists);
}

/* The entries of a sample in a block of units. */
struct span {
    const struct dense_entry *begin, *end;
};

static struct span sample_span(
    const struct dense_lists *lists, int64_t out, int64_t sample, int64_t block)
{
    const struct dense_entry *list = lists->by_sample + sample * out;
    const int32_t *end = lists->sample_ends + sample * dense_blocks(out) + block;
    return (struct span){list + (block == 0 ? 0 : end[-1]), list + end[0]};
}

/* sums += gradient * row for each of the entries, at least one. */
INLINE void add_rows(
    const int vectors, struct span span, const float *rows, int64_t length, vec *sums)
{
    do {
        vec gradient = vec_all(span.begin->gradient);
        const float *row = rows + span.begin->index * length;
        UNROLL for (int v = 0; v < vectors; v++)
            sums[v] = vec_fma(gradient, vec_load(row + v * VEC), sums[v]);
    } while (++span.begin != span.end);
}

/* dst = the sum of gradient * row, or dst += that, in the order of the entries. */
INLINE void sum_rows(const int vectors, const bool from_zero, struct span span, const float *rows,
    int64_t length, float *dst)
{
    vec sums[ROW_TILE];
    UNROLL for (int v = 0; v < vectors; v++) sums[v] = from_zero ? vec_zero()
                                                                 : vec_load(dst + v * VEC);
    if (span.begin != span.end)
        add_rows(vectors, span, rows, length, sums);
    UNROLL for (int v = 0; v < vectors; v++) vec_store(dst + v * VEC, sums[v]);
}

/* No part of their callers: gcc then keeps an address for every vector. */
typedef void rows_function(struct span span, const float *rows, int64_t length, float *dst);
#define DEFINE_ROWS(name, vectors)                                                                 \
    static __attribute__((noinline)) void first_##name(                                            \
        struct span span, const float *rows, int64_t length, float *dst)                           \
    {                                                                                              \
        sum_rows(vectors, true, span, rows, length, dst);                                          \
    }                                                                                              \
    static __attribute__((noinline)) void next_##name(                                             \
        struct span span, const float *rows, int64_t length, float *dst)                           \
    {                                                                                              \
        if (span.begin != span.end)                                                                \
            sum_rows(vectors, false, span, rows, length, dst);                                     \
    }
DEFINE_ROWS(tile, ROW_TILE)
DEFINE_ROWS(rest, ROW_REST)
DEFINE_ROWS(one, 1)

/* The vectors of the next tile of so many. */
static int64_t tile_of(int64_t vectors, int64_t tile, int64_t rest)
{
    return vectors >= tile ? tile : vectors >= rest ? rest : 1;
}

/* A sample's share of a block's rows, into the cache. */
static void fetch(const struct dense_shape *shape, struct dense_slices slices, int64_t sample,
    int64_t block, const float *rows, int64_t length, int64_t vectors)
{
    int64_t end = least((block + 1) * DENSE_BLOCK, shape->out);
    for (int64_t u = block * DENSE_BLOCK + sample; u < end; u += slices.count * slices.n)
        vec_fetch(vectors * VEC, rows + u * length);
}

/* All samples, some vectors of a chunk. Rows of a block of units stay in the first-level cache;
 * they are fetched during the block before, as hardware would not guess which come next. */
static void backward_tile(const struct dense_shape *shape, struct dense_slices slices,
    int64_t vectors, rows_function *first, rows_function *next, const struct dense_lists *lists,
    const float *rows, int64_t length, float *diff_src, int64_t diff_stride)
{
    for (int64_t block = 0; block < dense_blocks(shape->out); block++)
        for (int64_t slice = 0; slice < slices.count; slice++)
            for (int64_t i = 0; i < slices.n; i++) {
                int64_t sample = slice * slices.n + i;
                struct span span = sample_span(lists, shape->out, sample, block);
                float *to = diff_src + slice * diff_stride + i * shape->in;
                fetch(shape, slices, sample, block + 1, rows, length, vectors);
                (block == 0 ? first : next)(span, rows, length, to);
            }
}

void ISA(dense_backward)(const struct dense_shape *shape, struct dense_slices slices, int64_t chunk,
    int64_t chunks, const struct dense_lists *lists, const float *kernel, float *diff_src,
    int64_t diff_stride)
{
    for (int64_t end = chunk + chunks; chunk < end; chunk++) {
        int64_t length = dense_chunk_length(shape, chunk), tile = 0;
        const float *rows = kernel + chunk * DENSE_CHUNK * shape->out;
        float *to = diff_src + chunk * DENSE_CHUNK;
        for (int64_t k = 0; k < length; k += tile * VEC) {
            tile = tile_of((length - k) / VEC, ROW_TILE, ROW_REST);
            rows_function *first = tile == ROW_TILE ? first_tile : first_one;
            rows_function *next = tile == ROW_TILE ? next_tile : next_one;
            if (tile == ROW_REST) {
                first = first_rest;
                next = next_rest;
            }
            backward_tile(
                shape, slices, tile, first, next, lists, rows + k, length, to + k, diff_stride);
        }
    }
}

struct dense_run ISA(dense_run_of)(struct dtr_shard_run run, struct dense_group *groups)
{
    struct dense_run result = {.slices = run.count, .group = groups};
    struct dtr_tree tree = dtr_tree_begin(run.shards, run.first);
    for (int64_t i = 0, width; i < run.count; i += width) {
        for (width = 8; (run.first + i) % width != 0 || i + width > run.count;)
            width /= 2;
        int merges = dtr_tree_push(&tree, run.first + i + width);
        groups[result.groups++] = (struct dense_group){(uint8_t)width, (uint8_t)merges};
    }
    result.nodes = tree.depth;
    return result;
}

/* On the way through a unit's lists, a slice after the other. */
struct cursor {
    const struct dense_entry *entries; /* of the next slice ... */
    const int32_t *ends;               /* ... and where among them the unit's begin and end */
    int64_t entries_step, ends_step;   /* to the slice after that */
    const float *inputs;
    int64_t length;
};

/* The next slice's sum of gradient * inputs. */
INLINE void sum_1(const int vectors, struct cursor *cursor, vec *sums)
{
    UNROLL for (int v = 0; v < vectors; v++) sums[v] = vec_zero();
    struct span span = {cursor->entries + cursor->ends[0], cursor->entries + cursor->ends[1]};
    if (span.begin != span.end)
        add_rows(vectors, span, cursor->inputs, cursor->length, sums);
    cursor->entries += cursor->entries_step;
    cursor->ends += cursor->ends_step;
}

/* The next 2, 4, 8 slices. */
#define DEFINE_SUM(slices, half)                                                                   \
    INLINE void sum_##slices(const int vectors, struct cursor *cursor, vec *sums)                  \
    {                                                                                              \
        vec right[TREE_TILE];                                                                      \
        sum_##half(vectors, cursor, sums);                                                         \
        sum_##half(vectors, cursor, right);                                                        \
        UNROLL for (int v = 0; v < vectors; v++) sums[v] = vec_settle(sums[v] + right[v]);         \
    }
DEFINE_SUM(2, 1)
DEFINE_SUM(4, 2)
DEFINE_SUM(8, 4)

/* Where the sums of a group of slices go and what is added to them: for some units, the pending
 * sums below `top` for one. */
struct group_sum {
    struct cursor first; /* unit's, before the group's first slice */
    int64_t units;
    const float *top;
    int merges;
    float *dst; /* [units][length] */
};

INLINE void merge(const int vectors, const struct group_sum *group, vec *sums)
{
    const float *top = group->top;
    for (int merges = group->merges; merges > 0; merges--) {
        top -= TREE_TILE * VEC;
        UNROLL for (int v = 0; v < vectors; v++) sums[v] = vec_load(top + v * VEC) + sums[v];
    }
}

typedef void group_function(const struct group_sum *group);
#define DEFINE_GROUP(name, slices, vectors)                                                        \
    static void name(const struct group_sum *group)                                                \
    {                                                                                              \
        float *dst = group->dst;                                                                   \
        for (int64_t u = 0; u < group->units; u++, dst += group->first.length) {                   \
            struct cursor cursor = group->first;                                                   \
            vec sums[TREE_TILE];                                                                   \
            cursor.ends += u;                                                                      \
            sum_##slices(vectors, &cursor, sums);                                                  \
            merge(vectors, group, sums);                                                           \
            UNROLL for (int v = 0; v < vectors; v++) vec_store(dst + v * VEC, sums[v]);            \
        }                                                                                          \
    }
DEFINE_GROUP(one_1, 1, 1)
DEFINE_GROUP(one_2, 2, 1)
DEFINE_GROUP(one_4, 4, 1)
DEFINE_GROUP(one_8, 8, 1)
DEFINE_GROUP(rest_1, 1, TREE_REST)
DEFINE_GROUP(rest_2, 2, TREE_REST)
DEFINE_GROUP(rest_4, 4, TREE_REST)
DEFINE_GROUP(rest_8, 8, TREE_REST)
DEFINE_GROUP(tile_1, 1, TREE_TILE)
DEFINE_GROUP(tile_2, 2, TREE_TILE)
DEFINE_GROUP(tile_4, 4, TREE_TILE)
DEFINE_GROUP(tile_8, 8, TREE_TILE)

static group_function *group_of(int64_t tile, int slices)
{
    static group_function *const functions[3][4] = {
        {one_1, one_2, one_4, one_8},
        {rest_1, rest_2, rest_4, rest_8},
        {tile_1, tile_2, tile_4, tile_8},
    };
    int width = tile == TREE_TILE ? 2 : tile == TREE_REST ? 1 : 0;
    return functions[width][__builtin_ctz((unsigned)slices)];
}

/* A run of several groups, one unit: their sums are pending on a stack, only the last one is not.
 */
static void sum_groups(
    const struct dense_run *run, int64_t tile, struct group_sum sum, int64_t stride)
{
    float stack[DTR_TREE_DEPTH][TREE_TILE * VEC], *top = stack[0], *gradient = sum.dst;
    for (int64_t i = 0; i < run->groups; i++) {
        struct dense_group group = run->group[i];
        sum.top = top;
        sum.merges = group.merges;
        sum.dst = i < run->groups - 1 ? top - group.merges * TREE_TILE * VEC
                                      : gradient + (run->nodes - 1) * stride;
        group_of(tile, group.slices)(&sum);
        sum.first.entries += group.slices * sum.first.entries_step;
        sum.first.ends += group.slices * sum.first.ends_step;
        top += (1 - group.merges) * TREE_TILE * VEC;
    }
    for (int64_t node = 0; node < run->nodes - 1; node++)
        memcpy(gradient + node * stride, stack[node], (size_t)tile * sizeof(vec));
}

void ISA(dense_gradient)(const struct dense_shape *shape, const struct dense_run *run, int64_t n,
    int64_t chunk, int64_t unit, int64_t units, const struct dense_lists *lists,
    const float *packed, float *gradient, int64_t stride)
{
    int64_t length = dense_chunk_length(shape, chunk), samples = run->slices * n, tile = 0;
    for (int64_t k = 0; k < length; k += tile * VEC) {
        struct cursor first = {
            .entries = lists->by_unit,
            .ends = lists->unit_ends + unit,
            .entries_step = n * shape->out,
            .ends_step = shape->out + 2,
            .inputs = packed + chunk * DENSE_CHUNK * samples + k,
            .length = length,
        };
        struct group_sum sum = {.first = first, .units = units, .dst = gradient + k};
        tile = tile_of((length - k) / VEC, TREE_TILE, TREE_REST);
        if (run->groups == 1) {
            group_of(tile, run->group[0].slices)(&sum);
            continue;
        }
        sum.units = 1;
        for (int64_t u = 0; u < units; u++, sum.first.ends++, sum.dst += length)
            sum_groups(run, tile, sum, stride);
    }
}
