/* The exchange of a job of one rank: parameters are updated where their gradients are made. */
#include "exchange.h"

#include "dtrain/memory.h"

#include <stdlib.h>

static bool create_alone(struct dtr_gradsync *sync, struct dtr_error *error)
{
    for (int64_t i = 0; i < sync->buckets; i++) {
        struct span bucket = exchange_bucket(sync, i);
        sync->shares[i] = (struct dtr_share){bucket.first, bucket.count, bucket.first};
    }
    sync->share_count = sync->config.count;
    sync->stats.groups = sync->stats.group_size = 1;
    return exchange_alloc(sync, sync->stride, "parameters", &sync->weights, error);
}

static void free_alone(struct dtr_gradsync *sync)
{
    free(sync->weights);
}

static void advance_alone(struct dtr_gradsync *sync)
{
    (void)sync;
}

static bool arrived_alone(struct dtr_gradsync *sync, int64_t bucket)
{
    return bucket < atomic_load(&sync->announced);
}

const int64_t exchange_alone_bytes = sizeof(struct dtr_gradsync);
const struct exchange_ops exchange_alone = {.create = create_alone,
    .free = free_alone,
    .begin = exchange_begin,
    .advance = advance_alone,
    .arrived = arrived_alone};
