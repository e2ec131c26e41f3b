/*
 * A chain of plans: a model compiled for slices of n samples, with its activations. The training
 * network keeps every activation of every slice; the inference network has a lane per thread.
 *
 * A *stage* is a plan in the chain. A pass is a list of *actions*, an operation of a stage each, in
 * an order that is made once. Actions that go slice by slice run one after another without waiting
 * for other slices, so that a slice stays in a thread's cache; others wait for all threads.
 *
 * Private to src/cpu/. Local.
 */
#ifndef DTRAIN_CPU_NETWORK_H
#define DTRAIN_CPU_NETWORK_H

#include "dtrain/cpu.h"
#include "dtrain/kernel.h"
#include "dtrain/loader.h"
#include "dtrain/replica.h"
#include "dtrain/threads.h"

struct network_config {
    const struct dtr_model *model;
    struct dtr_threads *threads;
    enum dtr_kernel_choice kernels;
    enum dtr_isa isa;
    const struct dtr_exchange *exchange; /* has the slabs; must outlive the network */
    int64_t n;                           /* samples of a slice */
    bool training;
    struct dtr_shard_run run; /* training alone */
};

/* Where a stage's source has another layout than the stage below produces, `source` is a buffer of
 * its own, else it is the stage below's `result`. */
struct network_stage {
    struct dtr_plan plan;
    int64_t source_count, result_count; /* floats of a slice */
    float *source, *result;             /* [lanes][count] */
    bool stale;                         /* the plan has not seen the newest parameters */
    int factored; /* number among the stages whose factors are shared; -1: they are not */
};

enum network_phase {
    NETWORK_SCALE,   /* images to the first stage's source */
    NETWORK_CONVERT, /* the result below to the stage's source */
    NETWORK_LOAD,
    NETWORK_FORWARD,
    NETWORK_MEASURE, /* loss, errors, and the gradient of the logits */
    NETWORK_COLLECT,
    NETWORK_BACKWARD,
    NETWORK_CONVERT_BACK, /* the gradient of the source to that of the result below */
    NETWORK_REDUCE,
    NETWORK_UPDATE, /* new parameters to the stage's plan; no action of a pass */
    NETWORK_PHASES
};

struct network_action {
    enum network_phase phase;
    int stage;
    int diff; /* network->diff[diff] holds the gradient of the stage's result */
};

struct network {
    struct network_config config;
    int64_t lanes;
    int count;
    int first_trained; /* the lowest stage with parameters: backward ends there */
    struct network_stage *stages;
    float *images;  /* [lanes][count]: the first stage's source */
    float *diff[3]; /* [lanes][diff_stride]: training, in turn */
    int64_t diff_stride;
    struct network_action *forward, *backward; /* training */
    int forward_count, backward_count;
    double *seconds; /* [threads][time_stride]: network_time() of every phase and stage */
    int64_t time_stride;
    struct dtr_dropout_key *dropout; /* [lanes] */
    double *losses;                  /* [lanes] of the batch at hand */
    int64_t *errors;                 /* likewise */
    int64_t memory_bytes;
};

/* As dtr_cpu_replica_factors(); of the config, all but exchange and threads count. */
int network_factors(const struct network_config *config, struct dtr_factored *factored_out);

enum dtr_status network_compile(
    const struct network_config *config, struct network *network_out, struct dtr_error *error);
void network_free(struct network *network);

/* All parameters change from now on. */
void network_forget(struct network *network);

/* Waits for all parameters and tells every plan. */
void network_wait(struct network *network);

/* Forward of `count` samples (at most n) on one lane; returns the logits [n, classes]. */
const float *network_infer(
    struct network *network, int64_t lane, const uint8_t *images, int64_t count);

/* A training batch on all threads: forward and loss (network->losses, errors), dropout included.
 * Each stage waits for its own parameters. */
void network_forward(struct network *network, const struct dtr_batch *batch, uint64_t seed);

/* The backward pass of the batch that network_forward() has just seen. */
void network_backward(struct network *network, const struct dtr_batch *batch);

/* A slab from and to the canonical order. */
void network_order(const struct network *network, const float *canonical, float *slab_out);
void network_canonical(const struct network *network, const float *slab, float *canonical_out);

/* The seconds that a thread has spent so far in a phase of a stage of training steps. */
static inline double *network_time(
    const struct network *network, int thread, enum network_phase phase, int stage)
{
    return &network->seconds[thread * network->time_stride + stage * NETWORK_PHASES + (int)phase];
}

/* For network.c and network_step.c: whether a stage's source had to be converted. */
static inline bool network_converts(const struct network *network, int stage)
{
    return stage > 0 && network->stages[stage].source != network->stages[stage - 1].result;
}

#endif
