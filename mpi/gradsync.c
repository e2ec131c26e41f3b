/* The exchange's steps, whichever way the sums take. */
#include "comm.h"
#include "dtrain/backoff.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

enum {
    BUCKETS_MOST = 1 << 14,  /* a bucket's number is a message's tag */
    BUCKET_FLOATS = 1 << 24, /* MPI counts are int, and a message may hold several open nodes */
};

struct span exchange_bucket(const struct dtr_gradsync *sync, int64_t number)
{
    int64_t end = sync->config.count - number * sync->bucket;
    int64_t first = end > sync->bucket ? end - sync->bucket : 0;
    return (struct span){first, end - first};
}

bool exchange_alloc(struct dtr_gradsync *sync, int64_t count, const char *what, float **floats_out,
    struct dtr_error *error)
{
    *floats_out = dtr_alloc(count, sizeof **floats_out, what, error);
    sync->stats.memory_bytes += count * (int64_t)sizeof **floats_out;
    return *floats_out != NULL;
}

static void choose_buckets(struct dtr_gradsync *sync)
{
    const struct dtr_gradsync_config *config = &sync->config;
    int64_t floats = config->bucket_bytes / (int64_t)sizeof(float);
    int64_t least = (config->count + BUCKETS_MOST - 1) / BUCKETS_MOST;
    floats = floats < least ? least : floats;
    floats = floats < 1 ? 1 : floats;
    sync->bucket = dtr_align_floats(floats < BUCKET_FLOATS ? floats : BUCKET_FLOATS);
    sync->buckets = (config->count + sync->bucket - 1) / sync->bucket;
    sync->stats.buckets = sync->buckets;
}

enum dtr_status dtr_gradsync_create(struct dtr_world *world,
    const struct dtr_gradsync_config *config, struct dtr_gradsync **sync_out,
    struct dtr_error *error)
{
    const struct exchange_ops *ops = &exchange_tree;
    int64_t bytes = exchange_tree_bytes;
    if (config->alone || (config->take && world->size == 1)) {
        ops = &exchange_alone;
        bytes = exchange_alone_bytes;
    } else if (config->reduce == DTR_REDUCE_ALLREDUCE) {
        ops = &exchange_allreduce;
        bytes = exchange_allreduce_bytes;
    }
    struct dtr_gradsync *sync = dtr_alloc(1, bytes, "gradient exchange", error);
    *sync_out = NULL;
    if (sync == NULL) /* the other ranks are on their way into collective calls */
        dtr_world_abort(world, "set-up", -1, error);
    sync->ops = ops;
    sync->world = world;
    sync->config = *config;
    sync->open = dtr_tree_of(config->run);
    sync->stride = dtr_align_floats(config->count);
    choose_buckets(sync);
    sync->announced = sync->buckets;
    sync->shares = dtr_alloc(sync->buckets, sizeof *sync->shares, "gradient exchange", error);
    sync->factored = dtr_alloc(
        config->factored_count, sizeof *sync->factored, "gradient exchange", error);
    if (sync->shares == NULL || sync->factored == NULL)
        dtr_world_abort(world, "set-up", -1, error);
    if (config->factored_count > 0)
        memcpy(sync->factored, config->factored,
            (size_t)config->factored_count * sizeof *sync->factored);
    if (sync->ops->create(sync, error)) {
        *sync_out = sync;
        return DTR_OK;
    }
    dtr_gradsync_free(sync);
    return DTR_FAILED;
}

void dtr_gradsync_free(struct dtr_gradsync *sync)
{
    if (sync == NULL)
        return;
    sync->ops->free(sync);
    free(sync->shares);
    free(sync->factored);
    free(sync);
}

