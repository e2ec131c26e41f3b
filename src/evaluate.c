#include "dtrain/evaluate.h"

#include <string.h>

enum dtr_status dtr_open_data(
    const struct dtr_options *options, struct dtr_dataset **dataset_out, struct dtr_error *error)
{
    const char *origin, *where = dtr_options_data(options, &origin);
    if (dtr_dataset_open(where, (uint64_t)options->seed, dataset_out, error) == DTR_OK)
        return DTR_OK;
    if (strcmp(origin, "--data") == 0)
        return error->status;
    return dtr_error_set(error, error->status, "%s (named by %s)", error->message, origin);
}

void dtr_evaluation_part(
    const struct dtr_world *world, int64_t count, int64_t *first_out, int64_t *part_out)
{
    int64_t blocks = (count + DTR_EVALUATION_BLOCK - 1) / DTR_EVALUATION_BLOCK;
    int64_t first = blocks * world->rank / world->size * DTR_EVALUATION_BLOCK;
    int64_t end = blocks * (world->rank + 1) / world->size * DTR_EVALUATION_BLOCK;
    *first_out = first < count ? first : count;
    *part_out = (end < count ? end : count) - *first_out;
}

double dtr_evaluate(struct dtr_world *world, struct dtr_replica *replica,
    const struct dtr_samples *mine, int64_t count)
{
    uint64_t errors = (uint64_t)replica->ops->evaluate(replica, mine);
    return (double)dtr_world_sum_u64(world, errors) / (double)count;
}
