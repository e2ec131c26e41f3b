/*
 * Tiles of 7x7 outputs of convolutions with kernels of 5x5: the method of winograd_transform.h with
 * 11 points, infinity, four pairs +-p, and the complex pair +-i.
 *
 * Of 11 real points the smallest and the largest would lie so far apart that results lost a digit.
 * With +-i they are as exact as those of smaller tiles with their 8 points, and take less than two
 * thirds of the multiplications. What the real numbers x give at i and at -i are conjugates, so it
 * is one complex number, and a product of two takes three real products:
 *
 *     (a + bi) (c + di) = (a + b)c - b(c + d) + (c(a + b) + a(d - c))i
 *
 * In two dimensions there is one imaginary unit for rows, i, and one for columns, j. A number with
 * both is two complex numbers: the one with i in j's place, the other with -i.
 *
 * *Values* of 11 inputs are 11 numbers: at infinity, at +p and -p for each pair, the real and the
 * imaginary part of that at i. Of 11x11 values the products are
 *
 *     [9 real rows][9 real columns, 3 of the complex one], [9 real columns][3], [6]
 *
 * All functions are inlined; `stride` is the floats from a product to the next. Private to
 * winograd.c.
 */
#ifndef DTRAIN_CPU_FUSED_WINOGRAD_SEVEN_H
#define DTRAIN_CPU_FUSED_WINOGRAD_SEVEN_H

#include "vec.h"

enum {
    SEVEN_OUTPUTS = 7,
    SEVEN_TAPS = 5,
    SEVEN_VALUES = SEVEN_OUTPUTS + SEVEN_TAPS - 1,
    SEVEN_PAIRS = 4,                     /* real ones */
    SEVEN_REAL = 1 + 2 * SEVEN_PAIRS,    /* values before the complex one */
    SEVEN_ROW = SEVEN_REAL + 3,          /* products of a real row */
    SEVEN_LAST = SEVEN_REAL * SEVEN_ROW, /* those of the complex row begin */
    SEVEN_PRODUCTS = SEVEN_LAST + 3 * SEVEN_REAL + 6,
};

/* The pairs' points and their squares. */
#define SEVEN_P0 0.3125
#define SEVEN_P1 0.75
#define SEVEN_P2 1.0625
#define SEVEN_P3 1.875
#define SEVEN_Q0 (SEVEN_P0 * SEVEN_P0)
#define SEVEN_Q1 (SEVEN_P1 * SEVEN_P1)
#define SEVEN_Q2 (SEVEN_P2 * SEVEN_P2)
#define SEVEN_Q3 (SEVEN_P3 * SEVEN_P3)
#define SEVEN_Q4 (-1.0) /* of i */

/* The coefficients of (z - a)(z - b)(z - c)(z - d), but for the last, which is 1. */
#define SEVEN_POLYNOMIAL(a, b, c, d)                                                               \
    {                                                                                              \
        (float)((a) * (b) * (c) * (d)),                                                            \
            (float)(-(a) * (b) * ((c) + (d)) - (c) * (d) * ((a) + (b))),                           \
            (float)((a) * (b) + (c) * (d) + ((a) + (b)) * ((c) + (d))),                            \
            (float)(-(a) - (b) - (c) - (d)),                                                       \
    }

/* For each pair, the complex one last: the polynomial of the other pairs' squares, ... */
static const float seven_others[SEVEN_PAIRS + 1][4] = {
    SEVEN_POLYNOMIAL(SEVEN_Q1, SEVEN_Q2, SEVEN_Q3, SEVEN_Q4),
    SEVEN_POLYNOMIAL(SEVEN_Q0, SEVEN_Q2, SEVEN_Q3, SEVEN_Q4),
    SEVEN_POLYNOMIAL(SEVEN_Q0, SEVEN_Q1, SEVEN_Q3, SEVEN_Q4),
    SEVEN_POLYNOMIAL(SEVEN_Q0, SEVEN_Q1, SEVEN_Q2, SEVEN_Q4),
    SEVEN_POLYNOMIAL(SEVEN_Q0, SEVEN_Q1, SEVEN_Q2, SEVEN_Q3),
};

/* ... and one through what it is at its own. */
#define SEVEN_INVERSE(q, a, b, c, d) (1 / (((q) - (a)) * ((q) - (b)) * ((q) - (c)) * ((q) - (d))))
static const double seven_inverses[SEVEN_PAIRS + 1] = {
    SEVEN_INVERSE(SEVEN_Q0, SEVEN_Q1, SEVEN_Q2, SEVEN_Q3, SEVEN_Q4),
    SEVEN_INVERSE(SEVEN_Q1, SEVEN_Q0, SEVEN_Q2, SEVEN_Q3, SEVEN_Q4),
    SEVEN_INVERSE(SEVEN_Q2, SEVEN_Q0, SEVEN_Q1, SEVEN_Q3, SEVEN_Q4),
    SEVEN_INVERSE(SEVEN_Q3, SEVEN_Q0, SEVEN_Q1, SEVEN_Q2, SEVEN_Q4),
    SEVEN_INVERSE(SEVEN_Q4, SEVEN_Q0, SEVEN_Q1, SEVEN_Q2, SEVEN_Q3),
};

