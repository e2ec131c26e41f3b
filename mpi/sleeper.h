/*
 * A thread that sleeps most of the time, and can be told to end at any. Signals are the other
 * threads' to take. Private to mpi/. Local.
 */
#ifndef DTRAIN_MPI_SLEEPER_H
#define DTRAIN_MPI_SLEEPER_H

#include "dtrain/status.h"

#include <pthread.h>
#include <stdbool.h>

struct sleeper {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop; /* with the mutex */
};

/* `what` names the thread for the error: "the watchdog". */
enum dtr_status sleeper_start(struct sleeper *sleeper, void *(*run)(void *), void *context,
    const char *what, struct dtr_error *error);

/* In the thread: true when so many seconds have passed, false once it is to end. */
bool sleeper_sleep(struct sleeper *sleeper, double seconds);

/* Ends it and waits for that. */
void sleeper_stop(struct sleeper *sleeper);

#endif
