#include "slurm.h"

#include <stdlib.h>

const char *dtr_slurm_job(void)
{
    const char *job = getenv("SLURM_JOB_ID");
    return job != NULL && *job != '\0' ? job : NULL;
}
