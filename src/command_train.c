#include "commands.h"
#include "dtrain/trainer.h"

static enum dtr_status train(
    struct dtr_world *world, const struct dtr_options *options, const char *operand)
{
    struct dtr_trainer trainer;
    (void)operand;
    enum dtr_status status = dtr_trainer_setup(&trainer, world, options);
    if (status == DTR_OK)
        dtr_trainer_print_plan(&trainer, options);
    if (status == DTR_OK && !options->dry_run)
        status = dtr_trainer_run(&trainer);
    dtr_trainer_free(&trainer);
    return status;
}

int dtr_command_train(int argc, char **argv, int first)
{
    return dtr_run_job(DTR_COMMAND_TRAIN, NULL, argc, argv, first, train);
}
