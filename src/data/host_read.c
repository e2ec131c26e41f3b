#include "dtrain/host_read.h"

#include <limits.h>

/* A host's first rank needs so much memory to hand samples on, or what one sample takes. */
enum { BLOCK_BYTES = 4 << 20 };

/* What a rank asks of the host's first. */
struct request {
    int64_t first, count;
};

/* How many samples are sent next. */
static int64_t next_count(int64_t left, int64_t image_bytes)
{
    int64_t most = image_bytes < BLOCK_BYTES ? BLOCK_BYTES / image_bytes : 1;
    return left < most ? left : most;
}

/* A message without labels means that there is an error, and the last. */
static void receive(struct dtr_world *world, const struct dtr_samples *samples)
{
    struct request request = {samples->first, samples->count};
    int64_t image_bytes = samples->image_bytes, count;
    dtr_world_send(world, 0, &request, sizeof request);
    for (int64_t done = 0; done < samples->count; done += count) {
        count = next_count(samples->count - done, image_bytes);
        if (dtr_world_receive(world, 0, samples->labels + done, count) == 0)
            return;
        dtr_world_receive(world, 0, samples->images + done * image_bytes, count * image_bytes);
    }
}

static void serve(struct dtr_world *world, int node_rank, struct dtr_dataset *dataset,
    enum dtr_split split, int64_t classes, struct dtr_error *error)
{
    struct request request;
    int64_t image_bytes = dtr_shape_count(dtr_dataset_info(dataset)->shape), count;
    dtr_world_receive(world, node_rank, &request, sizeof request);
    for (int64_t done = 0; done < request.count; done += count) {
        struct dtr_samples part = {0};
        count = next_count(request.count - done, image_bytes);
        if (error->status == DTR_OK)
            dtr_dataset_read(dataset, split, request.first + done, count, classes, &part, error);
        dtr_world_send(world, node_rank, part.labels, error->status == DTR_OK ? count : 0);
        if (error->status != DTR_OK)
            return;
        dtr_world_send(world, node_rank, part.images, count * image_bytes);
        dtr_samples_free(&part);
    }
}

enum dtr_status dtr_host_read(struct dtr_world *world, struct dtr_dataset *dataset,
    enum dtr_split split, int64_t first, int64_t count, int64_t classes,
    struct dtr_samples *samples_out, struct dtr_error *error)
{
    const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
    int64_t image_bytes = dtr_shape_count(info->shape);
    bool fits = image_bytes <= INT_MAX; /* a message */
    bool together = dtr_world_min_u64(world, info->sequential && fits) != 0;
    bool reads = !together || world->node_rank == 0;
    *samples_out = (struct dtr_samples){.image_bytes = image_bytes};
    if (error->status == DTR_OK && reads)
        dtr_dataset_read(dataset, split, first, count, classes, samples_out, error);
    else if (error->status == DTR_OK)
        dtr_samples_alloc(info, first, count, samples_out, error);
    if (!together)
        return error->status;

    if (world->node_rank != 0)
        receive(world, samples_out);
    for (int other = 1; other < world->node_size && world->node_rank == 0; other++)
        serve(world, other, dataset, split, classes, error);
    return error->status;
}
