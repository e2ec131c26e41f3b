/*
 * The plain C layers: values by definition, gradients against finite differences, ties and NaN, and
 * that slices, blocks and parts never change bits. What dropout draws is in test_dropout.c.
 *
 * Gradients are checked for equality: inputs are multiples of 2^-4 (or small integers) and steps
 * powers of two, so that no float sum here rounds, and all these layers are linear around a point.
 */
#include "kernel_fixture.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void assert_equal_bits(
    const struct fixture *fixture, int64_t count, const float *actual, const float *expected)
{
    for (int64_t i = 0; i < count; i++)
        ck_assert_msg(memcmp(&actual[i], &expected[i], sizeof(float)) == 0,
            "%s: [%d] is %a, not %a", fixture_describe(fixture), (int)i, (double)actual[i],
            (double)expected[i]);
}

static void assert_equal_results(const struct fixture *fixture, const struct fixture_result *actual,
    const struct fixture_result *expected)
{
    assert_equal_bits(fixture, fixture->dst_count, actual->dst, expected->dst);
    if (!fixture->first)
        assert_equal_bits(fixture, fixture->src_count, actual->diff_src, expected->diff_src);
    int64_t nodes = expected->open_nodes;
    ck_assert_int_eq(actual->open_nodes, nodes);
    assert_equal_bits(
        fixture, nodes * fixture->kernel_count, actual->diff_kernel, expected->diff_kernel);
    assert_equal_bits(fixture, nodes * fixture->bias_count, actual->diff_bias, expected->diff_bias);
}

/* --- Gradients --- */

/* The loss is the sum of dst * diff_dst, so that diff_dst is its gradient. */
static double projected_loss(const struct fixture *fixture, const struct dtr_kernel *kernel)
{
    struct fixture_result result;
    fixture_run(fixture, kernel, &result);
    double loss = 0;
    for (int64_t i = 0; i < fixture->dst_count; i++)
        loss += (double)result.dst[i] * (double)fixture->diff_dst[i];
    fixture_result_free(&result);
    return loss;
}

/* `values` is one of the fixture's inputs; a few of its elements are moved by `step`. */
static void check_gradient(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct dtr_random *random, float step, int64_t count, float *values, const float *gradient)
{
    int64_t checks = count < 25 ? count : 25;
    for (int64_t k = 0; k < checks; k++) {
        int64_t i = checks == count ? k : fixture_below(random, count);
        float value = values[i];
        values[i] = value + step;
        double above = projected_loss(fixture, kernel);
        values[i] = value - step;
        double below = projected_loss(fixture, kernel);
        values[i] = value;
        double slope = (above - below) / (2 * (double)step);
        ck_assert_msg(slope == (double)gradient[i], "%s: gradient [%d of %d] is %.9g, not %.9g",
            fixture_describe(fixture), (int)i, (int)count, (double)gradient[i], slope);
    }
}

static void check_gradients(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct dtr_random *random, float step)
{
    struct fixture_result result;
    fixture_run(fixture, kernel, &result);
    check_gradient(
        fixture, kernel, random, step, fixture->src_count, fixture->src, result.diff_src);
    check_gradient(
        fixture, kernel, random, step, fixture->kernel_count, fixture->kernel, result.diff_kernel);
    check_gradient(
        fixture, kernel, random, step, fixture->bias_count, fixture->bias, result.diff_bias);
    fixture_result_free(&result);
}

/* Sums of products are multiples of 2^-8. With odd multiples of 2^-9 as biases no output is closer
 * to ReLU's edge than that, and steps of 2^-12 do not cross it. */
static void check_linear_layer(
    struct dtr_layer layer, const struct dtr_kernel *kernel, struct dtr_random *random)
{
    struct fixture fixture = {.layer = layer, .n = 2, .run = {0, 2, 2}};
    fixture_fill(&fixture, 0x1p-4, random);
    for (int64_t i = 0; i < fixture.bias_count; i++)
        fixture.bias[i] += 0x1p-9f;
    check_gradients(&fixture, kernel, random, 0x1p-12f);
    fixture_free(&fixture);
}

