/*
 * How to wait for something that nobody announces without hurting who is at work on it: look often
 * for some microseconds, then let others have the core between looks, then sleep between them.
 */
#ifndef DTRAIN_BACKOFF_H
#define DTRAIN_BACKOFF_H

#include <sched.h>
#include <time.h>

enum {
    DTR_BACKOFF_SPINS = 200,   /* some 10 microseconds */
    DTR_BACKOFF_YIELDS = 2000, /* a millisecond or less where nobody else wants the core */
    DTR_BACKOFF_SLEEP_NS = 50000,
};

/* Begins as {0}. */
struct dtr_backoff {
    int looks;
};

/* Between two looks. */
static inline void dtr_backoff_wait(struct dtr_backoff *backoff)
{
    const struct timespec sleep = {.tv_nsec = DTR_BACKOFF_SLEEP_NS};
    backoff->looks++;
    if (backoff->looks > DTR_BACKOFF_YIELDS)
        nanosleep(&sleep, NULL);
    else if (backoff->looks > DTR_BACKOFF_SPINS)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#endif
}

#endif
