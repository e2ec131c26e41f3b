#include "kernel_fixture.h"
#include "unit_main.h"

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Multiples of 1/16: sums of products of them do not round, so oneDNN and the reference have to
 * agree in every bit. With the fine step they round. */
static const double EXACT = 0x1p-4, FINE = 0x1p-20;

/* The reference is slow: no test case multiplies more often than this per direction. */
static const int64_t MULTIPLICATIONS = 4000000;

static int64_t between(struct dtr_random *random, int64_t low, int64_t high)
{
    return low + fixture_below(random, high - low + 1);
}

static void draw_slices(struct fixture *fixture, struct dtr_random *random)
{
    int64_t shards = between(random, 1, 8), first = fixture_below(random, shards);
    fixture->run = (struct dtr_shard_run){first, between(random, 1, shards - first), shards};
    fixture->n = between(random, 1, 9);
    fixture->parts = (int)between(random, 1, 4);
    fixture->first = fixture_below(random, 4) == 0;
}

/* Places of the input that an output looks at. */
static int64_t window_of(const struct dtr_layer *layer)
{
    return layer->kind == DTR_LAYER_CONV ? layer->kernel_h * layer->kernel_w
                                         : layer->in.h * layer->in.w;
}

static int64_t multiplications(const struct fixture *fixture)
{
    const struct dtr_layer *layer = &fixture->layer;
    return fixture->run.count * fixture->n * dtr_shape_count(layer->out) * window_of(layer) *
           layer->in.c;
}

static struct fixture draw_conv(struct dtr_random *random)
{
    static const int64_t kernels[][2] = {{1, 1}, {3, 3}, {5, 5}, {2, 2}, {4, 3}};
    struct fixture fixture = {0};
    do {
        const int64_t *kernel = kernels[fixture_below(random, 5)];
        bool same = fixture_below(random, 2) == 0, relu = fixture_below(random, 2) == 0;
        struct dtr_shape in = {between(random, same ? 1 : kernel[0], 30),
            between(random, same ? 1 : kernel[1], 30), between(random, 1, 70)};
        fixture.layer = fixture_conv(
            in, between(random, 1, 70), kernel[0], kernel[1], between(random, 1, 3), same, relu);
        draw_slices(&fixture, random);
    } while (multiplications(&fixture) > MULTIPLICATIONS);
    return fixture;
}

static struct fixture draw_dense(struct dtr_random *random)
{
    struct fixture fixture = {0};
    do {
        struct dtr_shape in = {
            between(random, 1, 8), between(random, 1, 8), between(random, 1, 70)};
        fixture.layer = fixture_dense(in, between(random, 1, 300), fixture_below(random, 2) == 0);
        draw_slices(&fixture, random);
    } while (multiplications(&fixture) > MULTIPLICATIONS);
    return fixture;
}

static const struct dtr_kernel *onednn_kernel(const struct dtr_layer *layer)
{
    return layer->kind == DTR_LAYER_CONV ? &dtr_onednn_conv : &dtr_onednn_dense;
}

static const struct dtr_kernel *reference_kernel(const struct dtr_layer *layer)
{
    return layer->kind == DTR_LAYER_CONV ? &dtr_reference_conv : &dtr_reference_dense;
}

static void assert_near(const struct fixture *fixture, const char *what, int64_t count,
    const float *actual, const float *expected, double tolerance)
{
    for (int64_t i = 0; i < count; i++) {
        double error = fabs((double)actual[i] - (double)expected[i]);
        if (!(error <= tolerance))
            ck_abort_msg("%s: %s[%ld] is %.9g, not %.9g (tolerance %g)", fixture_describe(fixture),
                what, (long)i, (double)actual[i], (double)expected[i], tolerance);
    }
}

/* `unit`: what each term of a sum adds to its tolerance. */
static void assert_all_near(const struct fixture *fixture, const struct fixture_result *actual,
    const struct fixture_result *expected, double unit)
{
    const struct dtr_layer *layer = &fixture->layer;
    int64_t window = window_of(layer);
    int64_t outputs = fixture->run.count * fixture->n * layer->out.h * layer->out.w;
    assert_near(fixture, "dst", fixture->dst_count, actual->dst, expected->dst,
        unit * (double)(window * layer->in.c + 1));
    if (fixture->inference)
        return;
    if (!fixture->first)
        assert_near(fixture, "diff_src", fixture->src_count, actual->diff_src, expected->diff_src,
            unit * (double)(window * layer->out.c));
    int64_t nodes = expected->open_nodes;
    assert_near(fixture, "diff_kernel", nodes * fixture->kernel_count, actual->diff_kernel,
        expected->diff_kernel, unit * (double)outputs);
    assert_near(fixture, "diff_bias", nodes * fixture->bias_count, actual->diff_bias,
        expected->diff_bias, unit * (double)outputs);
}

