#include "dtrain/evaluate.h"

#include "dtrain/clock.h"

#include <string.h>

enum dtr_status dtr_open_data(
    const struct dtr_options *options, struct dtr_dataset **dataset_out, struct dtr_error *error)
{
    const char *origin, *where = dtr_options_data(options, &origin);
    if (dtr_dataset_open(where, (uint64_t)options->seed, dataset_out, error) == DTR_OK)
        return DTR_OK;
    if (origin == NULL || strcmp(origin, "--data") == 0)
        return error->status;
    return dtr_error_set(error, error->status, "%s (named by %s; --data names another place)",
        error->message, origin);
}

void dtr_evaluation_part(
    const struct dtr_world *world, int64_t count, int64_t *first_out, int64_t *part_out)
{
    int64_t blocks = (count + DTR_EVALUATION_BLOCK - 1) / DTR_EVALUATION_BLOCK;
    int64_t first = blocks * world->place / world->size * DTR_EVALUATION_BLOCK;
    int64_t end = blocks * (world->place + 1) / world->size * DTR_EVALUATION_BLOCK;
    *first_out = first < count ? first : count;
    *part_out = (end < count ? end : count) - *first_out;
}

/* The errors in `blocks` blocks of a rank's part, or what there is of them. Also a rank that has
 * none asks the replica, which ends its part of the last step's exchange: others wait for that. */
static uint64_t evaluate_piece(
    struct dtr_replica *replica, const struct dtr_samples *mine, int64_t first, int64_t blocks)
{
    struct dtr_samples piece = *mine;
    int64_t begin = first * DTR_EVALUATION_BLOCK;
    begin = begin < mine->count ? begin : mine->count;
    piece.first += begin;
    piece.images += begin * mine->image_bytes;
    piece.labels += begin;
    piece.count -= begin;
    if (piece.count > blocks * DTR_EVALUATION_BLOCK)
        piece.count = blocks * DTR_EVALUATION_BLOCK;
    return (uint64_t)replica->ops->evaluate(replica, &piece);
}

/* About as many blocks as this rank can evaluate in half a second, 0 if there is a reason to end.
 */
static int64_t propose(
    const struct dtr_interrupt *interrupt, int64_t blocks, double seconds, int64_t *reason_out)
{
    enum { GROWTH_MOST = 8 };
    double fit = seconds > 0 ? 0.5 / seconds : GROWTH_MOST;
    *reason_out = interrupt != NULL ? interrupt->reason(interrupt->context) : 0;
    if (*reason_out != 0)
        return 0;
    blocks = (int64_t)((double)blocks * (fit < GROWTH_MOST ? fit : GROWTH_MOST));
    return blocks > 1 ? blocks : 1;
}

int64_t dtr_evaluate(struct dtr_world *world, struct dtr_replica *replica,
    const struct dtr_samples *mine, int64_t count, const struct dtr_interrupt *interrupt,
    double *share_out)
{
    int64_t most = (count + DTR_EVALUATION_BLOCK - 1) / DTR_EVALUATION_BLOCK; /* on all ranks */
    most = (most + world->size - 1) / world->size;                            /* on one */
    int64_t blocks = world->cores > 1 ? (int64_t)world->cores : 1, reason;
    uint64_t errors = 0;
    double seconds = 0.5;
    for (int64_t first = 0; first < most; first += blocks) {
        /* All ranks take as many blocks as the slowest can. */
        blocks = (int64_t)dtr_world_min_u64(
            world, (uint64_t)propose(interrupt, blocks, seconds, &reason));
        if (blocks == 0)
            return (int64_t)~dtr_world_min_u64(world, ~(uint64_t)reason);
        double start_s = dtr_clock_s();
        errors += evaluate_piece(replica, mine, first, blocks);
        seconds = dtr_clock_s() - start_s;
    }
    *share_out = (double)dtr_world_sum_u64(world, errors) / (double)count;
    return 0;
}
