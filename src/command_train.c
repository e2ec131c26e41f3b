#include "commands.h"
#include "dtrain/trainer.h"
#include "stop.h"

static int train(struct dtr_world *world, const struct dtr_options *options, const char *operand)
{
    struct dtr_trainer trainer;
    (void)operand;
    dtr_stop_watch();
    int status = (int)dtr_trainer_setup(&trainer, world, options);
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
