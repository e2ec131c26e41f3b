#include "dtrain/tree.h"

int dtr_tree_merges(struct dtr_shard_run run, int64_t i)
{
    if (i == run.count - 1) {
        /* Everything left: each earlier leaf has added one entry and each merge removed one. */
        int64_t entries = run.count;
        for (int64_t j = 0; j < i; j++)
            entries -= dtr_tree_merges(run, j);
        return (int)(entries - 1);
    }
    int merges = 0;
    int64_t end = run.first + i + 1;
    for (int64_t width = 2; end % width == 0 && end - width >= run.first; width *= 2)
        merges++;
    return merges;
}

/* Elements summed at a time: the stack of partial sums stays in the first-level cache. */
enum { CHUNK = 256 };

static void sum_chunk(
    struct dtr_shard_run run, const float *partials, int64_t stride, int64_t count, float *sum_out)
{
    float stack[DTR_TREE_DEPTH][CHUNK];
    int top = 0;
    for (int64_t i = 0; i < run.count; i++) {
        float *leaf = stack[top++];
        for (int64_t j = 0; j < count; j++)
            leaf[j] = partials[i * stride + j];
        for (int merges = dtr_tree_merges(run, i); merges > 0; merges--) {
            top--;
            for (int64_t j = 0; j < count; j++)
                stack[top - 1][j] += stack[top][j];
        }
    }
    for (int64_t j = 0; j < count; j++)
        sum_out[j] = stack[0][j];
}

void dtr_tree_sum(struct dtr_shard_run run, const float *partials, int64_t stride, int64_t begin,
    int64_t end, float *sum_out)
{
    for (int64_t first = begin; first < end; first += CHUNK) {
        int64_t count = end - first < CHUNK ? end - first : CHUNK;
        sum_chunk(run, partials + first, stride, count, sum_out + first);
    }
}

double dtr_tree_sum_scalars(struct dtr_shard_run run, const double *partials)
{
    double stack[DTR_TREE_DEPTH];
    int top = 0;
    for (int64_t i = 0; i < run.count; i++) {
        stack[top++] = partials[i];
        for (int merges = dtr_tree_merges(run, i); merges > 0; merges--) {
            top--;
            stack[top - 1] += stack[top];
        }
    }
    return stack[0];
}