START_TEST(test_conv_gradients)
{
    struct dtr_random random = fixture_random(1);
    for (int i = 0; i < 24; i++)
        check_linear_layer(fixture_random_conv(&random, 4), &dtr_reference_conv, &random);
}
END_TEST

START_TEST(test_dense_gradients)
{
    struct dtr_random random = fixture_random(2);
    for (int i = 0; i < 10; i++) {
        struct dtr_shape in = {1 + fixture_below(&random, 4), 1 + fixture_below(&random, 4),
            1 + fixture_below(&random, 9)};
        struct dtr_layer layer = fixture_dense(in, 1 + fixture_below(&random, 12), i % 2 == 0);
        check_linear_layer(layer, &dtr_reference_dense, &random);
    }
}
END_TEST

/* Distinct integers: steps of 1/4 change no winner. */
static void fill_distinct(struct fixture *fixture, struct dtr_random *random)
{
    fixture_fill(fixture, 0x1p-4, random);
    for (int64_t i = 0; i < fixture->src_count; i++) {
        int64_t j = fixture_below(random, i + 1);
        fixture->src[i] = fixture->src[j];
        fixture->src[j] = (float)(i - fixture->src_count / 2);
    }
}

static struct dtr_layer random_maxpool(struct dtr_random *random)
{
    int64_t window = 1 + fixture_below(random, 4), stride = 1 + fixture_below(random, 4);
    struct dtr_shape in = {window + fixture_below(random, 7), window + fixture_below(random, 7),
        1 + fixture_below(random, 19)};
    return fixture_maxpool(in, window, stride);
}

START_TEST(test_maxpool_gradients)
{
    struct dtr_random random = fixture_random(3);
    for (int i = 0; i < 30; i++) {
        static const int64_t blocks[] = {0, 1, 4, 8};
        struct fixture fixture = {
            .layer = random_maxpool(&random), .n = 2, .run = {0, 2, 2}, .src_block = blocks[i % 4]};
        if (i % 3 == 0) /* the usual case has code of its own */
            fixture.layer = fixture_maxpool((struct dtr_shape){6, 7 + i % 2, 9}, 2, 2);
        fill_distinct(&fixture, &random);
        check_gradients(&fixture, &dtr_maxpool, &random, 0.25f);
        fixture_free(&fixture);
    }
}
END_TEST

START_TEST(test_dropout_gradients)
{
    struct dtr_random random = fixture_random(4);
    const int64_t samples[] = {3, -1, 77, 5};
    struct dtr_dropout_key keys[] = {{11, 2, samples}, {11, 2, samples + 2}};
    struct fixture fixture = {.layer = fixture_dropout((struct dtr_shape){2, 3, 7}, 0.75),
        .n = 2,
        .run = {0, 2, 2},
        .dropout = keys};
    fixture_fill(&fixture, 0x1p-4, &random);
    check_gradients(&fixture, &dtr_dropout, &random, 0x1p-6f);
    fixture_free(&fixture);
}
END_TEST

/* --- Reference: values, reduce, inference, NaN --- */

/* Output i by the definition, from the side of the inputs: each finds the tap that lies on it. */
static double true_output(const struct fixture *fixture, int64_t i)
{
    const struct dtr_layer *layer = &fixture->layer;
    struct dtr_shape in = layer->in, out = layer->out;
    bool dense = layer->kind == DTR_LAYER_DENSE;
    int64_t kernel_h = dense ? in.h : layer->kernel_h, kernel_w = dense ? in.w : layer->kernel_w;
    int64_t o = i % out.c, x = i / out.c % out.w, y = i / out.c / out.w % out.h;
    const float *src = fixture->src + i / dtr_shape_count(out) * dtr_shape_count(in);
    double sum = (double)fixture->bias[o];
    for (int64_t j = 0; j < dtr_shape_count(in); j++) {
        int64_t c = j % in.c, in_x = j / in.c % in.w, in_y = j / in.c / in.w;
        int64_t ky = in_y + layer->pad_top - y * layer->stride;
        int64_t kx = in_x + layer->pad_left - x * layer->stride;
        if (ky >= 0 && ky < kernel_h && kx >= 0 && kx < kernel_w)
            sum += (double)src[j] *
                   (double)fixture->kernel[((ky * kernel_w + kx) * in.c + c) * out.c + o];
    }
    return layer->relu ? fmax(sum, 0) : sum;
}

