/*
 * Max pooling in whatever channel block the layer below produces, four channels at a time.
 *
 * The first of equal values in a window (rows, then columns) wins. A NaN always does, so that a
 * training that diverges shows. In training forward notes for every output which place of its
 * window won: cheaper than reading the source again, of which the cache keeps little.
 */
#include "dtrain/kernel.h"
#include "dtrain/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { LANES = 4, WINDOW_MAX = 256 }; /* the largest window whose places fit in 16 bits */

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef int32_t integers __attribute__((vector_size(LANES * 4))); /* places or masks */
typedef uint16_t places __attribute__((vector_size(LANES * 2)));

struct pool {
    int64_t planes; /* of a slice: [h, w, block] in, [out_h, out_w, block] out */
    int64_t h, w, out_h, out_w, block;
    int64_t size, stride;
    bool tiled;        /* the windows cover every input exactly once */
    uint16_t *winners; /* [lanes][planes, out_h, out_w, block]; NULL in inference */
};

static int64_t out_count(const struct pool *pool)
{
    return pool->planes * pool->out_h * pool->out_w * pool->block;
}

static void destroy(struct dtr_plan *plan)
{
    struct pool *pool = plan->state;
    if (pool == NULL)
        return;
    free(pool->winners);
    free(pool);
    plan->state = NULL;
}

static struct pool pool_of(const struct dtr_plan *plan)
{
    const struct dtr_layer *layer = plan->layer;
    int64_t block = plan->src.block, size = layer->kernel_h, stride = layer->stride;
    return (struct pool){
        .planes = plan->n * ((layer->in.c + block - 1) / block),
        .h = layer->in.h,
        .w = layer->in.w,
        .out_h = layer->out.h,
        .out_w = layer->out.w,
        .block = block,
        .size = size,
        .stride = stride,
        .tiled = size == stride && layer->in.h % size == 0 && layer->in.w % size == 0,
    };
}

static enum dtr_status create(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    if (layer->kernel_h > WINDOW_MAX)
        return dtr_error_set(error, DTR_INPUT,
            "model line %d: maxpool %lld: windows may be %d wide at most; pool in two steps",
            layer->line, (long long)layer->kernel_h, WINDOW_MAX);
    plan->state = dtr_alloc(1, sizeof(struct pool), layer->name, error);
    if (plan->state == NULL)
        return error->status;
    plan->src = plan->dst = (struct dtr_layout){.block = plan->src.block}; /* of the layer below */
    struct pool *pool = plan->state;
    *pool = pool_of(plan);
    snprintf(plan->detail, sizeof plan->detail, "plain C");
    if (!plan->training)
        return DTR_OK;
    pool->winners = dtr_alloc(
        plan->lanes * out_count(pool), sizeof *pool->winners, "max pooling", error);
    if (pool->winners != NULL)
        return DTR_OK;
    destroy(plan);
    return error->status;
}

/*
 * The functions below are inlined with `channels` (LANES, or 1 for blocks that are no multiple of
 * it) and, for the usual windows, size and stride as constants: one text, three machine codes.
 */

ALWAYS_INLINE floats load(const float *from, int64_t channels)
{
    floats vector = {0};
    memcpy(&vector, from, (size_t)channels * sizeof *from);
    return vector;
}

ALWAYS_INLINE void store(floats vector, float *to, int64_t channels)
{
    memcpy(to, &vector, (size_t)channels * sizeof *to);
}

ALWAYS_INLINE integers load_places(const uint16_t *from, int64_t channels)
{
    places vector = {0};
    memcpy(&vector, from, (size_t)channels * sizeof *from);
    return __builtin_convertvector(vector, integers);
}

ALWAYS_INLINE void store_places(integers vector, uint16_t *to, int64_t channels)
{
    places narrow = __builtin_convertvector(vector, places);
    memcpy(to, &narrow, (size_t)channels * sizeof *to);
}

ALWAYS_INLINE integers choose(integers mask, integers yes, integers no)
{
    return (mask & yes) | (~mask & no);
}

