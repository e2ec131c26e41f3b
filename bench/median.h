/* What the benchmarks report of repeated times. */
#ifndef DTRAIN_BENCH_MEDIAN_H
#define DTRAIN_BENCH_MEDIAN_H

#include <stdint.h>
#include <stdlib.h>

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of an even number of values the upper of the middle ones. Sorts them. */
static inline double median(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

#endif
