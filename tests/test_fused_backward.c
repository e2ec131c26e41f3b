/* The sparse backward pass of convolutions against plain loops, for each instruction set. */
#include "fused_sparse_test.h"

enum { SHAPES = 400, MOST_PARTS = 20 };

/* An output of the convolution that has a gradient. */
struct output {
    int64_t sample, channel, y, x;
    float gradient;
};

/* Calls visit for all of them: by channel, then in the order of samples, rows, columns. */
static void visit_outputs(const struct problem *problem,
    void (*visit)(const struct problem *, struct output, void *), void *context)
{
    const struct conv_shape *shape = &problem->shape;
    const struct dtr_shape result = shape->result;
    const int64_t pixels = result.h * result.w;
    for (int64_t i = 0; i < shape->out.c * problem->count * pixels; i++) {
        const int64_t channel = i / pixels / problem->count, sample = i / pixels % problem->count;
        const int64_t y = i / result.w % result.h, x = i % result.w;
        const int64_t at = sample * dtr_layout_sample(result, shape->dst) +
                           dst_at(shape, channel, y, x);
        struct output output = {sample, channel, y, x, problem->diff_dst.values[at]};
        if (problem->dst.values[at] <= 0 || output.gradient == 0)
            continue;
        if (shape->pool) {
            const uint8_t winner =
                problem->winners[sample * dtr_shape_count(result) +
                                 (channel / VEC * pixels + y * result.w + x) * VEC + channel % VEC];
            output.y = 2 * y + winner / 2;
            output.x = 2 * x + winner % 2;
        }
        visit(problem, output, context);
    }
}

/* Sums in double precision, and of the terms' absolute values, with which errors are compared. */
struct expected {
    double *sum, *size;
};

struct reference {
    struct expected src, kernel, bias;
    float *ordered; /* the kernel's gradient, rounded term by term in the order that is promised */
};

static void add(struct expected *expected, int64_t i, double term)
{
    expected->sum[i] += term;
    expected->size[i] += fabs(term);
}

static float add_rounded(float sum, float a, float b)
{
#if defined(__FMA__)
    return fmaf(a, b, sum);
#else
    return sum + a * b;
#endif
}

static void add_output(const struct problem *problem, struct output output, void *context)
{
    const struct conv_shape *shape = &problem->shape;
    struct reference *reference = context;
    const int64_t row = tap_row(shape), step = conv_is_thin(shape) ? shape->in.c : VEC;
    add(&reference->bias, output.channel, output.gradient);
    for (int64_t block = 0; block < blocks_of(shape); block++) {
        for (int64_t tap = 0; tap < shape->kernel_h * shape->kernel_w; tap++) {
            const int64_t ky = tap / shape->kernel_w, kx = tap % shape->kernel_w;
            const int64_t y = output.y - shape->pad_top + ky, x = output.x - shape->pad_left + kx;
            const int64_t kernel =
                ((block * shape->out.c + output.channel) * shape->kernel_h + ky) * row + kx * step;
            const int64_t src = output.sample * dtr_layout_sample(shape->in, shape->src) +
                                src_at(shape, block, y, x);
            const bool inside = y >= 0 && y < shape->in.h && x >= 0 && x < shape->in.w;
            for (int64_t c = 0; c < step; c++) {
                const float pixel = inside ? problem->src.values[src + c] : 0;
                float *ordered = reference->ordered + kernel + c;
                *ordered = add_rounded(*ordered, output.gradient, pixel);
                add(&reference->kernel, kernel + c, (double)output.gradient * pixel);
                if (inside && !conv_is_thin(shape))
                    add(&reference->src, src + c,
                        (double)output.gradient * problem->kernel.values[kernel + c]);
            }
        }
    }
}

static struct expected expect(int64_t count)
{
    struct expected expected = {
        calloc((size_t)count + 1, sizeof(double)), calloc((size_t)count + 1, sizeof(double))};
    ck_assert(expected.sum != NULL && expected.size != NULL);
    return expected;
}

static void expected_free(struct expected *expected)
{
    free(expected->sum);
    free(expected->size);
}

static struct reference reference_of(
    const struct problem *problem, const struct gradients *gradients)
{
    struct reference reference = {
        .src = expect(gradients->src.count),
        .kernel = expect(gradients->kernel.count),
        .bias = expect(gradients->bias.count),
        .ordered = calloc((size_t)gradients->kernel.count, sizeof(float)),
    };
    ck_assert_ptr_nonnull(reference.ordered);
    visit_outputs(problem, add_output, &reference);
    return reference;
}

