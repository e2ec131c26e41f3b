/*
 * bench_allreduce: the exchange against MPI's own collectives, side by side in one run.
 *
 *   mpirun -n 2 --bind-to none bench_allreduce            sizes from 4 KiB to 64 MiB
 *   mpirun -n 4 --bind-to none bench_allreduce overlap    how much hides under computing
 *   ... [--least BYTES] [--most BYTES] [--repeats N] [--bucket-bytes N]
 *
 * All ways add up the same gradients and are checked, element by element, in the same run. They
 * take turns; a time is that of the slowest rank, and the tables have medians. Bus bandwidth is
 * bytes / time x 2 (R - 1) / R, as nccl-tests define it: what the slowest link must carry.
 */
#include "dtrain/clock.h"
#include "dtrain/gradsync.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "median.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench {
    struct dtr_world *world;
    struct dtr_threads *threads;
    bool overlap;
    int64_t least, most, repeats, bucket_bytes;

    /* Of the message size at hand. */
    int64_t count, padded; /* floats; padded to a multiple of the ranks */
    float *mine, *sum, *chunk;
    MPI_Request *requests;
    struct dtr_gradsync *windows, *messages;
};

typedef void way(struct bench *bench);

static float value(int64_t i, int rank)
{
    return (float)((i * 31 + rank * 17) % 101 - 50);
}

/* Whole numbers, so that any order gives the same sum. */
static float expected(const struct bench *bench, int64_t i)
{
    float sum = 0;
    for (int rank = 0; rank < bench->world->size; rank++)
        sum += value(i, rank);
    return sum;
}

/* The update: parameters become the sums, so that the exchange does what an all-reduce does. */
static void take_sum(void *context, struct dtr_share share, const float *gradient)
{
    struct dtr_gradsync *const *sync = context;
    memcpy(dtr_gradsync_exchange(*sync).weights + share.first, gradient,
        (size_t)share.count * sizeof *gradient);
}

static void start_exchange(struct dtr_gradsync *sync)
{
    dtr_gradsync_begin(sync);
    dtr_gradsync_ready(sync, 0);
}

static void start_windows(struct bench *bench)
{
    start_exchange(bench->windows);
}

static void finish_windows(struct bench *bench)
{
    dtr_gradsync_wait(bench->windows, 0, bench->count);
}

static void start_messages(struct bench *bench)
{
    start_exchange(bench->messages);
}

static void finish_messages(struct bench *bench)
{
    dtr_gradsync_wait(bench->messages, 0, bench->count);
}

