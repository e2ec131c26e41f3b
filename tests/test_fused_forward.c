/*
 * Convolutions with bias, ReLU and pool, direct and by Winograd's method, and the gradient of their
 * source, against plain loops in double precision. Compiled once per instruction set.
 *
 * All buffers have exactly the size that is promised, so that a sanitizer finds what reaches
 * beyond, and all outputs and scratch memory begin as POISON, so that what is not written shows.
 */
#include "../src/cpu/fused/conv_direct.h"
#include "../src/cpu/fused/pool.h"
#include "../src/cpu/fused/winograd.h"
#include "fused_test.h"

enum { SHAPES = 300, MULTIPLICATIONS = 1000000 }; /* of a shape at most: the loops are slow */

/* Multiples of 1/16: sums of few products do not round. With the fine step they do. */
static const double COARSE = 0x1p-4, FINE = 0x1p-22;

/* Errors of sums of so many products: of the size of their standard deviation, which goes with the
 * root. The largest of the millions that are looked at here are 1e-5 times the root, whatever the
 * size of the tiles: with other random numbers a few exceed 8e-6, one in ten runs 1e-5. */
static double rounding(int64_t products)
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
static float number(struct dtr_random *random, double step)
{
    return (float)(rint((2 * dtr_random_uniform(random) - 1) / step) * step);
}

static void require_same_bits(const float *a, const float *b, int64_t count, const char *what)
{
    require(memcmp(a, b, (size_t)count * sizeof *a) == 0, what);
}

/* Where a value lies in an array of samples. */
static int64_t at(struct dtr_shape shape, struct dtr_layout layout, int64_t sample, int64_t y,
    int64_t x, int64_t channel)
{
    return sample * dtr_layout_sample(shape, layout) + dtr_layout_origin(shape, layout) +
           channel / layout.block * dtr_layout_plane(shape, layout) +
           y * dtr_layout_row(shape, layout) + x * layout.block + channel % layout.block;
}

/* Canonical, or the order of the blocked kernel (conv.h). */
static int64_t kernel_at(
    const struct conv_shape *shape, int64_t y, int64_t x, int64_t in, int64_t out)
{
    int64_t tap = y * shape->kernel_w + x;
    if (conv_is_thin(shape))
        return (tap * shape->in.c + in) * shape->out.c + out;
    return ((in / VEC * shape->out.c + out) * shape->kernel_h * shape->kernel_w + tap) * VEC +
           in % VEC;
}

static int64_t output_at(const struct conv_shape *shape, int64_t sample, int64_t y, int64_t x)
{
    return ((sample * shape->out.h + y) * shape->out.w + x) * shape->out.c;
}

