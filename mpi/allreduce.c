/*
 * --reduce allreduce: one MPI_Iallreduce per bucket, and every rank updates everything. Buckets are
 * with MPI in order: [updated, started) are under way.
 */
#include "comm.h"
#include "exchange.h"

#include "dtrain/memory.h"
#include "dtrain/pulse.h"

#include <stdlib.h>

struct allreduce {
    struct dtr_gradsync base;
    int64_t started, updated;
    MPI_Request *requests; /* [buckets] */
};

const int64_t exchange_allreduce_bytes = sizeof(struct allreduce);

static struct allreduce *of(struct dtr_gradsync *sync)
{
    return (struct allreduce *)sync;
}

static bool create_allreduce(struct dtr_gradsync *sync, struct dtr_error *error)
{
    struct allreduce *exchange = of(sync);
    exchange->started = exchange->updated = sync->buckets;
    sync->share_count = sync->config.count;
    for (int64_t i = 0; i < sync->buckets; i++) {
        struct span bucket = exchange_bucket(sync, i);
        sync->shares[i] = (struct dtr_share){bucket.first, bucket.count, bucket.first};
    }
    exchange->requests = dtr_alloc(
        sync->buckets, sizeof *exchange->requests, "gradient exchange", error);
    bool done = exchange->requests != NULL &&
                exchange_alloc(sync, sync->stride, "parameters", &sync->weights, error) &&
                exchange_alloc(
                    sync, sync->open.depth * sync->stride, "gradients", &sync->gradients, error);
    return dtr_comm_all(sync->world, done);
}

static void free_allreduce(struct dtr_gradsync *sync)
{
    free(of(sync)->requests);
    free(sync->weights);
    free(sync->gradients);
}

/* A run that is no subtree has several open nodes: they are added here, from the right. */
static void close_nodes(struct dtr_gradsync *sync, struct span bucket)
{
    for (int64_t k = sync->open.depth - 1; k > 0; k--) {
        float *left = sync->gradients + (k - 1) * sync->stride + bucket.first;
        const float *right = left + sync->stride;
        for (int64_t j = 0; j < bucket.count; j++)
            left[j] += right[j];
    }
}

static void start(struct allreduce *exchange)
{
    struct dtr_gradsync *sync = &exchange->base;
    struct span bucket = exchange_bucket(sync, exchange->started);
    close_nodes(sync, bucket);
    dtr_comm_check(sync->world,
        MPI_Iallreduce(MPI_IN_PLACE, sync->gradients + bucket.first, (int)bucket.count, MPI_FLOAT,
            MPI_SUM, sync->world->comm->data, &exchange->requests[exchange->started]),
        "MPI_Iallreduce");
    sync->stats.bytes += bucket.count * (int64_t)sizeof(float);
    exchange->started++;
}

enum { PIECE = 1 << 14 };

static void update_piece(void *context, int64_t piece, int thread)
{
    struct allreduce *exchange = context;
    struct dtr_gradsync *sync = &exchange->base;
    struct span bucket = exchange_bucket(sync, exchange->updated);
    int64_t first = bucket.first + piece * PIECE, left = bucket.first + bucket.count - first;
    (void)thread;
    sync->config.apply(sync->config.context,
        (struct dtr_share){first, left < PIECE ? left : PIECE, first}, sync->gradients + first);
}

static bool update_next(struct allreduce *exchange)
{
    struct dtr_gradsync *sync = &exchange->base;
    int done;
    /* Open MPI moves messages only inside of MPI calls: in this one all that are under way. */
    dtr_comm_check(sync->world,
        MPI_Test(&exchange->requests[exchange->updated], &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (!done)
        return false;
    int64_t count = exchange_bucket(sync, exchange->updated).count;
    dtr_threads_run(sync->config.threads, (count + PIECE - 1) / PIECE, update_piece, exchange);
    exchange->updated++;
    dtr_pulse_beat();
    return true;
}

static void begin_allreduce(struct dtr_gradsync *sync)
{
    exchange_begin(sync);
    of(sync)->started = of(sync)->updated = 0;
}

static void advance_allreduce(struct dtr_gradsync *sync)
{
    struct allreduce *exchange = of(sync);
    while (exchange->started < sync->announced)
        start(exchange);
    while (exchange->updated < exchange->started && update_next(exchange))
        ;
    dtr_pulse_look();
}

static bool arrived_allreduce(struct dtr_gradsync *sync, int64_t bucket)
{
    return bucket < of(sync)->updated;
}

const struct exchange_ops exchange_allreduce = {.create = create_allreduce,
    .free = free_allreduce,
    .begin = begin_allreduce,
    .advance = advance_allreduce,
    .arrived = arrived_allreduce};
