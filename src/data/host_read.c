#include "dtrain/host_read.h"

#include <limits.h>

/* A host's first rank needs so much memory to hand samples on, or what one sample takes. */
enum { BLOCK_BYTES = 4 << 20 };

/* What a rank asks of the host's first. It takes samples in the same blocks as they are sent. */
struct request {
    int64_t first, count, block;
};

static struct dtr_samples block_of(const struct dtr_samples *samples, int64_t done, int64_t block)
{
    struct dtr_samples part = *samples;
    part.first += done;
    part.labels += done;
    part.images += done * samples->image_bytes;
    part.count = samples->count - done < block ? samples->count - done : block;
    return part;
}

/* A message without labels means that there is an error, and the last. */
static void receive(struct dtr_world *world, struct dtr_samples *samples, int64_t block)
{
    struct request request = {samples->first, samples->count, block};
    dtr_world_send(world, 0, &request, sizeof request);
    for (int64_t done = 0; done < samples->count; done += block) {
        struct dtr_samples part = block_of(samples, done, block);
        if (dtr_world_receive(world, 0, part.labels, part.count) == 0)
            return;
        dtr_world_receive(world, 0, part.images, part.count * part.image_bytes);
    }
}

static void serve(struct dtr_world *world, int node_rank, struct dtr_dataset *dataset,
    enum dtr_split split, int64_t classes, struct dtr_error *error)
{
    struct request request;
    dtr_world_receive(world, node_rank, &request, sizeof request);
    for (int64_t done = 0; done < request.count; done += request.block) {
        struct dtr_samples part = {0};
        int64_t count = request.count - done < request.block ? request.count - done : request.block;
        if (error->status == DTR_OK)
            dtr_dataset_read(dataset, split, request.first + done, count, classes, &part, error);
        dtr_world_send(world, node_rank, part.labels, error->status == DTR_OK ? count : 0);
        if (error->status != DTR_OK)
            return;
        dtr_world_send(world, node_rank, part.images, count * part.image_bytes);
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
        receive(world, samples_out, image_bytes < BLOCK_BYTES ? BLOCK_BYTES / image_bytes : 1);
    for (int other = 1; other < world->node_size && world->node_rank == 0; other++)
        serve(world, other, dataset, split, classes, error);
    return error->status;
}
