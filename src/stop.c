#include "stop.h"

#include "dtrain/clock.h"
#include "dtrain/signals.h"
#include "slurm.h"

#include <math.h>
#include <signal.h>
#include <stdatomic.h>

static atomic_int asked;

static void ask(int number)
{
    atomic_store(&asked, number);
}

/* A SIGINT that comes again is the system's to handle, who ends the process. */
void dtr_stop_watch(void)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        dtr_signals_handle(
            numbers[i], ask, numbers[i] == SIGINT ? DTR_SIGNALS_ONCE : DTR_SIGNALS_ALWAYS);
}

int64_t dtr_stop_signal(void)
{
    return atomic_load(&asked);
}

const char *dtr_stop_name(int64_t reason)
{
    switch (reason) {
    case SIGTERM:
        return "SIGTERM";
    case SIGINT:
        return "SIGINT";
    case SIGUSR1:
        return "SIGUSR1";
    case SIGUSR2:
        return "SIGUSR2";
    case DTR_STOP_TIME:
        return "the time limit";
    default:
        return "a checkpoint that cannot be written";
    }
}

double dtr_stop_deadline(const struct dtr_options *options, double start_s, const char **origin_out)
{
    double left_s = dtr_slurm_time_left_s();
    *origin_out = NULL;
    if (options->time_limit > 0) {
        *origin_out = "--time-limit";
        return start_s + (double)options->time_limit;
    }
    if (left_s < 0)
        return INFINITY;
    *origin_out = "Slurm";
    return dtr_clock_s() + left_s;
}
