/*
 * The gradient exchange on 1 to 8 ranks, out of step with each other. Every rank knows what every
 * shard's gradient is, and so what a single rank would make of them in a serial training.
 */
#include "dtrain/gradsync.h"

#include "dtrain/memory.h"
#include "dtrain/random.h"
#include "mpi_main.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 3, MOST_NODES = 16, TABLE = 1 << 17, FACTORED = 2 };

static const float decay = 0.5F, rate = 0.1F;

static void *claim(int64_t count, int64_t size)
{
    struct dtr_error error;
    void *memory = dtr_alloc(count, size, "a test", &error);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

/* Random, so that each order of additions rounds in its own way. */
static float value(int64_t i, int64_t shard, int64_t step)
{
    static float table[TABLE];
    if (table[0] == 0) {
        struct dtr_random random = dtr_random_at(1, DTR_RANDOM_INIT, 0, 0, 0);
        for (int64_t j = 0; j < TABLE; j++)
            table[j] = (float)(dtr_random_uniform(&random) - 0.5);
    }
    return table[(i + shard * 4099 + step * 77773) % TABLE];
}

static float initial_weight(int64_t i)
{
    return value(i, 1000, 0);
}

/* The definition: a node covers [first, first + width), clipped to the number of shards. */
static float node_sum(int64_t i, int64_t step, int64_t first, int64_t width, int64_t shards)
{
    if (width == 1)
        return value(i, first, step);
    float left = node_sum(i, step, first, width / 2, shards);
    if (first + width / 2 >= shards)
        return left;
    return left + node_sum(i, step, first + width / 2, width / 2, shards);
}

static int64_t tree_width(int64_t shards)
{
    int64_t width = 1;
    while (width < shards)
        width *= 2;
    return width;
}

/* A serial training, and what this rank's backward passes find. */
struct serial {
    int64_t count;
    struct dtr_shard_run run;
    float *weights[STEPS + 1]; /* [count] before each step and at the end */
    float *momenta;            /* [count] at the end */
    int nodes;                 /* open ones of the run */
    float *gradients[STEPS][MOST_NODES];
};

/* Adds the open nodes of the run below the node [first, first + width). */
static void find_gradients(struct serial *serial, int64_t first, int64_t width)
{
    struct dtr_shard_run run = serial->run;
    int64_t end = first + width < run.shards ? first + width : run.shards;
    if (first >= end || end <= run.first || first >= run.first + run.count)
        return;
    if (first < run.first || end > run.first + run.count) {
        find_gradients(serial, first, width / 2);
        find_gradients(serial, first + width / 2, width / 2);
        return;
    }
    ck_assert_int_lt(serial->nodes, MOST_NODES);
    for (int64_t step = 0; step < STEPS; step++) {
        float *gradient = claim(serial->count, sizeof *gradient);
        for (int64_t i = 0; i < serial->count; i++)
            gradient[i] = node_sum(i, step, first, width, run.shards);
        serial->gradients[step][serial->nodes] = gradient;
    }
    serial->nodes++;
}

static void train(struct serial *serial)
{
    int64_t shards = serial->run.shards;
    for (int64_t step = 0; step < STEPS; step++) {
        const float *old = serial->weights[step];
        for (int64_t i = 0; i < serial->count; i++) {
            float sum = node_sum(i, step, 0, tree_width(shards), shards);
            serial->momenta[i] = decay * serial->momenta[i] + sum;
            serial->weights[step + 1][i] = old[i] - rate * serial->momenta[i];
        }
    }
}

static struct serial serial_create(int64_t count, int64_t shards)
{
    struct serial serial = {
        .count = count, .run = dtr_shard_run_of(shards, world->place, world->size)};
    for (int step = 0; step <= STEPS; step++)
        serial.weights[step] = claim(count, sizeof(float));
    for (int64_t i = 0; i < count; i++)
        serial.weights[0][i] = initial_weight(i);
    serial.momenta = claim(count, sizeof(float));
    train(&serial);
    find_gradients(&serial, 0, tree_width(shards));
    return serial;
}

static void serial_free(struct serial *serial)
{
    for (int step = 0; step <= STEPS; step++)
        free(serial->weights[step]);
    for (int step = 0; step < STEPS; step++) {
        for (int k = 0; k < serial->nodes; k++)
            free(serial->gradients[step][k]);
    }
    free(serial->momenta);
}

/* The same training by all ranks. */
struct job {
    const struct serial *serial;
    struct dtr_gradsync_config config;
    struct dtr_gradsync *sync;
    float *weights, *gradients, *momenta; /* momenta [share_count] */
    int64_t stride, share_count;
    struct dtr_factored factored[FACTORED];
    int64_t *factors[FACTORED]; /* [ranks] each: the step they are of; NULL: they are not shared */
    double tolerance;           /* of weights and momenta */
    atomic_int outside;
    struct dtr_random random; /* this rank's own */
};

static const char *describe(const struct job *job)
{
    static char text[300];
    const struct dtr_gradsync_config *config = &job->config;
    snprintf(text, sizeof text,
        "rank %d of %d, %lld floats, shards %lld, buckets of %lld bytes, windows of %lld ranks, "
        "reduce %d, overlap %d",
        world->rank, world->size, (long long)config->count, (long long)config->run.shards,
        (long long)config->bucket_bytes, (long long)config->window_ranks, (int)config->reduce,
        (int)config->overlap);
    return text;
}

#define CHECK(condition, job)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s: %s", #condition, describe(job));                                     \
    } while (0)

