/*
 * The convolution kernels against plain loops in double, in all precisions, on random awkward
 * shapes. With small integers all sums are exact, so every bit and every tie must be right. With
 * other numbers the operands are rounded as the kernels do, and a sum of K terms may differ by what
 * K + 1 roundings to float make of the sum of their magnitudes.
 */
#include "cuda_fixture.h"

#include "../unit_main.h"

struct problem {
    struct dtr_cuda_conv conv;
    bool exact;
    int64_t src_count, kernel_count, dst_count, full_count;
    float *src, *kernel, *bias, *dst, *diff_dst; /* dst: any values, for the backward passes */
    uint8_t *winners;
};

/* A result with what it may differ by, per element. */
struct truth {
    double *value, *bound;
};

static struct truth truth_of(int64_t count)
{
    size_t size = sizeof(double) * (size_t)(count + 1);
    struct truth truth = {calloc(1, size), calloc(1, size)};
    ck_assert(truth.value != NULL && truth.bound != NULL);
    return truth;
}

static void truth_free(struct truth truth)
{
    free(truth.value);
    free(truth.bound);
}

/* To `bits` significant bits, to nearest even: arithmetic, where the kernels have bit tricks. */
static double rounded_to(double x, int bits)
{
    if (x == 0 || !isfinite(x))
        return x;
    int shift = bits - 1 - ilogb(x);
    return scalbn(nearbyint(scalbn(x, shift)), -shift);
}

static double operand(const struct problem *p, double x)
{
    if (p->conv.precision == DTR_TF32)
        return rounded_to(x, 11);
    return p->conv.precision == DTR_BF16 ? rounded_to(x, 8) : x;
}

static float number(struct dtr_random *random, bool exact)
{
    if (exact)
        return (float)pick(random, -2, 2);
    return (float)(2 * dtr_random_uniform(random) - 1);
}

static void fill(struct dtr_random *random, bool exact, int64_t count, float *values)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = number(random, exact);
}

static struct problem make(struct dtr_random *random, struct dtr_cuda_conv conv, bool exact)
{
    struct problem p = {.conv = conv, .exact = exact};
    int64_t shrink = conv.pool ? 2 : 1;
    p.src_count = conv.n * conv.h * conv.w * conv.in;
    p.kernel_count = conv.kh * conv.kw * conv.in * conv.out;
    p.full_count = conv.n * conv.oh * conv.ow * conv.out;
    p.dst_count = conv.n * (conv.oh / shrink) * (conv.ow / shrink) * conv.out;
    fill(random, exact, p.src_count, p.src = floats(p.src_count));
    fill(random, exact, p.kernel_count, p.kernel = floats(p.kernel_count));
    fill(random, exact, conv.out, p.bias = floats(conv.out));
    fill(random, exact, p.dst_count, p.dst = floats(p.dst_count));
    fill(random, exact, p.dst_count, p.diff_dst = floats(p.dst_count));
    p.winners = guarded(p.dst_count);
    for (int64_t i = 0; i < p.dst_count; i++)
        p.winners[i] = (uint8_t)pick(random, 0, 3);
    return p;
}

static void problem_free(struct problem *p)
{
    release(p->src);
    release(p->kernel);
    release(p->bias);
    release(p->dst);
    release(p->diff_dst);
    release(p->winners);
}

/* Calls visit() for every product of the convolution: elements of the result itself, source, and
 * kernel. */
typedef void visitor(
    const struct problem *p, int64_t result, int64_t source, int64_t weight, struct truth truth);

static void for_products(const struct problem *p, visitor *visit, struct truth truth)
{
    struct dtr_cuda_conv c = p->conv;
    for (int64_t result = 0; result < p->full_count; result++) {
        int64_t co = result % c.out, ox = result / c.out % c.ow;
        int64_t oy = result / c.out / c.ow % c.oh, n = result / c.out / c.ow / c.oh;
        for (int64_t weight = co; weight < p->kernel_count; weight += c.out) {
            int64_t ci = weight / c.out % c.in, kx = weight / c.out / c.in % c.kw;
            int64_t y = oy * c.stride - c.pad_top + weight / c.out / c.in / c.kw;
            int64_t x = ox * c.stride - c.pad_left + kx;
            if (y >= 0 && y < c.h && x >= 0 && x < c.w)
                visit(p, result, ((n * c.h + y) * c.w + x) * c.in + ci, weight, truth);
        }
    }
}

