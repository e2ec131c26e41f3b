/*
 * Checkpoints: HDF5 files that h5py and h5dump read (layout in the README). Written by rank 0 from
 * a snapshot in canonical layout; nothing in them depends on the number of ranks. Local.
 */
#ifndef DTRAIN_CHECKPOINT_H
#define DTRAIN_CHECKPOINT_H

#include "dtrain/model.h"
#include "dtrain/options.h"
#include "dtrain/status.h"

#include <stdint.h>

enum { DTR_CHECKPOINT_FORMAT = 1 };

struct dtr_checkpoint {
    const struct dtr_model *model;
    const struct dtr_options *options; /* resolved: global batch, shards */
    int64_t step;                      /* steps done */
    double epoch;                      /* epochs done */
    uint64_t data_fingerprint;
    const float *weights, *momentum; /* slabs in canonical layout */
    /* Makes the slabs so, in the thread that writes; NULL: they are. After its failure nothing is
     * written. */
    enum dtr_status (*prepare)(void *context, struct dtr_error *error);
    void *context; /* of prepare */
};

/*
 * The writer of one run's checkpoints into a folder, which is made with its parents if it is
 * missing and tried with a small file. It keeps the newest `keep` (at least 1) of those it wrote.
 *
 * `resumed` is the checkpoint that the run goes on from, NULL for a fresh run. Where it lies in the
 * folder, the older ones there are this run's, too. DTR_WRITE when the folder cannot be made or
 * written, DTR_USAGE when it holds checkpoints of another run: any others, and newer ones than
 * `resumed` unless `newer_are_bad`; also while another run has the folder (lock.h). What killed
 * writers have left is removed, and `latest` names `resumed` then.
 *
 * A thread of its own writes; one thread calls these functions.
 */
struct dtr_checkpoint_writer;
enum dtr_status dtr_checkpoint_writer_create(const char *folder, int64_t keep, const char *resumed,
    bool newer_are_bad, struct dtr_checkpoint_writer **writer_out, struct dtr_error *error);
void dtr_checkpoint_writer_free(struct dtr_checkpoint_writer *writer);

/*
 * Writes DIR/ckpt-s%09d.h5 (temporary file, fsync, read again, rename, fsync of the folder), makes
 * DIR/latest name it in the same way, and removes the oldest beyond `keep` (one that cannot be
 * removed is a warning, and tried again the next time). Equal states give equal bytes. The file is
 * built in memory, which takes as much as it is long: 8 bytes per parameter.
 *
 * DTR_WRITE with file, operation and reason, or the failure of prepare(); then there is no
 * temporary file, and `latest` still names a good checkpoint. A process that may meet a file size
 * limit must ignore SIGXFSZ for that.
 */
enum dtr_status dtr_checkpoint_write(struct dtr_checkpoint_writer *writer,
    const struct dtr_checkpoint *checkpoint, struct dtr_error *error);

/* The same beside the caller, who leaves the slabs alone until it is done. Whether it was written
 * tells finish(), which waits for it, or check(), which does not, when it is done: once. One at a
 * time: finish() is due before the next. */
void dtr_checkpoint_begin(
    struct dtr_checkpoint_writer *writer, const struct dtr_checkpoint *checkpoint);
enum dtr_status dtr_checkpoint_finish(
    struct dtr_checkpoint_writer *writer, struct dtr_error *error);
enum dtr_status dtr_checkpoint_check(struct dtr_checkpoint_writer *writer, struct dtr_error *error);

/* After finish(): the path of the run's newest one, NULL if there is none; the seconds that the
 * last one took. */
const char *dtr_checkpoint_written(const struct dtr_checkpoint_writer *writer);
double dtr_checkpoint_seconds(const struct dtr_checkpoint_writer *writer);

/* What a checkpoint holds. All pointers belong to it. */
struct dtr_checkpoint_file {
    char *path;
    struct dtr_model *model;
    int64_t step;
    double epoch;
    uint64_t data_fingerprint, weights_hash;
    int64_t seed;              /* the run's option: what drew its synthetic digits */
    char *options;             /* the run's, as dtr_options_resume() takes them */
    int64_t options_bytes;     /* of them */
    float *weights, *momentum; /* canonical slabs */
};

/* `path` is a checkpoint, or a folder, whose newest one is meant: that which `latest` names. Shape,
 * type and hash of every tensor are verified. DTR_INPUT names file and reason; then there is
 * nothing to free. */
enum dtr_status dtr_checkpoint_read(
    const char *path, struct dtr_checkpoint_file *file_out, struct dtr_error *error);
void dtr_checkpoint_file_free(struct dtr_checkpoint_file *file);

/* The newest checkpoint of a folder that can be read and verified; a warning names each newer one
 * that cannot. Where there is no checkpoint or no folder, the path is NULL. DTR_INPUT when there
 * are some, but none is good. */
enum dtr_status dtr_checkpoint_read_newest(
    const char *folder, struct dtr_checkpoint_file *file_out, struct dtr_error *error);

/* Prints attributes and tensors for `dtrain info`. Bad tensors are shown as such and then make it
 * DTR_INPUT. */
enum dtr_status dtr_checkpoint_print(const char *path, struct dtr_error *error);

#endif
