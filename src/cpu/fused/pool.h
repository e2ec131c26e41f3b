/*
 * A 2x2 max-pool whose four values are in registers, channel by channel. Private to
 * src/cpu/fused/.
 */
#ifndef DTRAIN_CPU_FUSED_POOL_H
#define DTRAIN_CPU_FUSED_POOL_H

#include "vec.h"

/* pool_window() where a value may be a NaN: [place][VEC]. Out of line, as it never happens in a
 * training that goes well. */
static __attribute__((noinline, cold)) void pool_unordered(
    const float values[4 * VEC], float best_out[VEC], int32_t winner_out[VEC])
{
    for (int i = 0; i < VEC; i++) {
        int winner = 0;
        for (int place = 1; place < 4; place++) {
            float value = values[place * VEC + i], best = values[winner * VEC + i];
            if (value > best || value != value)
                winner = place;
        }
        best_out[i] = values[winner * VEC + i];
        winner_out[i] = winner;
    }
}

/* The largest of a window's values [row][column], and its place 2 * row + column: the first of
 * equals, a NaN always (the last one, as in maxpool.c). */
INLINE vec pool_window(const vec values[4], ivec *winner_out)
{
    vec sum = (values[0] + values[1]) + (values[2] + values[3]);
    if (__builtin_expect(vec_any_nan(sum), 0)) { /* a NaN, or infinities */
        float in[4 * VEC], best[VEC];
        int32_t winner[VEC];
        for (int place = 0; place < 4; place++)
            vec_store(in + place * VEC, values[place]);
        pool_unordered(in, best, winner);
        memcpy(winner_out, winner, sizeof winner);
        return vec_load(best);
    }
    ivec right_above = values[1] > values[0], right_below = values[3] > values[2];
    vec above = vec_max(values[1], values[0]), below = vec_max(values[3], values[2]);
    ivec lower = below > above; /* comparisons give -1 */
    *winner_out = ivec_select(lower, 2 - right_below, -right_above);
    return vec_max(below, above);
}

#endif
