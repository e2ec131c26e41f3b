/*
 * What the tests of convolutions' forward passes in src/cpu/fused/ share: random problems, plain
 * loops in double precision, comparisons. Include it in one file of a test.
 *
 * All buffers have exactly the size that is promised, so that a sanitizer finds what reaches
 * beyond, and all outputs and scratch memory begin as POISON, so that what is not written shows.
 */
#ifndef DTRAIN_TESTS_FUSED_CONV_TEST_H
#define DTRAIN_TESTS_FUSED_CONV_TEST_H

#include "../src/cpu/fused/conv.h"
#include "fused_test.h"

/* Multiples of 1/16: sums of few products do not round. With the fine step they do. */
static const double COARSE = 0x1p-4, FINE = 0x1p-22;

/* Errors of sums of so many products: of the size of their standard deviation, which goes with the
 * root. In 32 runs over 300 shapes with other random numbers, tiles of 4x4 and of 7x7 outputs, the
 * largest was 8e-6 times the root or less in 29, 1e-5 in one. */
static inline double rounding(int64_t products)
{
    return 1.5e-5 * sqrt((double)products);
}

/* A block's inputs; for the backward pass, diff. */
struct problem {
    struct conv_shape shape;
    int64_t count; /* samples */
    struct array src, kernel, bias;
    struct dtr_layout diff_layout;
    struct array diff;
};

struct results {
    struct array dst;
    int64_t winner_count;
    uint8_t *winners; /* NULL without a pool, and in inference */
};

/* In [-1, 1]. */
static inline float number(struct dtr_random *random, double step)
{
    return (float)(rint((2 * dtr_random_uniform(random) - 1) / step) * step);
}

static inline void require_same_bits(
    const float *a, const float *b, int64_t count, const char *what)
{
    require(memcmp(a, b, (size_t)count * sizeof *a) == 0, what);
}

/* Where a value lies in an array of samples. */
static inline int64_t at(struct dtr_shape shape, struct dtr_layout layout, int64_t sample,
    int64_t y, int64_t x, int64_t channel)
{
    return sample * dtr_layout_sample(shape, layout) + dtr_layout_origin(shape, layout) +
           channel / layout.block * dtr_layout_plane(shape, layout) +
           y * dtr_layout_row(shape, layout) + x * layout.block + channel % layout.block;
}

/* Canonical, or the order of the blocked kernel (conv.h). */
static inline int64_t kernel_at(
    const struct conv_shape *shape, int64_t y, int64_t x, int64_t in, int64_t out)
{
    int64_t tap = y * shape->kernel_w + x;
    if (conv_is_thin(shape))
        return (tap * shape->in.c + in) * shape->out.c + out;
    return ((in / VEC * shape->out.c + out) * shape->kernel_h * shape->kernel_w + tap) * VEC +
           in % VEC;
}

static inline int64_t output_at(
    const struct conv_shape *shape, int64_t sample, int64_t y, int64_t x)
{
    return ((sample * shape->out.h + y) * shape->out.w + x) * shape->out.c;
}

/* `values` in the image, zeros around it. */
static inline struct array image_of(struct dtr_shape shape, struct dtr_layout layout, int64_t count,
    double step, struct dtr_random *random)
{
    struct array array = array_of(count * dtr_layout_sample(shape, layout));
    memset(array.values, 0, (size_t)array.count * sizeof *array.values);
    for (int64_t sample = 0; sample < count; sample++)
        for (int64_t y = 0; y < shape.h; y++)
            for (int64_t x = 0; x < shape.w; x++)
                for (int64_t c = 0; c < shape.c; c++)
                    array.values[at(shape, layout, sample, y, x, c)] = number(random, step);
    return array;
}

static inline struct dtr_layout widened(struct dtr_layout layout, struct dtr_random *random)
{
    layout.top += between(random, 0, 1);
    layout.left += between(random, 0, 1);
    layout.bottom += between(random, 0, 1);
    layout.right += between(random, 0, 1);
    return layout;
}

/* The sizes that follow from kernel, padding, in, out.c and pool; the image ends with `bottom` and
 * `right` of padding. */
