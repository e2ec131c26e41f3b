/*
 * Convolutions with thin sources by Winograd's method, against plain loops in double precision.
 * Compiled once per instruction set.
 */
#include "../src/cpu/fused/winograd_thin.h"
#include "fused_conv_test.h"

enum { SHAPES = 200, LEAST = 8 }; /* outputs that a side has to have */

/* A block without its sizes; what suits them all. */
static const struct {
    int64_t kernel, channels;
    bool pool;
} blocks[] = {{5, 1, true}, {5, 3, true}, {5, 3, false}, {3, 3, true}};

enum { BLOCKS = VEC_REGISTERS >= 32 ? 4 : 3 };

/* Padding on each side. */
struct padding {
    int64_t top, left, bottom, right;
};

/* That has out.h x out.w outputs, the source's layout being the narrowest. */
static struct conv_shape shape_of(
    int block, struct padding padding, int64_t height, int64_t width, int64_t channels)
{
    int64_t kernel = blocks[block].kernel;
    struct conv_shape shape = {
        .in = {height + kernel - 1 - padding.top - padding.bottom,
            width + kernel - 1 - padding.left - padding.right, blocks[block].channels},
        .out = {.c = channels},
        .kernel_h = kernel,
        .kernel_w = kernel,
        .pad_top = padding.top,
        .pad_left = padding.left,
        .pool = blocks[block].pool,
    };
    complete_sizes(&shape, padding.bottom, padding.right);
    shape.src = ISA(winograd_thin_layout)(&shape);
    shape.dst = (struct dtr_layout){.block = VEC};
    return shape;
}

static struct conv_shape draw_shape(int block, struct dtr_random *random)
{
    int64_t most = blocks[block].kernel - 1;
    struct padding padding = {
        between(random, 0, most),
        between(random, 0, most),
        between(random, 0, most),
        between(random, 0, most),
    };
    struct conv_shape shape = shape_of(block, padding, between(random, LEAST, 21),
        between(random, LEAST, 21), between(random, 1, 3) * VEC);
    shape.src = widened(shape.src, random);
    shape.dst = widened(shape.dst, random);
    return shape;
}

/* Samples [first, first + count); scratch memory holds POISON, a NaN. */
static struct results run(
    const struct problem *problem, int64_t first, int64_t count, int parts, bool inference)
{
    (void)parts;
    const struct conv_shape *shape = &problem->shape;
    struct results results = results_of(shape, count, inference);
    struct array transformed = array_of(ISA(winograd_thin_kernel_floats)(shape));
    struct array scratch = array_of(ISA(winograd_thin_scratch_floats)(shape));
    ISA(winograd_thin_pack)(shape, problem->kernel.values, transformed.values);
    ISA(winograd_thin_forward)
    (shape, count, transformed.values, problem->bias.values,
        problem->src.values + first * dtr_layout_sample(shape->in, shape->src), results.dst.values,
        results.winners, scratch.values);
    free(transformed.values);
    free(scratch.values);
    return results;
}

START_TEST(test_forward)
{
    struct dtr_random random = dtr_random_at(1, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        struct problem problem = problem_of(
            draw_shape(_i, &random), between(&random, 1, 3), FINE, &random);
        require(ISA(winograd_thin_suits)(&problem.shape), "suits");
        check_forward(&problem, run, false);
        free_problem(&problem);
    }
}
END_TEST

/* Tiles that overlap in all ways, vectors that end anywhere, images that touch what lies around
 * them. */
START_TEST(test_sizes)
{
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    int64_t half = blocks[_i].kernel / 2, all = 2 * half;
    const struct padding paddings[] = {
        {0, 0, 0, 0}, {half, half, half, half}, {0, all, all, 0}, {all, 0, 0, all}};
    for (int64_t size = LEAST; size <= 40; size++) {
        for (int turn = 0; turn < 2; turn++) {
            struct conv_shape shape = shape_of(_i, paddings[(size + turn) % 4],
                turn == 0 ? size : LEAST, turn == 0 ? LEAST : size, VEC);
            struct problem problem = problem_of(shape, 1, FINE, &random);
            check_forward(&problem, run, false);
            free_problem(&problem);
        }
    }
}
END_TEST