static const double seven_points[SEVEN_PAIRS] = {SEVEN_P0, SEVEN_P1, SEVEN_P2, SEVEN_P3};

/* A polynomial of seven_others of every second one of x. */
INLINE vec seven_sum(const float polynomial[4], const vec *x)
{
    vec sum = x[8];
    UNROLL for (int k = 3; k >= 0; k--) sum = vec_fma(vec_all(polynomial[k]), x[2 * k], sum);
    return sum;
}

/* The values of 11 inputs. */
INLINE void seven_sources(const vec x[SEVEN_VALUES], vec values_out[SEVEN_VALUES])
{
    const float *at_i = seven_others[SEVEN_PAIRS];
    UNROLL for (int pair = 0; pair < SEVEN_PAIRS; pair++)
    {
        vec even = seven_sum(seven_others[pair], x), odd = seven_sum(seven_others[pair], x + 1);
        values_out[1 + 2 * pair] = vec_fma(vec_all((float)seven_points[pair]), even, odd);
        values_out[2 + 2 * pair] = vec_fnma(vec_all((float)seven_points[pair]), even, odd);
    }
    values_out[SEVEN_REAL] = seven_sum(at_i, x + 1);
    values_out[SEVEN_REAL + 1] = seven_sum(at_i, x);
    values_out[0] = seven_sum(at_i, x + 2) + values_out[SEVEN_REAL + 1];
}

/* The values of five taps, divided by what the sources' lack. */
INLINE void seven_kernels(const vec t[SEVEN_TAPS], vec values_out[SEVEN_VALUES])
{
    values_out[0] = t[4];
    UNROLL for (int pair = 0; pair < SEVEN_PAIRS; pair++)
    {
        double p = seven_points[pair], q = p * p, half = 0.5 * seven_inverses[pair];
        vec even = vec_fma(vec_all((float)q), vec_fma(vec_all((float)q), t[4], t[2]), t[0]);
        vec odd = (float)half * vec_fma(vec_all((float)q), t[3], t[1]);
        values_out[1 + 2 * pair] = vec_fma(vec_all((float)(half / p)), even, odd);
        values_out[2 + 2 * pair] = vec_fnma(vec_all((float)(half / p)), even, odd);
    }
    float inverse = (float)seven_inverses[SEVEN_PAIRS];
    values_out[SEVEN_REAL] = inverse * (t[1] - t[3]);
    values_out[SEVEN_REAL + 1] = inverse * (t[2] - t[4] - t[0]);
}

/* Seven outputs from the products of values. */
INLINE void seven_results(const vec values[SEVEN_VALUES], vec outputs_out[SEVEN_OUTPUTS])
{
    vec real = values[SEVEN_REAL], imaginary = values[SEVEN_REAL + 1];
    outputs_out[0] = outputs_out[4] = real;
    outputs_out[2] = -real;
    outputs_out[6] = values[0] - real;
    outputs_out[1] = outputs_out[5] = -imaginary;
    outputs_out[3] = imaginary;
    UNROLL for (int pair = 0; pair < SEVEN_PAIRS; pair++)
    {
        vec plus = values[1 + 2 * pair], minus = values[2 + 2 * pair];
        vec even = plus + minus, odd = plus - minus;
        double power = 1;
        UNROLL for (int y = 0; y < SEVEN_OUTPUTS; y++, power *= seven_points[pair])
            outputs_out[y] = vec_fma(
                vec_all((float)power), y % 2 == 0 ? even : odd, outputs_out[y]);
    }
}

/* A source's complex number as three factors, a kernel's, and the two parts of the product. */
INLINE void seven_expand_source(vec real, vec imaginary, float *to, int64_t stride)
{
    vec_store(to, real + imaginary);
    vec_store(to + stride, real);
    vec_store(to + 2 * stride, imaginary);
}

INLINE void seven_expand_kernel(vec real, vec imaginary, float *to, int64_t stride)
{
    vec_store(to, real);
    vec_store(to + stride, imaginary - real);
    vec_store(to + 2 * stride, real + imaginary);
}

INLINE void seven_contract(const float *from, int64_t stride, vec *real_out, vec *imaginary_out)
{
    vec product = vec_load(from);
    *real_out = product - vec_load(from + 2 * stride);
    *imaginary_out = product + vec_load(from + stride);
}

typedef void seven_expand(vec real, vec imaginary, float *to, int64_t stride);

/* A column of values. */
INLINE void seven_store_real(
    const vec values[SEVEN_VALUES], int column, seven_expand *expand, float *to, int64_t stride)
{
    UNROLL for (int i = 0; i < SEVEN_REAL; i++)
        vec_store(to + (i * SEVEN_ROW + column) * stride, values[i]);
    expand(values[SEVEN_REAL], values[SEVEN_REAL + 1], to + (SEVEN_LAST + 3 * column) * stride,
        stride);
}

