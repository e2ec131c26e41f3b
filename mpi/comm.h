/* What mpi/ keeps of MPI in a world; private to mpi/. */
#ifndef DTRAIN_MPI_COMM_H
#define DTRAIN_MPI_COMM_H

#include "dtrain/world.h"

#include <mpi.h>

struct dtr_comm {
    MPI_Comm all;  /* the job's ranks: control messages */
    MPI_Comm data; /* the same ranks by their place: gradients */
    MPI_Comm node; /* the ranks that share this host's memory */
    bool threads;  /* several threads may call MPI at a time */

    /* dtr_world_start_control() */
    MPI_Comm control; /* the ranks by their place */
    MPI_Datatype control_type;
    MPI_Op control_sum;
    MPI_Request control_request;
    struct dtr_control control_mine, control_all;
};

/* Ends the job with MPI's reason if an MPI call failed: inside a collective there is no way back.
 */
void dtr_comm_check(struct dtr_world *world, int code, const char *call);

/* Ends all processes. Local. */
_Noreturn void dtr_comm_end(enum dtr_status status);

/* Ends this process alone, which makes the launcher end the others. Local. */
_Noreturn void dtr_comm_exit(enum dtr_status status);

/* Ends this process in a few seconds, if dtr_comm_end() has not come that far by then. Local. */
void dtr_comm_end_soon(enum dtr_status status);

/* Whether all ranks say yes. Collective. */
bool dtr_comm_all(struct dtr_world *world, bool yes);

#endif
