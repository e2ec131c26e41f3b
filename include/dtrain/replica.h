/*
 * A replica: a rank's copy of a model on a backend. One table of functions, filled by the CPU (and
 * later CUDA) backend. All functions are local. Memory and plans are made by compile; a step
 * allocates nothing.
 *
 * Slabs (parameters, gradients) have the model's slab_count floats; their inner layout is the
 * replica's own, the same on all ranks. get and set speak the canonical layout.
 */
#ifndef DTRAIN_REPLICA_H
#define DTRAIN_REPLICA_H

#include "dtrain/cpu.h"
#include "dtrain/exchange.h"
#include "dtrain/loader.h"
#include "dtrain/model.h"
#include "dtrain/status.h"
#include "dtrain/threads.h"
#include "dtrain/tree.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_replica;

/* auto: whatever is fastest for a layer, by rule; fused: our own where there is one, else oneDNN.
 */
enum dtr_kernel_choice {
    DTR_KERNELS_AUTO,
    DTR_KERNELS_REFERENCE,
    DTR_KERNELS_ONEDNN,
    DTR_KERNELS_FUSED
};

struct dtr_replica_config {
    const struct dtr_model *model;     /* must outlive the replica */
    struct dtr_threads *threads;       /* likewise */
    struct dtr_shard_run run;          /* the rank's shards; count 0 for evaluation alone */
    int64_t slice;                     /* samples a shard gives to a batch */
    const struct dtr_samples *samples; /* those of all batches, for a replica that keeps a copy
                                          where it computes; must outlive it; NULL: not known */
    int64_t largest_set; /* samples that evaluate() is given at a time, at most; 0: not known */
    uint64_t seed;       /* of dropout */
    enum dtr_kernel_choice kernels;
    enum dtr_isa isa; /* all ranks' must be the same, and no more than the CPU has */
    float momentum, weight_decay;
    bool decay_all_kernels;       /* not only dense layers' kernels and biases */
    struct dtr_exchange exchange; /* all NULL: the replica has slabs of its own, and updates all */
};

/* What one step's forward pass found on this rank's samples. */
struct dtr_step_result {
    struct dtr_tree_scalar loss; /* sum over samples */
    int64_t errors;
};

/* A part of the work of a step. */
struct dtr_timing {
    const char *phase; /* "forward", "backward", ... */
    int line;          /* of describe() */
    int first, count;  /* layers that it computes */
    double seconds;    /* of all threads together */
};

enum { DTR_STEPS_AHEAD = 8 };

struct dtr_replica_ops {
    const char *name;
    /* The loss of a batch at the newest parameters, dropout included. Waits for each layer's. */
    void (*forward)(struct dtr_replica *replica, const struct dtr_batch *batch,
        struct dtr_step_result *result_out);
    /* The gradient of the batch that forward has just seen: of the mean over its real samples,
     * summed over this rank's shards. Tells the exchange what is ready. */
    void (*backward)(struct dtr_replica *replica, const struct dtr_batch *batch);
    /* Optimizer update of slab elements [first, first + count) by their gradient [count]; `place`
     * is the first one's number among those that this rank updates. By any thread. */
    void (*apply)(struct dtr_replica *replica, int64_t first, int64_t count, int64_t place,
        const float *gradient, float rate);
    /* Steps that the replica does alone: it sums the gradients over ranks and updates the
     * parameters. NULL in those that have the three functions above for it; theirs are NULL then,
     * but for forward. start_step() returns at once; at most DTR_STEPS_AHEAD steps may have begun
     * that finish_step(), which waits for the oldest one, has not seen. settle(), with none left,
     * brings parameters and momenta to where others look for them. */
    void (*start_step)(struct dtr_replica *replica, const struct dtr_batch *batch, float rate);
    void (*finish_step)(struct dtr_replica *replica, struct dtr_step_result *result_out);
    void (*settle)(struct dtr_replica *replica);
    /* What follows waits for all parameters. */
    /* decay / 2 * sum of squares of the decayed parameters: the loss's regularization term. */
    double (*decay_loss)(struct dtr_replica *replica);
    /* Number of misclassified samples. */
    int64_t (*evaluate)(struct dtr_replica *replica, const struct dtr_samples *samples);
    void (*get)(struct dtr_replica *replica, float *weights_out);
    void (*set)(struct dtr_replica *replica, const float *weights);
    /* The slab of gradients, and the momenta [share_count] of the elements that this rank updates,
     * in the replica's own order. */
    const float *(*gradients)(struct dtr_replica *replica);
    float *(*momenta)(struct dtr_replica *replica);
    /* A slab in the replica's own order to the canonical one, and back; the two may not overlap.
     * Needs nothing that a step changes, so another thread may call it meanwhile. */
    void (*canonical)(struct dtr_replica *replica, const float *slab, float *canonical_out);
    void (*order)(struct dtr_replica *replica, const float *canonical, float *slab_out);
    /* A line for the plan per layer, or layers that are computed as one: names, output shape,
     * kernel. Returns false past the end. */
    bool (*describe)(struct dtr_replica *replica, int line, char *line_out, int64_t line_bytes);
    /* Where the time of all training steps so far went, an entry for each part of the work of
     * each line above. Returns false past the end. */
    bool (*timing)(struct dtr_replica *replica, int entry, struct dtr_timing *timing_out);
    void (*destroy)(struct dtr_replica *replica);
};

/* Backends embed this as their first member. */
struct dtr_replica {
    const struct dtr_replica_ops *ops;
};

/* Samples that the evaluation takes at a time; ranks split a set at multiples of it. */
enum { DTR_EVALUATION_BLOCK = 64 };

/* The layers that have factors worth sharing, in the slab's order; returns how many. factored_out
 * has room for model->layer_count of them. The config needs no exchange, and all ranks' give the
 * same. */
int dtr_cpu_replica_factors(
    const struct dtr_replica_config *config, struct dtr_factored *factored_out);

enum dtr_status dtr_cpu_replica_compile(const struct dtr_replica_config *config,
    struct dtr_replica **replica_out, struct dtr_error *error);

/* What backends share. */

/* An exchange for a replica that has none: slabs of its own, *own_out, to be freed with free(). Its
 * parameters change when its owner changes them. */
enum dtr_status dtr_replica_stay_alone(
    struct dtr_replica_config *config, float **own_out, struct dtr_error *error);

/* Whether a tensor's parameters decay. */
bool dtr_replica_decays(const struct dtr_replica_config *config, const struct dtr_tensor *tensor);

/* Updates slab elements [first, first + count) of the exchange's parameters, in the host's memory,
 * by their gradient [count] and momenta [count]. */
void dtr_replica_update(const struct dtr_replica_config *config, int64_t first, int64_t count,
    const float *gradient, float rate, float *momenta);

/* A line of describe(): a layer or two (next may be NULL), and how they are computed. */
void dtr_replica_describe(const struct dtr_layer *layer, const struct dtr_layer *next,
    const char *kernel, const char *detail, char *line_out, int64_t line_bytes);

/* decay / 2 * sum of squares of the parameters that decay. */
double dtr_replica_decay_loss(const struct dtr_replica_config *config);

#endif
