/*
 * The inside of a checkpoint, as writer.c and folder.c see it: a state becomes the bytes of a file,
 * and a file a state again. Names, durability and which file is read are theirs. Private to
 * src/checkpoint/. Local.
 */
#ifndef DTRAIN_CHECKPOINT_FORMAT_H
#define DTRAIN_CHECKPOINT_FORMAT_H

#include "dtrain/checkpoint.h"

#include <stddef.h>

/* The memory that a file is built in. It is kept for the next file, as the system takes longer to
 * hand out new memory than HDF5 to fill it. Free `bytes` with free(). */
struct dtr_checkpoint_image {
    char *bytes;
    size_t capacity, size; /* size: of the file */
};

/* The file's bytes, equal for equal states. DTR_FAILED when memory is short, the only thing that
 * can go wrong. In hdf5_write.c. */
enum dtr_status dtr_checkpoint_encode(const struct dtr_checkpoint *checkpoint,
    struct dtr_checkpoint_image *image, struct dtr_error *error);

/* dtr_checkpoint_read() of an HDF5 file. In hdf5_read.c. */
enum dtr_status dtr_checkpoint_decode(
    const char *path, struct dtr_checkpoint_file *file_out, struct dtr_error *error);

/* dtr_checkpoint_print() of an HDF5 file. In hdf5_print.c. */
enum dtr_status dtr_checkpoint_describe(const char *path, struct dtr_error *error);

#endif
