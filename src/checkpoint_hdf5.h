/*
 * The inside of a checkpoint: which HDF5 objects it has, and how they are read back. Files, names
 * and durability are checkpoint.c's. Local.
 */
#ifndef DTRAIN_CHECKPOINT_HDF5_H
#define DTRAIN_CHECKPOINT_HDF5_H

#include "dtrain/checkpoint.h"

#include <stddef.h>

/* The file's bytes, equal for equal states; free with free(). DTR_FAILED when memory is short, the
 * only thing that can go wrong. */
enum dtr_status dtr_checkpoint_encode(const struct dtr_checkpoint *checkpoint, void **bytes_out,
    size_t *size_out, struct dtr_error *error);

/* dtr_checkpoint_read() and dtr_checkpoint_print() of an HDF5 file. */
enum dtr_status dtr_checkpoint_decode(
    const char *path, struct dtr_checkpoint_file *file_out, struct dtr_error *error);
enum dtr_status dtr_checkpoint_describe(const char *path, struct dtr_error *error);

#endif
