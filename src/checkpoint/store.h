/*
 * Files that are whole or not there. Private to src/checkpoint/. Local.
 *
 * A file is written under a temporary name, flushed to disk, read again and compared, and renamed;
 * then the folder is flushed. Functions return NULL, or the name of the operation that failed, with
 * errno; then no temporary file is left.
 */
#ifndef DTRAIN_CHECKPOINT_STORE_H
#define DTRAIN_CHECKPOINT_STORE_H

#include <limits.h>
#include <stddef.h>

struct store {
    char folder[PATH_MAX];
    int fd;          /* of the folder */
    char suffix[96]; /* of temporary names: host and process */
};

/* Makes the folder with its parents where it is missing, and opens it. */
const char *store_open(const char *folder, struct store *store_out);
void store_close(struct store *store);

/* Makes a file under a name that is nobody else's; flushed and compared, but not renamed. */
const char *store_own(const struct store *store, const char *name, const void *bytes, size_t size);

/* Replaces a file of the folder. */
const char *store_file(const struct store *store, const char *name, const void *bytes, size_t size);

/* Writes a small file and removes it: permissions, quotas and read-only mounts are best asked by
 * trying. */
const char *store_probe(const struct store *store);

/* Removes temporary files that killed processes have left. For whoever is alone in the folder. */
void store_clean(const struct store *store);

#endif
