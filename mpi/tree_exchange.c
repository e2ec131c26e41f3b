/*
 * --reduce tree, at work. Read advance_transfer() first: how one bucket gets from everybody's
 * gradients to everybody's parameters.
 */
#include "tree_exchange.h"

#include "comm.h"
#include "dtrain/pulse.h"

#include <string.h>

/* Sums are completed and updated in pieces of this many floats, a piece by one thread. */
enum { PIECE = 1 << 14 };

static struct tree_exchange *of(struct dtr_gradsync *sync)
{
    return (struct tree_exchange *)sync;
}

/* Sums over the group. */

struct piece {
    struct tree_exchange *exchange;
    struct transfer *transfer;
};

/* Pushes `count` elements from `first` of all ranks' open nodes. */
static void push_members(
    const struct tree_exchange *exchange, int64_t first, int64_t count, struct dtr_tree_chunk *sums)
{
    dtr_tree_chunk_begin(sums, exchange->base.open.shards, exchange->members[0].open.bounds[0]);
    for (int i = 0; i < exchange->window.size; i++) {
        const struct member *member = &exchange->members[i];
        for (int64_t k = 0; k < member->open.depth; k++)
            dtr_tree_chunk_push(sums, member->open.bounds[k + 1],
                member->gradients + k * exchange->base.stride + first, count);
    }
}

static void store(struct transfer *transfer, int64_t stride, int64_t first, int64_t count,
    const struct dtr_tree_chunk *sums)
{
    for (int64_t k = 0; k < sums->tree.depth; k++)
        memcpy(transfer->sums + k * stride + first - transfer->column.first, sums->nodes[k],
            (size_t)count * sizeof(float));
}

static void apply(
    struct tree_exchange *exchange, int64_t bucket, int64_t first, int64_t count, const float *sum)
{
    struct dtr_gradsync *sync = &exchange->base;
    struct dtr_share share = sync->shares[bucket];
    sync->config.apply(sync->config.context,
        (struct dtr_share){first, count, share.place + first - share.first}, sum);
}

/* From `first` on, up to `end`: how many elements are either all summed here, or all made from
 * factors by the rank whose column they are in. */
static int64_t alike(
    const struct dtr_gradsync *sync, int64_t first, int64_t end, bool *factored_out)
{
    *factored_out = false;
    for (int i = 0; i < sync->config.factored_count && sync->factors != NULL; i++) {
        const struct dtr_factored *layer = &sync->factored[i];
        if (first >= layer->first + layer->count)
            continue;
        *factored_out = first >= layer->first;
        int64_t next = layer->first + (*factored_out ? layer->count : 0);
        return (next < end ? next : end) - first;
    }
    return end - first;
}

/* The group's sums of a piece of the column. Where the group is everybody they are complete, and
 * used up while they are in the cache. */
static void sum_piece(void *context, int64_t number, int thread)
{
    const struct piece *piece = context;
    struct tree_exchange *exchange = piece->exchange;
    struct transfer *transfer = piece->transfer;
    struct dtr_tree_chunk sums;
    int64_t first = transfer->column.first + number * PIECE;
    int64_t end = transfer->column.first + transfer->column.count;
    (void)thread;
    end = first + PIECE < end ? first + PIECE : end;
    if (exchange->base.world->size == 1) { /* a rank alone has summed all shards itself */
        apply(exchange, transfer->bucket, first, end - first, exchange->base.gradients + first);
        return;
    }
    for (int64_t count; first < end; first += count) {
        bool factored;
        count = alike(&exchange->base, first, end, &factored);
        if (factored)
            continue;
        count = count < DTR_TREE_CHUNK ? count : DTR_TREE_CHUNK;
        push_members(exchange, first, count, &sums);
        if (exchange->schedule.groups == 1)
            apply(exchange, transfer->bucket, first, count, sums.nodes[0]);
        else
            store(transfer, exchange->sum_stride, first, count, &sums);
    }
}

/* With messages another thread is here while the pool computes. */
static void sum_group(struct tree_exchange *exchange, struct transfer *transfer)
{
    struct piece piece = {exchange, transfer};
    int64_t pieces = (transfer->column.count + PIECE - 1) / PIECE;
    if (exchange->schedule.groups == 1)
        dtr_threads_run(exchange->base.config.threads, pieces, sum_piece, &piece);
    for (int64_t i = 0; i < pieces && exchange->schedule.groups > 1; i++)
        sum_piece(&piece, i, 0);
}

