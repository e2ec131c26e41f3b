/*
 * From a checkpoint that rank 0 reads to a state that all ranks have: what a training goes on from,
 * or what an evaluation looks at. Collective.
 */
#ifndef DTRAIN_RESUME_H
#define DTRAIN_RESUME_H

#include "dtrain/trainer.h"

/* Rank 0 reads `path` (where `newest`, the newest good checkpoint of that folder, if there is one:
 * else the file's path is NULL on all ranks), everyone gets all of it. The ranks have agreed when
 * this returns; free with dtr_checkpoint_file_free() also after a failure. */
enum dtr_status dtr_checkpoint_share(
    struct dtr_world *world, const char *path, bool newest, struct dtr_checkpoint_file *file_out);

/* A phase of the set-up, before the options are resolved: reads what --resume names to
 * trainer->resumed, and takes its options. The ranks have agreed. */
enum dtr_status dtr_resume_read(struct dtr_trainer *trainer);

/* Whether data and network are those of the checkpoint. Local. */
enum dtr_status dtr_resume_check(const struct dtr_trainer *trainer, struct dtr_error *error);

/* Moves weights and momenta into the replica. `slab` is memory for one. Local. */
void dtr_resume_state(struct dtr_trainer *trainer, float *slab);

#endif
