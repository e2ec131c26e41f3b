/*
 * Dense layers against plain loops. Compiled once per instruction set.
 *
 * All buffers have exactly the size that is promised, so that a sanitizer finds what reaches
 * beyond, and all outputs begin as POISON, so that what is not written shows.
 */
#include "../src/cpu/fused/dense_math.h"
#include "fused_test.h"

enum { SHAPES = 150, MOST_IN = 496, MOST_OUT = 150, MOST_SHARDS = 20 };

/* A layer and a rank's slices of a step. */
struct problem {
    struct dense_shape shape;
    struct dense_slices slices;
    struct dtr_shard_run run;
    int64_t samples;
    float *src;               /* [samples][in] */
    float *canonical, *bias;  /* [in][out], [out] */
    float *slab, *packed;     /* of canonical and src, by plain loops */
    uint8_t *keep;            /* [samples][out] */
    float *dst, *diff_dst;    /* [samples][out]; dst is any, not computed */
    void *memory;             /* of the lists */
    struct dense_lists lists; /* collected once */
};

/* The same bits, or both a NaN: which one is not defined. */
static bool same(float a, float b)
{
    return same_bits(a, b) || (isnan(a) && isnan(b) && !is_poison(a) && !is_poison(b));
}

static void *bytes_of(int64_t count)
{
    size_t size = count > 0 ? (size_t)count : 1;
    void *bytes = malloc(size);
    ck_assert_ptr_nonnull(bytes);
    memset(bytes, 0x5a, size);
    return bytes;
}

