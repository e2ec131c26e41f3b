/* main() of a test program that runs on several ranks: include it, and define make_suite(). */
#ifndef DTRAIN_TESTS_MPI_MAIN_H
#define DTRAIN_TESTS_MPI_MAIN_H

#include "dtrain/log.h"
#include "dtrain/world.h"

#include <check.h>
#include <stdio.h>

static struct dtr_world *world;

static Suite *make_suite(void);

/* Tests run in this process: MPI does not survive a fork. A failing rank fails the job. */
int main(int argc, char **argv)
{
    struct dtr_error error = DTR_ERROR_NONE;
    if (dtr_world_start(&argc, &argv, &world, &error) != DTR_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    dtr_log_set_rank(world->rank);
    SRunner *runner = srunner_create(make_suite());
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (failed > 0) { /* another rank may wait for this one */
        dtr_error_set(&error, DTR_FAILED, "%d tests failed", failed);
        dtr_world_abort(world, "test", -1, &error);
    }
    dtr_world_finish(world);
    return 0;
}

#endif
