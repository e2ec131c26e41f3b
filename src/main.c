/* dtrain: which command, and what all of them share. */
#include "alike.h"
#include "commands.h"
#include "dtrain/guard.h"
#include "dtrain/log.h"
#include "dtrain/pulse.h"
#include "dtrain/watchdog.h"
#include "dtrain/world.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* All hosts of a job do not start at the same moment: for that there is more time. */
enum { START_PATIENCE = 10 };

/* On all ranks, who are watched from here on. */
static int run_watched(struct dtr_world *world, struct dtr_guard *start,
    const struct dtr_options *options, const char *operand, dtr_job *job)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_watchdog *watchdog;
    dtr_watchdog_start(world, options->watchdog, &watchdog, &error);
    int status = (int)dtr_world_agree(world, &error);
    dtr_guard_stop(start);
    if (status != DTR_OK)
        return status;
    status = job(world, options, operand);
    dtr_pulse_phase(DTR_PHASE_END);
    dtr_watchdog_stop(watchdog);
    return status;
}

int dtr_run_job(enum dtr_command command, const char *operand_name, int argc, char **argv,
    int first, dtr_job *job)
{
    struct dtr_error parse_error = DTR_ERROR_NONE, error = DTR_ERROR_NONE;
    struct dtr_world *world;
    struct dtr_options options;
    const char *operand = NULL;
    int operands = 0;
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is a failed write, not the end */
    if (dtr_options_parse(command, argc, argv, first, operand_name != NULL, &operand, &operands,
            &options, &parse_error) == DTR_OK &&
        operand_name != NULL && operands == 0)
        dtr_error_set(&parse_error, DTR_USAGE, "%s is missing: dtrain %s %s", operand_name, argv[1],
            operand_name);

    double limit_s = (double)options.watchdog;
    struct dtr_guard *guard = dtr_guard_start(START_PATIENCE * limit_s, "the start of MPI");
    if (dtr_world_start(&argc, &argv, &world, &error) != DTR_OK) {
        if (dtr_launcher_rank() == 0) /* MPI is not there to tell the ranks apart */
            dtr_complain("%s", error.message);
        dtr_guard_stop(guard);
        return (int)error.status;
    }
    dtr_log_set_rank(world->rank);
    int status = (int)dtr_world_agree(world, &parse_error);
    if (status == DTR_OK)
        status = (int)dtr_alike_start(world, &options);
    if (status == DTR_OK)
        status = run_watched(world, guard, &options, operand, job);
    else
        dtr_guard_stop(guard);
    guard = dtr_guard_start(limit_s, "the end of MPI");
    dtr_world_finish(world);
    dtr_guard_stop(guard);
    return status;
}

/* Options that only print something. MPI is not started for them; one process of a job answers. */
static bool answer(const char *option)
{
    FILE *out = dtr_launcher_rank() == 0 ? stdout : NULL;
    bool help = strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0;
    bool table = strcmp(option, "--help=markdown") == 0;
    bool version = strcmp(option, "--version") == 0;
    if (out != NULL && help)
        dtr_options_help(out);
    if (out != NULL && table)
        dtr_options_markdown(out);
    if (out != NULL && version)
        fprintf(out, "dtrain %s%s\n", DTRAIN_VERSION,
            dtr_world_has_mpi ? "" : " (no MPI: a job has one rank)");
    return help || table || version;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv, int first);
    } commands[] = {
        {"train", dtr_command_train}, {"eval", dtr_command_eval}, {"info", dtr_command_info}};

    for (int i = 1; i < argc; i++) {
        if (answer(argv[i]))
            return DTR_OK;
    }
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc, argv, 2);
    }
    return dtr_command_train(argc, argv, 1);
}
