/* What Slurm tells a job about itself. Local. */
#ifndef DTRAIN_SLURM_H
#define DTRAIN_SLURM_H

/* The number of the job that this process belongs to, NULL outside of Slurm. */
const char *dtr_slurm_job(void);

/* Seconds until the job's time limit, -1 where there is none or it cannot be known: from
 * SLURM_JOB_END_TIME (Slurm 23.02 and later), else by asking squeue. For one rank of a job. */
double dtr_slurm_time_left_s(void);

/* "1-02:03:04", "02:03:04" or "03:04" in seconds, -1 for anything else ("UNLIMITED"). */
double dtr_slurm_parse_time(const char *text);

#endif
