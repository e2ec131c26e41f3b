/*
 * Memory that the ranks of a group share: a segment from each rank, which all of them can read and
 * write. Private to mpi/.
 *
 * Not by MPI_Win_allocate_shared(): where /dev/shm is small, as in containers, Open MPI 4.1 hangs
 * in it and MPICH 4.0 hands out pages that are not there (SIGBUS on first use); Open MPI's segments
 * are not aligned either. A segment here is an anonymous file (memfd_create) that the others open
 * through /proc: no /dev/shm, no name that could stay behind, pages allocated by its owner.
 */
#ifndef DTRAIN_MPI_WINDOW_H
#define DTRAIN_MPI_WINDOW_H

#include "dtrain/world.h"

#include <stdbool.h>

struct window {
    int size, index; /* ranks of the group, this one among them */
    struct segment {
        void *memory; /* zeroed, page-aligned, in huge pages if the system has them */
        int64_t bytes;
    } * segments; /* [size], by index */
    bool failed;  /* sharing was wanted, but somewhere it could not be had */
};

/* Makes groups of at most `most` ranks of a host (0: all of them), with a segment of `bytes` for
 * each rank, and `first_bytes` more for a group's first. Where any group's memory cannot be had or
 * shared, all ranks become groups of their own. Collective. False when a rank has no memory at all
 * (that rank knows why); then, too, window_free() is due. */
bool window_create(struct dtr_world *world, int64_t most, int64_t bytes, int64_t first_bytes,
    struct window *window_out, struct dtr_error *error);
void window_free(struct window *window);

#endif
