/*
 * The watchdog: ends a job that hangs, and says who is to blame. A thread on each rank looks at the
 * rank's pulse (pulse.h) and writes what it sees where the ranks of its host can read it; the first
 * rank of each host tells rank 0, whose thread decides. The job ends with DTR_HUNG when for the
 * limit
 *   - a rank's watch has not been heard: its process is stopped, or its host is gone;
 *   - a rank has got nothing done, and does not wait for others;
 *   - nobody has got anything done.
 * Where rank 0 itself is not heard, the others decide. A job that was stopped as a whole and goes
 * on is given its time anew.
 */
#ifndef DTRAIN_WATCHDOG_H
#define DTRAIN_WATCHDOG_H

#include "dtrain/status.h"
#include "dtrain/world.h"

#include <stdint.h>

struct dtr_watchdog;

/* Collective; the smallest limit in seconds counts, 0 is off (then *watchdog_out is NULL). A rank
 * that fails knows why; dtr_world_agree() is due. */
enum dtr_status dtr_watchdog_start(struct dtr_world *world, int64_t limit_s,
    struct dtr_watchdog **watchdog_out, struct dtr_error *error);

/* Collective; waits for all ranks first, who are watched until then. */
void dtr_watchdog_stop(struct dtr_watchdog *watchdog);

#endif