/* Whether the transfer's gradients are there: of a column that is made from factors they have been
 * used up. */
static bool group_ready(const struct tree_exchange *exchange, const struct transfer *transfer)
{
    struct span column = transfer->column;
    bool factored;
    if (column.count ==
            alike(&exchange->base, column.first, column.first + column.count, &factored) &&
        factored)
        return true;
    for (int i = 0; i < exchange->window.size; i++) {
        if (atomic_load(&exchange->members[i].ready[transfer->bucket]) < exchange->base.step)
            return false;
    }
    return true;
}

/* Swaps between groups. */

static const struct swap *current_swap(const struct tree_exchange *exchange, int next)
{
    const struct schedule *schedule = &exchange->schedule;
    return next < schedule->sum_count ? &schedule->sums[next]
                                      : &schedule->weights[next - schedule->sum_count];
}

static void send(struct tree_exchange *exchange, const struct transfer *transfer, int64_t peer,
    const float *values, int64_t count, MPI_Request *request)
{
    struct dtr_gradsync *sync = &exchange->base;
    dtr_comm_check(sync->world,
        MPI_Isend(values, (int)count, MPI_FLOAT, (int)peer, (int)transfer->bucket,
            sync->world->comm->data, request),
        "MPI_Isend");
    sync->stats.messages++;
    sync->stats.bytes += count * (int64_t)sizeof(float);
}

static void receive(struct tree_exchange *exchange, const struct transfer *transfer, int64_t peer,
    float *values, int64_t count, MPI_Request *request)
{
    struct dtr_world *world = exchange->base.world;
    dtr_comm_check(world,
        MPI_Irecv(values, (int)count, MPI_FLOAT, (int)peer, (int)transfer->bucket,
            world->comm->data, request),
        "MPI_Irecv");
}

/* The part's elements of all open nodes, one after another. */
static const float *pack(const struct transfer *transfer, struct span part)
{
    int64_t offset = part.first - transfer->column.first;
    if (transfer->open.depth == 1)
        return transfer->nodes[0] + offset;
    for (int64_t k = 0; k < transfer->open.depth; k++)
        memcpy(transfer->packed + k * part.count, transfer->nodes[k] + offset,
            (size_t)part.count * sizeof(float));
    return transfer->packed;
}

static void post(struct tree_exchange *exchange, struct transfer *transfer)
{
    const struct swap *swap = current_swap(exchange, transfer->next);
    struct span given = schedule_part(transfer->column, swap->send);
    struct span taken = schedule_part(transfer->column, swap->receive);
    bool sums = transfer->next < exchange->schedule.sum_count;
    float *weights = exchange->base.weights;
    transfer->requests[0] = transfer->requests[1] = MPI_REQUEST_NULL;
    if (taken.count > 0 && sums)
        receive(exchange, transfer, swap->peer, transfer->received,
            taken.count * swap->theirs.depth, &transfer->requests[0]);
    if (taken.count > 0 && !sums)
        receive(exchange, transfer, swap->peer, weights + taken.first, taken.count,
            &transfer->requests[0]);
    if (given.count > 0 && sums)
        send(exchange, transfer, swap->peer, pack(transfer, given),
            given.count * transfer->open.depth, &transfer->requests[1]);
    if (given.count > 0 && !sums)
        send(exchange, transfer, swap->peer, weights + given.first, given.count,
            &transfer->requests[1]);
}

static void push_own(
    const struct transfer *transfer, int64_t first, int64_t count, struct dtr_tree_chunk *sums)
{
    for (int64_t k = 0; k < transfer->open.depth; k++)
        dtr_tree_chunk_push(sums, transfer->open.bounds[k + 1],
            transfer->nodes[k] + first - transfer->column.first, count);
}

static void push_received(const struct transfer *transfer, const struct swap *swap,
    struct span part, int64_t first, int64_t count, struct dtr_tree_chunk *sums)
{
    for (int64_t k = 0; k < swap->theirs.depth; k++)
        dtr_tree_chunk_push(sums, swap->theirs.bounds[k + 1],
            transfer->received + k * part.count + first - part.first, count);
}

