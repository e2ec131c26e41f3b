/*
 * Non-temporal stores, for memory that other cores have read and will read again: it is written
 * past the caches. Otherwise each line is first taken from the caches that hold it: an update takes
 * twice as long where they share their third level, and 11 times as long where they do not, as on
 * processors with several of them (measured on an AMD EPYC of the fourth generation:
 * bench/bench_sharing.c, bench/results/2026-11-27-step.md). Private to src/.
 */
#ifndef DTRAIN_STREAM_H
#define DTRAIN_STREAM_H

#include <stdint.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

/* Copies `count` floats, a multiple of 4, to an address that is a multiple of 16 bytes. It is fast
 * where whole lines, 16 floats, are written in order. */
static inline __attribute__((always_inline)) void stream_floats(
    float *to, const float *from, int64_t count)
{
#if defined(__SSE__)
    for (int64_t i = 0; i < count; i += 4)
        _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
#else
    memcpy(to, from, (size_t)count * sizeof *to);
#endif
}

/* Such stores are in no order with others until here: due before others are told to read them. */
static inline void stream_end(void)
{
#if defined(__SSE__)
    _mm_sfence();
#endif
}

#endif