/* Multiply-add as the instruction set does it. */
static float multiply_add(float a, float b, float c)
{
#if defined(__FMA__)
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* ---- problems ---- */

enum values { PLAIN, WILD }; /* wild ones: zeros, NaNs, products that underflow */

static float number(struct dtr_random *random, enum values values)
{
    float value = (float)(2 * dtr_random_uniform(random) - 1);
    double kind = dtr_random_uniform(random);
    if (values == PLAIN || kind > 0.5)
        return value;
    return kind < 0.002 ? NAN : kind < 0.1 ? 0 : value * 0x1p-74f;
}

static float *numbers(struct dtr_random *random, enum values values, int64_t count)
{
    float *array = poisoned_floats(count);
    for (int64_t i = 0; i < count; i++)
        array[i] = number(random, values);
    return array;
}

static int64_t divisor(struct dtr_random *random, int64_t of)
{
    int64_t d = between(random, 1, of < 12 ? of : 12);
    return of % d == 0 ? d : divisor(random, of);
}

static struct dense_shape draw_shape(struct dtr_random *random)
{
    struct dense_shape shape = {
        .in = VEC * between(random, 1, MOST_IN / VEC), .out = between(random, 1, MOST_OUT)};
    shape.pixels = divisor(random, shape.in);
    shape.block = divisor(random, shape.in / shape.pixels);
    shape.relu = chance(random, 0.5);
    shape.dropout = chance(random, 0.5);
    shape.scale = shape.dropout ? 1 + (float)dtr_random_uniform(random) : 1;
    return shape;
}

/* The source's memory: groups of channels, pixels, channels of a group. */
static int64_t canonical_place(const struct dense_shape *shape, int64_t i)
{
    int64_t channels = shape->in / shape->pixels, place = 0;
    for (int64_t group = 0; group < channels / shape->block; group++)
        for (int64_t pixel = 0; pixel < shape->pixels; pixel++)
            for (int64_t c = 0; c < shape->block; c++)
                if (place++ == i)
                    return pixel * channels + group * shape->block + c;
    abort();
}

/* rows [count][in], step floats from input to input and `next` from row to row, by chunks. */
static float *chunked(
    const struct dense_shape *shape, int64_t count, const float *rows, int64_t step, int64_t next)
{
    float *result = poisoned_floats(shape->in * count), *at = result;
    for (int64_t chunk = 0; chunk < shape->in; chunk += DENSE_CHUNK)
        for (int64_t r = 0; r < count; r++)
            for (int64_t i = chunk; i < shape->in && i < chunk + DENSE_CHUNK; i++)
                *at++ = rows[i * step + r * next];
    return result;
}

static void make_slab(struct problem *problem)
{
    const struct dense_shape *shape = &problem->shape;
    float *rows = poisoned_floats(shape->in * shape->out); /* [in of the memory][out] */
    for (int64_t i = 0; i < shape->in; i++)
        memcpy(rows + i * shape->out, problem->canonical + canonical_place(shape, i) * shape->out,
            (size_t)shape->out * sizeof(float));
    problem->slab = chunked(shape, shape->out, rows, shape->out, 1);
    free(rows);
}

static void collect_all(struct problem *problem)
{
    const struct dense_shape *shape = &problem->shape;
    int64_t slice = problem->slices.n * shape->out;
    float *diff_bias = poisoned_floats(shape->out);
    problem->memory = bytes_of(ISA(dense_lists_bytes)(shape, problem->slices));
    problem->lists = ISA(dense_lists_in)(shape, problem->slices, problem->memory);
    for (int64_t i = 0; i < problem->slices.count; i++)
        ISA(dense_collect)
    (shape, problem->slices, i, problem->dst + i * slice, problem->keep + i * slice,
        problem->diff_dst + i * slice, &problem->lists, diff_bias);
    free(diff_bias);
}

static struct problem problem_of(struct dense_shape shape, struct dense_slices slices,
    enum values values, struct dtr_random *random)
{
    struct problem problem = {.shape = shape, .slices = slices, .samples = slices.count * slices.n};
    int64_t units = problem.samples * shape.out;
    problem.run.shards = between(random, slices.count, MOST_SHARDS);
    problem.run.first = between(random, 0, problem.run.shards - slices.count);
    problem.run.count = slices.count;
    problem.src = numbers(random, values, problem.samples * shape.in);
    problem.canonical = numbers(random, values, shape.in * shape.out);
    problem.bias = numbers(random, values, shape.out);
    problem.dst = numbers(random, values, units);
    problem.diff_dst = numbers(random, values, units);
    problem.keep = bytes_of(units);
    double rate = dtr_random_uniform(random) * 1.4 - 0.2; /* sometimes none or all */
    for (int64_t i = 0; i < units; i++)
        problem.keep[i] = chance(random, rate);
    make_slab(&problem);
    problem.packed = chunked(&shape, problem.samples, problem.src, 1, shape.in);
    collect_all(&problem);
    return problem;
}

static struct problem draw_problem(enum values values, struct dtr_random *random)
{
    struct dense_slices slices = {between(random, 1, MOST_SHARDS), between(random, 1, 8)};
    slices.count = chance(random, 0.3) ? 8 : slices.count;
    return problem_of(draw_shape(random), slices, values, random);
}

static void problem_free(struct problem *problem)
{
    free(problem->src);
    free(problem->canonical);
    free(problem->bias);
    free(problem->slab);
    free(problem->packed);
    free(problem->keep);
    free(problem->dst);
    free(problem->diff_dst);
    free(problem->memory);
}

typedef void check_problem(const struct problem *problem, struct dtr_random *random);

static void for_problems(uint64_t seed, int count, check_problem *check)
{
    struct dtr_random random = dtr_random_at(seed, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < count; i++) {
        struct problem problem = draw_problem(i % 2 == 0 ? PLAIN : WILD, &random);
        check(&problem, &random);
        problem_free(&problem);
    }
}

/* Whether element i of a sample takes part in the backward pass. */
static bool takes_part(const struct problem *problem, int64_t i)
{
    if (problem->shape.relu)
        return problem->dst[i] > 0 || isnan(problem->dst[i]);
    return !problem->shape.dropout || problem->keep[i];
}

static float gradient_of(const struct problem *problem, int64_t i)
{
    return problem->diff_dst[i] * problem->shape.scale;
}

/* ---- order and load ---- */

static void check_order(const struct problem *problem, struct dtr_random *random)
{
    const struct dense_shape *shape = &problem->shape;
    int64_t count = shape->in * shape->out;
    (void)random;
    float *slab = poisoned_floats(count), *back = poisoned_floats(count);
    ISA(dense_order)(shape, problem->canonical, slab);
    ISA(dense_canonical)(shape, slab, back);
    ck_assert_mem_eq(slab, problem->slab, (size_t)count * sizeof(float));
    ck_assert_mem_eq(back, problem->canonical, (size_t)count * sizeof(float));
    free(slab);
    free(back);
}

START_TEST(test_order)
{
    for_problems(1, SHAPES, check_order);
}
END_TEST

/* In several parts, what belongs to others staying as it is. */
static void check_load(const struct problem *problem, struct dtr_random *random)
{
    const struct dense_shape *shape = &problem->shape;
    int64_t total = problem->samples * shape->in;
    float *packed = poisoned_floats(total);
    for (int64_t first = 0, count; first < problem->samples; first += count) {
        count = between(random, 1, problem->samples - first);
        float *src = poisoned_floats(count * shape->in), *part = poisoned_floats(total);
        memcpy(src, problem->src + first * shape->in, (size_t)(count * shape->in) * sizeof(float));
        bool shared = between(random, 0, 1) == 1;
        ISA(dense_load)(shape, problem->samples, first, count, src, shared, part);
        int64_t written = 0;
        for (int64_t i = 0; i < total; i++)
            if (!is_poison(part[i])) {
                require(is_poison(packed[i]), "two parts load the same");
                packed[i] = part[i];
                written++;
            }
        ck_assert_int_eq(written, count * shape->in);
        free(src);
        free(part);
    }
    ck_assert_mem_eq(packed, problem->packed, (size_t)total * sizeof(float));
    free(packed);
}

START_TEST(test_load)
{
    for_problems(2, SHAPES, check_load);
}
END_TEST

/* ---- forward ---- */

/* A part of a larger dst, which begins as POISON. */
static float *forward(const struct problem *problem, const uint8_t *keep, struct dense_part part)
{
    float *dst = poisoned_floats(problem->samples * problem->shape.out);
    void *scratch = bytes_of(ISA(dense_forward_bytes)(&part));
    ISA(dense_forward)
    (&problem->shape, problem->samples, &part, problem->packed, problem->slab, problem->bias, keep,
        scratch, dst);
    free(scratch);
    return dst;
}

static struct dense_part whole(const struct problem *problem)
{
    return (struct dense_part){0, problem->shape.out, 0, problem->samples};
}

static void check_unit(
    const struct problem *problem, const uint8_t *keep, int64_t s, int64_t u, float value)
{
    const struct dense_shape *shape = &problem->shape;
    bool kept = keep == NULL || keep[s * shape->out + u];
    double sum = problem->bias[u], size = fabs(sum);
    for (int64_t i = 0; i < shape->in; i++) {
        float weight = problem->canonical[canonical_place(shape, i) * shape->out + u];
        double product = (double)problem->src[s * shape->in + i] * weight;
        sum += product;
        size += fabs(product);
    }
    double scale = keep == NULL ? 1 : shape->scale;
    double expected = (shape->relu && sum < 0 ? 0 : sum) * scale;
    if (!kept)
        require(same_bits(value, 0), "a unit that is not kept is +0");
    else if (isnan(expected))
        require(isnan(value) && !is_poison(value), "a NaN goes on");
    else
        require(fabs(value - expected) <= 3e-6 * size * scale + 1e-40, "close to the plain loop");
}

/* canonical_place() is slow: some samples only. */
static void check_values(const struct problem *problem, const uint8_t *keep, const float *dst)
{
    int64_t out = problem->shape.out, step = 1 + problem->samples / 3;
    for (int64_t s = 0; s < problem->samples; s++)
        for (int64_t u = 0; u < out; u++) {
            require(!is_poison(dst[s * out + u]), "all is written");
            if (s % step == 0 && u % 5 == 0)
                check_unit(problem, keep, s, u, dst[s * out + u]);
        }
}

/* Any part has the bits of the whole and writes nothing else. */
static void check_part(
    const struct problem *problem, const uint8_t *keep, const float *dst, struct dtr_random *random)
{
    int64_t out = problem->shape.out;
    struct dense_part part = {
        .unit = between(random, 0, out), .sample = between(random, 0, problem->samples)};
    part.units = between(random, 0, out - part.unit);
    part.samples = between(random, 0, problem->samples - part.sample);
    float *other = forward(problem, keep, part);
    for (int64_t s = 0; s < problem->samples; s++)
        for (int64_t u = 0; u < out; u++) {
            bool in = s >= part.sample && s < part.sample + part.samples && u >= part.unit &&
                      u < part.unit + part.units;
            float value = other[s * out + u];
            require(in ? same(value, dst[s * out + u]) : is_poison(value),
                "a part has the whole's bits");
        }
    free(other);
}

/* A sample alone, in a smaller packed array, has the bits that it has among others. */
static void check_alone(
    const struct problem *problem, const uint8_t *keep, const float *dst, struct dtr_random *random)
{
    int64_t in = problem->shape.in, out = problem->shape.out;
    int64_t s = between(random, 0, problem->samples - 1);
    struct problem alone = *problem;
    alone.samples = 1;
    alone.packed = problem->src + s * in;
    float *other = forward(&alone, keep == NULL ? NULL : keep + s * out, whole(&alone));
    for (int64_t u = 0; u < out; u++)
        require(same(other[u], dst[s * out + u]), "a sample alone has the same bits");
    free(other);
}

static void check_forward(const struct problem *problem, struct dtr_random *random)
{
    const uint8_t *keeps[] = {problem->keep, NULL};
    float *results[2];
    for (int i = 0; i < 2; i++) {
        float *dst = results[i] = forward(problem, keeps[i], whole(problem));
        check_values(problem, keeps[i], dst);
        check_part(problem, keeps[i], dst, random);
        check_part(problem, keeps[i], dst, random);
        check_alone(problem, keeps[i], dst, random);
    }
    for (int64_t i = 0; i < problem->samples * problem->shape.out; i++)
        if (problem->keep[i])
            require(same(results[0][i], results[1][i] * problem->shape.scale),
                "the same with `keep` and without");
    free(results[0]);
    free(results[1]);
}

START_TEST(test_forward)
{
    for_problems(3, SHAPES, check_forward);
}
END_TEST

/* More samples than are taken at a time. */
START_TEST(test_many_samples)
{
    struct dtr_random random = dtr_random_at(4, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int i = 0; i < 4; i++) {
        struct dense_shape shape = draw_shape(&random);
        struct dense_slices slices = {between(&random, 8, 10), between(&random, 30, 60)};
        struct problem problem = problem_of(shape, slices, PLAIN, &random);
        check_forward(&problem, &random);
        problem_free(&problem);
    }
}
END_TEST

/* ---- lists ---- */

static void check_sample_list(
    const struct problem *problem, const struct dense_lists *lists, int64_t sample)
{
    int64_t out = problem->shape.out, listed = 0;
    const struct dense_entry *list = lists->by_sample + sample * out;
    const int32_t *ends = lists->sample_ends + sample * dense_blocks(out);
    for (int64_t u = 0; u < out; u++) {
        if (takes_part(problem, sample * out + u)) {
            require(list[listed].index == u, "all who take part, in order");
            require(same(list[listed].gradient, gradient_of(problem, sample * out + u)),
                "their gradients");
            listed++;
        }
        if (u == out - 1 || u % DENSE_BLOCK == DENSE_BLOCK - 1)
            require(ends[u / DENSE_BLOCK] == listed, "where a block ends");
    }
}

static void check_bias(const struct problem *problem, int64_t slice, const float *diff_bias)
{
    int64_t out = problem->shape.out, n = problem->slices.n;
    for (int64_t u = 0; u < out; u++) {
        float sum = 0;
        for (int64_t s = slice * n; s < (slice + 1) * n; s++)
            if (takes_part(problem, s * out + u))
                sum += gradient_of(problem, s * out + u);
        require(same(diff_bias[u], sum), "the bias's gradient");
    }
}

static void check_unit_list(
    const struct problem *problem, const struct dense_lists *lists, int64_t slice, int64_t unit)
{
    int64_t out = problem->shape.out, n = problem->slices.n;
    const int32_t *ends = lists->unit_ends + slice * (out + 2) + unit;
    const struct dense_entry *entries = lists->by_unit + slice * n * out, *at = entries + ends[0];
    require(unit > 0 || ends[0] == 0, "the first unit's list comes first");
    for (int64_t s = slice * n; s < (slice + 1) * n; s++) {
        int64_t i = s * out + unit;
        if (!takes_part(problem, i))
            continue;
        require(
            at->index == s && same(at->gradient, gradient_of(problem, i)), "the samples in order");
        at++;
    }
    require(at == entries + ends[1], "where a unit's list ends");
}

/* Slices in any order; `keep` is not looked at where dst tells. */
static void check_collect(const struct problem *problem, struct dtr_random *random)
{
    const struct dense_shape *shape = &problem->shape;
    struct dense_slices slices = problem->slices;
    bool reads = shape->dropout && !shape->relu;
    void *memory = bytes_of(ISA(dense_lists_bytes)(shape, slices));
    struct dense_lists lists = ISA(dense_lists_in)(shape, slices, memory);
    float *diff_bias = poisoned_floats(shape->out);
    int64_t first = between(random, 0, slices.count - 1);
    for (int64_t i = 0; i < slices.count; i++) {
        int64_t slice = (first + i) % slices.count, at = slice * slices.n * shape->out;
        ISA(dense_collect)
        (shape, slices, slice, problem->dst + at, reads ? problem->keep + at : NULL,
            problem->diff_dst + at, &lists, diff_bias);
        check_bias(problem, slice, diff_bias);
    }
    for (int64_t s = 0; s < problem->samples; s++)
        check_sample_list(problem, &lists, s);
    for (int64_t i = 0; i < slices.count * shape->out; i++)
        check_unit_list(problem, &lists, i / shape->out, i % shape->out);
    free(diff_bias);
    free(memory);
}

START_TEST(test_collect)
{
    for_problems(5, SHAPES, check_collect);
}
END_TEST

/* ---- backward ---- */

static float expected_diff_src(const struct problem *problem, int64_t s, int64_t i)
{
    const struct dense_shape *shape = &problem->shape;
    int64_t chunk = i / DENSE_CHUNK, length = dense_chunk_length(shape, chunk);
    const float *column = problem->slab + chunk * DENSE_CHUNK * shape->out + i % DENSE_CHUNK;
    float sum = 0;
    for (int64_t u = 0; u < shape->out; u++)
        if (takes_part(problem, s * shape->out + u))
            sum = multiply_add(gradient_of(problem, s * shape->out + u), column[u * length], sum);
    return sum;
}

/* Some of the slices in several parts, with room between them that nobody may write to. */
static void check_backward(const struct problem *problem, struct dtr_random *random)
{
    const struct dense_shape *shape = &problem->shape;
    int64_t begin = between(random, 0, problem->slices.count - 1);
    struct dense_lists lists = ISA(dense_lists_from)(
        shape, problem->slices, begin, &problem->lists);
    struct dense_slices slices = {
        between(random, 1, problem->slices.count - begin), problem->slices.n};
    int64_t slice = slices.n * shape->in, stride = slice + between(random, 0, 20);
    int64_t total = (slices.count - 1) * stride + slice, chunks = dense_chunks(shape);
    int64_t parts = between(random, 1, chunks + 1);
    float *diff_src = poisoned_floats(total);
    for (int64_t i = parts - 1; i >= 0; i--) {
        int64_t first = chunks * i / parts, end = chunks * (i + 1) / parts;
        ISA(dense_backward)
        (shape, slices, first, end - first, &lists, problem->slab, diff_src, stride);
    }
    for (int64_t place = 0; place < total; place++) {
        int64_t at = place % stride, s = (begin + place / stride) * slices.n + at / shape->in;
        if (at >= slice)
            require(is_poison(diff_src[place]), "between slices nothing is written");
        else
            require(same(diff_src[place], expected_diff_src(problem, s, at % shape->in)),
                "the inputs' gradient");
    }
    free(diff_src);
}

START_TEST(test_backward)
{
    for_problems(7, SHAPES, check_backward);
}
END_TEST

/* ---- gradient ---- */

/* What each slice contributes to an element. */
static void expected_partials(const struct problem *problem, int64_t u, int64_t i, float *partials)
{
    const struct dense_shape *shape = &problem->shape;
    for (int64_t slice = 0; slice < problem->slices.count; slice++) {
        partials[slice] = 0;
        for (int64_t k = 0; k < problem->slices.n; k++) {
            int64_t s = slice * problem->slices.n + k, place = s * shape->out + u;
            if (takes_part(problem, place))
                partials[slice] = multiply_add(
                    gradient_of(problem, place), problem->src[s * shape->in + i], partials[slice]);
        }
    }
}

/* Some units of a chunk, with room between the open nodes that nobody may write to. */
static void check_piece(const struct problem *problem, const struct dense_run *run, int64_t chunk,
    int64_t unit, int64_t units, struct dtr_random *random)
{
    const struct dense_shape *shape = &problem->shape;
    int64_t length = dense_chunk_length(shape, chunk), count = units * length;
    int64_t stride = count + between(random, 0, 20), total = (run->nodes - 1) * stride + count;
    float *gradient = poisoned_floats(total);
    ISA(dense_gradient)
    (shape, run, problem->slices.n, chunk, unit, units, &problem->lists, problem->packed, gradient,
        stride);
    for (int64_t at = 0; at < stride; at++) {
        float partials[MOST_SHARDS], sums[DTR_TREE_DEPTH];
        if (at < count) {
            expected_partials(
                problem, unit + at / length, chunk * DENSE_CHUNK + at % length, partials);
            dtr_tree_sum(problem->run, partials, 1, 0, 1, sums, 1);
        }
        for (int64_t node = 0; node < run->nodes && node * stride + at < total; node++) {
            float value = gradient[node * stride + at];
            require(
                at < count ? same(value, sums[node]) : is_poison(value), "the kernel's gradient");
        }
    }
    free(gradient);
}

static void check_gradient(const struct problem *problem, struct dtr_random *random)
{
    int64_t out = problem->shape.out;
    struct dense_group *groups = bytes_of(problem->run.count * (int64_t)sizeof *groups);
    struct dense_run run = ISA(dense_run_of)(problem->run, groups);
    ck_assert_int_eq(run.slices, problem->run.count);
    ck_assert_int_eq(run.nodes, dtr_tree_of(problem->run).depth);
    for (int64_t chunk = 0; chunk < dense_chunks(&problem->shape); chunk++)
        for (int64_t unit = 0, units; unit < out; unit += units) {
            units = between(random, 1, out - unit);
            check_piece(problem, &run, chunk, unit, units, random);
        }
    free(groups);
}

START_TEST(test_gradient)
{
    for_problems(8, SHAPES, check_gradient);
}
END_TEST

/* Every run of up to 18 shards. */
START_TEST(test_runs)
{
    struct dtr_random random = dtr_random_at(9, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    struct dense_shape shape = {2 * VEC, 3, 1, 2 * VEC, true, false, 1};
    for (int64_t shards = 1; shards <= 18; shards++)
        for (int64_t first = 0; first < shards; first++)
            for (int64_t count = 1; count <= shards - first; count++) {
                struct problem problem = problem_of(
                    shape, (struct dense_slices){count, 2}, PLAIN, &random);
                problem.run = (struct dtr_shard_run){first, count, shards};
                check_gradient(&problem, &random);
                problem_free(&problem);
            }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("fused_dense");
    TCase *tcase = add_case(suite, "dense");
    tcase_add_test(tcase, test_order);
    tcase_add_test(tcase, test_load);
    tcase_add_test(tcase, test_forward);
    tcase_add_test(tcase, test_many_samples);
    tcase_add_test(tcase, test_collect);
    tcase_add_test(tcase, test_backward);
    tcase_add_test(tcase, test_gradient);
    tcase_add_test(tcase, test_runs);
    return suite;
}