/* Nodes that are the transfer's sums still would be overwritten by others. */
static void take_out(struct dtr_tree_chunk *sums, int64_t count)
{
    for (int64_t k = 0; k < sums->tree.depth; k++) {
        if (sums->nodes[k] != sums->sums[k])
            memcpy(sums->sums[k], sums->nodes[k], (size_t)count * sizeof(float));
        sums->nodes[k] = sums->sums[k];
    }
}

/* What was received and this side's part of it become the sums at hand. */
static void add_received(
    struct tree_exchange *exchange, struct transfer *transfer, const struct swap *swap)
{
    struct span part = schedule_part(transfer->column, swap->receive);
    struct dtr_tree_chunk sums;
    int64_t begin = swap->peer_first ? swap->theirs.bounds[0] : swap->mine.bounds[0];
    for (int64_t first = part.first; first < part.first + part.count; first += DTR_TREE_CHUNK) {
        int64_t left = part.first + part.count - first;
        int64_t count = left < DTR_TREE_CHUNK ? left : DTR_TREE_CHUNK;
        dtr_tree_chunk_begin(&sums, swap->mine.shards, begin);
        if (swap->peer_first)
            push_received(transfer, swap, part, first, count, &sums);
        push_own(transfer, first, count, &sums);
        if (!swap->peer_first)
            push_received(transfer, swap, part, first, count, &sums);
        take_out(&sums, count);
        store(transfer, exchange->sum_stride, first, count, &sums);
    }
    struct dtr_tree both = swap->peer_first ? swap->theirs : swap->mine;
    dtr_tree_append(&both, swap->peer_first ? &swap->mine : &swap->theirs);
    transfer->open = both;
    for (int64_t k = 0; k < both.depth; k++)
        transfer->nodes[k] = transfer->sums + k * exchange->sum_stride;
}

/* The transfer of a bucket, step by step. */

static bool begin_sums(struct tree_exchange *exchange, struct transfer *transfer)
{
    struct dtr_gradsync *sync = &exchange->base;
    bool alone = exchange->window.size == 1 && exchange->schedule.groups > 1;
    if (!group_ready(exchange, transfer))
        return false;
    if (!alone)
        sum_group(exchange, transfer);
    transfer->open = exchange->schedule.open;
    for (int64_t k = 0; k < transfer->open.depth; k++)
        transfer->nodes[k] = alone ? sync->gradients + k * sync->stride + transfer->column.first
                                   : transfer->sums + k * exchange->sum_stride;
    return true;
}

static void update_share(struct tree_exchange *exchange, const struct transfer *transfer)
{
    struct dtr_share share = exchange->base.shares[transfer->bucket];
    if (share.count > 0)
        apply(exchange, transfer->bucket, share.first, share.count,
            transfer->nodes[0] + share.first - transfer->column.first);
}

/* Posts the next swap; where there is none, all ranks of the group may use the parameters. */
static void begin_swap(struct tree_exchange *exchange, struct transfer *transfer)
{
    const struct schedule *schedule = &exchange->schedule;
    if (transfer->next < schedule->sum_count + schedule->weight_count) {
        post(exchange, transfer);
        return;
    }
    atomic_store(
        &exchange->members[exchange->window.index].done[transfer->bucket], exchange->base.step);
    transfer->state = DONE;
}

static void end_swap(struct tree_exchange *exchange, struct transfer *transfer)
{
    const struct swap *swap = current_swap(exchange, transfer->next);
    if (transfer->next < exchange->schedule.sum_count && swap->receive.depth >= 0)
        add_received(exchange, transfer, swap);
    transfer->next++;
    if (transfer->next == exchange->schedule.sum_count)
        update_share(exchange, transfer);
}

/* Goes on until the transfer has to wait for another rank; returns whether it moved. */
static bool advance_transfer(struct tree_exchange *exchange, struct transfer *transfer)
{
    bool moved = false;
    if (transfer->state == WAITING && begin_sums(exchange, transfer)) {
        transfer->state = SWAPPING;
        begin_swap(exchange, transfer);
        moved = true;
    }
    while (transfer->state == SWAPPING && transfer->requests[0] == MPI_REQUEST_NULL &&
           transfer->requests[1] == MPI_REQUEST_NULL) {
        end_swap(exchange, transfer);
        begin_swap(exchange, transfer);
        moved = true;
    }
    if (moved)
        dtr_pulse_beat();
    return moved;
}

/* Lanes. */

static struct transfer *transfer_of(struct lane *lane, int64_t bucket)
{
    return &lane->transfers[bucket % LANE_TRANSFERS];
}

