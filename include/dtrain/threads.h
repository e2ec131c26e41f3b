/*
 * A rank's threads: a small pool made once. The calling thread is thread 0 and works too. Threads
 * inherit the rank's affinity mask, and the system moves them within it: fixed to a core each, two
 * threads were no faster on two idle cores, and 1.1 times slower with one other program on them.
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

/* How many threads a rank computes with: `named` if that is not 0, else its fair share of the cores
 * in its affinity mask (world->cores), at least one. */
int dtr_threads_choose(int64_t named, double cores);

#endif
