/* main() of a unit test: include it, and define make_suite(). Where CAN_RUN is defined before and
 * not true, it returns 77, skipped. */
#ifndef DTRAIN_TESTS_UNIT_MAIN_H
#define DTRAIN_TESTS_UNIT_MAIN_H

#include <check.h>

#ifndef CAN_RUN
#define CAN_RUN 1
#endif

static Suite *make_suite(void);

int main(void)
{
    if (!CAN_RUN)
        return 77;
    SRunner *runner = srunner_create(make_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

#endif