static void start_transfer(struct tree_exchange *exchange, struct lane *lane)
{
    struct transfer *transfer = transfer_of(lane, lane->next);
    transfer->bucket = lane->next++;
    transfer->column = schedule_column(exchange_bucket(&exchange->base, transfer->bucket),
        exchange->schedule.column, exchange->schedule.columns);
    transfer->state = WAITING;
    transfer->next = 0;
}

static bool advance_lane(struct tree_exchange *exchange, struct lane *lane)
{
    int64_t announced = atomic_load(&exchange->base.announced);
    bool moved = false;
    while (lane->next < lane->end && lane->next < announced &&
           lane->next - lane->oldest < LANE_TRANSFERS)
        start_transfer(exchange, lane);
    for (int64_t i = lane->oldest; i < lane->next; i++)
        moved = advance_transfer(exchange, transfer_of(lane, i)) || moved;
    while (lane->oldest < lane->next && transfer_of(lane, lane->oldest)->state == DONE)
        lane->oldest++;
    return moved;
}

/* Lets MPI move messages, once for all transfers: each call costs it several system calls. */
static bool complete_requests(struct tree_exchange *exchange)
{
    int count = 0, which[2 * LANES * LANE_TRANSFERS];
    if (exchange->schedule.groups > 1)
        dtr_comm_check(exchange->base.world,
            MPI_Testsome(
                2 * LANES * LANE_TRANSFERS, exchange->requests, &count, which, MPI_STATUSES_IGNORE),
            "MPI_Testsome");
    return count > 0; /* MPI_UNDEFINED, where nothing is under way, is negative */
}

/* Returns whether all announced buckets are done: until the next one is, there is nothing to do. */
bool tree_advance_all(void *context)
{
    struct tree_exchange *exchange = context;
    bool moved = exchange->schedule.column >= 0, idle = true;
    while (moved) {
        moved = complete_requests(exchange);
        for (int i = 0; i < LANES; i++)
            moved = advance_lane(exchange, &exchange->lanes[i]) || moved;
    }
    for (int i = 0; i < LANES; i++)
        idle = idle && exchange->lanes[i].oldest == exchange->lanes[i].next;
    dtr_pulse_look();
    return idle;
}

/* A step, as gradsync.c runs it. */

static void begin_tree(struct dtr_gradsync *sync)
{
    struct tree_exchange *exchange = of(sync);
    progress_lock(exchange->progress);
    exchange_begin(sync);
    tree_rewind(exchange);
    progress_unlock(exchange->progress);
}

/* Tells the group of the buckets announced since the last call. */
static bool raise_flags(struct tree_exchange *exchange)
{
    const struct dtr_gradsync *sync = &exchange->base;
    _Atomic int64_t *ready = exchange->members[exchange->window.index].ready;
    bool raised = false;
    for (int64_t i = sync->announced - 1; i >= 0 && ready[i] < sync->step; i--) {
        atomic_store(&ready[i], sync->step);
        raised = true;
    }
    return raised;
}

static void advance_tree(struct dtr_gradsync *sync)
{
    struct tree_exchange *exchange = of(sync);
    bool raised = raise_flags(exchange);
    if (exchange->progress != NULL)
        progress_help(exchange->progress, raised);
    else
        tree_advance_all(exchange);
}

static bool arrived_tree(struct dtr_gradsync *sync, int64_t bucket)
{
    const struct tree_exchange *exchange = of(sync);
    for (int64_t i = 0; i < exchange->schedule.columns; i++) {
        if (atomic_load(&exchange->members[i].done[bucket]) < sync->step)
            return false;
    }
    return true;
}

static void publish_tree(struct dtr_gradsync *sync, int layer)
{
    const struct tree_exchange *exchange = of(sync);
    atomic_store(&exchange->members[exchange->window.index].published[layer], sync->step);
}

static bool published_tree(struct dtr_gradsync *sync, int64_t layer)
{
    const struct tree_exchange *exchange = of(sync);
    for (int i = 0; i < exchange->window.size; i++) {
        if (atomic_load(&exchange->members[i].published[layer]) < sync->step)
            return false;
    }
    return true;
}

const struct exchange_ops exchange_tree = {.create = tree_create,
    .free = tree_free,
    .begin = begin_tree,
    .advance = advance_tree,
    .arrived = arrived_tree,
    .publish = publish_tree,
    .published = published_tree};
