/*
 * The fused kernels, on every instruction set that this CPU has: the results of the reference
 * kernels that they replace, and the same bits however the work is divided.
 */
#include "../src/cpu/fused/fused.h"
#include "kernel_fixture.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__)
enum { SHAPES = 1 };
#elif defined(__SANITIZE_ADDRESS__)
enum { SHAPES = 8 };
#else
enum { SHAPES = 40 };
#endif
static const double FINE = 0x1p-20;
static const double CLOSE = 2e-5; /* largest difference by largest value */

static int instruction_sets(void)
{
    return (int)dtr_isa_detect() + 1;
}

/* A block of layers: a convolution and perhaps a pool, or a dense layer and perhaps dropout. */
struct block {
    struct fixture fixture;
    struct dtr_layer next;
    int64_t samples[64];
    struct dtr_dropout_key keys[16];
};

static int64_t between(struct dtr_random *random, int64_t least, int64_t most)
{
    return least + fixture_below(random, most - least + 1);
}

static void draw_run(struct fixture *fixture, struct dtr_random *random)
{
    fixture->n = between(random, 1, 4);
    fixture->run.shards = between(random, 1, 6);
    fixture->run.first = fixture_below(random, fixture->run.shards);
    fixture->run.count = between(random, 1, fixture->run.shards - fixture->run.first);
    fixture->steps = 2;
}

/* Any shape that a table takes: thin or blocked, with or without a pool. */
static void draw_conv(
    struct block *block, const struct dtr_kernel *kernel, struct dtr_random *random)
{
    struct fixture *fixture = &block->fixture;
    int covered = 0;
    *block = (struct block){0};
    while (covered == 0) {
        bool thin = fixture_below(random, 3) == 0, pool = fixture_below(random, 3) > 0;
        int64_t size = 3 + 2 * fixture_below(random, 2);
        if (thin && fixture_below(random, 2) == 0)
            size = between(random, 1, 7);
        struct dtr_shape in = {between(random, size, 15), between(random, size, 15),
            thin ? between(random, 1, 4) : 8 * between(random, 1, 6)};
        fixture->layer = fixture_conv(
            in, 8 * between(random, 1, 6), size, size, 1, fixture_below(random, 3) > 0, true);
        fixture->layer.number = thin ? 0 : 2;
        fixture->first = thin || fixture_below(random, 5) == 0;
        pool = pool && fixture->layer.out.h > 1 && fixture->layer.out.w > 1;
        block->next = fixture_maxpool(fixture->layer.out, 2, 2);
        fixture->next = pool ? &block->next : NULL;
        covered = kernel->covers(&fixture->layer, fixture->next);
    }
    if (covered == 1)
        fixture->next = NULL;
    if (fixture_below(random, 2) == 0)
        fixture->wanted = (struct dtr_layout){16, 1, 2, 0, 3};
    draw_run(fixture, random);
}

static void draw_dense(
    struct block *block, const struct dtr_kernel *kernel, struct dtr_random *random)
{
    struct fixture *fixture = &block->fixture;
    *block = (struct block){0};
    do {
        struct dtr_shape in = {1, 1, 8 * between(random, 1, 60)};
        if (fixture_below(random, 2) == 0)
            in = (struct dtr_shape){
                between(random, 1, 5), between(random, 1, 5), 8 * between(random, 1, 6)};
        fixture->layer = fixture_dense(in, between(random, 1, 70), fixture_below(random, 3) > 0);
        block->next = fixture_dropout(fixture->layer.out, 0.5);
        fixture->next = fixture_below(random, 3) > 0 ? &block->next : NULL;
    } while (kernel->covers(&fixture->layer, fixture->next) != (fixture->next != NULL ? 2 : 1));
    fixture->first = fixture_below(random, 4) == 0;
    draw_run(fixture, random);
    fixture->dropout = block->keys;
    for (int64_t i = 0; i < fixture->run.count; i++) {
        int64_t *samples = block->samples + i * fixture->n;
        for (int64_t j = 0; j < fixture->n; j++)
            samples[j] = fixture_below(random, 10) == 0 ? -1 : fixture_below(random, 1000);
        block->keys[i] = (struct dtr_dropout_key){7, 3, samples};
    }
}

