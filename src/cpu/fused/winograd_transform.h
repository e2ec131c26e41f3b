/*
 * The one-dimensional transforms of Winograd's convolution F(4, kernel), kernel 3 or 5: four
 * outputs of a row from 4 + kernel - 1 inputs with as many multiplications, one per *point*:
 *
 *     outputs = results(sources(inputs) * kernels(taps))
 *
 * It is the product of two polynomials, from their values at the points: 0, infinity, and pairs
 * +-p. The points of a kernel of 5 are 0, infinity, +-1, +-2, +-1/2; of 3, where +-1, +-2 would
 * round twice as much, 0, infinity, +-5/8, +-3/2.
 *
 * *Narrow* are two outputs from 2 + kernel - 1 inputs with the points but the last pair. What the
 * kernel's transform divides by depends on the set of points; so that one transformed kernel does
 * for both, the narrow source's transform multiplies by (p^2 - q^2), q being the last pair's p.
 *
 * Inlined with constant `kernel` and `narrow`. Private to winograd.c and winograd_thin.c.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_TRANSFORM_H
#define DTRAIN_CPU_FUSED_WINOGRAD_TRANSFORM_H

#include "vec.h"

#include <stdbool.h>

/* Outputs of a tile's row, and of a narrow one; the most points. */
enum { WINOGRAD_OUTPUTS = 4, WINOGRAD_NARROW = 2, WINOGRAD_POINTS = 8 };

/* The points +-A, +-B of a kernel of 3. Products of them and their squares are exact. */
#define WINOGRAD_A 0.625f
#define WINOGRAD_B 1.5f
#define WINOGRAD_A2 (WINOGRAD_A * WINOGRAD_A)
#define WINOGRAD_B2 (WINOGRAD_B * WINOGRAD_B)

INLINE int winograd_points(int kernel, bool narrow)
{
    return (narrow ? WINOGRAD_NARROW : WINOGRAD_OUTPUTS) + kernel - 1;
}

/* The positive point of the pair at places i and i + 1 of the values. */
INLINE float winograd_point(int kernel, int i)
{
    if (kernel == 3)
        return i == 2 ? WINOGRAD_A : WINOGRAD_B;
    return i == 2 ? 1 : i == 4 ? 2 : 0.5f;
}

/* even + p * odd and even - p * odd: the values at p and -p. */
INLINE void winograd_pair(vec even, float p, vec odd, vec values_out[2])
{
    values_out[0] = vec_fma(vec_all(p), odd, even);
    values_out[1] = vec_fnma(vec_all(p), odd, even);
}

/* x + a * y + b * z */
INLINE vec winograd_sum(vec x, float a, vec y, float b, vec z)
{
    return vec_fma(vec_all(b), z, vec_fma(vec_all(a), y, x));
}

INLINE void winograd_sources_3(const vec x[6], vec values_out[6])
{
    const float sum = WINOGRAD_A2 + WINOGRAD_B2, product = WINOGRAD_A2 * WINOGRAD_B2;
    values_out[0] = winograd_sum(x[4], -sum, x[2], product, x[0]);
    values_out[1] = winograd_sum(x[5], -sum, x[3], product, x[1]);
    winograd_pair(vec_fnma(vec_all(WINOGRAD_B2), x[2], x[4]), WINOGRAD_A,
        vec_fnma(vec_all(WINOGRAD_B2), x[1], x[3]), values_out + 2);
    winograd_pair(vec_fnma(vec_all(WINOGRAD_A2), x[2], x[4]), WINOGRAD_B,
        vec_fnma(vec_all(WINOGRAD_A2), x[1], x[3]), values_out + 4);
}

INLINE void winograd_narrow_sources_3(const vec x[4], vec values_out[4])
{
    const float factor = WINOGRAD_A2 - WINOGRAD_B2;
    values_out[0] = WINOGRAD_B2 * vec_fma(vec_all(WINOGRAD_A2), x[0], -x[2]);
    values_out[1] = vec_fnma(vec_all(WINOGRAD_A2), x[1], x[3]);
    winograd_pair(factor * x[2], factor * WINOGRAD_A, x[1], values_out + 2);
}

INLINE void winograd_sources_5(const vec x[8], vec values_out[8])
{
    values_out[0] = vec_fma(vec_all(5.25f), x[4] - x[2], x[0] - x[6]);
    values_out[1] = vec_fma(vec_all(5.25f), x[3] - x[5], x[7] - x[1]);
    winograd_pair(vec_fnma(vec_all(4.25f), x[4], x[2] + x[6]), 1,
        vec_fnma(vec_all(4.25f), x[3], x[1] + x[5]), values_out + 2);
    winograd_pair(winograd_sum(x[6], 0.25f, x[2], -1.25f, x[4]), 2,
        winograd_sum(x[5], 0.25f, x[1], -1.25f, x[3]), values_out + 4);
    winograd_pair(winograd_sum(x[6], 4, x[2], -5, x[4]), 0.5f,
        winograd_sum(x[5], 4, x[1], -5, x[3]), values_out + 6);
}