static void compare_with_reference(struct fixture *fixture, double step, struct dtr_random *random)
{
    struct fixture_result actual, expected;
    fixture_fill(fixture, step, random);
    fixture_run(fixture, onednn_kernel(&fixture->layer), &actual);
    fixture_run(fixture, reference_kernel(&fixture->layer), &expected);
    /* A term's standard deviation is 1/3, so K of them in a row round by 0.14 K 2^-24 in the root
     * mean square; two such sums differ by 0.2. */
    assert_all_near(fixture, &actual, &expected, step == FINE ? 0x1p-22 : 0);
    fixture_result_free(&actual);
    fixture_result_free(&expected);
    fixture_free(fixture);
}

static struct dtr_random random_of_test(uint64_t number)
{
    return dtr_random_at(1, DTR_RANDOM_SYNTHETIC, 0, 0, number);
}

START_TEST(test_conv)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct fixture fixture = draw_conv(&random);
    compare_with_reference(&fixture, _i % 2 == 0 ? EXACT : FINE, &random);
}
END_TEST

START_TEST(test_dense)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct fixture fixture = draw_dense(&random);
    compare_with_reference(&fixture, _i % 2 == 0 ? EXACT : FINE, &random);
}
END_TEST

/* More outputs than a tile of the kernel's gradient has floats. */
START_TEST(test_dense_wide)
{
    struct dtr_random random = random_of_test(0);
    struct fixture fixture = {
        .layer = fixture_dense((struct dtr_shape){1, 1, 3}, 9000, true), .n = 2, .run = {0, 3, 3}};
    compare_with_reference(&fixture, EXACT, &random);
}
END_TEST

START_TEST(test_inference)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct fixture fixture = _i % 2 == 0 ? draw_conv(&random) : draw_dense(&random);
    fixture.inference = true;
    compare_with_reference(&fixture, EXACT, &random);
}
END_TEST

static bool same_bits(int64_t count, const float *a, const float *b)
{
    return memcmp(a, b, (size_t)count * sizeof *a) == 0;
}

static void assert_same_bits(
    const struct fixture *fixture, const struct fixture_result *a, const struct fixture_result *b)
{
    int64_t nodes = a->open_nodes;
    bool same = nodes == b->open_nodes && same_bits(fixture->dst_count, a->dst, b->dst) &&
                same_bits(nodes * fixture->kernel_count, a->diff_kernel, b->diff_kernel) &&
                same_bits(nodes * fixture->bias_count, a->diff_bias, b->diff_bias) &&
                (fixture->first || same_bits(fixture->src_count, a->diff_src, b->diff_src));
    ck_assert_msg(same, "%s: other bits", fixture_describe(fixture));
}

static struct fixture draw_any(struct dtr_random *random, int number)
{
    return number % 2 == 0 ? draw_conv(random) : draw_dense(random);
}

START_TEST(test_parts_do_not_matter)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct fixture fixture = draw_any(&random, _i);
    const struct dtr_kernel *kernel = onednn_kernel(&fixture.layer);
    struct fixture_result one, many;
    fixture_fill(&fixture, FINE, &random);
    fixture.parts = 1;
    fixture_run(&fixture, kernel, &one);
    fixture.parts = 7;
    fixture_run(&fixture, kernel, &many);
    assert_same_bits(&fixture, &one, &many);
    fixture_result_free(&one);
    fixture_result_free(&many);
    fixture_free(&fixture);
}
END_TEST

/* A slice's result does not depend on its index or its neighbours, and the gradients are the tree
 * sums of the slices'. */
static void compare_with_slices(struct fixture *fixture, struct dtr_random *random)
{
    const struct dtr_kernel *kernel = onednn_kernel(&fixture->layer);
    struct fixture_result all, apart;
    fixture_fill(fixture, FINE, random);
    fixture_run(fixture, kernel, &all);
    fixture_run_apart(fixture, kernel, &apart);
    assert_same_bits(fixture, &all, &apart);
    fixture_result_free(&all);
    fixture_result_free(&apart);
    fixture_free(fixture);
}

START_TEST(test_slices)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct fixture fixture = draw_any(&random, _i);
    compare_with_slices(&fixture, &random);
}
END_TEST

