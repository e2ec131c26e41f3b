/*
 * What hdf5_write.c, hdf5_read.c and hdf5_print.c share: the paths in a checkpoint, HDF5 objects
 * that close themselves, HDF5's own words about a failure, and the reader's functions, which the
 * printer uses too. For these three alone: the rest of the program sees no HDF5. Local.
 */
#ifndef DTRAIN_CHECKPOINT_HDF5_FILE_H
#define DTRAIN_CHECKPOINT_HDF5_FILE_H

#include "dtrain/checkpoint.h"

#include <hdf5.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

/* The groups of the two slabs. */
#define DTR_HDF5_WEIGHTS "/weights"
#define DTR_HDF5_MOMENTUM "/optimizer/momentum"

/* Any HDF5 object, closed at the end of its scope. */
#define SCOPED_ID __attribute__((cleanup(dtr_hdf5_close_id))) hid_t

static inline void dtr_hdf5_close_id(hid_t *id)
{
    if (*id > 0)
        H5Idec_ref(*id);
}

static inline void dtr_hdf5_extent(const struct dtr_tensor *tensor, hsize_t extent_out[4])
{
    for (int i = 0; i < tensor->dims; i++)
        extent_out[i] = (hsize_t)tensor->dim[i];
}

/* ---- HDF5's own account of its last failure, taken instead of printed on standard error ---- */

struct dtr_hdf5_account {
    char text[200];
};

/* Takes the first entry: the function in which it went wrong. */
static inline herr_t dtr_hdf5_account_entry(unsigned depth, const H5E_error2_t *entry, void *data)
{
    struct dtr_hdf5_account *account = data;
    if (depth == 0)
        snprintf(account->text, sizeof account->text, "%s", entry->desc);
    return 0;
}

static inline herr_t dtr_hdf5_account_take(hid_t stack, void *data)
{
    return H5Ewalk2(stack, H5E_WALK_UPWARD, dtr_hdf5_account_entry, data);
}

/* HDF5 is not made for threads: whoever calls it does so between these two. */
extern pthread_mutex_t dtr_hdf5_mutex;

static inline void dtr_hdf5_account_begin(struct dtr_hdf5_account *account)
{
    pthread_mutex_lock(&dtr_hdf5_mutex);
    account->text[0] = '\0';
    H5Eset_auto2(H5E_DEFAULT, dtr_hdf5_account_take, account);
}

/* Stays silent from then on: a damaged file can make HDF5 complain even when the process ends. */
static inline void dtr_hdf5_account_end(struct dtr_hdf5_account *account)
{
    (void)account;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    pthread_mutex_unlock(&dtr_hdf5_mutex);
}

/* ---- hdf5_read.c; a failure is DTR_INPUT, or DTR_FAILED when memory is short ---- */

/* A file that is being read, and where its failures are told. */
struct dtr_hdf5_source {
    const char *path;
    hid_t file;
    struct dtr_hdf5_account account;
    struct dtr_error *error;
};

/* To be opened at once: it is closed at the end of its scope, even after a failure. */
#define SCOPED_SOURCE __attribute__((cleanup(dtr_hdf5_close))) struct dtr_hdf5_source

enum dtr_status dtr_hdf5_open(
    const char *path, struct dtr_hdf5_source *source, struct dtr_error *error);
void dtr_hdf5_close(struct dtr_hdf5_source *source);

/* Attributes of the file itself. Free *text_out with free(); NULL on failure. */
enum dtr_status dtr_hdf5_get_int(
    const struct dtr_hdf5_source *source, const char *name, int64_t *value_out);
enum dtr_status dtr_hdf5_get_real(
    const struct dtr_hdf5_source *source, const char *name, double *value_out);
enum dtr_status dtr_hdf5_get_text(
    const struct dtr_hdf5_source *source, const char *name, char **text_out);

/* An option's recorded value as a user would write it, "" where nothing was set. */
enum dtr_status dtr_hdf5_get_option(
    const struct dtr_hdf5_source *source, const struct dtr_option *option, char **text_out);

/* Whether an option is recorded: the program that wrote the file may not have known it yet. */
bool dtr_hdf5_has_option(const struct dtr_hdf5_source *source, const struct dtr_option *option);

/* All of `file_out` but the values of the slabs, for which there is memory then. After a failure
 * too the caller frees what there is. */
enum dtr_status dtr_hdf5_get_facts(
    const struct dtr_hdf5_source *source, struct dtr_checkpoint_file *file_out);

/* Reads a tensor of the group `root` into its place in the slab and verifies it. */
enum dtr_status dtr_hdf5_get_tensor(const struct dtr_hdf5_source *source, const char *root,
    const struct dtr_tensor *tensor, float *slab);

/* All weights at once, after they are read. */
enum dtr_status dtr_hdf5_check_weights(
    const struct dtr_hdf5_source *source, const struct dtr_checkpoint_file *file);

/* "5x5x1x32"; room for all the dimensions that HDF5 allows. */
enum { DTR_HDF5_SHAPE_BYTES = 22 * H5S_MAX_RANK };
void dtr_hdf5_format_shape(int dims, const hsize_t extent[], char text_out[DTR_HDF5_SHAPE_BYTES]);

#endif