static void add(struct truth truth, int64_t at, double a, double b)
{
    truth.value[at] += a * b;
    truth.bound[at] += fabs(a * b);
}

/* The gradient of element `result` before relu and pool; in *at_out its place in dst, or -1. */
static double gradient(const struct problem *p, int64_t result)
{
    struct dtr_cuda_conv c = p->conv;
    int64_t co = result % c.out, x = result / c.out % c.ow, y = result / c.out / c.ow % c.oh;
    int64_t n = result / c.out / c.ow / c.oh, at = result;
    if (c.pool) {
        if (y / 2 >= c.oh / 2 || x / 2 >= c.ow / 2)
            return 0;
        at = ((n * (c.oh / 2) + y / 2) * (c.ow / 2) + x / 2) * c.out + co;
        if (p->winners[at] != 2 * (y % 2) + x % 2)
            return 0;
    }
    return c.relu && p->dst[at] <= 0 ? 0 : operand(p, (double)p->diff_dst[at]);
}

static void visit_forward(
    const struct problem *p, int64_t result, int64_t source, int64_t weight, struct truth truth)
{
    add(truth, result, operand(p, (double)p->src[source]), operand(p, (double)p->kernel[weight]));
}

static void visit_source(
    const struct problem *p, int64_t result, int64_t source, int64_t weight, struct truth truth)
{
    add(truth, source, gradient(p, result), operand(p, (double)p->kernel[weight]));
}

static void visit_kernel(
    const struct problem *p, int64_t result, int64_t source, int64_t weight, struct truth truth)
{
    add(truth, weight, gradient(p, result), operand(p, (double)p->src[source]));
}

/* From sums of magnitudes to bounds: `terms` additions and one rounding more. */
static void bound_sums(const struct problem *p, struct truth truth, int64_t count, int64_t terms)
{
    double one = machine_rounding(p->conv.precision);
    for (int64_t i = 0; i < count; i++)
        truth.bound[i] *= p->exact ? 0 : (double)(terms + 1) * one * 1.01;
}

static void check_close(const char *what, int64_t count, const float *got, struct truth truth)
{
    check_written(got, count);
    for (int64_t i = 0; i < count; i++) {
        double error = fabs((double)got[i] - truth.value[i]);
        ck_assert_msg(same((double)got[i], truth.value[i]) || error <= truth.bound[i],
            "%s[%lld]: %.9g, should be %.9g, error %.3g, bound %.3g", what, (long long)i,
            (double)got[i], truth.value[i], error, truth.bound[i]);
    }
}

/* The first largest of four results after relu; a NaN is larger than all. */
static int64_t window_winner(const double values[4])
{
    int64_t best = 0;
    for (int64_t i = 1; i < 4; i++) {
        if (values[i] > values[best] || (isnan(values[i]) && !isnan(values[best])))
            best = i;
    }
    return best;
}

/* What forward makes of the sums; winners are compared where they are sure. */
static void check_forward(
    const struct problem *p, struct truth sums, const float *dst, const uint8_t *winners)
{
    struct dtr_cuda_conv c = p->conv;
    int64_t members = c.pool ? 4 : 1, h = c.pool ? c.oh / 2 : c.oh, w = c.pool ? c.ow / 2 : c.ow;
    struct truth truth = truth_of(p->dst_count);
    for (int64_t at = 0; at < p->dst_count; at++) {
        int64_t co = at % c.out, x = at / c.out % w, y = at / c.out / w % h, n = at / c.out / w / h;
        double values[4], bounds[4] = {0};
        for (int64_t i = 0; i < members; i++) {
            int64_t oy = c.pool ? 2 * y + i / 2 : y, ox = c.pool ? 2 * x + i % 2 : x;
            int64_t result = ((n * c.oh + oy) * c.ow + ox) * c.out + co;
            values[i] = sums.value[result];
            bounds[i] = sums.bound[result];
            if (c.relu && values[i] < 0)
                values[i] = 0;
        }
        int64_t winner = c.pool ? window_winner(values) : 0;
        truth.value[at] = values[winner];
        for (int64_t i = 0; i < members; i++)
            truth.bound[at] = fmax(truth.bound[at], bounds[i]);
        if (!c.pool)
            continue;
        ck_assert_int_le(winners[at], 3);
        ck_assert_msg(winners[at] == winner ||
                          values[winners[at]] + 2 * truth.bound[at] > values[winner] + 0.0,
            "winner %d at %lld, should be %lld", winners[at], (long long)at, (long long)winner);
    }
    check_close("dst", p->dst_count, dst, truth);
    truth_free(truth);
}

