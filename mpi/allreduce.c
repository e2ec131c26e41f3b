#include "dtrain/gradsync.h"

#include "comm.h"
#include "dtrain/memory.h"

#include <limits.h>
#include <stdlib.h>

/* Between none and all of its buckets under way, in order: [0, returned) are done and handed out,
 * [returned, started) are with MPI, the rest wait for the backward pass. */
struct dtr_gradsync {
    struct dtr_world *world;
    float *gradients;
    int64_t count, bucket; /* floats of the slab and of a bucket */
    int64_t buckets;
    bool overlap;
    int64_t started, returned;
    MPI_Request *requests; /* [buckets] */
};

/* Bucket 0 is the slab's end; the last one may be smaller. */
static struct dtr_range bucket_range(const struct dtr_gradsync *sync, int64_t number)
{
    int64_t end = sync->count - number * sync->bucket;
    int64_t first = end > sync->bucket ? end - sync->bucket : 0;
    return (struct dtr_range){first, end - first};
}

enum dtr_status dtr_gradsync_create(struct dtr_world *world, float *gradients, int64_t count,
    int64_t bucket_bytes, bool overlap, struct dtr_gradsync **sync_out, struct dtr_error *error)
{
    struct dtr_gradsync *sync = dtr_alloc(1, sizeof *sync, "gradient exchange", error);
    *sync_out = NULL;
    if (sync == NULL)
        return error->status;
    int64_t bucket = dtr_align_floats(bucket_bytes / (int64_t)sizeof *gradients);
    if (bucket == 0)
        bucket = DTR_ALIGN_FLOATS;
    if (bucket > INT_MAX / 2) /* MPI counts are int */
        bucket = INT_MAX / 2 / DTR_ALIGN_FLOATS * DTR_ALIGN_FLOATS;
    *sync = (struct dtr_gradsync){.world = world,
        .gradients = gradients,
        .count = count,
        .bucket = bucket,
        .buckets = (count + bucket - 1) / bucket,
        .overlap = overlap};
    sync->requests = dtr_alloc(sync->buckets, sizeof *sync->requests, "gradient exchange", error);
    if (sync->requests == NULL) {
        free(sync);
        return error->status;
    }
    *sync_out = sync;
    return DTR_OK;
}

void dtr_gradsync_free(struct dtr_gradsync *sync)
{
    if (sync == NULL)
        return;
    free(sync->requests);
    free(sync);
}

static void start(struct dtr_gradsync *sync)
{
    struct dtr_range range = bucket_range(sync, sync->started);
    dtr_comm_check(sync->world,
        MPI_Iallreduce(MPI_IN_PLACE, sync->gradients + range.first, (int)range.count, MPI_FLOAT,
            MPI_SUM, sync->world->comm->data, &sync->requests[sync->started]),
        "MPI_Iallreduce");
    sync->started++;
}

/* Open MPI moves messages only inside of MPI calls. */
static void progress(struct dtr_gradsync *sync)
{
    int done;
    if (sync->started > sync->returned)
        dtr_comm_check(sync->world,
            MPI_Testall((int)(sync->started - sync->returned), sync->requests + sync->returned,
                &done, MPI_STATUSES_IGNORE),
            "MPI_Testall");
}

void dtr_gradsync_ready(void *context, int64_t first)
{
    struct dtr_gradsync *sync = context;
    if (sync->world->size == 1 || (!sync->overlap && first > 0))
        return;
    while (sync->started < sync->buckets && bucket_range(sync, sync->started).first >= first)
        start(sync);
    progress(sync);
}

bool dtr_gradsync_next(struct dtr_gradsync *sync, struct dtr_range *bucket_out)
{
    if (sync->returned == sync->buckets) {
        sync->started = sync->returned = 0;
        return false;
    }
    if (sync->world->size > 1)
        dtr_comm_check(
            sync->world, MPI_Wait(&sync->requests[sync->returned], MPI_STATUS_IGNORE), "MPI_Wait");
    *bucket_out = bucket_range(sync, sync->returned++);
    return true;
}
