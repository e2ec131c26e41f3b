/* main() of a unit test: include it, and define make_suite() with add_case(). Where CAN_RUN is
 * defined before and not true, it returns 77, skipped. */
#ifndef DTRAIN_TESTS_UNIT_MAIN_H
#define DTRAIN_TESTS_UNIT_MAIN_H

#include <check.h>

#ifndef CAN_RUN
#define CAN_RUN 1
#endif

static Suite *make_suite(void);

/* A group of tests, with time enough for a build with sanitizers on a loaded machine. */
static inline TCase *add_case(Suite *suite, const char *name)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 120);
    suite_add_tcase(suite, tcase);
    return tcase;
}

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
