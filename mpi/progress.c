#include "progress.h"

#include "dtrain/memory.h"
#include "dtrain/signals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOK_EVERY_NS = 50000 }; /* the kernel's timers add as much again */

struct progress {
    progress_work *work;
    void *context;
    pthread_t thread;
    pthread_mutex_t working; /* held during the work */
    atomic_uint helps;       /* times that others were here */

    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t changed;
    bool more, stop;
};

/* Waits until there is more under way, if nothing was. False at the end. */
static bool wait_for_more(struct progress *progress, bool idle)
{
    pthread_mutex_lock(&progress->mutex);
    while (idle && !progress->more && !progress->stop)
        pthread_cond_wait(&progress->changed, &progress->mutex);
    progress->more = false;
    bool stop = progress->stop;
    pthread_mutex_unlock(&progress->mutex);
    return !stop;
}

static void *run(void *argument)
{
    const struct timespec pause = {.tv_nsec = LOOK_EVERY_NS};
    struct progress *progress = argument;
    bool idle = true;
    unsigned seen = 0;
    while (wait_for_more(progress, idle)) {
        unsigned helps = atomic_load(&progress->helps);
        if (helps == seen) { /* else somebody looks who has nothing else to do */
            pthread_mutex_lock(&progress->working);
            idle = progress->work(progress->context);
            pthread_mutex_unlock(&progress->working);
        } else {
            idle = false;
        }
        seen = helps;
        if (!idle)
            nanosleep(&pause, NULL);
    }
    return NULL;
}

enum dtr_status progress_start(
    progress_work *work, void *context, struct progress **progress_out, struct dtr_error *error)
{
    struct progress *progress = dtr_alloc(1, sizeof *progress, "a thread", error);
    *progress_out = NULL;
    if (progress == NULL)
        return error->status;
    progress->work = work;
    progress->context = context;
    pthread_mutex_init(&progress->working, NULL);
    pthread_mutex_init(&progress->mutex, NULL);
    pthread_cond_init(&progress->changed, NULL);
    int code = dtr_signals_create_thread(&progress->thread, run, progress);
    if (code != 0) {
        free(progress);
        return dtr_error_set(
            error, DTR_FAILED, "cannot start the thread that moves messages: %s", strerror(code));
    }
    *progress_out = progress;
    return DTR_OK;
}

void progress_stop(struct progress *progress)
{
    if (progress == NULL)
        return;
    pthread_mutex_lock(&progress->mutex);
    progress->stop = true;
    pthread_cond_signal(&progress->changed);
    pthread_mutex_unlock(&progress->mutex);
    pthread_join(progress->thread, NULL);
    pthread_cond_destroy(&progress->changed);
    pthread_mutex_destroy(&progress->mutex);
    pthread_mutex_destroy(&progress->working);
    free(progress);
}

void progress_help(struct progress *progress, bool more)
{
    if (progress == NULL)
        return;
    if (more) {
        pthread_mutex_lock(&progress->mutex);
        progress->more = true;
        pthread_cond_signal(&progress->changed);
        pthread_mutex_unlock(&progress->mutex);
    }
    atomic_fetch_add(&progress->helps, 1);
    if (pthread_mutex_trylock(&progress->working) == 0) {
        progress->work(progress->context);
        pthread_mutex_unlock(&progress->working);
    }
}

void progress_lock(struct progress *progress)
{
    if (progress != NULL)
        pthread_mutex_lock(&progress->working);
}

void progress_unlock(struct progress *progress)
{
    if (progress != NULL)
        pthread_mutex_unlock(&progress->working);
}
