/*
 * The shard tree: which partial sums are added to which, for any number of shards.
 *
 * A node of level k covers shards [i 2^k, (i + 1) 2^k), clipped to the number of shards; its sum is
 * left child + right child. Floating-point addition does not associate, so the same tree gives the
 * same bits, whoever adds.
 *
 * A run of shards is summed as far as the tree allows: what remains are its *open* nodes, the
 * largest ones that lie in the run, at most two of each level. A run that is a whole subtree has
 * one. The open nodes of neighbouring runs, pushed in order onto one stack, give those of the runs
 * together, so threads, ranks and hosts can each do a part: "summing as far as possible" is
 * associative, although the addition is not. All functions are local.
 */
#ifndef DTRAIN_TREE_H
#define DTRAIN_TREE_H

#include <stdint.h>

enum { DTR_TREE_DEPTH = 48 }; /* stack entries that suffice for any run of up to 2^22 shards */

struct dtr_shard_run {
    int64_t first, count; /* shards [first, first + count) ... */
    int64_t shards;       /* ... of so many */
};

/* The shards of rank r of R, by the order of the exchange (dtr_world.place). */
struct dtr_shard_run dtr_shard_run_of(int64_t shards, int64_t rank, int64_t ranks);

/* The open nodes of a run: node i covers shards [bounds[i], bounds[i + 1]), i < depth. */
struct dtr_tree {
    int64_t shards;
    int64_t depth;
    int64_t bounds[DTR_TREE_DEPTH + 1];
};

/* An empty run before shard `first`. */
struct dtr_tree dtr_tree_begin(int64_t shards, int64_t first);

/* Pushes the node [bounds[depth], end): one shard, or an open node of another run. Returns how
 * often the two topmost sums are added now, the lower one being the left operand. */
int dtr_tree_push(struct dtr_tree *tree, int64_t end);

/* Pushes all of the open nodes of the run that follows. */
void dtr_tree_append(struct dtr_tree *tree, const struct dtr_tree *next);

/* A run, its shards pushed one by one. */
struct dtr_tree dtr_tree_of(struct dtr_shard_run run);

/* Most entries that the stack of a run has at a time, while its shards are pushed one by one. */
int64_t dtr_tree_most_entries(struct dtr_shard_run run);

/* A few elements of each open node, summed while they are in the first-level cache. */
enum { DTR_TREE_CHUNK = 512 };
struct dtr_tree_chunk {
    struct dtr_tree tree;
    const float *nodes[DTR_TREE_DEPTH]; /* as pushed, or one of the sums */
    float sums[DTR_TREE_DEPTH][DTR_TREE_CHUNK];
};

/* An empty run before shard `first`. Touches no more than it must, as there are many chunks. */
void dtr_tree_chunk_begin(struct dtr_tree_chunk *chunk, int64_t shards, int64_t first);

/* Pushes `count` (at most DTR_TREE_CHUNK) elements of the node up to `end`. The values are not
 * copied: they stay where they are as long as the chunk is used. */
void dtr_tree_chunk_push(
    struct dtr_tree_chunk *chunk, int64_t end, const float *values, int64_t count);

/* A run's partial sums from those of its shards: for j in [begin, end), and k below the depth of
 * dtr_tree_of(run), sums_out[k * sum_stride + j] = open node k of partials[i * stride + j] over
 * i = 0 .. run.count-1. The two may not overlap. */
void dtr_tree_sum(struct dtr_shard_run run, const float *partials, int64_t stride, int64_t begin,
    int64_t end, float *sums_out, int64_t sum_stride);

/* The same of one number per shard: the sum of a run so far. A plain value of some 800 bytes. */
struct dtr_tree_scalar {
    struct dtr_tree tree;
    double sums[DTR_TREE_DEPTH];
};
struct dtr_tree_scalar dtr_tree_sum_scalars(struct dtr_shard_run run, const double *partials);

/* left += the run that follows. */
void dtr_tree_scalar_append(struct dtr_tree_scalar *left, const struct dtr_tree_scalar *next);

#endif
