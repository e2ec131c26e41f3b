#include "resume.h"

#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "slurm.h"

#include <stdlib.h>
#include <string.h>

/* The parts of a checkpoint that have a fixed size, and the sizes of the others; 0: there is no
 * checkpoint. */
struct facts {
    int64_t path_bytes, text_bytes, options_bytes;
    int64_t step, seed;
    double epoch;
    uint64_t data_fingerprint, weights_hash;
};

static struct facts facts_of(const struct dtr_checkpoint_file *file)
{
    if (file->path == NULL)
        return (struct facts){0};
    return (struct facts){.path_bytes = (int64_t)strlen(file->path) + 1,
        .text_bytes = (int64_t)strlen(file->model->text) + 1,
        .options_bytes = file->options_bytes,
        .step = file->step,
        .seed = file->seed,
        .epoch = file->epoch,
        .data_fingerprint = file->data_fingerprint,
        .weights_hash = file->weights_hash};
}

/* Room for rank 0's texts and slabs on the other ranks. */
static void make_room(const struct facts *facts, const char *text, struct dtr_checkpoint_file *file,
    struct dtr_error *error)
{
    static const char what[] = "a checkpoint";
    *file = (struct dtr_checkpoint_file){.step = facts->step,
        .seed = facts->seed,
        .epoch = facts->epoch,
        .data_fingerprint = facts->data_fingerprint,
        .weights_hash = facts->weights_hash,
        .options_bytes = facts->options_bytes};
    file->path = dtr_alloc(facts->path_bytes, 1, what, error);
    file->options = dtr_alloc(facts->options_bytes, 1, what, error);
    if (file->path == NULL || file->options == NULL ||
        dtr_model_parse(text, what, &file->model, error) != DTR_OK)
        return;
    file->weights = dtr_alloc(file->model->slab_count, sizeof(float), what, error);
    file->momentum = dtr_alloc(file->model->slab_count, sizeof(float), what, error);
}

static enum dtr_status share(
    struct dtr_world *world, const struct facts *facts, struct dtr_checkpoint_file *file)
{
    struct dtr_error error = DTR_ERROR_NONE;
    char *text = dtr_alloc(facts->text_bytes, 1, "a checkpoint", &error);
    if (text == NULL) /* the other ranks are on their way into collective calls */
        dtr_world_abort(world, "set-up", -1, &error);
    if (world->rank == 0)
        memcpy(text, file->model->text, (size_t)facts->text_bytes);
    dtr_world_broadcast(world, text, facts->text_bytes);
    if (world->rank != 0)
        make_room(facts, text, file, &error);
    free(text);
    enum dtr_status status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    int64_t slab_bytes = file->model->slab_count * (int64_t)sizeof(float);
    dtr_world_broadcast(world, file->path, facts->path_bytes);
    dtr_world_broadcast(world, file->options, facts->options_bytes);
    dtr_world_broadcast(world, file->weights, slab_bytes);
    dtr_world_broadcast(world, file->momentum, slab_bytes);
    return DTR_OK;
}

enum dtr_status dtr_checkpoint_share(
    struct dtr_world *world, const char *path, bool newest, struct dtr_checkpoint_file *file_out)
{
    struct dtr_error error = DTR_ERROR_NONE;
    *file_out = (struct dtr_checkpoint_file){0};
    dtr_pulse_phase(DTR_PHASE_CHECKPOINT);
    if (world->rank == 0 && newest)
        dtr_checkpoint_read_newest(path, file_out, &error);
    else if (world->rank == 0)
        dtr_checkpoint_read(path, file_out, &error);
    enum dtr_status status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    struct facts facts = facts_of(file_out);
    dtr_world_broadcast(world, &facts, sizeof facts);
    return facts.path_bytes == 0 ? DTR_OK : share(world, &facts, file_out);
}

/* What --resume means: NULL is a fresh run. */
static enum dtr_status find_source(
    const struct dtr_trainer *trainer, const char **path_out, struct dtr_error *error)
{
    const struct dtr_options *options = &trainer->options;
    *path_out = NULL;
    if (strcmp(options->resume, "never") == 0)
        return DTR_OK;
    if (strcmp(options->resume, "auto") != 0) {
        *path_out = options->resume;
        return DTR_OK;
    }
    if (trainer->checkpoint_folder == NULL)
        return dtr_error_set(error, DTR_USAGE,
            "--resume auto finds nothing with --checkpoint-dir none; name a folder");
    if (options->checkpoint_dir == NULL && dtr_slurm_job() == NULL)
        return dtr_error_set(error, DTR_USAGE,
            "--resume auto looks into the checkpoint folder, which is a new one for every run "
            "outside of Slurm; name it by --checkpoint-dir");
    *path_out = trainer->checkpoint_folder;
    return DTR_OK;
}

enum dtr_status dtr_resume_read(struct dtr_trainer *trainer)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_checkpoint_file *file = &trainer->resumed;
    const char *path;
    find_source(trainer, &path, &error);
    enum dtr_status status = dtr_world_agree(trainer->world, &error);
    if (status != DTR_OK || path == NULL)
        return status;
    bool newest = strcmp(trainer->options.resume, "auto") == 0;
    status = dtr_checkpoint_share(trainer->world, path, newest, file);
    if (status != DTR_OK || file->path == NULL)
        return status;
    dtr_options_resume(&trainer->options, file->options, file->path, &error);
    return dtr_world_agree(trainer->world, &error);
}

enum dtr_status dtr_resume_check(const struct dtr_trainer *trainer, struct dtr_error *error)
{
    const struct dtr_checkpoint_file *file = &trainer->resumed;
    if (file->path == NULL || trainer->data_fingerprint == file->data_fingerprint)
        return DTR_OK;
    return dtr_error_set(error, DTR_INPUT,
        "%s is not the data of %s (fingerprint %016llx, the run's %016llx); name its data by --data",
        trainer->options.data, file->path, (unsigned long long)trainer->data_fingerprint,
        (unsigned long long)file->data_fingerprint);
}

void dtr_resume_state(struct dtr_trainer *trainer, float *slab)
{
    struct dtr_checkpoint_file *file = &trainer->resumed;
    struct dtr_replica *replica = trainer->replica;
    replica->ops->set(replica, file->weights);
    replica->ops->order(replica, file->momentum, slab);
    dtr_gradsync_keep(trainer->sync, slab, replica->ops->momenta(replica));
    free(file->weights);
    free(file->momentum);
    file->weights = file->momentum = NULL;
}
