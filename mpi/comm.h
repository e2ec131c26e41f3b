/* What mpi/ keeps of MPI in a world; private to mpi/. */
#ifndef DTRAIN_MPI_COMM_H
#define DTRAIN_MPI_COMM_H

#include "dtrain/world.h"

#include <mpi.h>

struct dtr_comm {
    MPI_Comm all;  /* the job's ranks: control messages */
    MPI_Comm data; /* the same ranks: gradients */
    MPI_Comm node; /* the ranks that share this host's memory */
};

/* Ends the job with MPI's reason if an MPI call failed: inside a collective there is no way back.
 */
void dtr_comm_check(struct dtr_world *world, int code, const char *call);

#endif