static void test_forward(const struct problem *p)
{
    struct dtr_cuda_conv c = p->conv;
    struct truth sums = truth_of(p->full_count);
    for_products(p, visit_forward, sums);
    for (int64_t i = 0; i < p->full_count; i++)
        add(sums, i, (double)p->bias[i % c.out], 1);
    bound_sums(p, sums, p->full_count, c.kh * c.kw * c.in + 1);
    float *first = NULL;
    for (int i = 0; i < SCHEDULES; i++) {
        machine_order_threads(schedules[i]);
        float *dst = floats(p->dst_count);
        uint8_t *winners = guarded(p->dst_count);
        RUN(dtr_cuda_conv_forward(
            &c, p->src, p->kernel, p->bias, dst, c.pool && i != 1 ? winners : NULL, NULL));
        check_guards(winners, p->dst_count);
        if (i == 0)
            check_forward(p, sums, first = dst, winners);
        ck_assert_mem_eq(dst, first, (size_t)p->dst_count * sizeof *dst);
        check_written(dst, p->dst_count);
        release(winners);
        if (i > 0)
            release(dst);
    }
    release(first);
    truth_free(sums);
}

static void test_source(const struct problem *p)
{
    struct dtr_cuda_conv c = p->conv;
    struct truth truth = truth_of(p->src_count);
    for_products(p, visit_source, truth);
    bound_sums(p, truth, p->src_count, c.kh * c.kw * c.out);
    float *first = NULL;
    for (int i = 0; i < SCHEDULES; i++) {
        machine_order_threads(schedules[i]);
        float *diff = floats(p->src_count);
        RUN(dtr_cuda_conv_backward_source(
            &c, p->kernel, p->dst, p->winners, p->diff_dst, diff, NULL));
        check_close("diff_src", p->src_count, diff, truth);
        if (i == 0)
            first = diff;
        ck_assert_mem_eq(diff, first, (size_t)p->src_count * sizeof *diff);
        if (i > 0)
            release(diff);
    }
    release(first);
    truth_free(truth);
}

static void test_parameters(const struct problem *p)
{
    struct dtr_cuda_conv c = p->conv;
    struct truth kernel = truth_of(p->kernel_count), bias = truth_of(c.out);
    int64_t terms = c.n * c.oh * c.ow, size = dtr_cuda_conv_workspace(&c);
    for_products(p, visit_kernel, kernel);
    for (int64_t i = 0; i < p->full_count; i++)
        add(bias, i % c.out, gradient(p, i), 1);
    bound_sums(p, kernel, p->kernel_count, terms);
    bound_sums(p, bias, c.out, terms);
    float *first = NULL;
    for (int i = 0; i < SCHEDULES; i++) {
        machine_order_threads(schedules[i]);
        float *diff = floats(p->kernel_count), *diff_bias = floats(c.out);
        void *workspace = guarded(size);
        RUN(dtr_cuda_conv_backward_parameters(
            &c, p->src, p->dst, p->winners, p->diff_dst, workspace, diff, diff_bias, NULL));
        check_guards(workspace, size);
        check_close("diff_kernel", p->kernel_count, diff, kernel);
        check_close("diff_bias", c.out, diff_bias, bias);
        if (i == 0)
            first = diff;
        ck_assert_mem_eq(diff, first, (size_t)p->kernel_count * sizeof *diff);
        release(workspace);
        release(diff_bias);
        if (i > 0)
            release(diff);
    }
    release(first);
    truth_free(kernel);
    truth_free(bias);
}