static void run_allreduce(struct bench *bench)
{
    MPI_Allreduce(bench->mine, bench->sum, (int)bench->count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static int64_t bucket_floats(const struct bench *bench)
{
    return bench->bucket_bytes / (int64_t)sizeof(float);
}

static int bucket_count(const struct bench *bench)
{
    return (int)((bench->count + bucket_floats(bench) - 1) / bucket_floats(bench));
}

/* Bucket by bucket, as trainers do. */
static void start_iallreduce(struct bench *bench)
{
    for (int i = 0; i < bucket_count(bench); i++) {
        int64_t first = i * bucket_floats(bench), left = bench->count - first;
        int64_t count = left < bucket_floats(bench) ? left : bucket_floats(bench);
        MPI_Iallreduce(bench->mine + first, bench->sum + first, (int)count, MPI_FLOAT, MPI_SUM,
            MPI_COMM_WORLD, &bench->requests[i]);
    }
}

static void test_iallreduce(struct bench *bench)
{
    int done;
    MPI_Testall(bucket_count(bench), bench->requests, &done, MPI_STATUSES_IGNORE);
}

static void finish_iallreduce(struct bench *bench)
{
    MPI_Waitall(bucket_count(bench), bench->requests, MPI_STATUSES_IGNORE);
}

static void run_reduce_scatter(struct bench *bench)
{
    int share = (int)(bench->padded / bench->world->size);
    MPI_Reduce_scatter_block(bench->mine, bench->chunk, share, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allgather(bench->chunk, share, MPI_FLOAT, bench->sum, share, MPI_FLOAT, MPI_COMM_WORLD);
}

/* A way to add up: at once, or started, sometimes nudged, and waited for. */
static const struct {
    const char *name;
    way *start, *nudge, *finish;
} ways[] = {
    {"tree, shared memory", start_windows, NULL, finish_windows},
    {"tree, messages", start_messages, NULL, finish_messages},
    {"MPI_Allreduce", run_allreduce, NULL, NULL},
    {"MPI_Iallreduce", start_iallreduce, NULL, finish_iallreduce},
    {"MPI_Iallreduce, tested", start_iallreduce, test_iallreduce, finish_iallreduce},
    {"MPI_Reduce_scatter + Allgather", run_reduce_scatter, NULL, NULL},
};
enum { WAYS = sizeof ways / sizeof *ways, TREES = 2 };

/* Preparation and checks. */

static float *allocate(int64_t count)
{
    struct dtr_error error;
    float *floats = dtr_alloc(count, sizeof *floats, "a benchmark's message", &error);
    if (floats == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    return floats;
}

static struct dtr_gradsync *make_exchange(
    struct bench *bench, int64_t window_ranks, struct dtr_gradsync **place)
{
    struct dtr_error error = DTR_ERROR_NONE;
    const struct dtr_world *world = bench->world;
    struct dtr_gradsync_config config = {.count = bench->count,
        .run = dtr_shard_run_of(world->size, world->place, world->size),
        .reduce = DTR_REDUCE_TREE,
        .bucket_bytes = bench->bucket_bytes,
        .overlap = true,
        .window_ranks = window_ranks,
        .threads = bench->threads,
        .apply = take_sum,
        .context = place};
    dtr_gradsync_create(bench->world, &config, place, &error);
    if (dtr_world_agree(bench->world, &error) != DTR_OK)
        MPI_Abort(MPI_COMM_WORLD, 1);
    return *place;
}

static void fill(struct bench *bench, float *gradients)
{
    for (int64_t i = 0; i < bench->count; i++)
        gradients[i] = value(i, bench->world->rank);
}

static void set_size(struct bench *bench, int64_t bytes)
{
    int64_t ranks = bench->world->size;
    bench->count = bytes / (int64_t)sizeof(float);
    bench->padded = (bench->count + ranks - 1) / ranks * ranks;
    bench->mine = allocate(bench->padded);
    bench->sum = allocate(bench->padded);
    bench->chunk = allocate(bench->padded / ranks);
    bench->requests = calloc((size_t)bucket_count(bench), sizeof *bench->requests);
    make_exchange(bench, 0, &bench->windows);
    make_exchange(bench, 1, &bench->messages);
    fill(bench, bench->mine);
    fill(bench, dtr_gradsync_exchange(bench->windows).gradients);
    fill(bench, dtr_gradsync_exchange(bench->messages).gradients);
    dtr_world_barrier(bench->world);
}

static void forget_size(struct bench *bench)
{
    dtr_gradsync_free(bench->windows);
    dtr_gradsync_free(bench->messages);
    free(bench->mine);
    free(bench->sum);
    free(bench->chunk);
    free(bench->requests);
}

static float *result_of(struct bench *bench, int number)
{
    if (number < TREES)
        return dtr_gradsync_exchange(number == 0 ? bench->windows : bench->messages).weights;
    return bench->sum;
}

static void check(struct bench *bench, int number)
{
    float *result = result_of(bench, number);
    int64_t wrong = 0;
    for (int64_t i = 0; i < bench->count; i++)
        wrong += result[i] != expected(bench, i);
    if (wrong > 0) {
        dtr_complain("%s: %lld of %lld sums are wrong on rank %d", ways[number].name,
            (long long)wrong, (long long)bench->count, bench->world->rank);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    /* Nothing may stand that a later way could take for its own result. */
    dtr_world_barrier(bench->world);
    memset(result, 0xFF, (size_t)bench->count * sizeof *result);
    dtr_world_barrier(bench->world);
}

/* Times. */

static double slowest(double seconds)
{
    MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return seconds;
}

/* Some microseconds of computing a round. */
static void compute(int64_t rounds)
{
    enum { LANES = 64, STEPS = 200 };
    float lanes[LANES];
    for (int i = 0; i < LANES; i++)
        lanes[i] = (float)i;
    for (int64_t round = 0; round < rounds; round++) {
        for (int step = 0; step < STEPS; step++) {
            for (int i = 0; i < LANES; i++)
                lanes[i] = lanes[i] * 0.999F + 0.5F;
        }
        __asm__ volatile("" : : "r"(lanes) : "memory"); /* as if somebody read them */
    }
}

/* One run of a way (number < 0: of nothing), with `rounds` of computing meanwhile. */
static double run(struct bench *bench, int number, int64_t rounds)
{
    enum { PIECES = 50 };
    dtr_world_barrier(bench->world);
    double start_s = dtr_clock_s();
    if (number >= 0)
        ways[number].start(bench);
    for (int piece = 0; piece < PIECES && rounds > 0; piece++) {
        compute(rounds * (piece + 1) / PIECES - rounds * piece / PIECES);
        if (number >= 0 && ways[number].nudge != NULL)
            ways[number].nudge(bench);
    }
    if (number >= 0 && ways[number].finish != NULL)
        ways[number].finish(bench);
    double seconds = slowest(dtr_clock_s() - start_s);
    if (number >= 0)
        check(bench, number);
    return seconds;
}

static void compare_sizes(struct bench *bench)
{
    double ranks = bench->world->size;
    dtr_print("| bytes | way | ms | bus GB/s | tree is faster by |\n"
              "| --- | --- | --- | --- | --- |\n");
    for (int64_t bytes = bench->least; bytes <= bench->most; bytes *= 4) {
        double *times = malloc((size_t)(WAYS * bench->repeats) * sizeof *times), ours = 0;
        set_size(bench, bytes);
        for (int way = 0; way < WAYS; way++) /* the first run touches memory, opens connections */
            run(bench, way, 0);
        for (int64_t i = 0; i < bench->repeats; i++) {
            for (int way = 0; way < WAYS; way++)
                times[way * bench->repeats + i] = run(bench, way, 0);
        }
        for (int way = 0; way < WAYS; way++) {
            double seconds = median(times + way * bench->repeats, bench->repeats);
            ours = way == 0 ? seconds : ours;
            dtr_print("| %lld | %s | %.3f | %.2f | %.2f |\n", (long long)bytes, ways[way].name,
                1e3 * seconds, (double)bytes / seconds * 2 * (ranks - 1) / ranks * 1e-9,
                seconds / ours);
        }
        forget_size(bench);
        free(times);
    }
}

/* Rounds that take about as long as a blocking all-reduce. */
static int64_t match_rounds(struct bench *bench)
{
    const int reference = TREES; /* MPI_Allreduce */
    int64_t rounds = 1;
    double wanted_s = run(bench, reference, 0);
    wanted_s = run(bench, reference, 0);
    while (run(bench, -1, rounds) < 0.5 * wanted_s)
        rounds *= 2;
    return (int64_t)((double)rounds * wanted_s / run(bench, -1, rounds)) + 1;
}

static void measure_overlap(struct bench *bench)
{
    dtr_print("| bytes | way | exchange ms | computing ms | both ms | hidden |\n"
              "| --- | --- | --- | --- | --- | --- |\n");
    for (int64_t bytes = bench->least; bytes <= bench->most; bytes *= 4) {
        set_size(bench, bytes);
        int64_t rounds = match_rounds(bench);
        double *times = malloc((size_t)(3 * bench->repeats) * sizeof *times);
        for (int way = 0; way < WAYS; way++) {
            for (int64_t i = 0; i < bench->repeats; i++) {
                times[i] = run(bench, way, 0);
                times[bench->repeats + i] = run(bench, -1, rounds);
                times[2 * bench->repeats + i] = run(bench, way, rounds);
            }
            double exchange = median(times, bench->repeats);
            double computing = median(times + bench->repeats, bench->repeats);
            double both = median(times + 2 * bench->repeats, bench->repeats);
            double least = exchange < computing ? exchange : computing;
            dtr_print("| %lld | %s | %.2f | %.2f | %.2f | %.0f %% |\n", (long long)bytes,
                ways[way].name, 1e3 * exchange, 1e3 * computing, 1e3 * both,
                100 * (exchange + computing - both) / least);
        }
        free(times);
        forget_size(bench);
    }
}

static bool read_options(struct bench *bench, int argc, char **argv)
{
    int first = 1;
    if (argc > 1 && strcmp(argv[1], "overlap") == 0) {
        bench->overlap = true;
        bench->least = bench->most = 6653480; /* the default network's gradients */
        first = 2;
    }
    struct {
        const char *name;
        int64_t *number;
    } options[] = {{"--least", &bench->least}, {"--most", &bench->most},
        {"--repeats", &bench->repeats}, {"--bucket-bytes", &bench->bucket_bytes}};
    for (int i = first; i < argc; i += 2) {
        int64_t *number = NULL;
        for (size_t j = 0; j < sizeof options / sizeof *options; j++)
            number = strcmp(argv[i], options[j].name) == 0 ? options[j].number : number;
        if (number == NULL || i + 1 == argc || (*number = atoll(argv[i + 1])) < 1)
            return false;
    }
    return bench->least >= (int64_t)sizeof(float) && bench->bucket_bytes >= (int64_t)sizeof(float);
}

int main(int argc, char **argv)
{
    struct bench bench = {
        .least = 4 << 10, .most = 64 << 20, .repeats = 21, .bucket_bytes = 1 << 20};
    struct dtr_error error = DTR_ERROR_NONE;
    if (dtr_world_start(&argc, &argv, &bench.world, &error) != DTR_OK) {
        dtr_complain("%s", error.message);
        return (int)error.status;
    }
    dtr_log_set_rank(bench.world->rank);
    if (!read_options(&bench, argc, argv))
        dtr_error_set(&error, DTR_USAGE,
            "usage: bench_allreduce [overlap] [--least BYTES] [--most BYTES] [--repeats N] "
            "[--bucket-bytes N]");
    else
        dtr_threads_create(1, &bench.threads, &error);
    enum dtr_status status = dtr_world_agree(bench.world, &error);
    if (status == DTR_OK) {
        dtr_print("%d ranks, %d hosts, %s, buckets of %lld bytes, medians of %lld\n\n",
            bench.world->size, bench.world->nodes, bench.world->library,
            (long long)bench.bucket_bytes, (long long)bench.repeats);
        if (bench.overlap)
            measure_overlap(&bench);
        else
            compare_sizes(&bench);
    }
    dtr_threads_free(bench.threads);
    dtr_world_finish(bench.world);
    return (int)status;
}
