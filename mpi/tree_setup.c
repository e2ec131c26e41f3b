/* How the tree exchange is made: groups, shares, lanes and memory. */
#include "comm.h"
#include "tree_exchange.h"

#include "dtrain/memory.h"

#include <stdlib.h>

const int64_t exchange_tree_bytes = sizeof(struct tree_exchange);

/* A segment is [ready][done][published][gradients], that of the group's first rank has [weights]
 * and, where all ranks are in one group, [factors] behind. */
static int64_t flags_bytes(const struct dtr_gradsync *sync)
{
    return (2 * dtr_align_floats(sync->buckets) + dtr_align_floats(sync->config.factored_count)) *
           (int64_t)sizeof(int64_t);
}

/* Of all layers, 0 where they cannot be shared. */
static int64_t factor_bytes(const struct dtr_gradsync *sync)
{
    const struct dtr_world *world = sync->world;
    int64_t most = sync->config.window_ranks, bytes = 0;
    if (world->size == 1 || world->nodes > 1 || (most > 0 && most < world->size))
        return 0;
    for (int i = 0; i < sync->config.factored_count; i++)
        bytes += sync->factored[i].bytes;
    return bytes;
}

static float *gradients_in(const struct dtr_gradsync *sync, void *segment)
{
    return (float *)((char *)segment + flags_bytes(sync));
}

static void place_members(struct tree_exchange *exchange)
{
    struct dtr_gradsync *sync = &exchange->base;
    const struct window *window = &exchange->window;
    for (int i = 0; i < window->size; i++) {
        struct member *member = &exchange->members[i];
        member->ready = window->segments[i].memory;
        member->done = member->ready + dtr_align_floats(sync->buckets);
        member->published = member->done + dtr_align_floats(sync->buckets);
        member->gradients = gradients_in(sync, window->segments[i].memory);
        member->open = dtr_tree_of(dtr_shard_run_of(
            sync->open.shards, exchange->schedule.first_place + i, sync->world->size));
    }
    sync->gradients = gradients_in(sync, window->segments[window->index].memory);
    sync->weights = gradients_in(sync, window->segments[0].memory) +
                    exchange->members[0].open.depth * sync->stride;
    sync->shared = window->size > 1;
    if (exchange->schedule.groups == 1 && factor_bytes(sync) > 0)
        sync->factors = sync->weights + sync->stride;
}

/* Which ranks form groups, from a flag per rank; `starts` has room for all. */
static void find_groups(struct tree_exchange *exchange, char *begins, int64_t *starts)
{
    struct dtr_gradsync *sync = &exchange->base;
    int ranks = sync->world->size;
    char mine = exchange->window.index == 0;
    int64_t groups = 0;
    dtr_comm_check(sync->world,
        MPI_Allgather(&mine, 1, MPI_CHAR, begins, 1, MPI_CHAR, sync->world->comm->data),
        "MPI_Allgather");
    for (int place = 0; place < ranks; place++) {
        if (begins[place])
            starts[groups++] = place;
    }
    starts[groups] = ranks;
    schedule_make(starts, groups, sync->open.shards, sync->world->place, &exchange->schedule);
    sync->stats.groups = groups;
    sync->stats.group_size = exchange->window.size;
}

static bool group(struct tree_exchange *exchange, struct dtr_error *error)
{
    struct dtr_world *world = exchange->base.world;
    char *begins = dtr_alloc(world->size, 1, "groups of ranks", error);
    int64_t *starts = dtr_alloc(world->size + 1, sizeof *starts, "groups of ranks", error);
    exchange->members = dtr_alloc(
        exchange->window.size, sizeof *exchange->members, "groups of ranks", error);
    bool done = dtr_comm_all(world, begins != NULL && starts != NULL && exchange->members != NULL);
    if (done) {
        find_groups(exchange, begins, starts);
        place_members(exchange);
    }
    free(begins);
    free(starts);
    return done;
}

static void find_shares(struct tree_exchange *exchange)
{
    struct dtr_gradsync *sync = &exchange->base;
    const struct schedule *schedule = &exchange->schedule;
    for (int64_t i = 0; i < sync->buckets && schedule->column >= 0; i++) {
        struct span column = schedule_column(
            exchange_bucket(sync, i), schedule->column, schedule->columns);
        struct span part = schedule_part(column, schedule->share);
        sync->shares[i] = (struct dtr_share){part.first, part.count, sync->share_count};
        sync->share_count += part.count;
    }
}