INLINE void winograd_narrow_sources_5(const vec x[6], vec values_out[6])
{
    values_out[0] = winograd_sum(x[0], -1.25f, x[2], 0.25f, x[4]);
    values_out[1] = winograd_sum(x[5], -5, x[3], 4, x[1]);
    winograd_pair(0.75f * vec_fnma(vec_all(4), x[2], x[4]), 0.75f, vec_fnma(vec_all(4), x[1], x[3]),
        values_out + 2);
    winograd_pair(3.75f * (x[4] - x[2]), 7.5f, x[3] - x[1], values_out + 4);
}

/* The values of winograd_points() inputs. */
INLINE void winograd_sources(int kernel, bool narrow, const vec *inputs, vec *values_out)
{
    if (kernel == 3 && narrow)
        winograd_narrow_sources_3(inputs, values_out);
    else if (kernel == 3)
        winograd_sources_3(inputs, values_out);
    else if (narrow)
        winograd_narrow_sources_5(inputs, values_out);
    else
        winograd_sources_5(inputs, values_out);
}

/* The values of a kernel's taps, each divided by its point's distances to the others. */
INLINE void winograd_kernels(int kernel, const vec *taps, vec *values_out)
{
    values_out[1] = taps[kernel - 1];
    if (kernel == 3) {
        const double a2 = WINOGRAD_A2, b2 = WINOGRAD_B2;
        const float at_a = (float)(1 / (2 * a2 * (a2 - b2))),
                    at_b = (float)(1 / (2 * b2 * (b2 - a2)));
        values_out[0] = (float)(1 / (a2 * b2)) * taps[0];
        winograd_pair(at_a * vec_fma(vec_all(WINOGRAD_A2), taps[2], taps[0]), at_a * WINOGRAD_A,
            taps[1], values_out + 2);
        winograd_pair(at_b * vec_fma(vec_all(WINOGRAD_B2), taps[2], taps[0]), at_b * WINOGRAD_B,
            taps[1], values_out + 4);
    } else {
        const float at_1 = (float)(-2.0 / 9), at_2 = (float)(1.0 / 90),
                    at_half = (float)(32.0 / 45);
        values_out[0] = taps[0];
        winograd_pair(
            at_1 * (taps[0] + taps[2] + taps[4]), at_1, taps[1] + taps[3], values_out + 2);
        winograd_pair(at_2 * winograd_sum(taps[0], 4, taps[2], 16, taps[4]), 2 * at_2,
            vec_fma(vec_all(4), taps[3], taps[1]), values_out + 4);
        winograd_pair(at_half * winograd_sum(taps[0], 0.25f, taps[2], 0.0625f, taps[4]),
            0.5f * at_half, vec_fma(vec_all(0.25f), taps[3], taps[1]), values_out + 6);
    }
}

INLINE void winograd_results_3(bool narrow, const vec *values, vec *outputs_out)
{
    vec even_a = values[2] + values[3], odd_a = values[2] - values[3];
    if (narrow) {
        outputs_out[0] = values[0] + even_a;
        outputs_out[1] = vec_fma(vec_all(WINOGRAD_A), odd_a, values[1]);
        return;
    }
    vec even_b = values[4] + values[5], odd_b = values[4] - values[5];
    outputs_out[0] = values[0] + even_a + even_b;
    outputs_out[1] = vec_fma(vec_all(WINOGRAD_B), odd_b, WINOGRAD_A * odd_a);
    outputs_out[2] = vec_fma(vec_all(WINOGRAD_B2), even_b, WINOGRAD_A2 * even_a);
    outputs_out[3] = winograd_sum(
        values[1], WINOGRAD_A * WINOGRAD_A2, odd_a, WINOGRAD_B * WINOGRAD_B2, odd_b);
}

INLINE void winograd_results_5(bool narrow, const vec *values, vec *outputs_out)
{
    vec even_1 = values[2] + values[3], odd_1 = values[2] - values[3];
    vec even_2 = values[4] + values[5], odd_2 = values[4] - values[5];
    if (narrow) {
        outputs_out[0] = values[0] + even_1 + even_2;
        outputs_out[1] = vec_fma(vec_all(2), odd_2, values[1] + odd_1);
        return;
    }
    vec even_half = values[6] + values[7], odd_half = values[6] - values[7];
    outputs_out[0] = (values[0] + even_1) + (even_2 + even_half);
    outputs_out[1] = winograd_sum(odd_1, 0.5f, odd_half, 2, odd_2);
    outputs_out[2] = winograd_sum(even_1, 0.25f, even_half, 4, even_2);
    outputs_out[3] = winograd_sum(values[1] + odd_1, 0.125f, odd_half, 8, odd_2);
}

/* Four outputs, or two, from the products of values. */
INLINE void winograd_results(int kernel, bool narrow, const vec *values, vec *outputs_out)
{
    if (kernel == 3)
        winograd_results_3(narrow, values, outputs_out);
    else
        winograd_results_5(narrow, values, outputs_out);
}

#endif