static inline void complete_sizes(struct conv_shape *shape, int64_t bottom, int64_t right)
{
    shape->out.h = shape->pad_top + shape->in.h + bottom - shape->kernel_h + 1;
    shape->out.w = shape->pad_left + shape->in.w + right - shape->kernel_w + 1;
    shape->result = shape->out;
    if (shape->pool) {
        shape->result.h /= 2;
        shape->result.w /= 2;
    }
}

static inline struct problem problem_of(
    struct conv_shape shape, int64_t count, double step, struct dtr_random *random)
{
    struct problem problem = {.shape = shape, .count = count};
    problem.src = image_of(shape.in, shape.src, count, step, random);
    problem.kernel = array_of(shape.kernel_h * shape.kernel_w * shape.in.c * shape.out.c);
    for (int64_t i = 0; i < problem.kernel.count; i++)
        problem.kernel.values[i] = number(random, step);
    problem.bias = array_of(shape.out.c);
    for (int64_t i = 0; i < problem.bias.count; i++)
        problem.bias.values[i] = number(random, step);
    return problem;
}

static inline void free_problem(struct problem *problem)
{
    free(problem->src.values);
    free(problem->kernel.values);
    free(problem->bias.values);
    free(problem->diff.values);
}

/* Of `count` samples, all POISON. */
static inline struct results results_of(
    const struct conv_shape *shape, int64_t count, bool inference)
{
    struct results results = {
        .dst = array_of(count * dtr_layout_sample(shape->result, shape->dst)),
        .winner_count = count * dtr_shape_count(shape->result),
    };
    if (shape->pool && !inference)
        results.winners = malloc((size_t)results.winner_count);
    return results;
}

static inline void free_results(struct results *results)
{
    free(results->dst.values);
    free(results->winners);
}

/* The plain loops. */

static inline double *zeros(int64_t count)
{
    double *values = calloc((size_t)count, sizeof *values);
    ck_assert_ptr_nonnull(values);
    return values;
}

/* Outputs of the convolution alone, [count][h][w][c]. */
static inline double *convolved(const struct problem *problem)
{
    const struct conv_shape *shape = &problem->shape;
    double *outputs = zeros(output_at(shape, problem->count, 0, 0));
    for (int64_t i = 0; i < problem->count * shape->out.h * shape->out.w; i++) {
        int64_t sample = i / (shape->out.h * shape->out.w);
        int64_t y = i / shape->out.w % shape->out.h, x = i % shape->out.w;
        double *values = outputs + output_at(shape, sample, y, x);
        for (int64_t ky = 0; ky < shape->kernel_h; ky++) {
            for (int64_t kx = 0; kx < shape->kernel_w; kx++) {
                int64_t sy = y + ky - shape->pad_top, sx = x + kx - shape->pad_left;
                if (sy < 0 || sy >= shape->in.h || sx < 0 || sx >= shape->in.w)
                    continue;
                for (int64_t c = 0; c < shape->in.c; c++) {
                    double s = problem->src.values[at(shape->in, shape->src, sample, sy, sx, c)];
                    for (int64_t o = 0; o < shape->out.c; o++)
                        values[o] += s * problem->kernel.values[kernel_at(shape, ky, kx, c, o)];
                }
            }
        }
    }
    return outputs;
}

/* The comparisons. */

static inline void require_close(double actual, double expected, double tolerance, const char *what)
{
    if (isnan(expected))
        require(isnan(actual), what);
    else if (isinf(expected) || tolerance == 0)
        require(actual == expected, what);
    else
        require(fabs(actual - expected) <= tolerance, what);
}

static inline double rectified(double sum, double bias)
{
    double value = sum + bias;
    return value < 0 ? 0 : value;
}

/* The largest of a window's outputs by the rule of conv.h, and its place. */
static inline double largest(const double window[4], int *place_out)
{
    int winner = 0;
    for (int place = 1; place < 4; place++)
        if (window[place] > window[winner] || isnan(window[place]))
            winner = place;
    *place_out = winner;
    return window[winner];
}