static void check_values(
    struct dtr_layer layer, const struct dtr_kernel *kernel, struct dtr_random *random)
{
    struct fixture fixture = {.layer = layer, .n = 2, .run = {0, 2, 2}};
    struct fixture_result result;
    fixture_fill(&fixture, 0x1p-4, random);
    fixture_run(&fixture, kernel, &result);
    for (int64_t i = 0; i < fixture.dst_count; i++)
        ck_assert_msg((double)result.dst[i] == true_output(&fixture, i), "%s: [%d] is %g, not %g",
            fixture_describe(&fixture), (int)i, (double)result.dst[i], true_output(&fixture, i));
    fixture_result_free(&result);
    fixture_free(&fixture);
}

START_TEST(test_reference_values)
{
    struct dtr_random random = fixture_random(10);
    for (int i = 0; i < 40; i++) {
        check_values(fixture_random_conv(&random, 4), &dtr_reference_conv, &random);
        struct dtr_shape in = {1 + i % 3, 1 + i % 4, 1 + i % 5};
        check_values(fixture_dense(in, 1 + i % 7, i % 2 == 0), &dtr_reference_dense, &random);
    }
}
END_TEST

static struct fixture rough_fixture(struct dtr_layer layer, struct dtr_shard_run run)
{
    struct dtr_random random = fixture_random(5);
    struct fixture fixture = {.layer = layer, .n = 2, .run = run};
    fixture_fill(&fixture, 0x1p-20, &random);
    return fixture;
}

static void check_reduce_parts(
    struct dtr_layer layer, struct dtr_shard_run run, const struct dtr_kernel *kernel)
{
    struct fixture fixture = rough_fixture(layer, run);
    struct fixture_result whole;
    fixture_run(&fixture, kernel, &whole);
    for (int parts = 2; parts <= 9; parts++) {
        struct fixture_result result;
        fixture.parts = parts;
        fixture_run(&fixture, kernel, &result);
        assert_equal_results(&fixture, &result, &whole);
        fixture_result_free(&result);
    }
    fixture_result_free(&whole);
    fixture_free(&fixture);
}

/* Every slice alone, then the tree over what they gave: a slice's part depends on no other. */
static void check_tree_order(
    struct dtr_layer layer, struct dtr_shard_run run, const struct dtr_kernel *kernel)
{
    struct fixture fixture = rough_fixture(layer, run);
    struct fixture_result whole, apart;
    fixture_run(&fixture, kernel, &whole);
    fixture_run_apart(&fixture, kernel, &apart);
    assert_equal_results(&fixture, &whole, &apart);
    fixture_result_free(&whole);
    fixture_result_free(&apart);
    fixture_free(&fixture);
}

static struct dtr_layer some_conv(void)
{
    return fixture_conv((struct dtr_shape){7, 6, 3}, 5, 3, 2, 2, true, true);
}

static struct dtr_layer some_dense(void)
{
    return fixture_dense((struct dtr_shape){3, 2, 5}, 7, true);
}