/* The last two; `scale` is of those that are complex twice. */
INLINE void seven_store_complex(const vec real[SEVEN_VALUES], const vec imaginary[SEVEN_VALUES],
    float scale, seven_expand *expand, float *to, int64_t stride)
{
    UNROLL for (int i = 0; i < SEVEN_REAL; i++)
        expand(real[i], imaginary[i], to + (i * SEVEN_ROW + SEVEN_REAL) * stride, stride);
    vec none = scale * real[SEVEN_REAL], i = scale * real[SEVEN_REAL + 1],
        j = scale * imaginary[SEVEN_REAL], both = scale * imaginary[SEVEN_REAL + 1];
    to += (SEVEN_LAST + 3 * SEVEN_REAL) * stride;
    expand(none - both, i + j, to, stride);
    expand(none + both, i - j, to + 3 * stride, stride);
}

/* Taps [5][5], tap_stride floats apart. */
INLINE void seven_transform_kernel(const float *taps, int64_t tap_stride, float *to, int64_t stride)
{
    vec half[SEVEN_VALUES][SEVEN_TAPS], values[2][SEVEN_VALUES];
    for (int y = 0; y < SEVEN_TAPS; y++) {
        vec row[SEVEN_TAPS];
        UNROLL for (int x = 0; x < SEVEN_TAPS; x++)
            row[x] = vec_load(taps + (y * SEVEN_TAPS + x) * tap_stride);
        seven_kernels(row, values[0]);
        UNROLL for (int j = 0; j < SEVEN_VALUES; j++) half[j][y] = values[0][j];
    }
    for (int j = 0; j < SEVEN_REAL; j++) {
        seven_kernels(half[j], values[0]);
        seven_store_real(values[0], j, seven_expand_kernel, to, stride);
    }
    seven_kernels(half[SEVEN_REAL], values[0]);
    seven_kernels(half[SEVEN_REAL + 1], values[1]);
    seven_store_complex(values[0], values[1], 0.5f, seven_expand_kernel, to, stride);
}

/* A tile's source: rows src_row floats apart. */
INLINE void seven_transform_source(const float *src, int64_t src_row, float *to, int64_t stride)
{
    vec half[SEVEN_VALUES][SEVEN_VALUES], values[2][SEVEN_VALUES];
    for (int y = 0; y < SEVEN_VALUES; y++, src += src_row) {
        vec row[SEVEN_VALUES];
        UNROLL for (int x = 0; x < SEVEN_VALUES; x++) row[x] = vec_load(src + x * VEC);
        seven_sources(row, values[0]);
        UNROLL for (int j = 0; j < SEVEN_VALUES; j++) half[j][y] = values[0][j];
    }
    for (int j = 0; j < SEVEN_REAL; j++) {
        seven_sources(half[j], values[0]);
        seven_store_real(values[0], j, seven_expand_source, to, stride);
    }
    seven_sources(half[SEVEN_REAL], values[0]);
    seven_sources(half[SEVEN_REAL + 1], values[1]);
    seven_store_complex(values[0], values[1], 1, seven_expand_source, to, stride);
}

/* A tile's outputs [7][7], rows to_row floats apart. */
INLINE void seven_finish_tile(const float *products, int64_t stride, float *to, int64_t to_row)
{
    vec half[SEVEN_OUTPUTS][SEVEN_VALUES], values[2][SEVEN_VALUES], outputs[SEVEN_OUTPUTS];
    for (int i = 0; i < SEVEN_REAL; i++) {
        const float *row = products + i * SEVEN_ROW * stride;
        UNROLL for (int j = 0; j < SEVEN_REAL; j++) values[0][j] = vec_load(row + j * stride);
        seven_contract(
            row + SEVEN_REAL * stride, stride, &values[0][SEVEN_REAL], &values[0][SEVEN_REAL + 1]);
        seven_results(values[0], outputs);
        UNROLL for (int x = 0; x < SEVEN_OUTPUTS; x++) half[x][i] = outputs[x];
    }
    products += SEVEN_LAST * stride;
    UNROLL for (int j = 0; j < SEVEN_REAL; j++, products += 3 * stride)
        seven_contract(products, stride, &values[0][j], &values[1][j]);
    vec real[2], imaginary[2];
    seven_contract(products, stride, &real[0], &imaginary[0]);
    seven_contract(products + 3 * stride, stride, &real[1], &imaginary[1]);
    values[0][SEVEN_REAL] = real[0] + real[1];
    values[1][SEVEN_REAL] = imaginary[0] + imaginary[1];
    values[0][SEVEN_REAL + 1] = imaginary[0] - imaginary[1];
    values[1][SEVEN_REAL + 1] = real[1] - real[0];
    UNROLL for (int i = 0; i < 2; i++)
    {
        seven_results(values[i], outputs);
        UNROLL for (int x = 0; x < SEVEN_OUTPUTS; x++) half[x][SEVEN_REAL + i] = outputs[x];
    }
    for (int x = 0; x < SEVEN_OUTPUTS; x++, to += VEC) {
        seven_results(half[x], outputs);
        UNROLL for (int y = 0; y < SEVEN_OUTPUTS; y++) vec_store(to + y * to_row, outputs[y]);
    }
}

#endif
