/* A small training problem for tests of the replica and of the exchange between ranks. */
#ifndef DTRAIN_TESTS_PROBLEM_H
#define DTRAIN_TESTS_PROBLEM_H

#include "dtrain/loader.h"
#include "dtrain/model.h"
#include "dtrain/replica.h"

#include <stddef.h>

/* `count` random images with random labels of a model, and what a run of its shards needs. */
struct problem {
    struct dtr_model *model;
    struct dtr_samples samples;
    int64_t shards, slice;
    float *weights; /* initial, canonical */
};

extern const char problem_convnet[]; /* every kind of layer, awkward sizes */

struct problem problem_create(const char *text, int64_t count, int64_t shards, int64_t slice);
void problem_free(struct problem *problem);

/* A replica's configuration for a run of shards; what it runs on is the caller's to say. */
struct dtr_replica_config problem_config(const struct problem *problem, struct dtr_shard_run run);

/* A loader and a replica with the initial weights for shards [first, first + shard_count). The
 * replica has its own threads and an exchange of the test's, whose parameters are always there. */
struct dtr_loader *problem_loader(
    const struct problem *problem, int64_t first, int64_t shard_count);
struct dtr_replica *problem_replica(const struct problem *problem, int64_t first,
    int64_t shard_count, int threads, enum dtr_kernel_choice kernels);

/* On the caller's exchange; with one that is all NULL, the replica is alone. */
struct dtr_replica *problem_replica_on(const struct problem *problem, int64_t first,
    int64_t shard_count, int threads, enum dtr_kernel_choice kernels, struct dtr_exchange exchange);

/* Frees what belongs to one of these replicas, too. */
void problem_replica_free(struct dtr_replica *replica);

/* One forward and backward pass; the gradients are the replica's. On the test's exchange, also
 * checks that they are ready from the slab's end to its beginning. */
struct dtr_step_result problem_step(
    struct dtr_replica *replica, struct dtr_loader *loader, int64_t step);

/* Updates everything by the replica's own gradients. */
void problem_apply(struct dtr_replica *replica, const struct problem *problem, float rate);

/* The loss of a batch whose shards are all the replica's. */
double problem_loss(const struct dtr_step_result *result);

/* The losses of such batches are the same, bit for bit, and so are the errors. */
void problem_check_results(
    const struct dtr_step_result *found, const struct dtr_step_result *expected);

/* Memory for a slab, which the caller frees. */
float *problem_slab(const struct problem *problem);
size_t problem_slab_bytes(const struct problem *problem);

/* Bits of the tensors' elements; what lies between them is nobody's. */
bool problem_same_tensors(const struct problem *problem, const float *a, const float *b);

/* Largest |a - b| over the largest |b|. */
double problem_distance(const struct problem *problem, const float *a, const float *b);

#endif