/* Where nothing rounds, the winner is the reference's; else one that is as good. */
static inline void check_window(const struct conv_shape *shape, const double *outputs,
    const int64_t result[4], uint8_t winner, double tolerance, double *largest_out)
{
    double window[4];
    for (int place = 0; place < 4; place++)
        window[place] = outputs[output_at(shape, result[0], 2 * result[1] + place / 2,
                                    2 * result[2] + place % 2) +
                                result[3]];
    int place;
    *largest_out = largest(window, &place);
    require(winner < 4, "winner is a place");
    if (tolerance == 0 || isnan(*largest_out))
        require(winner == place, "winner");
    else
        require(window[winner] >= *largest_out - 2 * tolerance, "winner is the largest");
}

/* The sum before bias and ReLU; with a pool the largest of its window, whose place is checked. */
static inline double expected_sum(const struct problem *problem, const struct results *results,
    const double *outputs, const int64_t result[4], double tolerance)
{
    const struct conv_shape *shape = &problem->shape;
    int64_t sample = result[0], y = result[1], x = result[2], c = result[3];
    if (!shape->pool)
        return outputs[output_at(shape, sample, y, x) + c];
    double sum;
    int64_t plane = sample * (shape->out.c / VEC) + c / VEC;
    int64_t i = ((plane * shape->result.h + y) * shape->result.w + x) * VEC + c % VEC;
    check_window(shape, outputs, result, results->winners[i], tolerance, &sum);
    return sum;
}

static inline void result_place(struct dtr_shape shape, int64_t i, int64_t result_out[4])
{
    int64_t pixel = i / shape.c;
    result_out[0] = pixel / (shape.h * shape.w);
    result_out[1] = pixel / shape.w % shape.h;
    result_out[2] = pixel % shape.w;
    result_out[3] = i % shape.c;
}

static inline float result_of(
    const struct problem *problem, const struct results *results, const int64_t result[4])
{
    return results->dst.values[at(
        problem->shape.result, problem->shape.dst, result[0], result[1], result[2], result[3])];
}

/* What lies around the images was not touched: of all poison, only the images went. */
static inline void require_border(
    struct array array, struct dtr_shape shape, struct dtr_layout layout, int64_t count)
{
    int64_t untouched = 0,
            border = count * (dtr_layout_sample(shape, layout) - dtr_shape_count(shape));
    for (int64_t i = 0; i < array.count; i++)
        untouched += is_poison(array.values[i]);
    require(untouched == border, "border is untouched");
}

/* `tolerance` 0: nothing rounds. */
static inline void check_results(const struct problem *problem, const struct results *results,
    const double *outputs, double tolerance)
{
    struct dtr_shape shape = problem->shape.result;
    for (int64_t i = 0; i < problem->count * dtr_shape_count(shape); i++) {
        int64_t result[4];
        result_place(shape, i, result);
        double sum = expected_sum(problem, results, outputs, result, tolerance);
        float actual = result_of(problem, results, result);
        require(!is_poison(actual), "result is written");
        require_close(actual, rectified(sum, problem->bias.values[result[3]]), tolerance, "result");
    }
    require_border(results->dst, shape, problem->shape.dst, problem->count);
}

/* A kernel's run of samples [first, first + count), its parameters packed in `parts`. */
typedef struct results run_function(
    const struct problem *problem, int64_t first, int64_t count, int parts, bool inference);

/* Inference gives the bits of training, and every sample alone those of all together. */
static inline void check_splits(
    const struct problem *problem, const struct results *whole, run_function *run)
{
    struct results inference = run(problem, 0, problem->count, 3, true);
    require_same_bits(inference.dst.values, whole->dst.values, whole->dst.count, "inference");
    free_results(&inference);
    int64_t sample = whole->dst.count / problem->count;
    int64_t winners = whole->winner_count / problem->count;
    for (int64_t i = 0; i < problem->count; i++) {
        struct results alone = run(problem, i, 1, 1, false);
        require_same_bits(alone.dst.values, whole->dst.values + i * sample, sample, "alone");
        if (whole->winners != NULL)
            require(memcmp(alone.winners, whole->winners + i * winners, (size_t)winners) == 0,
                "winners alone");
        free_results(&alone);
    }
}

