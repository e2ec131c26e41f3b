/*
 * Random problems for the sparse backward pass of convolutions (conv_sparse.h), and how it is run
 * on them. Include it in one file of a test.
 *
 * All buffers have exactly the size that is promised, so that a sanitizer finds what reaches
 * beyond, and all outputs begin as POISON, so that what is not written shows.
 */
#ifndef DTRAIN_TESTS_FUSED_SPARSE_TEST_H
#define DTRAIN_TESTS_FUSED_SPARSE_TEST_H

#include "../src/cpu/fused/conv_sparse.h"
#include "fused_test.h"

/* The slice's inputs and where they lie. */
struct problem {
    struct conv_shape shape;
    int64_t count; /* samples */
    struct array src, dst, diff_dst, kernel, packed;
    uint8_t *winners;
};

/* What the backward pass gives. */
struct gradients {
    struct array src, kernel, bias;
};

static inline float number(struct dtr_random *random)
{
    return (float)(2 * dtr_random_uniform(random) - 1);
}

static inline int64_t blocks_of(const struct conv_shape *shape)
{
    return conv_is_thin(shape) ? 1 : shape->in.c / VEC;
}

/* Floats of a row of the kernel's gradient, and how many of them mean something. */
static inline int64_t tap_row(const struct conv_shape *shape)
{
    return conv_is_thin(shape) ? thin_row(shape) : shape->kernel_w * VEC;
}

static inline int64_t taps_used(const struct conv_shape *shape)
{
    return conv_is_thin(shape) ? shape->kernel_w * shape->in.c : shape->kernel_w * VEC;
}

static inline int64_t src_at(const struct conv_shape *shape, int64_t block, int64_t y, int64_t x)
{
    return dtr_layout_origin(shape->in, shape->src) +
           block * dtr_layout_plane(shape->in, shape->src) +
           y * dtr_layout_row(shape->in, shape->src) + x * shape->src.block;
}

static inline int64_t dst_at(const struct conv_shape *shape, int64_t channel, int64_t y, int64_t x)
{
    return dtr_layout_origin(shape->result, shape->dst) +
           channel / VEC * dtr_layout_plane(shape->result, shape->dst) +
           y * dtr_layout_row(shape->result, shape->dst) + x * VEC + channel % VEC;
}

/* How far taps reach beyond the end of the image. */
static inline int64_t reach(int64_t results, bool pool, int64_t pad, int64_t kernel, int64_t size)
{
    const int64_t over = (pool ? 2 : 1) * results - 1 - pad + kernel - size;
    return over > 0 ? over : 0;
}

/* The borders that conv_sparse.h asks for, sometimes a bit more. */
static inline void choose_layouts(struct conv_shape *shape, bool thin, struct dtr_random *random)
{
    shape->src = (struct dtr_layout){
        .block = thin ? shape->in.c : VEC,
        .top = shape->pad_top + between(random, 0, 1),
        .left = shape->pad_left + between(random, 0, 1),
        .bottom = reach(shape->result.h, shape->pool, shape->pad_top, shape->kernel_h, shape->in.h),
        .right = reach(shape->result.w, shape->pool, shape->pad_left, shape->kernel_w, shape->in.w),
    };
    if (thin) {
        const int64_t pixels = (thin_row(shape) + shape->in.c - 1) / shape->in.c;
        shape->src.right = reach(
            shape->result.w, shape->pool, shape->pad_left, pixels, shape->in.w);
    }
    shape->src.bottom += between(random, 0, 1);
    shape->src.right += between(random, 0, 1);
    shape->dst = (struct dtr_layout){.block = VEC,
        .top = between(random, 0, 2),
        .left = between(random, 0, 2),
        .bottom = between(random, 0, 2),
        .right = between(random, 0, 2)};
}

/* Any convolution whose size is at most `size` and its channels at most `blocks` vectors. */
static inline struct conv_shape draw_shape(
    bool thin, int64_t size, int64_t blocks, struct dtr_random *random)
{
    struct conv_shape shape;
    do {
        const int64_t thin_channels = between(random, 1, 4);
        shape = (struct conv_shape){
            .in = {between(random, 1, size), between(random, 1, size),
                thin ? thin_channels : VEC * between(random, 1, blocks)},
            .kernel_h = between(random, 1, chance(random, 0.2) ? 11 : 5),
            .kernel_w = between(random, 1, 7),
            .pool = chance(random, 0.5),
        };
        shape.pad_top = between(random, 0, shape.kernel_h - 1);
        shape.pad_left = between(random, 0, shape.kernel_w - 1);
        const int64_t bottom = between(random, 0, shape.kernel_h - 1);
        const int64_t right = between(random, 0, shape.kernel_w - 1);
        shape.out = (struct dtr_shape){shape.in.h + shape.pad_top + bottom - shape.kernel_h + 1,
            shape.in.w + shape.pad_left + right - shape.kernel_w + 1,
            VEC * between(random, 1, blocks)};
        shape.result = shape.out;
        if (shape.pool)
            shape.result = (struct dtr_shape){shape.out.h / 2, shape.out.w / 2, shape.out.c};
    } while (shape.result.h < 1 || shape.result.w < 1);
    choose_layouts(&shape, thin, random);
    return shape;
}