/* Runs that are no subtree: gradients of more than one open node. */
static const struct dtr_shard_run open_runs[] = {
    {1, 3, 8}, {3, 2, 5}, {2, 3, 8}, {0, 7, 8}, {1, 6, 8}};
enum { OPEN_RUNS = sizeof open_runs / sizeof *open_runs };

static struct fixture draw_open(struct dtr_random *random, int number)
{
    struct fixture fixture = draw_any(random, number);
    fixture.run = open_runs[number / 2 % OPEN_RUNS];
    ck_assert_int_gt(dtr_tree_of(fixture.run).depth, 1);
    return fixture;
}

START_TEST(test_open_nodes)
{
    struct dtr_random random = random_of_test((uint64_t)(100 + _i));
    struct fixture fixture = draw_open(&random, _i);
    compare_with_reference(&fixture, _i < 2 * OPEN_RUNS ? EXACT : FINE, &random);
}
END_TEST

START_TEST(test_open_nodes_by_slices)
{
    struct dtr_random random = random_of_test((uint64_t)(200 + _i));
    struct fixture fixture = draw_open(&random, _i);
    compare_with_slices(&fixture, &random);
}
END_TEST

/* A table that does everything twice, as the next step would. */
static void repeated_forward(
    struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    for (int i = 0; i < 2; i++)
        onednn_kernel(plan->layer)->forward(plan, piece, src, dst);
}

static void repeated_backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    for (int i = 0; i < 2; i++)
        onednn_kernel(plan->layer)->backward(plan, piece, src, dst, diff_dst, diff_src);
}

START_TEST(test_threads_do_not_matter)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct fixture fixture = draw_any(&random, _i);
    struct fixture_result expected, actual;
    fixture_fill(&fixture, FINE, &random);
    fixture_run(&fixture, onednn_kernel(&fixture.layer), &expected);
    fixture.parts = 2 + (int)fixture_below(&random, 7);
    fixture_run(&fixture, onednn_kernel(&fixture.layer), &actual);
    assert_same_bits(&fixture, &expected, &actual);
    fixture_result_free(&expected);
    fixture_result_free(&actual);
    fixture_free(&fixture);
}
END_TEST

static void compare_with_table(int number, const struct dtr_kernel *other)
{
    struct dtr_random random = random_of_test((uint64_t)number);
    struct fixture fixture = draw_any(&random, number);
    struct fixture_result expected, actual;
    fixture_fill(&fixture, FINE, &random);
    fixture_run(&fixture, onednn_kernel(&fixture.layer), &expected);
    fixture_run(&fixture, other, &actual);
    assert_same_bits(&fixture, &expected, &actual);
    fixture_result_free(&expected);
    fixture_result_free(&actual);
    fixture_free(&fixture);
}

START_TEST(test_steps_do_not_matter)
{
    struct dtr_kernel repeated = _i % 2 == 0 ? dtr_onednn_conv : dtr_onednn_dense;
    repeated.forward = repeated_forward;
    repeated.backward = repeated_backward;
    compare_with_table(_i, &repeated);
}
END_TEST

/* Threads of this process; 0 where the system does not say. */
static int count_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    if (folder == NULL)
        return 0;
    int threads = 0;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        threads += entry->d_name[0] != '.';
    closedir(folder);
    return threads;
}

/* A library that computes with OpenMP's threads leaves them behind. */
START_TEST(test_no_other_threads)
{
    struct dtr_random random = random_of_test(0);
    struct dtr_shape in = {28, 28, 16};
    struct fixture fixture = {
        .layer = _i == 0 ? fixture_conv(in, 32, 5, 5, 1, true, true) : fixture_dense(in, 64, true),
        .n = 4,
        .run = {0, 2, 2}};
    struct fixture_result result;
    int before = count_threads();
    fixture_fill(&fixture, FINE, &random);
    fixture_run(&fixture, onednn_kernel(&fixture.layer), &result);
    fixture_result_free(&result);
    fixture_free(&fixture);
    ck_assert_int_eq(count_threads(), before);
}
END_TEST

/* The channels beyond the last; the fixture's outputs start as NaN. */
static void assert_padding_is_zero(
    struct dtr_shape shape, int64_t n, int64_t block, const float *values)
{
    int64_t blocks = (shape.c + block - 1) / block, places = shape.h * shape.w;
    for (int64_t i = 0; i < n; i++) {
        const float *last = values + (i * blocks + blocks - 1) * places * block;
        for (int64_t j = 0; j < places; j++) {
            for (int64_t c = shape.c - (blocks - 1) * block; c < block; c++)
                ck_assert(last[j * block + c] == 0.0F);
        }
    }
}

