/*
 * Evaluation: the exact error of a model on a set, over all ranks. A set is cut into blocks that do
 * not depend on the number of ranks; each rank evaluates a run of them, and errors are counted in
 * whole numbers.
 */
#ifndef DTRAIN_EVALUATE_H
#define DTRAIN_EVALUATE_H

#include "dtrain/dataset.h"
#include "dtrain/options.h"
#include "dtrain/replica.h"
#include "dtrain/world.h"

/* Opens what --data or its default names; a failure says where the name came from. Local. */
enum dtr_status dtr_open_data(
    const struct dtr_options *options, struct dtr_dataset **dataset_out, struct dtr_error *error);

/* This rank's part, [first, first + part), of a set of `count` samples; the parts of a host's ranks
 * are neighbours, as their shards are. Local. */
void dtr_evaluation_part(
    const struct dtr_world *world, int64_t count, int64_t *first_out, int64_t *part_out);

/* Why to end before the end: asked now and then on every rank. */
struct dtr_interrupt {
    int64_t (*reason)(void *context); /* 0: go on; the largest of all ranks counts */
    void *context;
};

/* Misclassified share of a set of `count` samples, of which each rank holds its part. Returns 0, or
 * the reason for which it was given up within a second or, if that takes longer, a block; interrupt
 * may be NULL. Collective. */
int64_t dtr_evaluate(struct dtr_world *world, struct dtr_replica *replica,
    const struct dtr_samples *mine, int64_t count, const struct dtr_interrupt *interrupt,
    double *share_out);

#endif
