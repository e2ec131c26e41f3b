/*
 * A replica: a rank's copy of a model on a backend. One table of functions, filled by the CPU (and
 * later CUDA) backend. All functions are local. Memory and plans are made by compile; a step
 * allocates nothing.
 *
 * Slabs (parameters, gradients, momenta) have the model's slab_count floats; their inner layout is
 * the replica's own, the same on all ranks. get and set speak the canonical layout.
 */
#ifndef DTRAIN_REPLICA_H
#define DTRAIN_REPLICA_H

#include "dtrain/loader.h"
#include "dtrain/model.h"
#include "dtrain/status.h"
#include "dtrain/tree.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_replica;

enum dtr_slab { DTR_SLAB_WEIGHTS, DTR_SLAB_MOMENTUM };

enum dtr_kernel_choice { DTR_KERNELS_AUTO, DTR_KERNELS_REFERENCE, DTR_KERNELS_ONEDNN };

struct dtr_replica_config {
    const struct dtr_model *model; /* must outlive the replica */
    struct dtr_shard_run run;      /* the rank's shards; count 0 for evaluation alone */
    int64_t slice;                 /* samples a shard gives to a batch */
    int threads;
    uint64_t seed; /* of dropout */
    enum dtr_kernel_choice kernels;
    float momentum, weight_decay;
    bool decay_all_kernels; /* not only dense layers' kernels and biases */
};

/* What one step's forward pass found on this rank's samples. */
struct dtr_step_result {
    double loss; /* sum over samples, in tree order over shards */
    int64_t errors;
};

/* Gradients of slab elements at or above `first` are final on this rank. Called by the thread that
 * runs the step, with ever smaller `first`, the last time with 0. */
typedef void dtr_gradients_ready(void *context, int64_t first);

struct dtr_replica_ops {
    const char *name;
    /* Forward and backward of one batch; the gradient is the mean over the batch's real samples,
     * summed over this rank's shards. */
    void (*step)(struct dtr_replica *replica, const struct dtr_batch *batch,
        dtr_gradients_ready *ready, void *context, struct dtr_step_result *result_out);
    /* Forward alone, dropout included: the loss of a batch at the current weights. */
    void (*measure)(struct dtr_replica *replica, const struct dtr_batch *batch,
        struct dtr_step_result *result_out);
    /* The gradient slab, for gradsync to sum in place. */
    float *(*gradients)(struct dtr_replica *replica);
    /* Optimizer update of slab elements [first, first + count). */
    void (*apply)(struct dtr_replica *replica, int64_t first, int64_t count, float rate);
    /* decay / 2 * sum of squares of the decayed parameters: the loss's regularization term. */
    double (*decay_loss)(struct dtr_replica *replica);
    /* Number of misclassified samples. */
    int64_t (*evaluate)(struct dtr_replica *replica, const struct dtr_samples *samples);
    void (*get)(struct dtr_replica *replica, enum dtr_slab which, float *slab_out);
    void (*set)(struct dtr_replica *replica, enum dtr_slab which, const float *slab);
    /* A line per layer for the plan: name, output shape, kernel. Returns false past the end. */
    bool (*describe)(struct dtr_replica *replica, int layer, char *line_out, int64_t line_bytes);
    void (*destroy)(struct dtr_replica *replica);
};

/* Backends embed this as their first member. */
struct dtr_replica {
    const struct dtr_replica_ops *ops;
};

/* Samples that the evaluation takes at a time; ranks split a set at multiples of it. */
enum { DTR_EVALUATION_BLOCK = 64 };

enum dtr_status dtr_cpu_replica_compile(const struct dtr_replica_config *config,
    struct dtr_replica **replica_out, struct dtr_error *error);

#endif
