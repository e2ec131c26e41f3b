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

/* Takes the gradient of slab elements [first, first + count), which is final. */
typedef void dtr_take(void *context, int64_t first, int64_t count, const float *gradient);

/* Who sums the gradients over ranks and updates the parameters, as the replica sees it. Called by
 * the thread that runs the step. */
struct dtr_exchange {
    void *context;
    /* Gradients of slab elements at or above `first` are final on this rank, and this step no
     * longer reads the parameters there. `first` never grows within a step; the last is 0. */
    void (*ready)(void *context, int64_t first);
    /* Whether the parameters [first, first + count) are the newest; wait until they are. */
    bool (*arrived)(void *context, int64_t first, int64_t count);
    void (*wait)(void *context, int64_t first, int64_t count);
    /* The slab of parameters; for each open node of the run a slab of gradients, `stride` floats
     * after the one before. */
    float *weights, *gradients;
    int64_t stride;
    /* Where this rank alone makes the gradient: updates parameters by it at once, by any thread.
     * Then there are no slabs of gradients. NULL: they are wanted. */
    dtr_take *take;
    int64_t bucket;      /* floats: to be told of fewer gradients at a time is of no use */
    int64_t share_count; /* parameters that this rank updates: momenta that it keeps */
};

struct dtr_replica_config {
    const struct dtr_model *model; /* must outlive the replica */
    struct dtr_threads *threads;   /* likewise */
    struct dtr_shard_run run;      /* the rank's shards; count 0 for evaluation alone */
    int64_t slice;                 /* samples a shard gives to a batch */
    uint64_t seed;                 /* of dropout */
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
    const float *(*momenta)(struct dtr_replica *replica);
    /* A slab in the replica's own order to the canonical one; the two may not overlap. */
    void (*canonical)(struct dtr_replica *replica, const float *slab, float *canonical_out);
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

enum dtr_status dtr_cpu_replica_compile(const struct dtr_replica_config *config,
    struct dtr_replica **replica_out, struct dtr_error *error);

#endif
