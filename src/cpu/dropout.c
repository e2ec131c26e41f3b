/*
 * Dropout: which units a sample keeps is a function of (seed, layer, epoch, sample) alone. Unit u
 * takes the u-th word of dtr_random_at() and is kept iff that is at least rate * 2^32.
 */
#include "dropout.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dropout {
    int64_t units;
    uint32_t threshold; /* the smallest word that keeps a unit */
    float scale;        /* of the units kept */
    float masks[];      /* [lanes][n, units]: scale or 0; none in inference */
};

static enum dtr_status create(struct dtr_plan *plan, struct dtr_error *error)
{
    const struct dtr_layer *layer = plan->layer;
    int64_t units = dtr_shape_count(layer->in);
    int64_t masks = plan->training ? plan->lanes * plan->n * units : 0;
    plan->state = dtr_alloc(1, (int64_t)sizeof(struct dropout) + masks * (int64_t)sizeof(float),
        "dropout masks", error);
    if (plan->state == NULL)
        return error->status;
    struct dropout *dropout = plan->state;
    dropout->units = units;
    dropout->threshold = dtr_random_threshold(layer->rate);
    dropout->scale = (float)(1 / (1 - layer->rate));
    plan->src = plan->dst = (struct dtr_layout){.block = layer->in.c};
    snprintf(plan->detail, sizeof plan->detail, "plain C");
    return DTR_OK;
}

static void destroy(struct dtr_plan *plan)
{
    free(plan->state);
    plan->state = NULL;
}

static struct dtr_random words_of(
    const struct dtr_layer *layer, const struct dtr_dropout_key *key, int64_t i)
{
    return dtr_random_at(key->seed, DTR_RANDOM_DROPOUT, (uint32_t)layer->number, key->epoch,
        (uint64_t)key->samples[i]);
}

void dropout_keep(
    const struct dtr_layer *layer, const struct dtr_dropout_key *key, int64_t n, uint8_t *keep_out)
{
    int64_t units = dtr_shape_count(layer->in);
    uint32_t threshold = dtr_random_threshold(layer->rate), words[DTR_RANDOM_WORDS];
    for (int64_t i = 0; i < n; i++, keep_out += units) {
        if (key->samples[i] < 0) {
            memset(keep_out, 0, (size_t)units);
            continue;
        }
        struct dtr_random random = words_of(layer, key, i);
        for (int64_t first = 0; first < units; first += DTR_RANDOM_WORDS) {
            int64_t left = units - first, count = left < DTR_RANDOM_WORDS ? left : DTR_RANDOM_WORDS;
            dtr_random_words(&random, words);
            for (int64_t j = 0; j < count; j++)
                keep_out[first + j] = words[j] >= threshold;
        }
    }
}

static void forward_sample(const struct dropout *dropout, struct dtr_random random,
    const float *restrict src, float *restrict mask, float *restrict dst)
{
    /* A table, as a branch would be predicted wrong half of the time. */
    const float factors[2] = {0, dropout->scale};
    uint32_t words[DTR_RANDOM_WORDS];
    for (int64_t first = 0; first < dropout->units; first += DTR_RANDOM_WORDS) {
        int64_t left = dropout->units - first,
                count = left < DTR_RANDOM_WORDS ? left : DTR_RANDOM_WORDS;
        dtr_random_words(&random, words);
        for (int64_t j = 0; j < count; j++) {
            float factor = factors[words[j] >= dropout->threshold];
            mask[first + j] = factor;
            dst[first + j] = src[first + j] * factor;
        }
    }
}

static void forward(struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    struct dropout *dropout = plan->state;
    int64_t units = dropout->units;
    if (!plan->training) {
        memcpy(dst, src, (size_t)(plan->n * units) * sizeof *dst);
        return;
    }
    const struct dtr_dropout_key *key = &plan->dropout[piece.slice];
    float *mask = dropout->masks + piece.slice * plan->n * units;
    for (int64_t i = 0; i < plan->n; i++, src += units, dst += units, mask += units) {
        if (key->samples[i] < 0) {
            memset(mask, 0, (size_t)units * sizeof *mask);
            memset(dst, 0, (size_t)units * sizeof *dst);
            continue;
        }
        struct dtr_random random = words_of(plan->layer, key, i);
        forward_sample(dropout, random, src, mask, dst);
    }
}

static void backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    (void)src;
    (void)dst;
    const struct dropout *dropout = plan->state;
    int64_t count = plan->n * dropout->units;
    const float *mask = dropout->masks + piece.slice * count;
    for (int64_t i = 0; i < count && diff_src != NULL; i++)
        diff_src[i] = diff_dst[i] * mask[i];
}

const struct dtr_kernel dtr_dropout = {.name = "dropout",
    .create = create,
    .destroy = destroy,
    .forward = forward,
    .backward = backward};
