/*
 * What tests of checkpoints share: one folder, one state and one writer per test.
 *
 *     tcase_add_checked_fixture(tcase, ckpt_setup, ckpt_teardown);
 *     ...
 *     ckpt_write_one();
 *     ckpt_check_file(ckpt.path);
 *
 * Failures end the test (ck_abort_msg).
 */
#ifndef DTRAIN_TESTS_CHECKPOINT_FIXTURE_H
#define DTRAIN_TESTS_CHECKPOINT_FIXTURE_H

#include "dtrain/checkpoint.h"

#include <hdf5.h>

/* Of the running test, which may change all of it. */
extern struct ckpt {
    char top[256];    /* a folder of the test's own */
    char folder[300]; /* in it, for checkpoints; not there before there is a writer */
    char path[512];   /* of the checkpoint of step 860 in it */
    struct dtr_options options;
    struct dtr_model *model;
    struct dtr_checkpoint state;          /* of step 860, with these options and this model */
    struct dtr_checkpoint_writer *writer; /* NULL before ckpt_open_writer() */
    struct dtr_error error;               /* of the last call that failed */
} ckpt;

extern const char ckpt_small_model[]; /* the text of ckpt_setup()'s model */
extern const char ckpt_one[];         /* all that the folder holds after ckpt_write_one() */
extern const char ckpt_victim[];      /* the name of a tensor of this model, 64x10 */

/* Before and after a test: a folder and a state, and nothing that is left of them. */
void ckpt_setup(void);
void ckpt_teardown(void);

/* A state for another model. */
void ckpt_set_model(const char *text);

/* These have to succeed. ckpt_write_one() is a writer that keeps 3, and step 860. */
void ckpt_open_writer(int64_t keep);
void ckpt_write_step(int64_t step);
void ckpt_write_one(void);

/* No HDF5 object is open, as it has to be after each call, whatever happened. */
void ckpt_check_closed(void);

/* ckpt.error is of this status and says this, in one line. */
void ckpt_check_error(enum dtr_status status, enum dtr_status expected, const char *says);

/* Reads `where`, a checkpoint or a folder, and compares it with the state, bit for bit. */
void ckpt_check_file(const char *where);

/* `where` cannot be read. The error says this, and which file it is. */
void ckpt_check_refused(const char *where, const char *says);

/* The names in the folder but for the lock, sorted, with a space between them. */
void ckpt_check_folder(const char *expected);

/* The text of the file `latest`. */
void ckpt_check_latest(const char *expected);

/* Sets the victim to zeros in a checkpoint of the small model, and leaves its hash. */
void ckpt_damage(hid_t file);

/* A whole file; the caller frees `data`, which ends in a NUL that `count` leaves out. */
struct ckpt_bytes {
    size_t count;
    unsigned char *data;
};
struct ckpt_bytes ckpt_load(const char *path);
void ckpt_save(const char *path, const void *data, size_t count);

/* Sends what is written to `fd` into a file. ckpt_capture_end() takes what this returns. */
int ckpt_capture_begin(int fd, const char *path);
void ckpt_capture_end(int fd, int kept);

/* Runs a command of the shell; returns its exit status. */
__attribute__((format(printf, 1, 2))) int ckpt_shell(const char *format, ...);

#endif
