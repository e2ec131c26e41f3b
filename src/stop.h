/*
 * Why a training ends before its last step: a signal to any of its ranks, or the time that it has.
 * A signal only sets a flag; what comes of it the ranks decide together, as each step sums the
 * largest reason of all (dtr_control.stop). Local.
 */
#ifndef DTRAIN_STOP_H
#define DTRAIN_STOP_H

#include "dtrain/options.h"

#include <stdint.h>

/* Above all signals' numbers. */
enum { DTR_STOP_TIME = 1000, DTR_STOP_UNWRITTEN };

/* From now on SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 ask for an end; a second SIGINT ends the process
 * at once. In the main thread. */
void dtr_stop_watch(void);

/* The number of the signal that came, 0 before. */
int64_t dtr_stop_signal(void);

/* "SIGTERM", "the time limit", ...: who or what has stopped it. */
const char *dtr_stop_name(int64_t reason);

/* When the training has to be over, by dtr_clock_s(): --time-limit counts from `start_s`, without
 * it the Slurm job's own end counts. INFINITY where there is no limit or none is known; *origin_out
 * says which ("--time-limit", "Slurm"; NULL: none). */
double dtr_stop_deadline(
    const struct dtr_options *options, double start_s, const char **origin_out);

#endif
