/*
 * The trainer: everything that a training job holds, how it is set up, and the loop. Collective
 * throughout: all ranks make the same calls in the same order.
 */
#ifndef DTRAIN_TRAINER_H
#define DTRAIN_TRAINER_H

#include "dtrain/checkpoint.h"
#include "dtrain/dataset.h"
#include "dtrain/gradsync.h"
#include "dtrain/loader.h"
#include "dtrain/model.h"
#include "dtrain/optimizer.h"
#include "dtrain/options.h"
#include "dtrain/replica.h"
#include "dtrain/world.h"

struct dtr_ahead;
struct dtr_backend;

struct dtr_trainer {
    struct dtr_world *world;
    double start_s; /* when the set-up began */

    struct dtr_options options; /* resolved: batch_size, shards, threads and steps are set */
    struct dtr_dataset *dataset;
    const char *data_by; /* who named it; NULL: nobody (dtr_options_data()) */
    struct dtr_samples train, validation, test;        /* this rank's parts */
    int64_t train_count, validation_count, test_count; /* everyone's */
    uint64_t data_fingerprint;

    struct dtr_model *model;
    struct dtr_schedule schedule;
    struct dtr_threads *threads;
    struct dtr_loader *loader;
    struct dtr_gradsync *sync;
    struct dtr_backend *backend; /* src/backend.h */
    struct dtr_replica *replica;
    float rate;              /* of the step whose gradients are being exchanged */
    struct dtr_ahead *ahead; /* src/ahead.h; NULL: the replica leaves steps to the trainer */
    enum dtr_isa isa;        /* of all ranks */
    bool lower_isa;          /* than some of their CPUs have */
    bool changed_isa;        /* since the checkpoint that the run goes on from */

    struct dtr_checkpoint_file
        resumed; /* what the run goes on from; path NULL: it is a fresh one */

    int64_t stop;            /* all ranks' reason to end after this step (stop.h), 0 for none */
    int64_t skipped;         /* batches in a row whose loss was no number */
    double deadline_s;       /* rank 0: by dtr_clock_s(), when all has to be over */
    const char *deadline_by; /* rank 0: who says so; NULL: nobody */
    double checkpoint_s, report_s; /* rank 0: the longest that one has taken, or is expected to */

    bool checkpoints;                     /* are written */
    char *checkpoint_folder;              /* rank 0's counts; NULL: none are */
    struct dtr_checkpoint_writer *writer; /* rank 0 */
    float *weights, *momentum;            /* rank 0: canonical slabs of what is written */
    float *own_weights;                   /* rank 0: the replica's, until they are canonical */
    int64_t snapshot_step;                /* rank 0: of what is written */
    enum dtr_status written;              /* rank 0: what became of the last checkpoint */
    bool unwritten;                       /* rank 0: it failed, and that is the end */
};

/* A batch's loss and errors, over all ranks. */
struct dtr_batch_report {
    int64_t step;
    double loss; /* mean over the batch's samples */
    int64_t errors, samples;
    double rate; /* the step's learning rate */
};

/* Checks options against the world, reads data, compiles the model, makes the checkpoint folder.
 * After each phase the ranks agree; the verdict's message has been printed when this returns other
 * than DTR_OK. Then, too, dtr_trainer_free() is due. */
enum dtr_status dtr_trainer_setup(
    struct dtr_trainer *trainer, struct dtr_world *world, const struct dtr_options *options);
void dtr_trainer_free(struct dtr_trainer *trainer);

/* Prints what is about to happen (src/plan.c); `given` are the options before they were resolved.
 */
void dtr_trainer_print_plan(struct dtr_trainer *trainer, const struct dtr_options *given);

/* Trains to the end, or to where it is stopped: reports, checkpoints, the final test error. Returns
 * the exit status: DTR_STOPPED or another that was asked for, 128 + the signal's number where it is
 * stopped by one without a checkpoint, a dtr_status. */
int dtr_trainer_run(struct dtr_trainer *trainer);

#endif