/* The gradient of a sample that does not count is zero, as the loss makes it. */
static void zero_padded(struct block *block)
{
    struct fixture *fixture = &block->fixture;
    int64_t count = fixture->dst_count / (fixture->run.count * fixture->n);
    for (int64_t i = 0; fixture->dropout != NULL && i < fixture->run.count * fixture->n; i++) {
        if (block->samples[i] < 0)
            memset(fixture->diff_dst + i * count, 0, (size_t)count * sizeof(float));
    }
}

/* The same block by two reference kernels, one after the other. */
static void run_reference(const struct block *block, struct fixture_result *result_out)
{
    bool conv = block->fixture.layer.kind == DTR_LAYER_CONV;
    const struct dtr_kernel *kernel = conv ? &dtr_reference_conv : &dtr_reference_dense;
    struct fixture first = block->fixture, second = block->fixture;
    struct fixture_result below, above;
    first.next = second.next = NULL;
    first.steps = second.steps = 1;
    first.take = second.take = false;
    if (block->fixture.next == NULL) {
        fixture_run(&first, kernel, result_out);
        return;
    }
    struct fixture forward = first;
    forward.inference = true;
    fixture_run(&forward, kernel, &below);
    second.layer = block->next;
    second.src = below.dst;
    second.src_count = second.run.count * second.n * dtr_shape_count(block->next.in);
    second.kernel_count = second.bias_count = 0;
    second.first = false;
    fixture_run(&second, conv ? &dtr_maxpool : &dtr_dropout, &above);
    first.diff_dst = above.diff_src;
    first.dst_count = second.src_count;
    fixture_run(&first, kernel, result_out);
    free(result_out->dst);
    result_out->dst = above.dst;
    above.dst = NULL;
    fixture_result_free(&below);
    fixture_result_free(&above);
}

static void check_close(const struct block *block, const char *what, int64_t count,
    const float *actual, const float *expected)
{
    double distance = fixture_distance(count, actual, expected);
    ck_assert_msg(distance < CLOSE, "%s%s%s: %s differs by %g", fixture_describe(&block->fixture),
        block->fixture.next == NULL ? "" : " ",
        block->fixture.next == NULL ? "" : block->fixture.next->name, what, distance);
}

static void check_results(const struct block *block, const struct fixture_result *actual,
    const struct fixture_result *expected)
{
    const struct fixture *fixture = &block->fixture;
    check_close(block, "dst", fixture->dst_count, actual->dst, expected->dst);
    if (!fixture->first)
        check_close(block, "diff_src", fixture->src_count, actual->diff_src, expected->diff_src);
    check_close(block, "diff_kernel", actual->open_nodes * fixture->kernel_count,
        actual->diff_kernel, expected->diff_kernel);
    check_close(block, "diff_bias", actual->open_nodes * fixture->bias_count, actual->diff_bias,
        expected->diff_bias);
}

static bool same(int64_t count, const float *a, const float *b)
{
    return memcmp(a, b, (size_t)count * sizeof *a) == 0;
}

static void check_same(const struct block *block, const char *how,
    const struct fixture_result *actual, const struct fixture_result *expected)
{
    const struct fixture *fixture = &block->fixture;
    int64_t nodes = expected->open_nodes;
    ck_assert_msg(same(fixture->dst_count, actual->dst, expected->dst), "%s: %s: dst",
        fixture_describe(fixture), how);
    ck_assert_msg(fixture->first || same(fixture->src_count, actual->diff_src, expected->diff_src),
        "%s: %s: diff_src", fixture_describe(fixture), how);
    ck_assert_msg(same(nodes * fixture->kernel_count, actual->diff_kernel, expected->diff_kernel),
        "%s: %s: diff_kernel", fixture_describe(fixture), how);
    ck_assert_msg(same(nodes * fixture->bias_count, actual->diff_bias, expected->diff_bias),
        "%s: %s: diff_bias", fixture_describe(fixture), how);
}

/* Divided among threads, shard by shard on plans of their own, and with gradients that are taken.
 */