static void reference_free(struct reference *reference)
{
    expected_free(&reference->src);
    expected_free(&reference->kernel);
    expected_free(&reference->bias);
    free(reference->ordered);
}

static void check_close(float value, const struct expected *expected, int64_t i)
{
    const double sum = expected->sum[i];
    if (isnan(sum))
        require(isnan(value) && !is_poison(value), "a NaN was lost");
    else if (isinf(sum))
        require(value == sum, "an infinity was lost");
    else
        require(fabs(value - sum) <= 2e-6 * expected->size[i], "a sum is wrong");
}

/* Calls check(context, i) for the elements of diff_src that lie in the image. */
static void visit_image(
    const struct problem *problem, void (*check)(void *context, int64_t i), void *context)
{
    const struct conv_shape *shape = &problem->shape;
    const int64_t planes = problem->count * blocks_of(shape), width = shape->in.w * VEC;
    for (int64_t row = 0; row < planes * shape->in.h; row++) {
        const int64_t plane = row / shape->in.h;
        const int64_t at = src_at(shape, 0, row % shape->in.h, 0) +
                           plane * dtr_layout_plane(shape->in, shape->src);
        for (int64_t i = 0; i < width; i++)
            check(context, at + i);
    }
}

struct comparison {
    const struct gradients *gradients;
    const struct reference *reference;
    const struct gradients *other;
    struct gradients *others;
    int count;
};

static void check_src(void *context, int64_t i)
{
    const struct comparison *it = context;
    check_close(it->gradients->src.values[i], &it->reference->src, i);
}

static bool is_used(const struct conv_shape *shape, int64_t i)
{
    return i % tap_row(shape) < taps_used(shape);
}

static void check_reference(const struct problem *problem, const struct gradients *gradients)
{
    struct reference reference = reference_of(problem, gradients);
    struct comparison comparison = {.gradients = gradients, .reference = &reference};
    for (int64_t i = 0; i < gradients->bias.count; i++)
        check_close(gradients->bias.values[i], &reference.bias, i);
    for (int64_t i = 0; i < gradients->kernel.count; i++) {
        if (!is_used(&problem->shape, i))
            continue;
        check_close(gradients->kernel.values[i], &reference.kernel, i);
        require(isnan(reference.ordered[i]) ||
                    same_bits(gradients->kernel.values[i], reference.ordered[i]),
            "a sum's order is wrong");
    }
    if (gradients->src.count > 0)
        visit_image(problem, check_src, &comparison);
    reference_free(&reference);
}

/* Exactly one of the others has written the element, and it is the same. */
static void check_one(float value, const float *written[], int count)
{
    int writers = 0;
    for (int k = 0; k < count; k++) {
        if (is_poison(*written[k]))
            continue;
        writers++;
        require(same_bits(*written[k], value), "a part has other bits");
    }
    require(writers == 1, "not just one part writes an element");
}

static void check_src_parts(void *context, int64_t i)
{
    const struct comparison *it = context;
    const float *written[MOST_PARTS];
    for (int k = 0; k < it->count; k++)
        written[k] = it->others[k].src.values + i;
    check_one(it->gradients->src.values[i], written, it->count);
}

/* The parts write the elements of `gradients`, each of them one part. */
static void check_parts(const struct problem *problem, const struct gradients *gradients, int parts)
{
    struct gradients others[MOST_PARTS];
    struct comparison comparison = {.gradients = gradients, .others = others, .count = parts};
    const float *written[MOST_PARTS];
    for (int k = 0; k < parts; k++) {
        others[k] = gradients_of(problem);
        run_part(problem, 0, problem->count, k, parts, &others[k]);
    }
    for (int64_t i = 0; i < gradients->kernel.count; i++) {
        for (int k = 0; k < parts; k++)
            written[k] = others[k].kernel.values + i;
        if (is_used(&problem->shape, i))
            check_one(gradients->kernel.values[i], written, parts);
    }
    for (int64_t i = 0; i < gradients->bias.count; i++) {
        for (int k = 0; k < parts; k++)
            written[k] = others[k].bias.values + i;
        check_one(gradients->bias.values[i], written, parts);
    }
    if (gradients->src.count > 0)
        visit_image(problem, check_src_parts, &comparison);
    for (int k = 0; k < parts; k++)
        gradients_free(&others[k]);
}