struct dtr_exchange dtr_gradsync_exchange(struct dtr_gradsync *sync)
{
    return (struct dtr_exchange){.context = sync,
        .ready = dtr_gradsync_ready,
        .arrived = dtr_gradsync_arrived,
        .wait = dtr_gradsync_wait,
        .weights = sync->weights,
        .gradients = sync->gradients,
        .stride = sync->stride,
        .shared = sync->shared,
        .take = sync->gradients == NULL || sync->factors != NULL ? dtr_gradsync_take : NULL,
        .factors = sync->factors,
        .owns = dtr_gradsync_owns,
        .publish = dtr_gradsync_publish,
        .gather = dtr_gradsync_gather_factors,
        .bucket = sync->bucket,
        .share_count = sync->share_count};
}

struct dtr_gradsync_stats dtr_gradsync_stats(const struct dtr_gradsync *sync)
{
    return sync->stats;
}

void dtr_gradsync_begin(struct dtr_gradsync *sync)
{
    dtr_gradsync_wait(sync, 0, sync->config.count);
    sync->ops->begin(sync);
}

void exchange_begin(struct dtr_gradsync *sync)
{
    sync->step++;
    atomic_store(&sync->announced, 0);
}

void dtr_gradsync_ready(void *context, int64_t first)
{
    struct dtr_gradsync *sync = context;
    int64_t announced = atomic_load(&sync->announced);
    if (!sync->config.overlap && first > 0)
        return;
    while (announced < sync->buckets && exchange_bucket(sync, announced).first >= first)
        announced++;
    atomic_store(&sync->announced, announced);
    dtr_pulse_enter(DTR_WITHIN_EXCHANGE, announced > 0 ? announced - 1 : 0);
    sync->ops->advance(sync);
    dtr_pulse_leave();
    if (!sync->config.overlap)
        dtr_gradsync_wait(sync, 0, sync->config.count);
}

/* Numbers of the buckets that a range touches, [first, end). */
static struct span touched_buckets(const struct dtr_gradsync *sync, int64_t first, int64_t count)
{
    int64_t top = sync->config.count - 1;
    int64_t lowest = (top - (first + count - 1)) / sync->bucket;
    return (struct span){lowest, (top - first) / sync->bucket + 1 - lowest};
}

/* The first of these buckets that is missing, their end if none is. */
static int64_t missing_bucket(struct dtr_gradsync *sync, struct span numbers)
{
    for (int64_t i = 0; i < numbers.count; i++) {
        if (!sync->ops->arrived(sync, numbers.first + i))
            return numbers.first + i;
    }
    return numbers.first + numbers.count;
}

bool dtr_gradsync_arrived(void *context, int64_t first, int64_t count)
{
    struct dtr_gradsync *sync = context;
    struct span numbers = touched_buckets(sync, first, count);
    return missing_bucket(sync, numbers) == numbers.first + numbers.count;
}

/* Until something of this number is there; it belongs to a bucket. */
static void wait_for(struct dtr_gradsync *sync,
    bool (*is_there)(struct dtr_gradsync *sync, int64_t number), int64_t number, int64_t bucket)
{
    struct dtr_backoff backoff = {0};
    if (is_there(sync, number))
        return;
    dtr_pulse_enter(DTR_WAITS_FOR_BUCKET, bucket);
    while (!is_there(sync, number)) {
        sync->ops->advance(sync);
        dtr_backoff_wait(&backoff);
    }
    dtr_pulse_leave();
}

void dtr_gradsync_wait(void *context, int64_t first, int64_t count)
{
    struct dtr_gradsync *sync = context;
    struct span numbers = touched_buckets(sync, first, count);
    int64_t end = numbers.first + numbers.count, bucket;
    while ((bucket = missing_bucket(sync, numbers)) < end)
        wait_for(sync, sync->ops->arrived, bucket, bucket);
}

/* The part of a bucket's share that lies in [first, first + count). */
static struct dtr_share owned(
    const struct dtr_gradsync *sync, int64_t bucket, int64_t first, int64_t count)
{
    struct dtr_share share = sync->shares[bucket];
    int64_t begin = first > share.first ? first : share.first;
    int64_t end = share.first + share.count;
    end = first + count < end ? first + count : end;
    return (struct dtr_share){
        begin, end > begin ? end - begin : 0, share.place + begin - share.first};
}

