#include "dtrain/guard.h"
#include "dtrain/status.h"
#include "unit_main.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* getenv() of everything that is linked here (-Wl,--wrap): a thread that asks while MPI, in the
 * main thread, moves the environment reads memory that has been freed. */
char *__real_getenv(const char *name);
char *__wrap_getenv(const char *name);

char *__wrap_getenv(const char *name)
{
    if (gettid() != getpid()) /* not the main thread */
        abort();
    return __real_getenv(name);
}

START_TEST(test_a_guard_in_time_is_silent)
{
    struct dtr_guard *guard = dtr_guard_start(100, "the start of MPI");
    ck_assert_ptr_nonnull(guard);
    dtr_guard_stop(guard);
    ck_assert_ptr_null(dtr_guard_start(0, "nothing"));
    dtr_guard_stop(NULL);
}
END_TEST

static void wait_under_guard(int error_output)
{
    dup2(error_output, STDERR_FILENO);
    setenv("OMPI_COMM_WORLD_RANK", "3", true);
    dtr_guard_start(0.2, "the start of MPI");
    sleep(100);
    _exit(DTR_OK);
}

START_TEST(test_a_guard_ends_who_waits_too_long)
{
    int ends[2], status;
    char text[512] = "";
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0)
        wait_under_guard(ends[1]);
    close(ends[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), DTR_HUNG);
    ck_assert_int_gt(read(ends[0], text, sizeof text - 1), 0);
    ck_assert_ptr_nonnull(strstr(text, "dtrain: rank 3 on "));
    ck_assert_ptr_nonnull(strstr(text, " for the start of MPI: "));
    close(ends[0]);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("guard");
    TCase *tcase = add_case(suite, "guard");
    tcase_add_test(tcase, test_a_guard_in_time_is_silent);
    tcase_add_test(tcase, test_a_guard_ends_who_waits_too_long);
    return suite;
}