static void check_src_bits(void *context, int64_t i)
{
    const struct comparison *it = context;
    require(same_bits(it->gradients->src.values[i], it->other->src.values[i]),
        "another slice has other bits");
}

/* The source's gradient when samples come in two slices. */
static void check_slices(
    const struct problem *problem, const struct gradients *gradients, int64_t first)
{
    const int64_t sample = dtr_layout_sample(problem->shape.in, problem->shape.src);
    struct gradients whole = gradients_of(problem);
    struct gradients rest = whole;
    struct comparison comparison = {.gradients = gradients, .other = &whole};
    run_part(problem, 0, first, 0, 1, &whole);
    rest.src.values += first * sample;
    rest.src.count -= first * sample;
    run_part(problem, first, problem->count - first, 0, 1, &rest);
    visit_image(problem, check_src_bits, &comparison);
    gradients_free(&whole);
}

/* The kernel's gradient where the source's is not wanted. */
static void check_kernel_alone(const struct problem *problem, const struct gradients *gradients)
{
    struct problem without = *problem;
    struct gradients alone = gradients_of(problem);
    const int64_t floats = alone.src.count;
    alone.src.count = 0;
    without.packed.values = NULL;
    run(&without, &alone);
    for (int64_t i = 0; i < floats; i++)
        require(is_poison(alone.src.values[i]), "diff_src was written");
    ck_assert_mem_eq(
        alone.kernel.values, gradients->kernel.values, (size_t)alone.kernel.count * sizeof(float));
    ck_assert_mem_eq(
        alone.bias.values, gradients->bias.values, (size_t)alone.bias.count * sizeof(float));
    gradients_free(&alone);
}

static void check_problem(const struct problem *problem, struct dtr_random *random)
{
    struct gradients gradients = gradients_of(problem);
    run(problem, &gradients);
    check_reference(problem, &gradients);
    check_parts(problem, &gradients, (int)between(random, 2, chance(random, 0.1) ? MOST_PARTS : 4));
    if (!conv_is_thin(&problem->shape)) {
        check_slices(problem, &gradients, between(random, 0, problem->count));
        check_kernel_alone(problem, &gradients);
    }
    gradients_free(&gradients);
}

static double draw_density(struct dtr_random *random)
{
    static const double densities[] = {0, 0.02, 0.2, 0.5, 0.8, 1};
    return densities[between(random, 0, 5)];
}

static void check_shapes(bool thin, uint64_t seed)
{
    struct dtr_random random = dtr_random_at(seed, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        const struct conv_shape shape = draw_shape(thin, between(&random, 1, 14), 3, &random);
        if (!ISA(conv_sparse_suits)(&shape)) {
            ck_assert(thin && thin_row(&shape) > 7 * VEC);
            continue;
        }
        struct problem problem = problem_of(
            shape, between(&random, 1, 9), draw_density(&random), &random);
        check_problem(&problem, &random);
        problem_free(&problem);
    }
}

START_TEST(test_blocked)
{
    check_shapes(false, 1);
}
END_TEST

START_TEST(test_thin)
{
    check_shapes(true, 2);
}
END_TEST

/* Too large for the caches: bands of rows. */
START_TEST(test_large)
{
    struct dtr_random random = dtr_random_at(3, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < 12; i++) {
        struct conv_shape shape = draw_shape(i % 3 == 0, 60, 3, &random);
        if (!ISA(conv_sparse_suits)(&shape))
            continue;
        struct problem problem = problem_of(shape, between(&random, 1, 3), 0.5, &random);
        check_problem(&problem, &random);
        problem_free(&problem);
    }
}
END_TEST

