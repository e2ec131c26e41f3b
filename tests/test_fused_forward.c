/*
 * Convolutions with bias, ReLU and pool, direct and by Winograd's method, and the gradient of their
 * source, against plain loops in double precision. Compiled once per instruction set.
 */
#include "../src/cpu/fused/conv_direct.h"
#include "../src/cpu/fused/pool.h"
#include "../src/cpu/fused/winograd.h"
#include "fused_conv_test.h"

enum { SHAPES = 300, MULTIPLICATIONS = 1000000 }; /* of a shape at most: the loops are slow */

/* Sets the shapes and layouts that follow from kernel, padding, in, out.c and pool; the image ends
 * with `bottom` and `right` of padding. */
static void complete(
    struct conv_shape *shape, int64_t bottom, int64_t right, struct dtr_random *random)
{
    complete_sizes(shape, bottom, right);
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

/* A problem with a gradient of the outputs too, for layouts without a pool. */
static void add_diff(struct problem *problem, double step, struct dtr_random *random)
{
    problem->diff_layout = ISA(winograd_backward_layout)(&problem->shape);
    problem->diff = image_of(
        problem->shape.out, problem->diff_layout, problem->count, step, random);
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
    struct results results = results_of(shape, count, inference);
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
        check_forward(&problem, run, exact);
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
        check_forward(&problem, run, false);
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
    check_forward(&problem, run, false);
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
    double error = error_of(&problem, run);
    ck_assert_msg(error < cases[_i].limit, "error %g", error);
    free_problem(&problem);
}
END_TEST

/* With the direct method a NaN reaches no other output than those that depend on it. */
START_TEST(test_not_finite)
{
    bool thin = _i / 2, pool = _i % 2;
    struct dtr_random random = dtr_random_at(5, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < SHAPES / 4; i++) {
        struct problem problem = problem_of(draw_shape(thin, pool, &random), 3, COARSE, &random);
        check_not_finite(&problem, run, thin, &random);
        free_problem(&problem);
    }
}
END_TEST

START_TEST(test_nan_parameters)
{
    struct dtr_random random = dtr_random_at(6, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < 40; i++) {
        struct conv_shape shape = draw_shape(i / 2 % 2, i / 4 % 2, &random);
        struct problem problem = problem_of(shape, 1, FINE, &random);
        check_nan_parameter(&problem, run, i % 2, &random);
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