/* Values in the image, zeros in the border. */
static inline void fill_src(struct problem *problem, struct dtr_random *random)
{
    const struct conv_shape *shape = &problem->shape;
    const int64_t sample = dtr_layout_sample(shape->in, shape->src);
    problem->src = array_of(problem->count * sample);
    memset(problem->src.values, 0, (size_t)problem->src.count * sizeof(float));
    for (int64_t i = 0; i < problem->count * blocks_of(shape) * shape->in.h * shape->in.w; i++) {
        const int64_t x = i % shape->in.w, y = i / shape->in.w % shape->in.h;
        const int64_t plane = i / shape->in.w / shape->in.h, blocks = blocks_of(shape);
        const int64_t at = plane / blocks * sample + src_at(shape, plane % blocks, y, x);
        for (int64_t c = 0; c < shape->src.block; c++)
            problem->src.values[at + c] = number(random);
    }
}

/* Results of which the share `density` is positive, and their gradients, some of them zero unless
 * all outputs shall have one. The border's results are positive and its gradients poison, so that
 * nobody takes them for others. */
static inline void fill_dst(struct problem *problem, double density, struct dtr_random *random)
{
    const struct conv_shape *shape = &problem->shape;
    const int64_t sample = dtr_layout_sample(shape->result, shape->dst);
    const double zeros = density < 1 ? 0.05 : 0;
    problem->dst = array_of(problem->count * sample);
    problem->diff_dst = array_of(problem->count * sample);
    problem->winners = malloc((size_t)(problem->count * dtr_shape_count(shape->result)));
    ck_assert_ptr_nonnull(problem->winners);
    for (int64_t i = 0; i < problem->dst.count; i++)
        problem->dst.values[i] = 1;
    for (int64_t i = 0; i < problem->count * dtr_shape_count(shape->result); i++) {
        const int64_t channel = i % shape->out.c, x = i / shape->out.c % shape->result.w;
        const int64_t y = i / shape->out.c / shape->result.w % shape->result.h;
        const int64_t at = i / dtr_shape_count(shape->result) * sample +
                           dst_at(shape, channel, y, x);
        const float result = number(random);
        problem->dst.values[at] = chance(random, density) ? fabsf(result) + 0x1p-20f
                                  : chance(random, 0.5)   ? -0.0f
                                                          : -fabsf(result);
        problem->diff_dst.values[at] = chance(random, zeros) ? 0 * result : number(random);
        problem->winners[i] = (uint8_t)between(random, 0, 3);
    }
}

static inline struct problem problem_of(
    struct conv_shape shape, int64_t count, double density, struct dtr_random *random)
{
    struct problem problem = {.shape = shape, .count = count};
    ck_assert(ISA(conv_sparse_suits)(&shape));
    fill_src(&problem, random);
    fill_dst(&problem, density, random);
    if (!conv_is_thin(&shape)) {
        problem.kernel = array_of(shape.in.c * shape.out.c * shape.kernel_h * shape.kernel_w);
        for (int64_t i = 0; i < problem.kernel.count; i++)
            problem.kernel.values[i] = number(random);
        problem.packed = array_of(ISA(conv_sparse_packed_floats)(&shape));
        ISA(conv_sparse_pack)(&shape, 0, 1, problem.kernel.values, problem.packed.values);
    } else {
        ck_assert_int_eq(ISA(conv_sparse_packed_floats)(&shape), 0);
    }
    return problem;
}

static inline void problem_free(struct problem *problem)
{
    free(problem->src.values);
    free(problem->dst.values);
    free(problem->diff_dst.values);
    free(problem->kernel.values);
    free(problem->packed.values);
    free(problem->winners);
}

static inline struct gradients gradients_of(const struct problem *problem)
{
    const struct conv_shape *shape = &problem->shape;
    return (struct gradients){
        .src = array_of(conv_is_thin(shape) ? 0 : problem->src.count),
        .kernel = array_of(blocks_of(shape) * shape->out.c * shape->kernel_h * tap_row(shape)),
        .bias = array_of(shape->out.c),
    };
}

static inline void gradients_free(struct gradients *gradients)
{
    free(gradients->src.values);
    free(gradients->kernel.values);
    free(gradients->bias.values);
}

/* Of samples [first, first + count). gradients_out->src is of those alone. */
static inline void run_part(const struct problem *problem, int64_t first, int64_t count, int part,
    int parts, struct gradients *gradients_out)
{
    const struct conv_shape *shape = &problem->shape;
    const int64_t dst = first * dtr_layout_sample(shape->result, shape->dst);
    const struct conv_sparse_slice slice = {
        .count = count,
        .src = problem->src.values + first * dtr_layout_sample(shape->in, shape->src),
        .dst = problem->dst.values + dst,
        .diff_dst = problem->diff_dst.values + dst,
        .winners = shape->pool ? problem->winners + first * dtr_shape_count(shape->result) : NULL,
    };
    const int64_t bytes = ISA(conv_sparse_scratch_bytes)(shape);
    void *scratch = aligned_alloc(64, (size_t)bytes);
    ck_assert_ptr_nonnull(scratch);
    memset(scratch, 0xff, (size_t)bytes);
    ISA(conv_sparse_backward)
    (shape, &slice, problem->packed.values, part, parts, scratch,
        gradients_out->src.count > 0 ? gradients_out->src.values : NULL,
        gradients_out->kernel.values, gradients_out->bias.values);
    free(scratch);
}

static inline void run(const struct problem *problem, struct gradients *gradients_out)
{
    run_part(problem, 0, problem->count, 0, 1, gradients_out);
}

#endif
