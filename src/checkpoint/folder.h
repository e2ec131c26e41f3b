/*
 * A folder of checkpoints: their names, which there are, and which one is meant. Private to
 * src/checkpoint/. Local.
 */
#ifndef DTRAIN_CHECKPOINT_FOLDER_H
#define DTRAIN_CHECKPOINT_FOLDER_H

#include <stdbool.h>
#include <stdint.h>

enum { FOLDER_NAME = 40 };

/* The file that names the newest checkpoint, with a line end behind it. */
extern const char folder_latest[];

/* "ckpt-s000000860.h5". */
void folder_name(int64_t step, char name_out[FOLDER_NAME]);

/* The step in such a name, -1 for any other one. */
int64_t folder_step_of(const char *name);

/* The step of a checkpoint that lies in this folder; -1 if it lies elsewhere, or `path` is NULL. */
int64_t folder_step_in(const char *folder, const char *path);

/* The steps of a folder's checkpoints, in rising order; free *steps_out with free(). False with
 * errno. */
bool folder_list(const char *folder, int64_t **steps_out, int64_t *count_out);

#endif