/* One output: src is its window's first place. */
ALWAYS_INLINE void forward_window(
    struct pool pool, int64_t channels, const float *src, float *dst, uint16_t *winner)
{
    floats best = load(src, channels);
    integers winning = {0};
    for (int64_t ky = 0; ky < pool.size; ky++) {
        for (int64_t kx = 0; kx < pool.size; kx++) {
            floats value = load(src + (ky * pool.w + kx) * pool.block, channels);
            integers better = (value > best) | (value != value);
            integers place = (integers){0} + (int32_t)(ky * pool.size + kx);
            best = (floats)choose(better, (integers)value, (integers)best);
            winning = choose(better, place, winning);
        }
    }
    store(best, dst, channels);
    if (winner != NULL)
        store_places(winning, winner, channels);
}

/* One output's gradient goes to the place that won. */
ALWAYS_INLINE void backward_window(struct pool pool, int64_t channels, const uint16_t *winner,
    const float *diff_dst, float *diff_src)
{
    integers winning = load_places(winner, channels);
    floats diff = load(diff_dst, channels);
    for (int64_t ky = 0; ky < pool.size; ky++) {
        for (int64_t kx = 0; kx < pool.size; kx++) {
            float *target = diff_src + (ky * pool.w + kx) * pool.block;
            integers won = winning == (integers){0} + (int32_t)(ky * pool.size + kx);
            floats share = (floats)(won & (integers)diff);
            store(pool.tiled ? share : load(target, channels) + share, target, channels);
        }
    }
}

ALWAYS_INLINE void forward_planes(
    struct pool pool, int64_t channels, const float *src, float *dst, uint16_t *winners)
{
    int64_t out = 0;
    for (int64_t p = 0; p < pool.planes; p++, src += pool.h * pool.w * pool.block) {
        for (int64_t y = 0; y < pool.out_h; y++) {
            for (int64_t x = 0; x < pool.out_w; x++) {
                const float *window = src + (y * pool.w + x) * pool.stride * pool.block;
                for (int64_t c = 0; c < pool.block; c += channels, out += channels)
                    forward_window(pool, channels, window + c, dst + out,
                        winners == NULL ? NULL : winners + out);
            }
        }
    }
}

ALWAYS_INLINE void backward_planes(struct pool pool, int64_t channels, const uint16_t *winners,
    const float *diff_dst, float *diff_src)
{
    int64_t out = 0, plane = pool.h * pool.w * pool.block;
    for (int64_t p = 0; p < pool.planes; p++, diff_src += plane) {
        if (!pool.tiled)
            memset(diff_src, 0, (size_t)plane * sizeof *diff_src);
        for (int64_t y = 0; y < pool.out_h; y++) {
            for (int64_t x = 0; x < pool.out_w; x++) {
                float *window = diff_src + (y * pool.w + x) * pool.stride * pool.block;
                for (int64_t c = 0; c < pool.block; c += channels, out += channels)
                    backward_window(pool, channels, winners + out, diff_dst + out, window + c);
            }
        }
    }
}

/* The usual windows: 2x2 side by side, nothing left over. */
static bool halves(const struct pool *pool)
{
    return pool->tiled && pool->size == 2 && pool->block % LANES == 0;
}

static struct pool halving(struct pool pool)
{
    pool.size = pool.stride = 2;
    pool.tiled = true;
    return pool;
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    const struct pool *pool = plan->state;
    uint16_t *winners = plan->training ? pool->winners + piece.slice * out_count(pool) : NULL;
    if (halves(pool))
        forward_planes(halving(*pool), LANES, src, dst, winners);
    else if (pool->block % LANES == 0)
        forward_planes(*pool, LANES, src, dst, winners);
    else
        forward_planes(*pool, 1, src, dst, winners);
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    (void)src;
    (void)dst;
    const struct pool *pool = plan->state;
    const uint16_t *winners = pool->winners + piece.slice * out_count(pool);
    if (diff_src == NULL)
        return;
    if (halves(pool))
        backward_planes(halving(*pool), LANES, winners, diff_dst, diff_src);
    else if (pool->block % LANES == 0)
        backward_planes(*pool, LANES, winners, diff_dst, diff_src);
    else
        backward_planes(*pool, 1, winners, diff_dst, diff_src);
}

const struct dtr_kernel dtr_maxpool = {.name = "maxpool",
    .create = create,
    .destroy = destroy,
    .forward = forward,
    .backward = backward};
