/*
 * bench_sharing: what it costs two cores to update weights that both of them read.
 *
 *   bench_sharing [CORE CORE [REPEATS]]     cores 0 and 1, 99 repeats
 *
 * As in a training step, both read all weights of a layer (6.4 MB, the tutorial's largest), and
 * then each updates half of them: weights that it alone reads, weights that both read, and these
 * written past the caches. The ways take turns; prints medians of the slower core's times, and how
 * long a word takes to the other core and back: cores that share a third-level cache need 40 to 100
 * ns, others a multiple.
 */
#include "dtrain/clock.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "dtrain/optimizer.h"
#include "dtrain/threads.h"
#include "median.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { COUNT = 3136 * 512, HALF = COUNT / 2, WAYS = 3, REPEATS_MOST = 9999, ROUNDS = 1000 };

static const char *const names[WAYS] = {
    "read by one core", "read by both", "read by both, past the caches"};

struct core {
    float *gradient, *momentum, *weights; /* [HALF], of its own */
    double sum, seconds;                  /* of what was read, of the last update */
};

struct bench {
    int cores[2];
    float *weights; /* [COUNT], of both */
    int way;
    struct core core[2];
    atomic_int word;
};

static void pin(void *context, int64_t item, int thread)
{
    const struct bench *bench = context;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)bench->cores[item], &set);
    (void)thread;
    sched_setaffinity(0, sizeof set, &set); /* may_run_on() has seen that it can */
}

static bool may_run_on(int core)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 && core >= 0 && core < CPU_SETSIZE &&
           CPU_ISSET((size_t)core, &set);
}

static void read_weights(void *context, int64_t item, int thread)
{
    struct bench *bench = context;
    struct core *core = &bench->core[item];
    (void)thread;
    core->sum += bench->way == 0 ? dtr_sum_of_squares(HALF, core->weights)
                                 : dtr_sum_of_squares(COUNT, bench->weights);
}

static void update_half(void *context, int64_t item, int thread)
{
    struct bench *bench = context;
    struct core *core = &bench->core[item];
    float *weights = bench->way == 0 ? core->weights : bench->weights + item * HALF;
    double start_s = dtr_clock_s();
    (void)thread;
    (bench->way == 2 ? dtr_sgd_update_shared : dtr_sgd_update)(
        HALF, 1e-6F, 0.9F, 0, core->gradient, core->momentum, weights);
    core->seconds = dtr_clock_s() - start_s;
}

/* A word that goes to and fro: each core waits for its turn. */
static void pass_word(void *context, int64_t item, int thread)
{
    struct bench *bench = context;
    (void)thread;
    for (int round = 0; round < ROUNDS; round++) {
        while (atomic_load_explicit(&bench->word, memory_order_acquire) != 2 * round + (int)item)
            ;
        atomic_store_explicit(&bench->word, 2 * round + (int)item + 1, memory_order_release);
    }
}

static void run(struct bench *bench, struct dtr_threads *threads, int repeats)
{
    static double update_ms[WAYS][REPEATS_MOST], word_ns[REPEATS_MOST];
    dtr_threads_run(threads, 2, pin, bench);
    for (int i = 0; i < repeats; i++) {
        for (bench->way = 0; bench->way < WAYS; bench->way++) {
            dtr_threads_run(threads, 2, read_weights, bench);
            dtr_threads_run(threads, 2, update_half, bench);
            double a_s = bench->core[0].seconds, b_s = bench->core[1].seconds;
            update_ms[bench->way][i] = 1e3 * (a_s > b_s ? a_s : b_s);
        }
        double start_s = dtr_clock_s();
        atomic_store(&bench->word, 0);
        dtr_threads_run(threads, 2, pass_word, bench);
        word_ns[i] = 1e9 * (dtr_clock_s() - start_s) / ROUNDS;
    }
    printf("a word from core %d to core %d and back: %.0f ns\n\n", bench->cores[0], bench->cores[1],
        median(word_ns, repeats));
    printf("| update of %d weights by two cores | ms |\n| --- | --- |\n", COUNT);
    for (int way = 0; way < WAYS; way++)
        printf("| %s | %.2f |\n", names[way], median(update_ms[way], repeats));
}

int main(int argc, char **argv)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct bench bench = {.cores = {0, 1}};
    struct dtr_threads *threads = NULL;
    int repeats = argc > 3 ? atoi(argv[3]) : 99;
    for (int i = 0; i < 2 && argc > 2; i++)
        bench.cores[i] = atoi(argv[1 + i]);
    if (argc == 2 || repeats < 1 || repeats > REPEATS_MOST) {
        fprintf(stderr, "usage: bench_sharing [CORE CORE [REPEATS]]\n");
        return DTR_USAGE;
    }
    if (bench.cores[0] == bench.cores[1] || !may_run_on(bench.cores[0]) ||
        !may_run_on(bench.cores[1])) {
        dtr_complain("cores %d and %d: must be two that this process may use (nproc, taskset -p)",
            bench.cores[0], bench.cores[1]);
        return DTR_USAGE;
    }
    bench.weights = dtr_alloc(COUNT + 2 * 3 * HALF, sizeof *bench.weights, "weights", &error);
    if (bench.weights == NULL || dtr_threads_create(2, &threads, &error) != DTR_OK) {
        dtr_complain("%s", error.message);
        return (int)error.status;
    }
    for (int i = 0; i < 2; i++) {
        float *own = bench.weights + COUNT + i * 3 * HALF;
        bench.core[i] = (struct core){own, own + HALF, own + 2 * HALF, 0, 0};
    }
    run(&bench, threads, repeats);
    dtr_threads_free(threads);
    free(bench.weights);
    return DTR_OK;
}
