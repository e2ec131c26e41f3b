/*
 * What stands between a replica, which makes gradients, and the exchange, which sums them over the
 * ranks and updates the parameters. Neither needs to know more of the other.
 */
#ifndef DTRAIN_EXCHANGE_H
#define DTRAIN_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

/* Takes the gradient of slab elements [first, first + count), which is final and all ranks'. */
typedef void dtr_take(void *context, int64_t first, int64_t count, const float *gradient);

/* Layers whose gradients each rank can make for all ranks' samples, from factors (kernel.h) in
 * memory that they share. */
struct dtr_factored {
    int64_t first, count; /* of the slab: the layer's kernel and bias */
    int64_t bytes;        /* of its factors, behind those of the layers before; multiple of 64 */
};

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
    bool shared; /* other ranks, or other threads, read the parameters where they lie */
    /* Updates parameters by their gradient at once, by any thread: where the rank is alone all of
     * them, and there are no slabs of gradients (NULL); where ranks share factors those of layers
     * that have some, as far as this rank owns them. NULL: slabs are wanted. */
    dtr_take *take;
    /* The memory that ranks share for the factors of the layers that dtr_cpu_replica_factors() has
     * named; NULL: there is none, and nothing of the kind is called. */
    void *factors;
    bool (*owns)(void *context, int64_t first, int64_t count);
    /* Factors of the `layer`-th of them are complete, and this rank no longer reads the layer's
     * parameters; wait until that is so on all ranks. */
    void (*publish)(void *context, int layer);
    void (*gather)(void *context, int layer);
    int64_t bucket;      /* floats: to be told of fewer gradients at a time is of no use */
    int64_t share_count; /* parameters that this rank updates: momenta that it keeps */
};

#endif
