/*
 * How to wait for somebody else's write without hurting him: look often for some microseconds,
 * then let others have the core between looks, then sleep between them. Private to mpi/.
 */
#ifndef DTRAIN_MPI_BACKOFF_H
#define DTRAIN_MPI_BACKOFF_H

#include <sched.h>
#include <time.h>

enum {
    BACKOFF_SPINS = 200,   /* some 10 microseconds */
    BACKOFF_YIELDS = 2000, /* a millisecond or less where nobody else wants the core */
    BACKOFF_SLEEP_NS = 50000,
};

struct backoff {
    int looks;
};

static inline void backoff_wait(struct backoff *backoff)
{
    const struct timespec sleep = {.tv_nsec = BACKOFF_SLEEP_NS};
    backoff->looks++;
    if (backoff->looks > BACKOFF_YIELDS)
        nanosleep(&sleep, NULL);
    else if (backoff->looks > BACKOFF_SPINS)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#endif
}

#endif