void dtr_gradsync_take(void *context, int64_t first, int64_t count, const float *gradient)
{
    struct dtr_gradsync *sync = context;
    struct span numbers = touched_buckets(sync, first, count);
    for (int64_t i = 0; i < numbers.count; i++) {
        struct dtr_share share = owned(sync, numbers.first + i, first, count);
        if (share.count > 0)
            sync->config.apply(sync->config.context, share, gradient + share.first - first);
    }
}

bool dtr_gradsync_owns(void *context, int64_t first, int64_t count)
{
    const struct dtr_gradsync *sync = context;
    struct span numbers = touched_buckets(sync, first, count);
    for (int64_t i = 0; i < numbers.count; i++) {
        if (owned(sync, numbers.first + i, first, count).count > 0)
            return true;
    }
    return false;
}

void dtr_gradsync_publish(void *context, int layer)
{
    struct dtr_gradsync *sync = context;
    sync->ops->publish(sync, layer);
}

void dtr_gradsync_gather_factors(void *context, int layer)
{
    struct dtr_gradsync *sync = context;
    int64_t bucket = touched_buckets(sync, sync->factored[layer].first, 1).first;
    wait_for(sync, sync->ops->published, layer, bucket);
}

/* Rank 0 takes the other ranks' parts one after another: their shares, then what they keep. */
static void collect(struct dtr_gradsync *sync, int from, struct dtr_share *shares, float *slab)
{
    struct dtr_world *world = sync->world;
    int bytes = (int)(sync->buckets * (int64_t)sizeof *shares);
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world,
        MPI_Recv(shares, bytes, MPI_BYTE, from, 0, world->comm->all, MPI_STATUS_IGNORE),
        "MPI_Recv");
    for (int64_t i = 0; i < sync->buckets; i++)
        dtr_comm_check(world,
            MPI_Recv(slab + shares[i].first, (int)shares[i].count, MPI_FLOAT, from, 0,
                world->comm->all, MPI_STATUS_IGNORE),
            "MPI_Recv");
    dtr_pulse_leave();
}

static void deliver(struct dtr_gradsync *sync, const float *mine)
{
    struct dtr_world *world = sync->world;
    int bytes = (int)(sync->buckets * (int64_t)sizeof *sync->shares);
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(
        world, MPI_Send(sync->shares, bytes, MPI_BYTE, 0, 0, world->comm->all), "MPI_Send");
    for (int64_t i = 0; i < sync->buckets; i++)
        dtr_comm_check(world,
            MPI_Send(mine + sync->shares[i].place, (int)sync->shares[i].count, MPI_FLOAT, 0, 0,
                world->comm->all),
            "MPI_Send");
    dtr_pulse_leave();
}

void dtr_gradsync_gather(struct dtr_gradsync *sync, const float *mine, float *slab_out)
{
    bool shared = sync->ops == &exchange_tree && sync->world->size > 1; /* else all have all */
    struct dtr_share *shares = NULL;
    struct dtr_error error;
    dtr_gradsync_wait(sync, 0, sync->config.count);
    if (sync->world->rank != 0 && shared)
        deliver(sync, mine);
    if (sync->world->rank != 0)
        return;
    for (int64_t i = 0; i < sync->buckets; i++)
        memcpy(slab_out + sync->shares[i].first, mine + sync->shares[i].place,
            (size_t)sync->shares[i].count * sizeof *mine);
    if (!shared)
        return;
    shares = dtr_alloc(sync->buckets, sizeof *shares, "a gathered slab", &error);
    if (shares == NULL)
        dtr_world_abort(sync->world, "gathering", sync->step, &error);
    for (int rank = 1; rank < sync->world->size; rank++)
        collect(sync, rank, shares, slab_out);
    free(shares);
}

void dtr_gradsync_keep(const struct dtr_gradsync *sync, const float *slab, float *mine_out)
{
    for (int64_t i = 0; i < sync->buckets; i++)
        memcpy(mine_out + sync->shares[i].place, slab + sync->shares[i].first,
            (size_t)sync->shares[i].count * sizeof *mine_out);
}
