/* From partial gradients to the sink, in tree order. */
#include "dtrain/kernel.h"

#include <string.h>

void dtr_sink_put(const struct dtr_gradient_sink *sink, int64_t place, int64_t first, int64_t count,
    int64_t nodes, const float *sums, int64_t stride)
{
    if (sink->take != NULL) {
        sink->take(sink->context, place + first, count, sums);
        return;
    }
    for (int64_t k = 0; k < nodes; k++)
        memcpy(sink->slab + k * sink->stride + place + first, sums + k * stride,
            (size_t)count * sizeof *sums);
}

void dtr_reduce_partials(const struct dtr_plan *plan, struct dtr_piece piece, const float *partials,
    int64_t stride, int64_t count, const struct dtr_gradient_sink *sink, int64_t place)
{
    int64_t begin, end;
    dtr_piece_range(piece, count, &begin, &end);
    if (sink->take == NULL) {
        dtr_tree_sum(plan->sum, partials, stride, begin, end, sink->slab + place, sink->stride);
        return;
    }
    for (int64_t first = begin; first < end; first += DTR_TREE_CHUNK) {
        float sums[DTR_TREE_CHUNK];
        int64_t floats = end - first < DTR_TREE_CHUNK ? end - first : DTR_TREE_CHUNK;
        dtr_tree_sum(plan->sum, partials + first, stride, 0, floats, sums, floats);
        sink->take(sink->context, place + first, floats, sums);
    }
}
