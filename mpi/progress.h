/*
 * A thread that moves messages while the others compute: MPI libraries do so only inside of calls.
 * It looks about every 100 microseconds while something is under way and sleeps otherwise. Private
 * to mpi/. Local.
 */
#ifndef DTRAIN_MPI_PROGRESS_H
#define DTRAIN_MPI_PROGRESS_H

#include "dtrain/status.h"

#include <stdbool.h>

struct progress;

/* Goes on with what can go on, without waiting. Returns true when nothing is under way. Called by
 * one thread at a time. */
typedef bool progress_work(void *context);

enum dtr_status progress_start(
    progress_work *work, void *context, struct progress **progress_out, struct dtr_error *error);

/* All take NULL for no thread, and then do nothing. */
void progress_stop(struct progress *progress);

/* Does the work on the caller's thread, unless the other one is at it. `more` wakes that one: there
 * is something new under way. */
void progress_help(struct progress *progress, bool more);

/* Keeps everybody from the work. */
void progress_lock(struct progress *progress);
void progress_unlock(struct progress *progress);

#endif