/* Updates find what they keep by its place. */
static void apply(void *context, struct dtr_share share, const float *gradient)
{
    struct job *job = context;
    if (share.count <= 0 || share.first < 0 || share.first + share.count > job->serial->count ||
        share.place < 0 || share.place + share.count > job->share_count) {
        atomic_store(&job->outside, 1);
        return;
    }
    float *momenta = job->momenta + share.place, *weights = job->weights + share.first;
    for (int64_t i = 0; i < share.count; i++) {
        momenta[i] = decay * momenta[i] + gradient[i];
        weights[i] = weights[i] - rate * momenta[i];
    }
}

/* Up to a millisecond, now and then. */
static void dawdle(struct job *job)
{
    if (dtr_random_below(&job->random, 4) == 0)
        usleep(dtr_random_below(&job->random, 1000));
}

static bool are_alike(const struct job *job, const float *a, const float *b, int64_t count)
{
    if (job->tolerance == 0)
        return memcmp(a, b, (size_t)count * sizeof *a) == 0;
    bool alike = true;
    for (int64_t i = 0; i < count; i++)
        alike = alike && fabs((double)a[i] - (double)b[i]) <= job->tolerance;
    return alike;
}

static void check_weights(const struct job *job, int64_t step, int64_t first, int64_t end)
{
    if (!are_alike(job, job->weights + first, job->serial->weights[step] + first, end - first))
        ck_abort_msg("[%lld, %lld) before step %lld: %s", (long long)first, (long long)end,
            (long long)step, describe(job));
}

/* A model of some layers of about the same size. */
static int64_t layer_begin(const struct job *job, int64_t layer, int64_t layers)
{
    return job->serial->count * layer / layers;
}

