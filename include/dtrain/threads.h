/*
 * A rank's threads: a small pool made once. The calling thread is thread 0 and works too. Threads
 * inherit the rank's affinity mask.
 */
#ifndef DTRAIN_THREADS_H
#define DTRAIN_THREADS_H

#include "dtrain/status.h"

#include <stdint.h>

struct dtr_threads;

/* `count` threads in all, the caller included (>= 1). */
enum dtr_status dtr_threads_create(
    int count, struct dtr_threads **threads_out, struct dtr_error *error);
void dtr_threads_free(struct dtr_threads *threads);

int dtr_threads_count(const struct dtr_threads *threads);

/* Work on item 0 .. items-1; `thread` is 0 .. count-1. */
typedef void dtr_work(void *context, int64_t item, int thread);

/* Runs all items and returns when they are done. Thread t takes the t-th run of consecutive items,
 * so equal calls put equal items on equal threads. Not reentrant. */
void dtr_threads_run(struct dtr_threads *threads, int64_t items, dtr_work *work, void *context);

/* Cores in this process's affinity mask. */
int dtr_threads_allowed(void);

#endif
