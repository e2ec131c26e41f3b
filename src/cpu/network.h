/*
 * A chain of plans: a model compiled for slices of n samples, with its activations. The training
 * network keeps every activation of every slice; the inference network reuses three buffers per
 * thread. Private to src/cpu/. Local.
 */
#ifndef DTRAIN_CPU_NETWORK_H
#define DTRAIN_CPU_NETWORK_H

#include "dtrain/kernel.h"
#include "dtrain/loader.h"
#include "dtrain/replica.h"
#include "dtrain/threads.h"

struct network_config {
    const struct dtr_model *model;
    struct dtr_threads *threads;
    enum dtr_kernel_choice kernels;
    const struct dtr_exchange *exchange; /* has the slabs; must outlive the network */
    int64_t n;                           /* samples of a slice */
    bool training;
    struct dtr_shard_run run; /* training alone */
};

/* A layer's place in the chain. Where its source has another channel block than the layer below
 * produces, `source` is a buffer of its own, else it is the layer below's `result`. */
struct network_layer {
    struct dtr_plan plan;
    int64_t source_count, result_count; /* floats of a slice */
    float *source, *result;             /* [lanes][count] */
    bool stale;                         /* the plan has not seen the newest parameters */
};

struct network {
    struct network_config config;
    int64_t lanes;
    int count;
    int first_trained; /* the lowest layer with parameters: backward ends there */
    struct network_layer *layers;
    float *images;                   /* [lanes][count]: the first layer's source */
    float *diff[3];                  /* [lanes][largest count]: training, in turn */
    struct dtr_dropout_key *dropout; /* [lanes] */
    double *losses;                  /* [lanes] of the batch at hand */
    int64_t *errors;                 /* likewise */
    int64_t memory_bytes;
};

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
 * Each layer waits for its own parameters. */
void network_forward(struct network *network, const struct dtr_batch *batch, uint64_t seed);

/* The backward pass of the batch that network_forward() has just seen. */
void network_backward(struct network *network, const struct dtr_batch *batch);

#endif
