/* main() of a test program that runs on several ranks: include it, and define make_suite(). */
#ifndef DTRAIN_TESTS_MPI_MAIN_H
#define DTRAIN_TESTS_MPI_MAIN_H

#include "dtrain/log.h"
#include "dtrain/world.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static struct dtr_world *world;
static SRunner *runner;

static Suite *make_suite(void);

/* A test that fails on one rank leaves the others waiting for it: ends them, and says why. */
static void end_job_after_failure(void)
{
    struct dtr_error error = DTR_ERROR_NONE;
    if (srunner_ntests_failed(runner) == 0)
        return;
    TestResult **failures = srunner_failures(runner);
    dtr_error_set(&error, DTR_FAILED, "%s:%d: %s", tr_lfile(failures[0]), tr_lno(failures[0]),
        tr_msg(failures[0]));
    free(failures);
    dtr_world_abort(world, "test", -1, &error);
}

/* A group of tests with this precaution. */
static TCase *add_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_add_checked_fixture(tcase, end_job_after_failure, NULL); /* before the next test */
    suite_add_tcase(suite, tcase);
    return tcase;
}

/* Tests run in this process: MPI does not survive a fork. A failing rank fails the job. */
int main(int argc, char **argv)
{
    struct dtr_error error = DTR_ERROR_NONE;
    if (dtr_world_start(&argc, &argv, &world, &error) != DTR_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    dtr_log_set_rank(world->rank);
    runner = srunner_create(make_suite());
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    end_job_after_failure();
    srunner_free(runner);
    dtr_world_finish(world);
    return 0;
}

#endif