static void forward(struct job *job, int64_t step, int64_t layers)
{
    for (int64_t layer = 0; layer < layers; layer++) {
        int64_t first = layer_begin(job, layer, layers);
        int64_t end = layer_begin(job, layer + 1, layers);
        if (end == first)
            continue;
        dawdle(job);
        if (!dtr_gradsync_arrived(job->sync, first, end - first))
            dtr_gradsync_wait(job->sync, first, end - first);
        CHECK(dtr_gradsync_arrived(job->sync, first, end - first), job);
        check_weights(job, step, first, end);
    }
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The parameters [first, end) are the old ones, but for those whose factors have been published. */
static void check_old(const struct job *job, int64_t step, int64_t first, int64_t end)
{
    for (int k = 0; k < FACTORED && job->factors[k] != NULL; k++) {
        const struct dtr_factored *layer = &job->factored[k];
        if (first < least(end, layer->first))
            check_weights(job, step, first, least(end, layer->first));
        first = most(first, layer->first + layer->count);
    }
    if (first < end)
        check_weights(job, step, first, end);
}

/* Before its backward pass nobody reads factors that this rank overwrites. */
static void publish(struct job *job, int64_t step)
{
    for (int k = 0; k < FACTORED && job->factors[k] != NULL; k++) {
        dawdle(job);
        job->factors[k][world->place] = step;
        dtr_gradsync_publish(job->sync, k);
    }
}

/* Gives the sums of [first, end) in pieces, those that this rank does not own only now and then. */
static void take(struct job *job, int64_t step, int64_t first, int64_t end)
{
    int64_t shards = job->serial->run.shards;
    float sums[40];
    for (int64_t count; first < end; first += count) {
        count = least(end - first, 1 + dtr_random_below(&job->random, 40));
        if (!dtr_gradsync_owns(job->sync, first, count) && dtr_random_below(&job->random, 8) > 0)
            continue;
        for (int64_t i = 0; i < count; i++)
            sums[i] = node_sum(first + i, step, 0, tree_width(shards), shards);
        dtr_gradsync_take(job->sync, first, count, sums);
    }
}

/* Makes what it can of the gradients [first, end) from factors. Their place in the slab is not
 * looked at. */
static void use_factors(struct job *job, int64_t step, int64_t first, int64_t end)
{
    for (int k = FACTORED - 1; k >= 0 && job->factors[k] != NULL; k--) {
        int64_t begin = most(first, job->factored[k].first);
        int64_t stop = least(end, job->factored[k].first + job->factored[k].count);
        if (begin >= stop)
            continue;
        dtr_gradsync_gather_factors(job->sync, k);
        for (int rank = 0; rank < world->size; rank++)
            CHECK(job->factors[k][rank] == step, job);
        take(job, step, begin, stop);
        dawdle(job);
        for (int rank = 0; rank < world->size; rank++)
            CHECK(job->factors[k][rank] == step, job);
        for (int node = 0; node < job->serial->nodes; node++)
            memset(job->gradients + node * job->stride + begin, 0xFF,
                (size_t)(stop - begin) * sizeof(float));
    }
}

/* Gradients are no numbers until they are final, and a layer's parameters are the old ones until
 * this rank has said that it no longer reads them. */
static void backward(struct job *job, int64_t step, int64_t layers)
{
    const struct serial *serial = job->serial;
    for (int k = 0; k < serial->nodes; k++)
        memset(job->gradients + k * job->stride, 0xFF, (size_t)serial->count * sizeof(float));
    publish(job, step);
    for (int64_t layer = layers - 1; layer >= 0; layer--) {
        int64_t first = layer_begin(job, layer, layers);
        int64_t end = layer_begin(job, layer + 1, layers);
        dawdle(job);
        for (int k = 0; k < serial->nodes; k++)
            memcpy(job->gradients + k * job->stride + first, serial->gradients[step][k] + first,
                (size_t)(end - first) * sizeof(float));
        check_old(job, step, first, end);
        use_factors(job, step, first, end);
        dtr_gradsync_ready(job->sync, first);
        bool arrived = end > first && dtr_gradsync_arrived(job->sync, first, end - first);
        if (arrived)
            check_weights(job, step + 1, first, end);
        CHECK(!arrived || first == 0 || job->config.overlap, job);
    }
}

/* About a half of everything. */
static void choose_factored(struct job *job)
{
    int64_t count = job->serial->count, ranks = world->size;
    int64_t bytes = (ranks * (int64_t)sizeof(int64_t) + 63) / 64 * 64;
    job->factored[0] = (struct dtr_factored){count / 7, count / 3, bytes};
    job->factored[1] = (struct dtr_factored){count / 2, count / 5, bytes};
    job->config.factored = job->factored;
    job->config.factored_count = count < 20 ? 0 : FACTORED;
}

static void begin_job(struct job *job, int threads)
{
    struct dtr_error error = DTR_ERROR_NONE;
    dtr_threads_create(threads, &job->config.threads, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    job->config.apply = apply;
    job->config.context = job;
    job->config.count = job->serial->count;
    job->config.run = job->serial->run;
    job->tolerance = job->config.reduce == DTR_REDUCE_ALLREDUCE ? 1e-4 : 0;
    job->random = dtr_random_at(2, DTR_RANDOM_INIT, 0, 0, (uint64_t)world->rank);
    dtr_gradsync_create(world, &job->config, &job->sync, &error);
    ck_assert_msg(error.status == DTR_OK, "%s", error.message);
    struct dtr_exchange exchange = dtr_gradsync_exchange(job->sync);
    job->weights = exchange.weights;
    job->gradients = exchange.gradients;
    job->stride = exchange.stride;
    job->share_count = exchange.share_count;
    for (int k = 0; k < FACTORED && exchange.factors != NULL; k++)
        job->factors[k] = (int64_t *)((char *)exchange.factors + k * job->factored[k].bytes);
    job->momenta = claim(job->share_count, sizeof(float));
    memcpy(job->weights, job->serial->weights[0], (size_t)job->serial->count * sizeof(float));
}

static void run_steps(struct job *job)
{
    for (int64_t step = 0; step < STEPS; step++) {
        int64_t layers = 1 + (step * 3 + job->serial->count) % 7;
        if (step != 1) /* the next step waits for what nobody has read */
            forward(job, step, layers);
        dtr_gradsync_begin(job->sync);
        backward(job, step, layers);
        if (!job->config.overlap)
            CHECK(dtr_gradsync_arrived(job->sync, 0, job->serial->count), job);
    }
    forward(job, STEPS, 2);
    CHECK(atomic_load(&job->outside) == 0, job);
}

static void check_gathered(struct job *job)
{
    int64_t count = job->serial->count;
    float *slab = world->rank == 0 ? claim(count, sizeof *slab) : NULL;
    dtr_gradsync_gather(job->sync, job->momenta, slab);
    CHECK(slab == NULL || are_alike(job, slab, job->serial->momenta, count), job);
    free(slab);
}

/* Together the ranks update everything, once. */
static void check_shares(const struct job *job)
{
    int64_t all = (int64_t)dtr_world_sum_u64(world, (uint64_t)job->share_count);
    int64_t each = job->config.reduce == DTR_REDUCE_ALLREDUCE ? world->size : 1;
    CHECK(all == each * job->serial->count, job);
}

static uint64_t hash(const void *data, int64_t bytes)
{
    const unsigned char *byte = data;
    uint64_t sum = 0;
    for (int64_t i = 0; i < bytes; i++)
        sum = (sum ^ byte[i]) * UINT64_C(0x100000001b3);
    return sum;
}

static void end_job(struct job *job)
{
    dtr_gradsync_free(job->sync);
    dtr_threads_free(job->config.threads);
    free(job->momenta);
}

static struct dtr_gradsync_stats run_job(
    const struct serial *serial, struct dtr_gradsync_config config, bool factored, int threads)
{
    struct job job = {.serial = serial, .config = config};
    if (factored)
        choose_factored(&job);
    begin_job(&job, threads);
    bool shares = config.reduce != DTR_REDUCE_ALLREDUCE &&
                  (config.window_ranks == 0 || config.window_ranks >= world->size);
    CHECK((job.factors[0] != NULL) == (shares && job.config.factored_count > 0 && world->size > 1),
        &job);
    run_steps(&job);
    check_shares(&job);
    CHECK(dtr_world_same(world, hash(job.weights, serial->count * (int64_t)sizeof(float))), &job);
    check_gathered(&job);
    struct dtr_gradsync_stats stats = dtr_gradsync_stats(job.sync);
    end_job(&job);
    return stats;
}

/* All ways to exchange. */

static const int64_t bucket_bytes[] = {4, 64, 1000, 100000, INT64_C(1) << 26};
enum { WAYS = 4 * 2 * 5 };

static struct dtr_gradsync_config way(int number)
{
    return (struct dtr_gradsync_config){.bucket_bytes = bucket_bytes[number % 5],
        .overlap = number / 5 % 2 == 0,
        .window_ranks = number / 10};
}

/* A few of the ways for each job; over all jobs, and numbers of ranks, it is all of them. */
static void run_some_ways(const struct serial *serial, int job)
{
    enum { EVERY = 13 };
    for (int number = (job + world->size) % EVERY; number < WAYS; number += EVERY) {
        struct dtr_gradsync_config config = way(number);
        config.reduce = number % 2 == 0 ? DTR_REDUCE_TREE : DTR_REDUCE_AUTO;
        if (serial->count > 50 * config.bucket_bytes)
            continue; /* thousands of tiny messages show nothing that hundreds do not */
        run_job(serial, config, number % 3 > 0, 1 + (world->rank + number) % 3);
    }
}

START_TEST(test_equals_serial_training)
{
    static const int64_t counts[] = {1, 15, 16, 17, 63, 1000, 4096, 70001};
    const int64_t ranks = world->size;
    const int64_t shards[] = {ranks, ranks + 1, 8, 3 * ranks + 1};
    for (int i = 0; i < 8 * 4; i++) {
        if (shards[i % 4] < ranks)
            continue;
        struct serial serial = serial_create(counts[i / 4], shards[i % 4]);
        run_some_ways(&serial, i);
        serial_free(&serial);
    }
}
END_TEST

START_TEST(test_allreduce)
{
    static const int64_t counts[] = {1, 17, 1000, 70001};
    for (int i = 0; i < 4; i++) {
        struct serial serial = serial_create(counts[i], world->size + 1 + i);
        for (int number = i % 2; number < 10; number += 2) {
            struct dtr_gradsync_config config = way(number);
            config.reduce = DTR_REDUCE_ALLREDUCE;
            if (serial.count > 50 * config.bucket_bytes)
                continue;
            struct dtr_gradsync_stats stats = run_job(&serial, config, true, 1 + world->rank % 2);
            ck_assert_int_eq(stats.messages, 0);
            ck_assert_int_eq(stats.bytes, STEPS * serial.count * (int64_t)sizeof(float));
        }
        serial_free(&serial);
    }
}
END_TEST

/* What it takes. */

enum { BUCKET = 1024, BUCKETS = 5, TRANSFERS = 8 }; /* as many at a time */

static struct dtr_gradsync_stats measure(int64_t shards, int64_t window_ranks)
{
    struct serial serial = serial_create(BUCKET * BUCKETS, shards);
    struct dtr_gradsync_config config = {.bucket_bytes = BUCKET * (int64_t)sizeof(float),
        .overlap = true,
        .window_ranks = window_ranks};
    struct dtr_gradsync_stats stats = run_job(&serial, config, false, 1);
    serial_free(&serial);
    ck_assert_int_eq(stats.buckets, BUCKETS);
    ck_assert(!stats.windows_failed);
    return stats;
}

static int floor_log2(int64_t number)
{
    int log = 0;
    while (number >> (log + 1) > 0)
        log++;
    return log;
}

START_TEST(test_one_window_sends_nothing)
{
    struct dtr_gradsync_stats stats = measure(2 * world->size, 0);
    ck_assert_int_eq(stats.groups, 1);
    ck_assert_int_eq(stats.group_size, world->size);
    ck_assert_int_eq(stats.messages, 0);
    ck_assert_int_eq(stats.bytes, 0);
    ck_assert(!stats.progress);
}
END_TEST

/* 2 log2 G messages, and of its column all but the share out as sums and back as parameters. */
static void check_even_traffic(const struct dtr_gradsync_stats *stats, int64_t column)
{
    int64_t groups = stats->groups, transfers = STEPS * BUCKETS;
    int64_t floats = 2 * (column - column / groups);
    ck_assert_int_eq(stats->messages, transfers * 2 * floor_log2(groups));
    ck_assert_int_eq(stats->bytes, transfers * floats * (int64_t)sizeof(float));
}

/* Groups that are no power of two: folded ones send one message, and get one. Their shards make no
 * subtrees, so that sums are of up to two open nodes. test_schedule.c derives the bound. */
static void check_uneven_traffic(const struct dtr_gradsync_stats *stats)
{
    int64_t ranks = world->size, transfers = STEPS * BUCKETS;
    int rounds = floor_log2(ranks);
    int64_t units = INT64_C(1) << rounds, folded = ranks - units;
    int64_t messages = (int64_t)dtr_world_sum_u64(world, (uint64_t)stats->messages);
    int64_t bytes = (int64_t)dtr_world_sum_u64(world, (uint64_t)stats->bytes);
    int64_t least = transfers * 2 * (units * (BUCKET - BUCKET / units) + folded * BUCKET);
    ck_assert_int_eq(messages, transfers * 2 * (units * rounds + folded));
    ck_assert_int_ge(bytes, least * (int64_t)sizeof(float));
    ck_assert_int_le(stats->messages, transfers * (2 * rounds + 1));
    ck_assert_int_le(2 * stats->bytes, transfers * (9 + 4) * BUCKET * (int64_t)sizeof(float));
}

START_TEST(test_messages_without_windows)
{
    struct dtr_gradsync_stats stats = measure(world->size, 1);
    ck_assert_int_eq(stats.groups, world->size);
    ck_assert_int_eq(stats.group_size, 1);
    if (world->size == INT64_C(1) << floor_log2(world->size))
        check_even_traffic(&stats, BUCKET);
    else
        check_uneven_traffic(&stats);
}
END_TEST

START_TEST(test_messages_between_windows)
{
    struct dtr_gradsync_stats stats = measure(2 * world->size, 2);
    bool alone = world->place == world->size - 1 && world->size % 2 == 1;
    ck_assert_int_eq(stats.groups, (world->size + 1) / 2);
    ck_assert_int_eq(stats.group_size, alone ? 1 : 2);
    if (world->size % 2 == 0 && stats.groups == INT64_C(1) << floor_log2(stats.groups))
        check_even_traffic(&stats, BUCKET / 2);
}
END_TEST

/* A slab of parameters for each window, one of gradients for each open node, two flags per bucket.
 * And where there are messages, memory for some transfers, each with the sums of its column, what
 * it receives and what it packs: as many open nodes as a run can have, 2 log2(shards), of the
 * column at most. Subtrees, one open node each, are sent from where they are, half of the column at
 * most.
 */
static void check_memory(int64_t shards, int64_t window_ranks)
{
    struct dtr_gradsync_stats stats = measure(shards, window_ranks);
    struct dtr_tree open = dtr_tree_of(dtr_shard_run_of(shards, world->place, world->size));
    bool first = window_ranks == 0 ? world->place == 0 : world->place % window_ranks == 0;
    int64_t slabs = (open.depth + first) * BUCKET * BUCKETS * (int64_t)sizeof(float);
    int64_t flags = 2 * 16 * (int64_t)sizeof(int64_t), nodes = 2 * floor_log2(shards);
    int64_t buffers = stats.memory_bytes - slabs - flags;
    bool subtrees = (shards & (shards - 1)) == 0 && (world->size & (world->size - 1)) == 0;
    int64_t most = BUCKET + BUCKET / 2; /* floats of a transfer */
    if (!subtrees)
        most = 3 * (nodes > 1 ? nodes : 1) * BUCKET;
    if (stats.groups == 1)
        most = 0;
    ck_assert_int_ge(buffers, 0);
    ck_assert_int_le(buffers, TRANSFERS * most * (int64_t)sizeof(float));
}

START_TEST(test_memory)
{
    for (int64_t window_ranks = 0; window_ranks < 3; window_ranks++) {
        check_memory(world->size, window_ranks);
        check_memory(8 * world->size, window_ranks);
        check_memory(world->size + 1, window_ranks);
        check_memory(5 * world->size + 1, window_ranks);
    }
}
END_TEST

/* Shows that the tests above can see the order of additions. */
START_TEST(test_other_orders_give_other_bits)
{
    int64_t different = 0;
    for (int64_t i = 0; i < 100; i++) {
        float in_line = 0;
        for (int64_t shard = 0; shard < 8; shard++)
            in_line += value(i, shard, 0);
        different += in_line != node_sum(i, 0, 0, 8, 8);
    }
    ck_assert_int_gt(different, 10);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("gradsync");
    TCase *results = add_case(suite, "results");
    tcase_add_test(results, test_other_orders_give_other_bits);
    tcase_add_test(results, test_equals_serial_training);
    tcase_add_test(results, test_allreduce);

    TCase *costs = add_case(suite, "costs");
    tcase_add_test(costs, test_one_window_sends_nothing);
    tcase_add_test(costs, test_messages_without_windows);
    tcase_add_test(costs, test_messages_between_windows);
    tcase_add_test(costs, test_memory);
    return suite;
}
