/*
 * A guard over what no watchdog (watchdog.h) can watch: the MPI library's own start and end, in
 * which all ranks wait for each other. If they take longer than the limit, the process says so and
 * ends with DTR_HUNG, and the launcher ends the job. Local, in the main thread.
 */
#ifndef DTRAIN_GUARD_H
#define DTRAIN_GUARD_H

struct dtr_guard;

/* `what` is waited for: "the start of MPI". NULL where the limit is 0, or without memory or
 * threads; that is no reason not to train. */
struct dtr_guard *dtr_guard_start(double limit_s, const char *what);
void dtr_guard_stop(struct dtr_guard *guard);

#endif