/* Independent random numbers, as of a source that is rectified. */
START_TEST(test_accuracy)
{
    static const double limits[] = {6e-6, 6e-6, 6e-6, 1e-6};
    struct dtr_random random = dtr_random_at(3, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < 20; i++) {
        int64_t half = blocks[_i].kernel / 2;
        struct conv_shape shape = shape_of(
            _i, (struct padding){half, half, half, half}, 28, 28, 2 * VEC);
        struct problem problem = problem_of(shape, 1, FINE, &random);
        for (int64_t k = 0; k < problem.src.count; k++)
            problem.src.values[k] = fmaxf(0, problem.src.values[k]);
        double error = error_of(&problem, run);
        ck_assert_msg(error < limits[_i], "error %g", error);
        free_problem(&problem);
    }
}
END_TEST

START_TEST(test_not_finite)
{
    struct dtr_random random = dtr_random_at(4, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < SHAPES / 4; i++) {
        struct problem problem = problem_of(draw_shape(_i, &random), 3, COARSE, &random);
        check_not_finite(&problem, run, false, &random);
        free_problem(&problem);
    }
}
END_TEST

START_TEST(test_nan_parameters)
{
    struct dtr_random random = dtr_random_at(5, DTR_RANDOM_SYNTHETIC, (uint32_t)_i, 0, 0);
    for (int i = 0; i < 20; i++) {
        struct problem problem = problem_of(draw_shape(_i, &random), 1, FINE, &random);
        check_nan_parameter(&problem, run, i % 2, &random);
        free_problem(&problem);
    }
}
END_TEST

START_TEST(test_suits)
{
    const struct {
        int64_t kernel_h, kernel_w, channels, height, width;
        bool pool, suits;
    } cases[] = {
        {5, 5, 1, 8, 8, true, true},
        {5, 5, 1, 8, 8, false, false},
        {5, 5, 3, 8, 8, true, true},
        {5, 5, 3, 8, 8, false, true},
        {5, 5, 2, 8, 8, true, false},
        {5, 5, 4, 8, 8, true, false},
        {5, 5, 3, 7, 8, true, false},
        {5, 5, 3, 8, 7, true, false},
        {5, 3, 3, 8, 8, true, false},
        {3, 5, 3, 8, 8, true, false},
        {4, 4, 3, 8, 8, true, false},
        {7, 7, 3, 8, 8, true, false},
        {3, 3, 3, 8, 8, true, VEC_REGISTERS >= 32},
        {3, 3, 3, 8, 8, false, false},
        {3, 3, 1, 8, 8, true, false},
    };
    struct conv_shape shape = {
        .in = {cases[_i].height, cases[_i].width, cases[_i].channels},
        .out = {.c = VEC},
        .kernel_h = cases[_i].kernel_h,
        .kernel_w = cases[_i].kernel_w,
        .pool = cases[_i].pool,
        .src = {.block = cases[_i].channels},
    };
    complete_sizes(&shape, shape.kernel_h - 1, shape.kernel_w - 1);
    require(ISA(winograd_thin_suits)(&shape) == cases[_i].suits, "suits");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("fused_thin");
    TCase *tcase = add_case(suite, "convolutions");
    tcase_add_loop_test(tcase, test_forward, 0, BLOCKS);
    tcase_add_loop_test(tcase, test_sizes, 0, BLOCKS);
    tcase_add_loop_test(tcase, test_accuracy, 0, BLOCKS);
    tcase_add_loop_test(tcase, test_not_finite, 0, BLOCKS);
    tcase_add_loop_test(tcase, test_nan_parameters, 0, BLOCKS);
    tcase_add_loop_test(tcase, test_suits, 0, 15);
    return suite;
}