static inline void check_forward(const struct problem *problem, run_function *run, bool exact)
{
    const struct conv_shape *shape = &problem->shape;
    double *outputs = convolved(problem);
    struct results results = run(problem, 0, problem->count, 2, false);
    int64_t products = shape->kernel_h * shape->kernel_w * shape->in.c;
    check_results(problem, &results, outputs, exact ? 0 : rounding(products));
    check_splits(problem, &results, run);
    free_results(&results);
    free(outputs);
}

/* Largest error over largest value, of what a layer sees: a rectified source. */
static inline double error_of(const struct problem *problem, run_function *run)
{
    const struct conv_shape *shape = &problem->shape;
    double *outputs = convolved(problem);
    struct results results = run(problem, 0, problem->count, 1, false);
    double error = 0, value = 0;
    for (int64_t i = 0; i < problem->count * dtr_shape_count(shape->result); i++) {
        int64_t result[4];
        result_place(shape->result, i, result);
        double sum = expected_sum(problem, &results, outputs, result, INFINITY);
        double expected = rectified(sum, problem->bias.values[result[3]]);
        error = fmax(error, fabs(result_of(problem, &results, result) - expected));
        value = fmax(value, expected);
    }
    free_results(&results);
    free(outputs);
    return error / value;
}

/* A NaN or infinity in one place of the source reaches the results that depend on it, and no other
 * sample; `exact`: no other result, either. The problem has three samples. */
static inline void check_not_finite(
    struct problem *problem, run_function *run, bool exact, struct dtr_random *random)
{
    const struct conv_shape *shape = &problem->shape;
    int64_t place = at(shape->in, shape->src, 1, between(random, 0, shape->in.h - 1),
        between(random, 0, shape->in.w - 1), between(random, 0, shape->in.c - 1));
    problem->src.values[place] = chance(random, 0.5) ? NAN : INFINITY;
    double *outputs = convolved(problem);
    struct results results = run(problem, 0, problem->count, 1, false);
    if (exact)
        check_results(problem, &results, outputs, 0);
    problem->src.values[place] = 0;
    struct results finite = run(problem, 0, problem->count, 1, false);
    int64_t sample = dtr_layout_sample(shape->result, shape->dst);
    require_same_bits(results.dst.values, finite.dst.values, sample, "sample before");
    require_same_bits(
        results.dst.values + 2 * sample, finite.dst.values + 2 * sample, sample, "after");
    for (int64_t r = 0; r < dtr_shape_count(shape->result); r++) {
        int64_t y = r / shape->out.c / shape->result.w, x = r / shape->out.c % shape->result.w;
        int64_t c = r % shape->out.c, step = shape->pool ? 2 : 1;
        bool reached = false;
        for (int64_t p = 0; p < step * step; p++)
            reached |= isnan(
                outputs[output_at(shape, 1, step * y + p / step, step * x + p % step) + c]);
        float actual = results.dst.values[at(shape->result, shape->dst, 1, y, x, c)];
        require(!reached || isnan(actual), "a NaN stays");
    }
    free_results(&results);
    free_results(&finite);
    free(outputs);
}

/* A NaN in the kernel or the bias is in all results of its channel, and in no other. */
static inline void check_nan_parameter(
    struct problem *problem, run_function *run, bool in_kernel, struct dtr_random *random)
{
    const struct conv_shape *shape = &problem->shape;
    int64_t channel = between(random, 0, shape->out.c - 1);
    if (in_kernel)
        problem->kernel.values[kernel_at(shape, 0, shape->kernel_w - 1, 0, channel)] = NAN;
    else
        problem->bias.values[channel] = NAN;
    struct results results = run(problem, 0, 1, 1, false);
    for (int64_t r = 0; r < dtr_shape_count(shape->result); r++) {
        int64_t pixel = r / shape->out.c;
        float actual = results.dst.values[at(shape->result, shape->dst, 0, pixel / shape->result.w,
            pixel % shape->result.w, r % shape->out.c)];
        require(isnan(actual) == (r % shape->out.c == channel), "NaN in its channel");
    }
    free_results(&results);
}

#endif
