/* What Slurm tells a job about itself. Local. */
#ifndef DTRAIN_SLURM_H
#define DTRAIN_SLURM_H

/* The number of the job that this process belongs to, NULL outside of Slurm. */
const char *dtr_slurm_job(void);

#endif
