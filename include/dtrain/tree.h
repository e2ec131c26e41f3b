/*
 * The shard tree: which partial sums are added to which, for any number of shards.
 *
 * A node of level k covers shards [i 2^k, (i + 1) 2^k), clipped to the number of shards; its sum is
 * left child + right child. Floating-point addition does not associate, so the same tree gives the
 * same bits, whoever adds. A run of shards is summed by pushing its leaves in order onto a stack
 * and merging the top two after each push as often as dtr_tree_merges() says.
 */
#ifndef DTRAIN_TREE_H
#define DTRAIN_TREE_H

#include <stdint.h>

enum { DTR_TREE_DEPTH = 48 }; /* stack entries that suffice for any run of up to 2^22 shards */

struct dtr_shard_run {
    int64_t first, count; /* shards [first, first + count), at least one ... */
    int64_t shards;       /* ... of so many */
};

/* How often the two topmost entries are added (the lower one is the left operand) after the leaf of
 * run.first + i has been pushed. After the last leaf everything left is added from the right, so
 * that one entry remains; for a run that is a whole subtree that is the tree's own order. */
int dtr_tree_merges(struct dtr_shard_run run, int64_t i);

/* sum_out[j] = tree sum of partials[i * stride + j] over i = 0 .. run.count-1, for j in
 * [begin, end). sum_out may not overlap the partials. */
void dtr_tree_sum(struct dtr_shard_run run, const float *partials, int64_t stride, int64_t begin,
    int64_t end, float *sum_out);

/* The same for one double per shard. */
double dtr_tree_sum_scalars(struct dtr_shard_run run, const double *partials);

#endif