/* `values` in the image, zeros around it. */
static struct array image_of(struct dtr_shape shape, struct dtr_layout layout, int64_t count,
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

static struct dtr_layout widened(struct dtr_layout layout, struct dtr_random *random)
{
    layout.top += between(random, 0, 1);
    layout.left += between(random, 0, 1);
    layout.bottom += between(random, 0, 1);
    layout.right += between(random, 0, 1);
    return layout;
}

/* Sets the shapes and layouts that follow from kernel, padding, in, out.c and pool; the image ends
 * with `bottom` and `right` of padding. */
static void complete(
    struct conv_shape *shape, int64_t bottom, int64_t right, struct dtr_random *random)
{
    shape->out.h = shape->pad_top + shape->in.h + bottom - shape->kernel_h + 1;
    shape->out.w = shape->pad_left + shape->in.w + right - shape->kernel_w + 1;
    shape->result = shape->out;
    if (shape->pool) {
        shape->result.h /= 2;
        shape->result.w /= 2;
    }
    bool thin = shape->in.c % VEC != 0;
    shape->src = widened(
        thin ? ISA(conv_direct_layout)(shape) : ISA(winograd_layout)(shape), random);
    shape->dst = widened((struct dtr_layout){.block = VEC}, random);
}

static int64_t multiplications(const struct conv_shape *shape)
{
    return shape->out.h * shape->out.w * shape->kernel_h * shape->kernel_w * shape->in.c *
           shape->out.c;
}

static struct conv_shape draw_shape(bool thin, bool pool, struct dtr_random *random)
{
    struct conv_shape shape = {.pool = pool};
    do {
        int64_t size = between(random, 1, 2) * 2 + 1;
        shape.kernel_h = thin ? between(random, 1, 7) : size;
        shape.kernel_w = thin ? between(random, 1, 7) : size;
        shape.pad_top = between(random, 0, shape.kernel_h - 1);
        shape.pad_left = between(random, 0, shape.kernel_w - 1);
        shape.in = (struct dtr_shape){between(random, 1, 20), between(random, 1, 20),
            thin ? between(random, 1, 5) : between(random, 1, 4) * VEC};
        if (thin && chance(random, 0.5))
            shape.in.c = chance(random, 0.5) ? 1 : 3;
        shape.out.c = between(random, 1, 5) * VEC;
        complete(&shape, between(random, 0, shape.kernel_h - 1),
            between(random, 0, shape.kernel_w - 1), random);
    } while (shape.out.h < 1 || shape.out.w < 1 || shape.result.h < 1 || shape.result.w < 1 ||
             multiplications(&shape) > MULTIPLICATIONS);
    return shape;
}

static struct problem problem_of(
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

/* A problem with a gradient of the outputs too, for layouts without a pool. */
static void add_diff(struct problem *problem, double step, struct dtr_random *random)
{
    problem->diff_layout = ISA(winograd_backward_layout)(&problem->shape);
    problem->diff = image_of(
        problem->shape.out, problem->diff_layout, problem->count, step, random);
}

static void free_problem(struct problem *problem)
{
    free(problem->src.values);
    free(problem->kernel.values);
    free(problem->bias.values);
    free(problem->diff.values);
}

static void free_results(struct results *results)
{
    free(results->dst.values);
    free(results->winners);
}

/* The plain loops. */

static double *zeros(int64_t count)
{
    double *values = calloc((size_t)count, sizeof *values);
    ck_assert_ptr_nonnull(values);
    return values;
}

/* Outputs of the convolution alone, [count][h][w][c]. */
static double *convolved(const struct problem *problem)
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

/* The gradient of the source, [count][h][w][c] of the source. */
static double *convolved_backward(const struct problem *problem)
{
    const struct conv_shape *shape = &problem->shape;
    struct dtr_shape in = shape->in, out = shape->out;
    double *gradients = zeros(problem->count * dtr_shape_count(in));
    for (int64_t i = 0; i < problem->count * out.h * out.w; i++) {
        int64_t sample = i / (out.h * out.w), y = i / out.w % out.h, x = i % out.w;
        for (int64_t ky = 0; ky < shape->kernel_h; ky++) {
            for (int64_t kx = 0; kx < shape->kernel_w; kx++) {
                int64_t sy = y + ky - shape->pad_top, sx = x + kx - shape->pad_left;
                if (sy < 0 || sy >= in.h || sx < 0 || sx >= in.w)
                    continue;
                double *values = gradients + ((sample * in.h + sy) * in.w + sx) * in.c;
                for (int64_t o = 0; o < out.c; o++) {
                    double diff =
                        problem->diff.values[at(out, problem->diff_layout, sample, y, x, o)];
                    for (int64_t c = 0; c < in.c; c++)
                        values[c] += diff * problem->kernel.values[kernel_at(shape, ky, kx, c, o)];
                }
            }
        }
    }
    return gradients;
}

/* The kernels. */

typedef void pack_function(
    const struct winograd *winograd, int part, int parts, const float *kernel, float *transformed);

static struct array packed(
    const struct problem *problem, const struct winograd *winograd, pack_function *pack, int parts)
{
    struct array transformed = array_of(winograd->transformed_floats);
    for (int part = parts - 1; part >= 0; part--)
        pack(winograd, part, parts, problem->kernel.values, transformed.values);
    return transformed;
}

/* Samples [first, first + count). */
static struct results run(
    const struct problem *problem, int64_t first, int64_t count, int parts, bool inference)
{
    const struct conv_shape *shape = &problem->shape;
    struct results results = {
        .dst = array_of(count * dtr_layout_sample(shape->result, shape->dst)),
        .winner_count = count * dtr_shape_count(shape->result),
    };
    if (shape->pool && !inference)
        results.winners = malloc((size_t)results.winner_count);
    const float *src = problem->src.values + first * dtr_layout_sample(shape->in, shape->src);
    if (conv_is_thin(shape)) {
        ISA(conv_direct_forward)
        (shape, count, problem->kernel.values, problem->bias.values, src, results.dst.values,
            results.winners);
        return results;
    }
    struct winograd winograd = ISA(winograd_of)(shape);
    struct array transformed = packed(problem, &winograd, ISA(winograd_pack), parts);
    struct array scratch = array_of(winograd.scratch_floats);
    ISA(winograd_forward)
    (&winograd, count, transformed.values, problem->bias.values, src, results.dst.values,
        results.winners, scratch.values);
    free(transformed.values);
    free(scratch.values);
    return results;
}

static struct results run_backward(
    const struct problem *problem, int64_t first, int64_t count, int parts)
{
    const struct conv_shape *shape = &problem->shape;
    struct results results = {.dst = array_of(count * dtr_layout_sample(shape->in, shape->src))};
    struct winograd winograd = ISA(winograd_backward_of)(shape);
    struct array transformed = packed(problem, &winograd, ISA(winograd_pack_backward), parts);
    struct array scratch = array_of(winograd.scratch_floats);
    ISA(winograd_backward_data)
    (&winograd, count, transformed.values,
        problem->diff.values + first * dtr_layout_sample(shape->out, problem->diff_layout),
        results.dst.values, scratch.values);
    free(transformed.values);
    free(scratch.values);
    return results;
}

/* The comparisons. */

static void require_close(double actual, double expected, double tolerance, const char *what)
{
    if (isnan(expected))
        require(isnan(actual), what);
    else if (isinf(expected) || tolerance == 0)
        require(actual == expected, what);
    else
        require(fabs(actual - expected) <= tolerance, what);
}

static double rectified(double sum, double bias)
{
    double value = sum + bias;
    return value < 0 ? 0 : value;
}

/* The largest of a window's outputs by the rule of conv.h, and its place. */
static double largest(const double window[4], int *place_out)
{
    int winner = 0;
    for (int place = 1; place < 4; place++)
        if (window[place] > window[winner] || isnan(window[place]))
            winner = place;
    *place_out = winner;
    return window[winner];
}

/* Where nothing rounds, the winner is the reference's; else one that is as good. */
static void check_window(const struct conv_shape *shape, const double *outputs,
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

static void check_result(const struct problem *problem, const struct results *results,
    const double *outputs, const int64_t result[4], double tolerance)
{
    const struct conv_shape *shape = &problem->shape;
    int64_t sample = result[0], y = result[1], x = result[2], c = result[3];
    double sum;
    if (shape->pool) {
        int64_t plane = sample * (shape->out.c / VEC) + c / VEC;
        int64_t i = ((plane * shape->result.h + y) * shape->result.w + x) * VEC + c % VEC;
        check_window(shape, outputs, result, results->winners[i], tolerance, &sum);
    } else {
        sum = outputs[output_at(shape, sample, y, x) + c];
    }
    float actual = results->dst.values[at(shape->result, shape->dst, sample, y, x, c)];
    require(!is_poison(actual), "result is written");
    require_close(actual, rectified(sum, problem->bias.values[c]), tolerance, "result");
}

/* What lies around the images was not touched: of all poison, only the images went. */
static void require_border(
    struct array array, struct dtr_shape shape, struct dtr_layout layout, int64_t count)
{
    int64_t untouched = 0,
            border = count * (dtr_layout_sample(shape, layout) - dtr_shape_count(shape));
    for (int64_t i = 0; i < array.count; i++)
        untouched += is_poison(array.values[i]);
    require(untouched == border, "border is untouched");
}

/* `tolerance` 0: nothing rounds. */
static void check_results(const struct problem *problem, const struct results *results,
    const double *outputs, double tolerance)
{
    struct dtr_shape shape = problem->shape.result;
    for (int64_t i = 0; i < problem->count * dtr_shape_count(shape); i++) {
        int64_t pixel = i / shape.c;
        int64_t result[4] = {
            pixel / (shape.h * shape.w), pixel / shape.w % shape.h, pixel % shape.w, i % shape.c};
        check_result(problem, results, outputs, result, tolerance);
    }
    require_border(results->dst, shape, problem->shape.dst, problem->count);
}

/* The backward pass reads thin_row() floats from every tap of a kernel's first column on. */
static void check_room(const struct conv_shape *shape)
{
    int64_t row = dtr_layout_row(shape->in, shape->src) / shape->in.c;
    int64_t left = shape->src.left - shape->pad_left, top = shape->src.top - shape->pad_top;
    require((left + shape->out.w - 1) * shape->in.c + thin_row(shape) <= row * shape->in.c,
        "rows are long enough");
    require(top + shape->out.h - 1 + shape->kernel_h <=
                shape->src.top + shape->in.h + shape->src.bottom,
        "there are enough rows");
}

/* Inference gives the bits of training, and every sample alone those of all together. */
static void check_splits(const struct problem *problem, const struct results *whole)
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

static void check_forward(const struct problem *problem, bool exact)
{
    const struct conv_shape *shape = &problem->shape;
    double *outputs = convolved(problem);
    struct results results = run(problem, 0, problem->count, 2, false);
    int64_t products = shape->kernel_h * shape->kernel_w * shape->in.c;
    check_results(problem, &results, outputs, exact ? 0 : rounding(products));
    check_splits(problem, &results);
    free_results(&results);
    free(outputs);
}

static void check_backward(const struct problem *problem)
{
    const struct conv_shape *shape = &problem->shape;
    struct dtr_shape in = shape->in;
    double *gradients = convolved_backward(problem);
    double tolerance = rounding(shape->kernel_h * shape->kernel_w * shape->out.c);
    struct results results = run_backward(problem, 0, problem->count, 1);
    for (int64_t i = 0; i < problem->count * dtr_shape_count(in); i++) {
        int64_t pixel = i / in.c;
        float actual = results.dst.values[at(
            in, shape->src, pixel / (in.h * in.w), pixel / in.w % in.h, pixel % in.w, i % in.c)];
        require(!is_poison(actual), "gradient is written");
        require_close(actual, gradients[i], tolerance, "gradient of the source");
    }
    require_border(results.dst, in, shape->src, problem->count);
    int64_t sample = dtr_layout_sample(in, shape->src);
    for (int64_t i = 0; i < problem->count; i++) {
        struct results alone = run_backward(problem, i, 1, 4);
        require_same_bits(alone.dst.values, results.dst.values + i * sample, sample, "alone");
        free_results(&alone);
    }
    free_results(&results);
    free(gradients);
}

/* The tests. */

/* Every combination of values that could be special, in every element in turn. */
START_TEST(test_pool_window)
{
    static const float values[] = {-INFINITY, -1, -0.0f, 0, 1, INFINITY, NAN};
    enum { VALUES = sizeof values / sizeof *values };
    for (int code = 0; code < VALUES * VALUES * VALUES * VALUES; code++) {
        int digits[4] = {code % VALUES, code / VALUES % VALUES, code / VALUES / VALUES % VALUES,
            code / VALUES / VALUES / VALUES};
        vec window[4];
        double wide[4];
        for (int place = 0; place < 4; place++) {
            window[place] = vec_zero();
            window[place][code % VEC] = values[digits[place]];
            wide[place] = values[digits[place]];
        }
        ivec winners;
        vec best = pool_window(window, &winners);
        int place;
        double expected = largest(wide, &place);
        require(winners[code % VEC] == place, "place");
        require_close(best[code % VEC], expected, 0, "value");
        require(winners[(code + 1) % VEC] == 0 && best[(code + 1) % VEC] == 0, "others");
    }
}
END_TEST

/* Shapes of all kinds; loop: thin or not, pool or not. */
START_TEST(test_forward)
{
    bool thin = _i / 2, pool = _i % 2;
    struct dtr_random random = dtr_random_at(1, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        struct conv_shape shape = draw_shape(thin, pool, &random);
        if (thin)
            check_room(&shape);
        bool exact = thin && chance(&random, 0.5);
        struct problem problem = problem_of(
            shape, between(&random, 1, 3), exact ? COARSE : FINE, &random);
        check_forward(&problem, exact);
        free_problem(&problem);
    }
}
END_TEST

START_TEST(test_backward)
{
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        struct conv_shape shape = draw_shape(false, false, &random);
        require(ISA(winograd_suits_backward)(&shape), "suits");
        struct problem problem = problem_of(shape, between(&random, 1, 3), FINE, &random);
        add_diff(&problem, FINE, &random);
        check_backward(&problem);
        free_problem(&problem);
    }
}
END_TEST

/* Tiles of 7x7 outputs, whole and cut off; loop: pool or not. */
START_TEST(test_sevens)
{
    bool pool = _i;
    struct dtr_random random = dtr_random_at(6, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        struct conv_shape shape;
        do {
            shape = draw_shape(false, pool, &random);
        } while (ISA(winograd_of)(&shape).outputs != 7);
        struct problem problem = problem_of(shape, between(&random, 1, 3), FINE, &random);
        check_forward(&problem, false);
        if (!pool) {
            add_diff(&problem, FINE, &random);
            check_backward(&problem);
        }
        free_problem(&problem);
    }
}
END_TEST

static struct conv_shape same_shape(
    struct dtr_shape in, int64_t kernel, int64_t channels, bool pool, struct dtr_random *random)
{
    struct conv_shape shape = {.in = in,
        .out = {.c = channels},
        .kernel_h = kernel,
        .kernel_w = kernel,
        .pad_top = (kernel - 1) / 2,
        .pad_left = (kernel - 1) / 2,
        .pool = pool};
    complete(&shape, (kernel - 1) / 2, (kernel - 1) / 2, random);
    return shape;
}

/* Several batches, whose borders lie within samples, and both ways to divide the work. */
START_TEST(test_batches)
{
    static const struct {
        struct dtr_shape in;
        int64_t kernel, channels, count;
        bool pool;
    } cases[] = {
        {{14, 14, 32}, 5, 48, 11, true},
        {{7, 7, 32}, 5, 16, 33, false},
        {{16, 18, 32}, 5, 48, 11, true},
        {{14, 13, 32}, 3, 16, 20, false},
        {{3, 3, 256}, 3, 80, 70, false},
        {{2, 2, 256}, 5, 64, 133, true},
    };
    struct dtr_random random = dtr_random_at(3, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    struct conv_shape shape = same_shape(
        cases[_i].in, cases[_i].kernel, cases[_i].channels, cases[_i].pool, &random);
    struct problem problem = problem_of(shape, cases[_i].count, FINE, &random);
    struct winograd winograd = ISA(winograd_of)(&shape);
    require(winograd.rows * winograd.columns * problem.count > winograd.batch, "batches");
    require((winograd.together > 1) == (shape.in.c == 256), "pairs of output vectors");
    require((winograd.outputs == 7) == (shape.in.w % 7 == 0 && shape.kernel_w == 5), "tiles");
    check_forward(&problem, false);
    if (!shape.pool) {
        add_diff(&problem, FINE, &random);
        check_backward(&problem);
    }
    free_problem(&problem);
}
END_TEST

/* Large tiles only where they save multiplications and a sample's are few enough. */
START_TEST(test_tile_size)
{
    static const struct {
        int64_t kernel, height, width;
        bool pool;
        int outputs;
    } cases[] = {
        {5, 14, 14, false, 7},
        {5, 28, 28, true, 7},
        {5, 15, 15, true, 7}, /* the last row and column are not computed */
        {5, 15, 15, false, 4},
        {5, 4, 4, false, 4},
        {5, 35, 35, false, 4},
        {3, 14, 14, false, 4},
    };
    struct dtr_random random = dtr_random_at(7, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dtr_shape in = {cases[i].height, cases[i].width, VEC};
        struct conv_shape shape = same_shape(in, cases[i].kernel, VEC, cases[i].pool, &random);
        ck_assert_int_eq(ISA(winograd_of)(&shape).outputs, cases[i].outputs);
    }
}
END_TEST

/* Largest error over largest value, of what a layer sees: a rectified source. */
static double error_of(const struct problem *problem)
{
    const struct conv_shape *shape = &problem->shape;
    double *outputs = convolved(problem);
    struct results results = run(problem, 0, problem->count, 1, false);
    double error = 0, value = 0;
    for (int64_t i = 0; i < problem->count * dtr_shape_count(shape->out); i++) {
        int64_t pixel = i / shape->out.c, c = i % shape->out.c;
        int64_t sample = pixel / (shape->out.h * shape->out.w);
        int64_t y = pixel / shape->out.w % shape->out.h, x = pixel % shape->out.w;
        double expected = rectified(outputs[i], problem->bias.values[c]);
        double actual = results.dst.values[at(shape->out, shape->dst, sample, y, x, c)];
        error = fmax(error, fabs(actual - expected));
        value = fmax(value, expected);
    }
    free_results(&results);
    free(outputs);
    return error / value;
}

/* Independent random numbers are the worst case: of images errors are smaller. */
START_TEST(test_accuracy)
{
    static const struct {
        struct dtr_shape in;
        int64_t kernel, channels;
        double limit;
    } cases[] = {
        {{28, 28, 1}, 5, 32, 5e-7},
        {{14, 14, 32}, 5, 64, 6e-6},
        {{7, 7, 512}, 5, 32, 6e-6},
        {{16, 16, 32}, 5, 64, 6e-6},
        {{8, 8, 512}, 5, 32, 6e-6},
        {{32, 32, 64}, 3, 64, 2e-6},
        {{12, 12, 512}, 3, 32, 2e-6},
    };
    struct dtr_random random = dtr_random_at(4, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    struct conv_shape shape = same_shape(
        cases[_i].in, cases[_i].kernel, cases[_i].channels, false, &random);
    struct problem problem = problem_of(shape, 1, FINE, &random);
    for (int64_t i = 0; i < problem.src.count; i++)
        problem.src.values[i] = fmaxf(0, problem.src.values[i]);
    double error = error_of(&problem);
    ck_assert_msg(error < cases[_i].limit, "error %g", error);
    free_problem(&problem);
}
END_TEST

/* A NaN or infinity in one place of the source reaches the outputs that depend on it, no other
 * sample, and with the direct method no other output. */
START_TEST(test_not_finite)
{
    bool thin = _i / 2, pool = _i % 2;
    struct dtr_random random = dtr_random_at(5, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < SHAPES / 4; i++) {
        struct conv_shape shape = draw_shape(thin, pool, &random);
        struct problem problem = problem_of(shape, 3, COARSE, &random);
        int64_t place = at(shape.in, shape.src, 1, between(&random, 0, shape.in.h - 1),
            between(&random, 0, shape.in.w - 1), between(&random, 0, shape.in.c - 1));
        problem.src.values[place] = chance(&random, 0.5) ? NAN : INFINITY;
        double *outputs = convolved(&problem);
        struct results results = run(&problem, 0, problem.count, 1, false);
        if (thin)
            check_results(&problem, &results, outputs, 0);
        problem.src.values[place] = 0;
        struct results finite = run(&problem, 0, problem.count, 1, false);
        int64_t sample = dtr_layout_sample(shape.result, shape.dst);
        require_same_bits(results.dst.values, finite.dst.values, sample, "sample before");
        require_same_bits(
            results.dst.values + 2 * sample, finite.dst.values + 2 * sample, sample, "after");
        for (int64_t r = 0; r < dtr_shape_count(shape.result); r++) {
            int64_t y = r / shape.out.c / shape.result.w, x = r / shape.out.c % shape.result.w;
            int64_t c = r % shape.out.c, step = pool ? 2 : 1;
            bool reached = false;
            for (int64_t p = 0; p < step * step; p++)
                reached |= isnan(
                    outputs[output_at(&shape, 1, step * y + p / step, step * x + p % step) + c]);
            float actual = results.dst.values[at(shape.result, shape.dst, 1, y, x, c)];
            require(!reached || isnan(actual), "a NaN stays");
        }
        free_results(&results);
        free_results(&finite);
        free(outputs);
        free_problem(&problem);
    }
}
END_TEST

/* A NaN in the kernel or the bias is in all results of its channel, and in no other. */
START_TEST(test_nan_parameters)
{
    struct dtr_random random = dtr_random_at(6, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < 40; i++) {
        bool in_kernel = i % 2, thin = i / 2 % 2;
        struct conv_shape shape = draw_shape(thin, i / 4 % 2, &random);
        struct problem problem = problem_of(shape, 1, FINE, &random);
        int64_t channel = between(&random, 0, shape.out.c - 1);
        if (in_kernel)
            problem.kernel.values[kernel_at(&shape, 0, shape.kernel_w - 1, 0, channel)] = NAN;
        else
            problem.bias.values[channel] = NAN;
        struct results results = run(&problem, 0, 1, 1, false);
        for (int64_t r = 0; r < dtr_shape_count(shape.result); r++) {
            int64_t pixel = r / shape.out.c;
            float actual = results.dst.values[at(shape.result, shape.dst, 0, pixel / shape.result.w,
                pixel % shape.result.w, r % shape.out.c)];
            require(isnan(actual) == (r % shape.out.c == channel), "NaN in its channel");
        }
        free_results(&results);
        free_problem(&problem);
    }
}
END_TEST

START_TEST(test_suits)
{
    struct dtr_random random = dtr_random_at(7, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    const struct conv_shape good = same_shape(
        (struct dtr_shape){9, 9, VEC}, 3, VEC, false, &random);
    struct conv_shape shape = good;
    require(ISA(winograd_suits)(&shape) && ISA(winograd_suits_backward)(&shape), "good");
    shape.kernel_w = 5;
    require(!ISA(winograd_suits)(&shape), "kernel of 3x5");
    shape = good;
    shape.kernel_h = shape.kernel_w = 4;
    require(!ISA(winograd_suits)(&shape), "kernel of 4x4");
    shape = good;
    shape.in.c = VEC + 1;
    require(!ISA(winograd_suits)(&shape), "channels");
    shape = good;
    shape.out.c = VEC / 2;
    require(!ISA(winograd_suits)(&shape), "output channels");
    shape = good;
    shape.pool = true;
    require(ISA(winograd_suits)(&shape) && !ISA(winograd_suits_backward)(&shape), "pool");
    shape = good;
    shape.pad_left = 3;
    require(!ISA(winograd_suits_backward)(&shape), "outputs that depend on nothing");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("fused_forward");
    TCase *tcase = add_case(suite, "convolutions");
    tcase_add_test(tcase, test_pool_window);
    tcase_add_loop_test(tcase, test_forward, 0, 4);
    tcase_add_test(tcase, test_backward);
    tcase_add_loop_test(tcase, test_sevens, 0, 2);
    tcase_add_test(tcase, test_tile_size);
    tcase_add_loop_test(tcase, test_batches, 0, 6);
    tcase_add_loop_test(tcase, test_accuracy, 0, 7);
    tcase_add_loop_test(tcase, test_not_finite, 0, 4);
    tcase_add_test(tcase, test_nan_parameters);
    tcase_add_test(tcase, test_suits);
    return suite;
}