static void padded_forward(
    struct dtr_plan *plan, struct dtr_piece piece, const float *src, float *dst)
{
    dtr_onednn_conv.forward(plan, piece, src, dst);
    assert_padding_is_zero(plan->layer->out, plan->n, plan->dst.block, dst);
}

static void padded_backward(struct dtr_plan *plan, struct dtr_piece piece, const float *src,
    const float *dst, float *diff_dst, float *diff_src)
{
    dtr_onednn_conv.backward(plan, piece, src, dst, diff_dst, diff_src);
    assert_padding_is_zero(plan->layer->in, plan->n, plan->src.block, diff_src);
}

START_TEST(test_padding_channels)
{
    struct dtr_kernel kernel = dtr_onednn_conv;
    kernel.forward = padded_forward;
    kernel.backward = padded_backward;
    struct dtr_random random = random_of_test(0);
    struct fixture fixture = {.layer = fixture_conv((struct dtr_shape){7, 9, 12 + _i}, 19 + _i, 3,
                                  3, 1 + _i % 2, _i % 2 == 0, true),
        .n = 3,
        .run = {0, 2, 2}};
    struct fixture_result result;
    fixture_fill(&fixture, FINE, &random);
    fixture_run(&fixture, &kernel, &result);
    fixture_result_free(&result);
    fixture_free(&fixture);
}
END_TEST

/* With few input channels oneDNN's first choice has nothing but plain C++ for backward. */
START_TEST(test_few_channels_are_fast)
{
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx2"))
        return;
    struct dtr_random random = random_of_test(0);
    struct fixture fixture = {
        .layer = fixture_conv((struct dtr_shape){28, 28, 1 + _i % 4}, 32, 5, 5, 1, true, true),
        .n = 2,
        .run = {0, 1, 1},
        .first = _i < 4};
    struct fixture_result result;
    fixture_fill(&fixture, FINE, &random);
    fixture_run(&fixture, &dtr_onednn_conv, &result);
    ck_assert_msg(strstr(result.detail, "ref") == NULL && strstr(result.detail, "slow") == NULL,
        "%s: %s", fixture_describe(&fixture), result.detail);
    fixture_result_free(&result);
    fixture_free(&fixture);
#endif
}
END_TEST

/* A diverging training has to show. */
START_TEST(test_nan_stays)
{
    struct dtr_random random = random_of_test((uint64_t)_i);
    struct dtr_shape in = {5, 5, 9};
    struct fixture fixture = {
        .layer = _i == 0 ? fixture_conv(in, 17, 3, 3, 1, true, true) : fixture_dense(in, 17, true),
        .n = 1,
        .run = {0, 1, 1}};
    struct fixture_result result;
    fixture_fill(&fixture, EXACT, &random);
    fixture.bias[3] = NAN;
    fixture_run(&fixture, onednn_kernel(&fixture.layer), &result);
    ck_assert(isnan(result.dst[3]));
    ck_assert(!isnan(result.dst[2]));
    fixture_result_free(&result);
    fixture_free(&fixture);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("onednn");
    TCase *tcase = add_case(suite, "like the reference");
    tcase_add_loop_test(tcase, test_conv, 0, 80);
    tcase_add_loop_test(tcase, test_dense, 0, 40);
    tcase_add_test(tcase, test_dense_wide);
    tcase_add_loop_test(tcase, test_inference, 0, 20);
    tcase_add_loop_test(tcase, test_open_nodes, 0, 4 * OPEN_RUNS);
    tcase_add_loop_test(tcase, test_padding_channels, 0, 8);
    tcase_add_loop_test(tcase, test_nan_stays, 0, 2);
    tcase = add_case(suite, "the same bits");
    tcase_add_loop_test(tcase, test_parts_do_not_matter, 0, 20);
    tcase_add_loop_test(tcase, test_slices, 0, 40);
    tcase_add_loop_test(tcase, test_open_nodes_by_slices, 0, 4 * OPEN_RUNS);
    tcase_add_loop_test(tcase, test_threads_do_not_matter, 0, 20);
    tcase_add_loop_test(tcase, test_steps_do_not_matter, 0, 10);
    tcase_add_loop_test(tcase, test_no_other_threads, 0, 2);
    tcase = add_case(suite, "speed");
    tcase_add_loop_test(tcase, test_few_channels_are_fast, 0, 8);
    return suite;
}
