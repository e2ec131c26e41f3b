/* The launcher's environment; private to mpi/ and its tests. Local, works without MPI. */
#ifndef DTRAIN_MPI_LAUNCH_H
#define DTRAIN_MPI_LAUNCH_H

#include "dtrain/status.h"

/* Before MPI is started: a process that no launcher started is all there is. Open MPI 4 would start
 * a daemon beside it, for processes that it might start (0.1 s). */
void dtr_launch_alone(void);

/* Before MPI is started: DTR_LAUNCH when it would end the process without saying what to do. */
enum dtr_status dtr_launch_check_start(const char *library, struct dtr_error *error);

/* DTR_LAUNCH when MPI has one rank although the innermost launcher started more processes. */
enum dtr_status dtr_launch_check(int mpi_size, const char *library, struct dtr_error *error);

#endif
