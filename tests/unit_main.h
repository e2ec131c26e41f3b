/* main() of a unit test: include it, and define make_suite(). */
#ifndef DTRAIN_TESTS_UNIT_MAIN_H
#define DTRAIN_TESTS_UNIT_MAIN_H

#include <check.h>

static Suite *make_suite(void);

int main(void)
{
    SRunner *runner = srunner_create(make_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

#endif
