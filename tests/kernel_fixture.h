/*
 * Runs a layer, or two that are fused, on a kernel table and gives results that any two tables' can
 * be compared in: plain [n, h, w, c] activations and canonical gradients, whatever blocks the plan
 * chose.
 *
 *     struct fixture fixture = {.layer = fixture_conv(...), .n = 4, .run = {0, 3, 3}};
 *     fixture_fill(&fixture, 0x1p-4, &random);
 *     struct fixture_result result;
 *     fixture_run(&fixture, &dtr_reference_conv, &result);
 *     ...
 *     fixture_result_free(&result);
 *     fixture_free(&fixture);
 *
 * Failures end the test (ck_abort_msg).
 */
#ifndef DTRAIN_TESTS_KERNEL_FIXTURE_H
#define DTRAIN_TESTS_KERNEL_FIXTURE_H

#include "dtrain/kernel.h"
#include "dtrain/random.h"

/* A layer and its inputs, for all slices one after another. */
struct fixture {
    struct dtr_layer layer;
    const struct dtr_layer *next; /* fused with it; NULL */
    int64_t n;                    /* samples of a slice */
    struct dtr_shard_run run;     /* run.count slices */
    bool inference;               /* forward alone */
    bool first;                   /* no diff_src */
    int64_t src_block;            /* of the hint to create; 0 stands for the layer's channels */
    struct dtr_layout wanted;     /* the hint for the destination */
    int parts;                    /* threads that share the work; 0 stands for 1 */
    bool take; /* gradients are taken, not put into a slab; the run is the tree */
    int steps; /* how often all slices run, the last time counts; 0 stands for 1 */
    const struct dtr_dropout_key *dropout;

    /* Set by fixture_fill(). */
    int64_t kernel_count, bias_count; /* 0 for layers without */
    int64_t src_count, dst_count;     /* floats of all slices, [n, h, w, c] */
    float *kernel, *bias;             /* canonical */
    float *src, *diff_dst;            /* [run.count, n, h, w, c] */
};

struct fixture_result {
    float *dst, *diff_src; /* [run.count, n, h, w, c]; diff_src NULL where not asked for */
    int64_t open_nodes;    /* of the run; 0 in inference */
    float *diff_kernel;    /* [open_nodes][kernel_count], canonical; NULL for layers without */
    float *diff_bias;      /* [open_nodes][bias_count] */
    struct dtr_layout src_layout, dst_layout; /* that the plan chose */
    char detail[64];
};

/* Layers as the model parser would make them. SAME pads as TensorFlow does. */
struct dtr_layer fixture_conv(struct dtr_shape in, int64_t out, int64_t kernel_h, int64_t kernel_w,
    int64_t stride, bool same, bool relu);
struct dtr_layer fixture_dense(struct dtr_shape in, int64_t out, bool relu);
struct dtr_layer fixture_maxpool(struct dtr_shape in, int64_t window, int64_t stride);
struct dtr_layer fixture_dropout(struct dtr_shape in, double rate);

/* Any valid convolution with kernels up to 5x5, strides up to 3, up to `channels` channels. */
struct dtr_layer fixture_random_conv(struct dtr_random *random, int64_t channels);

/* A sequence for a test's inputs. */
struct dtr_random fixture_random(uint64_t seed);

/* 0 .. bound-1. */
int64_t fixture_below(struct dtr_random *random, int64_t bound);

/* Random multiples of `step` (a power of two) in [-1, 1]. With a coarse step (2^-4, less than
 * 2^16 terms) no sum of products rounds, so that any order of additions gives the same bits. */
void fixture_random_values(struct dtr_random *random, double step, int64_t count, float *values);

/* Allocates and draws the inputs of a fixture whose upper half is set. */
void fixture_fill(struct fixture *fixture, double step, struct dtr_random *random);
void fixture_free(struct fixture *fixture);

/* Makes a plan and runs all of its operations. Outputs start as NaN and lie in blocks of exactly
 * their size, so that a float not written or a write beyond the end shows; what lies between the
 * gradients of two open nodes, and around an image, has to stay as it is. */
void fixture_run(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct fixture_result *result_out);

/* The same results from slices that run alone, each on a plan of its own for one shard. Their
 * gradients are added here, by the definition of the tree in tree.h. */
void fixture_run_apart(const struct fixture *fixture, const struct dtr_kernel *kernel,
    struct fixture_result *result_out);
void fixture_result_free(struct fixture_result *result);

/* Largest |actual - expected|, divided by the largest |expected|; infinity where NaN differs. */
double fixture_distance(int64_t count, const float *actual, const float *expected);

/* A text for messages: "conv 5x7x3 -> 5x7x8 kernel 3x3 stride 1 pad 1,1 relu n 4 run 0+3 of 3".
 * Points to a static buffer. */
const char *fixture_describe(const struct fixture *fixture);

#endif
