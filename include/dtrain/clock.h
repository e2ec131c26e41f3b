/* Wall time for reports: seconds since an arbitrary moment, never going back. */
#ifndef DTRAIN_CLOCK_H
#define DTRAIN_CLOCK_H

#include <time.h>

static inline double dtr_clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