/* Floats that a transfer needs for each of its three kinds of memory. */
struct needs {
    int64_t sums, received, packed;
};

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static void raise_needs(struct tree_exchange *exchange, struct span bucket, struct needs *needs)
{
    const struct schedule *schedule = &exchange->schedule;
    struct span column = schedule_column(bucket, schedule->column, schedule->columns);
    int64_t sums = exchange->window.size > 1 ? schedule->open.depth : 0; /* alone, they exist */
    for (int i = 0; i < schedule->sum_count; i++) {
        const struct swap *swap = &schedule->sums[i];
        struct dtr_tree both = swap->peer_first ? swap->theirs : swap->mine;
        dtr_tree_append(&both, swap->peer_first ? &swap->mine : &swap->theirs);
        int64_t received = schedule_part(column, swap->receive).count;
        int64_t packed = swap->mine.depth > 1 ? schedule_part(column, swap->send).count : 0;
        sums = most(sums, swap->receive.depth < 0 ? 0 : both.depth);
        needs->received = most(needs->received, swap->theirs.depth * received);
        needs->packed = most(needs->packed, swap->mine.depth * packed);
    }
    exchange->sum_stride = most(exchange->sum_stride, dtr_align_floats(column.count));
    needs->sums = most(needs->sums, sums * exchange->sum_stride);
}

static bool place_transfer(struct dtr_gradsync *sync, const struct needs *needs,
    struct transfer *transfer, struct dtr_error *error)
{
    static const char what[] = "buffers of the exchange";
    transfer->requests[0] = transfer->requests[1] = MPI_REQUEST_NULL;
    return exchange_alloc(sync, needs->sums, what, &transfer->sums, error) &&
           exchange_alloc(sync, needs->received, what, &transfer->received, error) &&
           exchange_alloc(sync, needs->packed, what, &transfer->packed, error);
}

static bool place_buffers(struct tree_exchange *exchange, struct dtr_error *error)
{
    struct dtr_gradsync *sync = &exchange->base;
    struct needs needs = {0};
    bool done = true;
    if (exchange->schedule.groups > 1 && exchange->schedule.column >= 0) {
        /* The lowest bucket is smaller, but for the alignment a part of it may be larger. */
        raise_needs(exchange, exchange_bucket(sync, 0), &needs);
        raise_needs(exchange, exchange_bucket(sync, sync->buckets - 1), &needs);
    }
    for (int i = 0; i < LANES * LANE_TRANSFERS && done; i++) {
        struct transfer *transfer =
            &exchange->lanes[i / LANE_TRANSFERS].transfers[i % LANE_TRANSFERS];
        transfer->requests = &exchange->requests[2 * i];
        done = place_transfer(sync, &needs, transfer, error);
    }
    return done;
}

/* The urgent lane: the lowest bucket, and others that lie in the slab's first eighth. */
static void divide_lanes(struct tree_exchange *exchange)
{
    const struct dtr_gradsync *sync = &exchange->base;
    int64_t urgent = sync->buckets - 1;
    while (urgent > 0) {
        struct span next = exchange_bucket(sync, urgent - 1);
        if (next.first + next.count > sync->config.count / 8)
            break;
        urgent--;
    }
    exchange->lanes[0].first = urgent;
    exchange->lanes[0].end = sync->buckets;
    exchange->lanes[1].end = urgent;
}

void tree_rewind(struct tree_exchange *exchange)
{
    for (int i = 0; i < LANES; i++)
        exchange->lanes[i].oldest = exchange->lanes[i].next = exchange->lanes[i].first;
}

bool tree_create(struct dtr_gradsync *sync, struct dtr_error *error)
{
    struct tree_exchange *exchange = (struct tree_exchange *)sync;
    int64_t slab = sync->stride * (int64_t)sizeof(float);
    int64_t bytes = flags_bytes(sync) + sync->open.depth * slab;
    int64_t first_bytes = slab + factor_bytes(sync);
    if (!window_create(
            sync->world, sync->config.window_ranks, bytes, first_bytes, &exchange->window, error) ||
        !group(exchange, error))
        return false;
    sync->stats.memory_bytes += bytes + (exchange->window.index == 0 ? first_bytes : 0);
    sync->stats.windows_failed = exchange->window.failed;
    find_shares(exchange);
    divide_lanes(exchange);
    tree_rewind(exchange);
    bool done = place_buffers(exchange, error);
    if (done && exchange->schedule.groups > 1 && sync->world->comm->threads)
        done = progress_start(tree_advance_all, exchange, &exchange->progress, error) == DTR_OK;
    sync->stats.progress = exchange->progress != NULL;
    return dtr_comm_all(sync->world, done);
}

void tree_free(struct dtr_gradsync *sync)
{
    struct tree_exchange *exchange = (struct tree_exchange *)sync;
    progress_stop(exchange->progress);
    window_free(&exchange->window);
    free(exchange->members);
    for (int i = 0; i < LANES * LANE_TRANSFERS; i++) {
        struct transfer *transfer =
            &exchange->lanes[i / LANE_TRANSFERS].transfers[i % LANE_TRANSFERS];
        free(transfer->sums);
        free(transfer->received);
        free(transfer->packed);
    }
}
