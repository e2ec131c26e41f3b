#include "dtrain/threads.h"

#include "dtrain/memory.h"
#include "dtrain/signals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Waiters look this often before they sleep: 5 to 50 microseconds by the CPU, more than the usual
 * gap between two calls, less than a time slice that a neighbour could have used. */
enum { SPINS = 1000 };

struct dtr_threads {
    int count, started; /* the caller included; pthreads that exist */
    pthread_t *handles; /* [count - 1] */

    /* What runs now; written before `generation` changes, read after. */
    dtr_work *work;
    void *context;
    int64_t items;

    atomic_uint generation; /* calls of dtr_threads_run() so far */
    atomic_int busy;        /* threads other than the caller that have not finished it */
    atomic_bool stop;

    /* For those who have looked long enough. A waker who sees no sleeper may go on: whoever counts
     * himself in later looks once more before he sleeps, and sees the change. */
    pthread_mutex_t mutex;
    pthread_cond_t work_there, work_done;
    atomic_int sleepers; /* workers that wait for work_there */
    atomic_int caller_sleeps;
};

struct worker {
    struct dtr_threads *threads;
    int thread;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void run_part(struct dtr_threads *threads, int thread)
{
    int64_t first = threads->items * thread / threads->count;
    int64_t end = threads->items * (thread + 1) / threads->count;
    for (int64_t item = first; item < end; item++)
        threads->work(threads->context, item, thread);
}

static bool generation_passed(struct dtr_threads *threads, unsigned seen)
{
    return atomic_load(&threads->generation) != seen;
}

static void wait_for_work(struct dtr_threads *threads, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (generation_passed(threads, seen))
            return;
        relax();
    }
    pthread_mutex_lock(&threads->mutex);
    atomic_fetch_add(&threads->sleepers, 1);
    while (!generation_passed(threads, seen))
        pthread_cond_wait(&threads->work_there, &threads->mutex);
    atomic_fetch_sub(&threads->sleepers, 1);
    pthread_mutex_unlock(&threads->mutex);
}

static void wait_for_workers(struct dtr_threads *threads)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&threads->busy) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&threads->mutex);
    atomic_store(&threads->caller_sleeps, 1);
    while (atomic_load(&threads->busy) != 0)
        pthread_cond_wait(&threads->work_done, &threads->mutex);
    atomic_store(&threads->caller_sleeps, 0);
    pthread_mutex_unlock(&threads->mutex);
}

/* Under the lock nobody is between looking and sleeping. */
static void wake(struct dtr_threads *threads, atomic_int *sleepers, pthread_cond_t *condition)
{
    if (atomic_load(sleepers) == 0)
        return;
    pthread_mutex_lock(&threads->mutex);
    pthread_cond_broadcast(condition);
    pthread_mutex_unlock(&threads->mutex);
}

static void start_generation(struct dtr_threads *threads)
{
    atomic_fetch_add(&threads->generation, 1);
    wake(threads, &threads->sleepers, &threads->work_there);
}

static void *worker_main(void *argument)
{
    struct worker worker = *(struct worker *)argument;
    struct dtr_threads *threads = worker.threads;
    free(argument);
    for (unsigned seen = 0;; seen++) {
        wait_for_work(threads, seen);
        if (atomic_load(&threads->stop))
            return NULL;
        run_part(threads, worker.thread);
        if (atomic_fetch_sub(&threads->busy, 1) == 1)
            wake(threads, &threads->caller_sleeps, &threads->work_done);
    }
}

static enum dtr_status start_worker(
    struct dtr_threads *threads, int thread, struct dtr_error *error)
{
    struct worker *worker = malloc(sizeof *worker);
    if (worker == NULL)
        return dtr_error_set(error, DTR_FAILED, "out of memory for thread %d", thread);
    *worker = (struct worker){threads, thread};
    int code = dtr_signals_create_thread(&threads->handles[thread - 1], worker_main, worker);
    if (code != 0) {
        free(worker);
        return dtr_error_set(error, DTR_FAILED, "cannot start thread %d of %d: %s", thread + 1,
            threads->count, strerror(code));
    }
    threads->started++;
    return DTR_OK;
}

enum dtr_status dtr_threads_create(
    int count, struct dtr_threads **threads_out, struct dtr_error *error)
{
    struct dtr_threads *threads = dtr_alloc(1, sizeof *threads, "threads", error);
    *threads_out = NULL;
    if (threads == NULL)
        return error->status;
    threads->count = count;
    pthread_mutex_init(&threads->mutex, NULL);
    pthread_cond_init(&threads->work_there, NULL);
    pthread_cond_init(&threads->work_done, NULL);
    threads->handles = dtr_alloc(count, sizeof *threads->handles, "threads", error);
    if (threads->handles == NULL) {
        dtr_threads_free(threads);
        return error->status;
    }
    for (int thread = 1; thread < count; thread++) {
        if (start_worker(threads, thread, error) != DTR_OK) {
            dtr_threads_free(threads);
            return error->status;
        }
    }
    *threads_out = threads;
    return DTR_OK;
}

void dtr_threads_free(struct dtr_threads *threads)
{
    if (threads == NULL)
        return;
    atomic_store(&threads->stop, true);
    start_generation(threads);
    for (int i = 0; i < threads->started; i++)
        pthread_join(threads->handles[i], NULL);
    pthread_mutex_destroy(&threads->mutex);
    pthread_cond_destroy(&threads->work_there);
    pthread_cond_destroy(&threads->work_done);
    free(threads->handles);
    free(threads);
}

int dtr_threads_count(const struct dtr_threads *threads)
{
    return threads->count;
}

void dtr_threads_run(struct dtr_threads *threads, int64_t items, dtr_work *work, void *context)
{
    threads->work = work;
    threads->context = context;
    threads->items = items;
    if (threads->count > 1) {
        atomic_store(&threads->busy, threads->count - 1);
        start_generation(threads);
    }
    run_part(threads, 0);
    if (threads->count > 1)
        wait_for_workers(threads);
}

int dtr_threads_choose(int64_t named, double cores)
{
    if (named > 0)
        return (int)named;
    return cores < 1 ? 1 : (int)(cores + 1e-6); /* a share such as 6 / 3 may lie just below 2 */
}
