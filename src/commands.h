/* The commands of the program; each takes argv from argv[first] on and returns the exit status. */
#ifndef DTRAIN_COMMANDS_H
#define DTRAIN_COMMANDS_H

#include "dtrain/options.h"
#include "dtrain/world.h"

int dtr_command_train(int argc, char **argv, int first);
int dtr_command_eval(int argc, char **argv, int first);

/* Never starts MPI: it runs on a login node. */
int dtr_command_info(int argc, char **argv, int first);
int dtr_command_devices(void); /* dtrain info --devices */

/* A command that runs on all ranks; returns the exit status. It finds options parsed and agreed;
 * the operand is NULL when the command takes none. */
typedef int dtr_job(
    struct dtr_world *world, const struct dtr_options *options, const char *operand);

/* Starts MPI, parses options, runs the job, ends MPI. `operand` names the one word that the command
 * needs ("CHECKPOINT"), NULL for none. */
int dtr_run_job(
    enum dtr_command command, const char *operand, int argc, char **argv, int first, dtr_job *job);

#endif
