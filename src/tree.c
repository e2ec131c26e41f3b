#include "dtrain/tree.h"

#include "wide.h"

#include <stdbool.h>
#include <string.h>

struct dtr_shard_run dtr_shard_run_of(int64_t shards, int64_t rank, int64_t ranks)
{
    int64_t first = shards * rank / ranks;
    return (struct dtr_shard_run){first, shards * (rank + 1) / ranks - first, shards};
}

struct dtr_tree dtr_tree_begin(int64_t shards, int64_t first)
{
    struct dtr_tree tree = {.shards = shards};
    tree.bounds[0] = first;
    return tree;
}

/* Whether [first, middle) and [middle, end) are the children of one node. The left one has no
 * missing leaves, so its width tells the node's; the right one may be clipped. */
static bool are_siblings(int64_t shards, int64_t first, int64_t middle, int64_t end)
{
    int64_t half = middle - first, full = first + 2 * half;
    bool aligned = (half & (half - 1)) == 0 && first % (2 * half) == 0;
    return aligned && end == (full < shards ? full : shards);
}

int dtr_tree_push(struct dtr_tree *tree, int64_t end)
{
    int merges = 0;
    tree->bounds[++tree->depth] = end;
    while (tree->depth >= 2 && are_siblings(tree->shards, tree->bounds[tree->depth - 2],
                                   tree->bounds[tree->depth - 1], end)) {
        tree->bounds[--tree->depth] = end;
        merges++;
    }
    return merges;
}

void dtr_tree_append(struct dtr_tree *tree, const struct dtr_tree *next)
{
    for (int64_t i = 0; i < next->depth; i++)
        dtr_tree_push(tree, next->bounds[i + 1]);
}

struct dtr_tree dtr_tree_of(struct dtr_shard_run run)
{
    struct dtr_tree tree = dtr_tree_begin(run.shards, run.first);
    for (int64_t i = 1; i <= run.count; i++)
        dtr_tree_push(&tree, run.first + i);
    return tree;
}

int64_t dtr_tree_most_entries(struct dtr_shard_run run)
{
    struct dtr_tree tree = dtr_tree_begin(run.shards, run.first);
    int64_t most = 0;
    for (int64_t i = 1; i <= run.count; i++) {
        most = tree.depth + 1 > most ? tree.depth + 1 : most;
        dtr_tree_push(&tree, run.first + i);
    }
    return most;
}

/* sum may be one of the others. */
WIDE static void add(float *sum, const float *left, const float *right, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        sum[j] = left[j] + right[j];
}

void dtr_tree_chunk_begin(struct dtr_tree_chunk *chunk, int64_t shards, int64_t first)
{
    chunk->tree.shards = shards;
    chunk->tree.depth = 0;
    chunk->tree.bounds[0] = first;
}

void dtr_tree_chunk_push(
    struct dtr_tree_chunk *chunk, int64_t end, const float *values, int64_t count)
{
    int64_t top = chunk->tree.depth;
    chunk->nodes[top] = values;
    for (int merges = dtr_tree_push(&chunk->tree, end); merges > 0; merges--, top--) {
        add(chunk->sums[top - 1], chunk->nodes[top - 1], chunk->nodes[top], count);
        chunk->nodes[top - 1] = chunk->sums[top - 1];
    }
}

void dtr_tree_sum(struct dtr_shard_run run, const float *partials, int64_t stride, int64_t begin,
    int64_t end, float *sums_out, int64_t sum_stride)
{
    struct dtr_tree_chunk chunk;
    for (int64_t first = begin; first < end; first += DTR_TREE_CHUNK) {
        int64_t count = end - first < DTR_TREE_CHUNK ? end - first : DTR_TREE_CHUNK;
        dtr_tree_chunk_begin(&chunk, run.shards, run.first);
        for (int64_t i = 0; i < run.count; i++)
            dtr_tree_chunk_push(&chunk, run.first + i + 1, partials + i * stride + first, count);
        for (int64_t k = 0; k < chunk.tree.depth; k++)
            memcpy(sums_out + k * sum_stride + first, chunk.nodes[k],
                (size_t)count * sizeof *sums_out);
    }
}

static void push_scalar(struct dtr_tree_scalar *scalar, int64_t end, double value)
{
    int64_t top = scalar->tree.depth;
    scalar->sums[top] = value;
    for (int merges = dtr_tree_push(&scalar->tree, end); merges > 0; merges--, top--)
        scalar->sums[top - 1] += scalar->sums[top];
}

struct dtr_tree_scalar dtr_tree_sum_scalars(struct dtr_shard_run run, const double *partials)
{
    struct dtr_tree_scalar scalar = {.tree = dtr_tree_begin(run.shards, run.first)};
    for (int64_t i = 0; i < run.count; i++)
        push_scalar(&scalar, run.first + i + 1, partials[i]);
    return scalar;
}

void dtr_tree_scalar_append(struct dtr_tree_scalar *left, const struct dtr_tree_scalar *next)
{
    for (int64_t i = 0; i < next->tree.depth; i++)
        push_scalar(left, next->tree.bounds[i + 1], next->sums[i]);
}