static void check_divisions(
    struct block *block, const struct dtr_kernel *kernel, const struct fixture_result *expected)
{
    struct fixture_result result;
    struct fixture *fixture = &block->fixture;
    for (int parts = 2; parts <= 7; parts += 1 + parts / 3) {
        fixture->parts = parts;
        fixture_run(fixture, kernel, &result);
        check_same(block, "threads", &result, expected);
        fixture_result_free(&result);
    }
    fixture->parts = 0;
    fixture_run_apart(fixture, kernel, &result);
    check_same(block, "apart", &result, expected);
    fixture_result_free(&result);
    if (expected->open_nodes > 1)
        return;
    fixture->take = true;
    fixture->parts = 3;
    fixture_run(fixture, kernel, &result);
    check_same(block, "taken", &result, expected);
    fixture_result_free(&result);
}

/* In inference a sample's result is close to that of training. */
static void check_inference(const struct block *block, const struct dtr_kernel *kernel,
    const struct fixture_result *trained)
{
    struct fixture fixture = block->fixture;
    struct fixture_result result;
    if (fixture.layer.kind == DTR_LAYER_DENSE && fixture.next != NULL)
        return; /* nothing is dropped */
    fixture.inference = true;
    fixture_run(&fixture, kernel, &result);
    check_close(block, "dst in inference", fixture.dst_count, result.dst, trained->dst);
    fixture_result_free(&result);
}

typedef void draw(struct block *block, const struct dtr_kernel *kernel, struct dtr_random *random);

static void check_kernel(enum dtr_layer_kind kind, int isa, draw *draw_block)
{
    const struct dtr_kernel *kernel = fused_kernel(kind, (enum dtr_isa)isa);
    struct dtr_random random = fixture_random(100 + (uint64_t)isa);
    for (int i = 0; i < SHAPES; i++) {
        struct block block;
        struct fixture_result expected, actual;
        draw_block(&block, kernel, &random);
        fixture_fill(&block.fixture, FINE, &random);
        zero_padded(&block);
        run_reference(&block, &expected);
        fixture_run(&block.fixture, kernel, &actual);
        check_results(&block, &actual, &expected);
        check_inference(&block, kernel, &actual);
        check_divisions(&block, kernel, &actual);
        fixture_result_free(&expected);
        fixture_result_free(&actual);
        fixture_free(&block.fixture);
    }
}

START_TEST(test_conv)
{
    check_kernel(DTR_LAYER_CONV, _i, draw_conv);
}
END_TEST

START_TEST(test_dense)
{
    check_kernel(DTR_LAYER_DENSE, _i, draw_dense);
}
END_TEST

/* What the tables leave to others. */
START_TEST(test_not_covered)
{
    const struct dtr_kernel *conv = fused_kernel(DTR_LAYER_CONV, (enum dtr_isa)_i);
    struct dtr_shape in = {8, 8, 32};
    struct dtr_layer strided = fixture_conv(in, 32, 3, 3, 2, true, true);
    struct dtr_layer linear = fixture_conv(in, 32, 3, 3, 1, true, false);
    struct dtr_layer odd = fixture_conv(in, 10, 3, 3, 1, true, true);
    struct dtr_layer good = fixture_conv(in, 32, 3, 3, 1, true, true);
    struct dtr_layer wide = fixture_maxpool(good.out, 3, 2), pool = fixture_maxpool(good.out, 2, 2);
    strided.number = linear.number = odd.number = good.number = 1;
    ck_assert_int_eq(conv->covers(&strided, NULL), 0);
    ck_assert_int_eq(conv->covers(&linear, NULL), 0);
    ck_assert_int_eq(conv->covers(&odd, NULL), 0);
    ck_assert_int_eq(conv->covers(&good, NULL), 1);
    ck_assert_int_eq(conv->covers(&good, &wide), 1);
    ck_assert_int_eq(conv->covers(&good, &pool), 2);
    ck_assert_ptr_null(fused_kernel(DTR_LAYER_MAXPOOL, (enum dtr_isa)_i));
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("fused");
    TCase *tcase = add_case(suite, "fused");
    tcase_add_loop_test(tcase, test_conv, 0, instruction_sets());
    tcase_add_loop_test(tcase, test_dense, 0, instruction_sets());
    tcase_add_loop_test(tcase, test_not_covered, 0, instruction_sets());
    return suite;
}
