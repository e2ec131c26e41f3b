#include "slurm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *dtr_slurm_job(void)
{
    const char *job = getenv("SLURM_JOB_ID");
    return job != NULL && *job != '\0' ? job : NULL;
}

double dtr_slurm_parse_time(const char *text)
{
    long long parts[3] = {0}, days = 0;
    int count = 0, used = 0;
    if (sscanf(text, "%lld-%n", &days, &used) == 1 && used > 0)
        text += used;
    else
        days = 0;
    while (count < 3 && sscanf(text, "%lld%n", &parts[count], &used) == 1) {
        text += used;
        count++;
        if (*text != ':')
            break;
        text++;
    }
    if (count < 2 || strspn(text, " \n") != strlen(text))
        return -1;
    double seconds = (double)days * 24 * 3600;
    for (int i = 0, unit = count == 3 ? 3600 : 60; i < count; i++, unit /= 60)
        seconds += (double)(parts[i] * unit);
    return seconds;
}

/* Where the controller does not answer, the training must not wait for it. */
static double ask_squeue(const char *job)
{
    char command[128], answer[64] = "";
    if (strlen(job) > 20 || strspn(job, "0123456789") != strlen(job))
        return -1;
    snprintf(command, sizeof command, "timeout 10 squeue -h -j %s -o %%L 2>/dev/null", job);
    FILE *pipe = popen(command, "re");
    if (pipe == NULL)
        return -1;
    char *line = fgets(answer, sizeof answer, pipe);
    pclose(pipe);
    return line == NULL ? -1 : dtr_slurm_parse_time(line);
}

double dtr_slurm_time_left_s(void)
{
    const char *job = dtr_slurm_job(), *end = getenv("SLURM_JOB_END_TIME");
    if (job == NULL)
        return -1;
    if (end != NULL && atoll(end) > 0)
        return (double)(atoll(end) - (long long)time(NULL));
    return ask_squeue(job);
}
