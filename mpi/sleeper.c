#include "sleeper.h"

#include "dtrain/signals.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

enum dtr_status sleeper_start(struct sleeper *sleeper, void *(*run)(void *), void *context,
    const char *what, struct dtr_error *error)
{
    pthread_condattr_t monotonic;
    sleeper->stop = false;
    pthread_mutex_init(&sleeper->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&sleeper->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int code = dtr_signals_create_thread(&sleeper->thread, run, context);
    if (code == 0)
        return DTR_OK;
    return dtr_error_set(error, DTR_FAILED, "cannot start %s: %s", what, strerror(code));
}

bool sleeper_sleep(struct sleeper *sleeper, double seconds)
{
    struct timespec until;
    int code = 0;
    int64_t whole = (int64_t)seconds;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)((seconds - (double)whole) * 1e9);
    until.tv_sec += whole + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&sleeper->mutex);
    while (!sleeper->stop && code != ETIMEDOUT)
        code = pthread_cond_timedwait(&sleeper->changed, &sleeper->mutex, &until);
    bool stop = sleeper->stop;
    pthread_mutex_unlock(&sleeper->mutex);
    return !stop;
}

void sleeper_stop(struct sleeper *sleeper)
{
    pthread_mutex_lock(&sleeper->mutex);
    sleeper->stop = true;
    pthread_cond_signal(&sleeper->changed);
    pthread_mutex_unlock(&sleeper->mutex);
    pthread_join(sleeper->thread, NULL);
    pthread_cond_destroy(&sleeper->changed);
    pthread_mutex_destroy(&sleeper->mutex);
}
