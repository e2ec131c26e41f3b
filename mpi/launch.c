/*
 * What the launcher's environment says, before and beside MPI. Where the program's MPI library does
 * not speak the launcher's protocol (another MPI in the container, srun without PMIx), every
 * process starts as rank 0 of 1; comparing MPI's size with the launcher's is how that is noticed.
 */
#include "launch.h"

#include "dtrain/world.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define SRUN_FIX "try srun --mpi=pmix (srun --mpi=list shows what there is; MPICH wants --mpi=pmi2)"

/* Innermost first: mpirun inside a Slurm step sets its own variables on top of Slurm's. */
static const struct launcher {
    const char *name, *size, *rank, *fix;
} launchers[] = {
    {"mpirun (Open MPI)", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
        "start it with the mpirun of the MPI that it was built with (in a container: the same MPI "
        "family and major version outside and inside)"},
    {"mpiexec (PMI)", "PMI_SIZE", "PMI_RANK",
        "start it with the mpiexec of the MPI that it was built with"},
    {"mpiexec (PMIx)", "PMIX_SIZE", "PMIX_RANK",
        "start it with the mpiexec of the MPI that it was built with"},
    {"srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", SRUN_FIX},
};
enum { LAUNCHERS = sizeof launchers / sizeof *launchers };

static int number(const char *variable)
{
    const char *text = getenv(variable);
    return text == NULL ? -1 : atoi(text);
}

/* -1 without a launcher. */
static int launched_rank(void)
{
    int rank = -1;
    for (int i = 0; i < LAUNCHERS && rank < 0; i++)
        rank = number(launchers[i].rank);
    return rank;
}

int dtr_launcher_rank(void)
{
    int rank = launched_rank();
    return rank < 0 ? 0 : rank;
}

void dtr_launch_alone(void)
{
    if (launched_rank() < 0)
        setenv("OMPI_MCA_ess_singleton_isolated", "1", false);
}

/* Where srun speaks no protocol at all, Open MPI 4 ends the process, and speaks of building Slurm
 * anew. (Open MPI 5 makes each process a rank 0 of 1.) */
enum dtr_status dtr_launch_check_start(const char *library, struct dtr_error *error)
{
    int size = number("SLURM_STEP_NUM_TASKS"), major;
    bool told = getenv("OMPI_COMM_WORLD_SIZE") != NULL || getenv("PMIX_RANK") != NULL ||
                getenv("PMI_RANK") != NULL;
    if (size < 1 || told || sscanf(library, "Open MPI v%d", &major) != 1 || major > 4)
        return DTR_OK;
    return dtr_error_set(error, DTR_LAUNCH,
        "srun started %d process%s, but does not tell MPI (%s) about them; %s", size,
        size == 1 ? "" : "es", library, SRUN_FIX);
}

enum dtr_status dtr_launch_check(int mpi_size, const char *library, struct dtr_error *error)
{
    for (int i = 0; i < LAUNCHERS; i++) {
        int size = number(launchers[i].size);
        if (size < 1)
            continue;
        if (mpi_size > 1 || size == 1)
            return DTR_OK;
        if (!dtr_world_has_mpi)
            return dtr_error_set(error, DTR_LAUNCH,
                "%s started %d processes (%s), but this dtrain was built without MPI, so each is "
                "rank 0 of 1; start one process, or build dtrain where there is an MPI library",
                launchers[i].name, size, launchers[i].size);
        return dtr_error_set(error, DTR_LAUNCH,
            "%s started %d processes (%s), but MPI (%s) sees each as rank 0 of 1; %s",
            launchers[i].name, size, launchers[i].size, library, launchers[i].fix);
    }
    return DTR_OK;
}