/* Runs that are a subtree, and that end, begin or lie where none does. */
START_TEST(test_reduce)
{
    static const struct {
        struct dtr_shard_run run;
        int64_t open_nodes;
    } cases[] = {{{0, 8, 8}, 1}, {{4, 1, 5}, 1}, {{0, 7, 8}, 3}, {{1, 3, 8}, 2}, {{3, 2, 5}, 2},
        {{2, 3, 8}, 2}, {{2, 5, 8}, 3}, {{1, 6, 8}, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct dtr_shard_run run = cases[i].run;
        ck_assert_int_eq(dtr_tree_of(run).depth, cases[i].open_nodes);
        check_reduce_parts(some_conv(), run, &dtr_reference_conv);
        check_reduce_parts(some_dense(), run, &dtr_reference_dense);
        check_tree_order(some_conv(), run, &dtr_reference_conv);
        check_tree_order(some_dense(), run, &dtr_reference_dense);
    }
}
END_TEST

/* The same again in a second step, without diff_src and in inference. */
static void check_modes(struct fixture fixture, const struct dtr_kernel *kernel)
{
    struct fixture_result all, result;
    fixture_run(&fixture, kernel, &all);
    fixture.steps = 2;
    fixture_run(&fixture, kernel, &result);
    assert_equal_results(&fixture, &result, &all);
    fixture_result_free(&result);
    fixture.first = true;
    fixture_run(&fixture, kernel, &result);
    assert_equal_results(&fixture, &result, &all);
    fixture_result_free(&result);
    fixture.inference = true;
    fixture_run(&fixture, kernel, &result);
    assert_equal_bits(&fixture, fixture.dst_count, result.dst, all.dst);
    fixture_result_free(&result);
    fixture_result_free(&all);
    fixture_free(&fixture);
}

START_TEST(test_modes)
{
    struct dtr_shard_run run = {0, 3, 3};
    check_modes(rough_fixture(some_conv(), run), &dtr_reference_conv);
    check_modes(rough_fixture(some_dense(), run), &dtr_reference_dense);
    struct dtr_layer pool = fixture_maxpool((struct dtr_shape){7, 6, 3}, 2, 2);
    check_modes(rough_fixture(pool, run), &dtr_maxpool);
}
END_TEST

/* One NaN in the first sample reaches that sample's outputs (all of them, with these windows) and
 * no other's. */
static void check_nan(struct dtr_layer layer, const struct dtr_kernel *kernel, int64_t src_block)
{
    struct fixture fixture = rough_fixture(layer, (struct dtr_shard_run){0, 1, 1});
    fixture.src_block = src_block;
    int64_t count = dtr_shape_count(layer.out);
    for (int64_t at = 0; at < dtr_shape_count(layer.in); at++) {
        struct fixture_result result;
        float value = fixture.src[at];
        fixture.src[at] = NAN;
        fixture_run(&fixture, kernel, &result);
        for (int64_t i = 0; i < 2 * count; i++)
            ck_assert_int_eq(isnan(result.dst[i]) != 0, i < count);
        fixture_result_free(&result);
        fixture.src[at] = value;
    }
    fixture_free(&fixture);
}

START_TEST(test_nan)
{
    check_nan(
        fixture_conv((struct dtr_shape){3, 2, 2}, 3, 3, 2, 1, false, true), &dtr_reference_conv, 0);
    check_nan(some_dense(), &dtr_reference_dense, 0);
    for (int64_t block = 1; block <= 8; block *= 2) {
        check_nan(fixture_maxpool((struct dtr_shape){2, 2, 1}, 2, 2), &dtr_maxpool, block);
        check_nan(fixture_maxpool((struct dtr_shape){4, 4, 1}, 4, 1), &dtr_maxpool, block);
    }
}
END_TEST

/* --- Max pooling --- */

START_TEST(test_maxpool_values)
{
    struct dtr_random random = fixture_random(6);
    for (int k = 0; k < 20; k++) {
        struct fixture fixture = {.layer = random_maxpool(&random), .n = 1, .run = {0, 1, 1}};
        struct dtr_shape in = fixture.layer.in, out = fixture.layer.out;
        int64_t window = fixture.layer.kernel_h, stride = fixture.layer.stride;
        struct fixture_result result;
        fixture_fill(&fixture, 0x1p-2, &random);
        fixture_run(&fixture, &dtr_maxpool, &result);
        for (int64_t i = 0; i < fixture.dst_count; i++) {
            int64_t c = i % out.c, x = i / out.c % out.w, y = i / out.c / out.w;
            float largest = -2;
            for (int64_t place = 0; place < window * window; place++) {
                int64_t in_y = y * stride + place / window, in_x = x * stride + place % window;
                largest = fmaxf(largest, fixture.src[(in_y * in.w + in_x) * in.c + c]);
            }
            ck_assert_float_eq(result.dst[i], largest);
        }
        fixture_result_free(&result);
        fixture_free(&fixture);
    }
}
END_TEST

/* Few different values, so many ties: the same winners in any block. */
START_TEST(test_maxpool_blocks)
{
    struct dtr_random random = fixture_random(7);
    for (int k = 0; k < 30; k++) {
        struct fixture fixture = {.layer = random_maxpool(&random), .n = 3, .run = {0, 2, 2}};
        if (k % 3 == 0)
            fixture.layer = fixture_maxpool((struct dtr_shape){8, 6, 11}, 2, 2);
        struct fixture_result plain, blocked;
        fixture_fill(&fixture, 0x1p-1, &random);
        fixture_run(&fixture, &dtr_maxpool, &plain);
        for (int64_t block = 1; block <= 16; block++) {
            fixture.src_block = block;
            fixture_run(&fixture, &dtr_maxpool, &blocked);
            ck_assert_int_eq(blocked.src_layout.block, block);
            ck_assert_int_eq(blocked.dst_layout.block, block);
            assert_equal_results(&fixture, &blocked, &plain);
            fixture_result_free(&blocked);
        }
        fixture_result_free(&plain);
        fixture_free(&fixture);
    }
}
END_TEST

/* In [1, size, size, 1] of equal values the first place of every window gets its gradient. */
static void check_ties(int64_t size, int64_t window, int64_t stride)
{
    struct fixture fixture = rough_fixture(
        fixture_maxpool((struct dtr_shape){size, size, 1}, window, stride),
        (struct dtr_shard_run){0, 1, 1});
    fixture.n = 1;
    fixture.src_count /= 2;
    fixture.dst_count /= 2;
    for (int64_t i = 0; i < fixture.src_count; i++)
        fixture.src[i] = i % 2 == 0 ? 0.0f : -0.0f;
    float *expected = calloc((size_t)fixture.src_count, sizeof *expected);
    for (int64_t i = 0; i < fixture.dst_count; i++) {
        int64_t y = i / fixture.layer.out.w, x = i % fixture.layer.out.w;
        expected[(y * size + x) * stride] = fixture.diff_dst[i];
    }
    struct fixture_result result;
    fixture_run(&fixture, &dtr_maxpool, &result);
    for (int64_t i = 0; i < fixture.src_count; i++)
        ck_assert_float_eq(result.diff_src[i], expected[i]);
    fixture_result_free(&result);
    fixture_free(&fixture);
    free(expected);
}

START_TEST(test_maxpool_ties)
{
    check_ties(6, 2, 2);
    check_ties(7, 2, 2);
    check_ties(7, 3, 1);
    check_ties(9, 3, 4);
}
END_TEST

/* Places beyond 255, and the one too many. */
START_TEST(test_maxpool_large)
{
    struct dtr_random random = fixture_random(8);
    struct fixture fixture = {
        .layer = fixture_maxpool((struct dtr_shape){28, 28, 1}, 28, 1), .n = 1, .run = {0, 1, 1}};
    fill_distinct(&fixture, &random);
    fixture.src[783] = 1e6f;
    struct fixture_result result;
    fixture_run(&fixture, &dtr_maxpool, &result);
    for (int64_t i = 0; i < 784; i++)
        ck_assert_float_eq(result.diff_src[i], i == 783 ? fixture.diff_dst[0] : 0);
    fixture_result_free(&result);
    fixture_free(&fixture);

    struct dtr_layer layer = fixture_maxpool((struct dtr_shape){300, 300, 1}, 257, 1);
    struct dtr_plan plan = {.layer = &layer, .n = 1, .lanes = 1, .threads = 1, .src = {.block = 1}};
    struct dtr_error error = DTR_ERROR_NONE;
    ck_assert_int_eq(dtr_maxpool.create(&plan, &error), DTR_INPUT);
    ck_assert_ptr_nonnull(strstr(error.message, "line 2"));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("kernels");
    TCase *tcase = add_case(suite, "plain C");
    tcase_add_test(tcase, test_conv_gradients);
    tcase_add_test(tcase, test_dense_gradients);
    tcase_add_test(tcase, test_maxpool_gradients);
    tcase_add_test(tcase, test_dropout_gradients);
    tcase_add_test(tcase, test_reference_values);
    tcase_add_test(tcase, test_reduce);
    tcase_add_test(tcase, test_modes);
    tcase_add_test(tcase, test_nan);
    tcase_add_test(tcase, test_maxpool_values);
    tcase_add_test(tcase, test_maxpool_blocks);
    tcase_add_test(tcase, test_maxpool_ties);
    tcase_add_test(tcase, test_maxpool_large);
    return suite;
}