static void test_problem(struct dtr_random *random, struct dtr_cuda_conv conv, bool exact)
{
    struct problem p = make(random, conv, exact);
    printf("n %d, %dx%dx%d, kernel %dx%d stride %d pad %d %d, %dx%dx%d, relu %d pool %d "
           "precision %d exact %d\n",
        (int)conv.n, (int)conv.h, (int)conv.w, (int)conv.in, (int)conv.kh, (int)conv.kw,
        (int)conv.stride, (int)conv.pad_top, (int)conv.pad_left, (int)conv.oh, (int)conv.ow,
        (int)conv.out, conv.relu, conv.pool, conv.precision, exact);
    fflush(stdout);
    test_forward(&p);
    test_source(&p);
    test_parameters(&p);
    problem_free(&p);
}

static struct dtr_cuda_conv random_conv(struct dtr_random *random)
{
    static const int64_t channels[] = {1, 2, 3, 5, 17, 33, 65};
    struct dtr_cuda_conv c = {.n = pick(random, 1, 3),
        .h = pick(random, 1, 7),
        .w = pick(random, 1, 7),
        .in = channels[pick(random, 0, 6)],
        .kh = pick(random, 1, 4),
        .kw = pick(random, 1, 4),
        .stride = pick(random, 1, 3),
        .out = channels[pick(random, 0, 6)],
        .relu = pick(random, 0, 1) == 1,
        .pool = pick(random, 0, 1) == 1};
    c.pad_top = pick(random, 0, c.kh - 1);
    c.pad_left = pick(random, 0, c.kw - 1);
    /* The last window begins in the image; it may end far beyond. */
    c.oh = pick(random, 1, (c.h - 1 + c.pad_top) / c.stride + 1);
    c.ow = pick(random, 1, (c.w - 1 + c.pad_left) / c.stride + 1);
    return c;
}

START_TEST(random_shapes)
{
    struct dtr_random random = seeded(1);
    for (int i = 0; i < 8; i++) {
        struct dtr_cuda_conv conv = random_conv(&random);
        conv.precision = (enum dtr_precision)_i;
        test_problem(&random, conv, i % 2 == 0);
    }
}
END_TEST

/* Several tiles in each direction, several parts of the sums over positions, and with a pool a row
 * and a column in no window. */
START_TEST(many_tiles)
{
    struct dtr_random random = seeded(2);
    struct dtr_cuda_conv conv = {.n = 3,
        .h = 9,
        .w = 11,
        .in = 30,
        .kh = 3,
        .kw = 3,
        .stride = 1,
        .pad_top = 1,
        .pad_left = 1,
        .oh = 9,
        .ow = 11,
        .out = 70,
        .relu = true,
        .pool = _i % 2 == 1,
        .precision = (enum dtr_precision)(_i / 2)};
    int64_t part = (3 * 3 * 30 + 1) * 70 * (int64_t)sizeof(float);
    ck_assert_int_ge(dtr_cuda_conv_workspace(&conv), 2 * part);
    test_problem(&random, conv, false);
}
END_TEST

/* A NaN in the source reaches every result that it touches, whatever relu and pool do, and
 * whichever members of a window these are. */
START_TEST(keeps_nans)
{
    struct dtr_random random = seeded(3);
    int64_t y = 2 + _i / 6 % 2, x = 2 + _i / 12;
    struct dtr_cuda_conv conv = {.n = 2,
        .h = 6,
        .w = 6,
        .in = 2,
        .kh = 3,
        .kw = 3,
        .stride = 1,
        .pad_top = 1,
        .pad_left = 1,
        .oh = 6,
        .ow = 6,
        .out = 3,
        .relu = true,
        .pool = _i % 2 == 1,
        .precision = (enum dtr_precision)(_i / 2 % 3)};
    struct problem p = make(&random, conv, true);
    p.src[(y * conv.w + x) * conv.in + 1] = NAN;
    p.dst[pick(&random, 0, p.dst_count - 1)] = NAN; /* relu has not cut it off */
    test_forward(&p);
    test_source(&p);
    test_parameters(&p);
    problem_free(&p);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("cuda_conv");
    TCase *tcase = add_case(suite, "conv");
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, random_shapes, 0, 3);
    tcase_add_loop_test(tcase, many_tiles, 0, 6);
    tcase_add_loop_test(tcase, keeps_nans, 0, 24);
    return suite;
}