/* So wide that few rows of results are worked on at a time, or even a row is too much. */
START_TEST(test_wide)
{
    static const struct {
        int64_t h, w;
        bool pool;
        double density;
    } sizes[] = {
        {3, 1500, false, 0.5}, {7, 2900, true, 0.5}, {21, 400, true, 1}, {9, 400, false, 0.5}};
    struct dtr_random random = dtr_random_at(4, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t h = sizes[i].h, w = sizes[i].w, step = sizes[i].pool ? 2 : 1;
        const struct conv_shape shape = {.in = {h, w, VEC},
            .out = {h, w, 3 * VEC},
            .kernel_h = 3,
            .kernel_w = 3,
            .pad_top = 1,
            .pad_left = 1,
            .pool = sizes[i].pool,
            .result = {h / step, w / step, 3 * VEC},
            .src = {VEC, 1, 1, 1, 1},
            .dst = {.block = VEC}};
        struct problem problem = problem_of(shape, 2, sizes[i].density, &random);
        check_problem(&problem, &random);
        problem_free(&problem);
    }
}
END_TEST

START_TEST(test_many_channels)
{
    struct dtr_random random = dtr_random_at(8, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < 15; i++) {
        const struct conv_shape shape = draw_shape(false, 4, 21, &random);
        struct problem problem = problem_of(shape, 1, draw_density(&random), &random);
        check_problem(&problem, &random);
        problem_free(&problem);
    }
}
END_TEST

static void spoil(struct array array, struct dtr_random *random)
{
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3 && array.count > 0; i++) {
        float *value = array.values + between(random, 0, array.count - 1);
        if (*value != 0 && !is_poison(*value)) /* neither in a border */
            *value = bad[between(random, 0, 2)];
    }
}

/* NaNs and infinities in any input appear in what depends on them, and nowhere else. */
START_TEST(test_nan)
{
    struct dtr_random random = dtr_random_at(5, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        struct conv_shape shape = draw_shape(i % 3 == 0, 7, 2, &random);
        if (!ISA(conv_sparse_suits)(&shape))
            continue;
        struct problem problem = problem_of(shape, between(&random, 1, 3), 0.3, &random);
        spoil(problem.src, &random);
        spoil(problem.dst, &random);
        spoil(problem.diff_dst, &random);
        spoil(problem.kernel, &random);
        if (!conv_is_thin(&shape))
            ISA(conv_sparse_pack)(&shape, 0, 1, problem.kernel.values, problem.packed.values);
        struct gradients gradients = gradients_of(&problem);
        run(&problem, &gradients);
        check_reference(&problem, &gradients);
        gradients_free(&gradients);
        problem_free(&problem);
    }
}
END_TEST

START_TEST(test_pack)
{
    struct dtr_random random = dtr_random_at(6, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < SHAPES; i++) {
        struct conv_shape shape = draw_shape(false, 4, 4, &random);
        struct problem problem = problem_of(shape, 1, 0, &random);
        struct array parts[5];
        const int count = (int)between(&random, 1, 5);
        for (int k = 0; k < count; k++) {
            parts[k] = array_of(problem.packed.count);
            ISA(conv_sparse_pack)(&shape, k, count, problem.kernel.values, parts[k].values);
        }
        for (int64_t j = 0; j < problem.packed.count; j++) {
            const float *written[5];
            for (int k = 0; k < count; k++)
                written[k] = parts[k].values + j;
            check_one(problem.packed.values[j], written, count);
        }
        for (int k = 0; k < count; k++)
            free(parts[k].values);
        problem_free(&problem);
    }
}
END_TEST

START_TEST(test_suits)
{
    struct dtr_random random = dtr_random_at(7, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    const struct conv_shape good = draw_shape(false, 9, 2, &random);
    struct conv_shape shape = good;
    ck_assert(ISA(conv_sparse_suits)(&shape));
    shape.kernel_w = 8;
    ck_assert(!ISA(conv_sparse_suits)(&shape));
    shape = good;
    shape.result.w = 0;
    ck_assert(!ISA(conv_sparse_suits)(&shape));
    shape = good;
    shape.out.c = VEC + 1;
    ck_assert(!ISA(conv_sparse_suits)(&shape));
    shape = good;
    shape.in = (struct dtr_shape){1 << 16, 1 << 16, VEC};
    ck_assert(!ISA(conv_sparse_suits)(&shape));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("fused_backward");
    TCase *tcase = add_case(suite, "sparse");
    tcase_add_test(tcase, test_blocked);
    tcase_add_test(tcase, test_thin);
    tcase_add_test(tcase, test_large);
    tcase_add_test(tcase, test_wide);
    tcase_add_test(tcase, test_many_channels);
    tcase_add_test(tcase, test_nan);
    tcase_add_test(tcase, test_pack);
    tcase_add_test(tcase, test_suits);
    return suite;
}
