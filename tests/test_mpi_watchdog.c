/* The watchdog of a job in which nobody hangs, on 1 to 8 ranks; who hangs is in test_watchdog.sh.
 */
#include "../mpi/comm.h"
#include "dtrain/pulse.h"
#include "dtrain/watchdog.h"
#include "mpi_main.h"

#include <time.h>

static struct dtr_watchdog *start(int64_t limit_s)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_watchdog *watchdog;
    ck_assert_msg(
        dtr_watchdog_start(world, limit_s, &watchdog, &error) == DTR_OK, "%s", error.message);
    return watchdog;
}

static void rest(int milliseconds)
{
    const struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

START_TEST(test_off)
{
    ck_assert_ptr_null(start(0));
    dtr_watchdog_stop(NULL);
    ck_assert_ptr_null(start(world->rank == world->size - 1 ? 0 : 60)); /* off for all */
}
END_TEST

/* Ranks come to its end at different times, and nothing is left that the next one could take. */
START_TEST(test_again_and_again)
{
    for (int i = 0; i < 20; i++) {
        struct dtr_watchdog *watchdog = start(60);
        ck_assert_ptr_nonnull(watchdog);
        if (world->rank == i % world->size)
            rest(i);
        dtr_watchdog_stop(watchdog);
    }
}
END_TEST

/* Longer than the limit: all wait for one that works. */
START_TEST(test_slow_is_no_hang)
{
    struct dtr_watchdog *watchdog = start(2);
    for (int i = 0; world->rank == world->size - 1 && i < 30; i++) {
        rest(100);
        dtr_pulse_beat();
    }
    dtr_world_barrier(world);
    dtr_watchdog_stop(watchdog);
}
END_TEST

/* Where threads may not call MPI, a host's watches are on their own. */
START_TEST(test_without_threads)
{
    bool threads = world->comm->threads;
    world->comm->threads = false;
    struct dtr_watchdog *watchdog = start(60);
    rest(100);
    dtr_watchdog_stop(watchdog);
    world->comm->threads = threads;
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("watchdog");
    TCase *tcase = add_case(suite, "watchdog");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_off);
    tcase_add_test(tcase, test_again_and_again);
    tcase_add_test(tcase, test_slow_is_no_hang);
    tcase_add_test(tcase, test_without_threads);
    return suite;
}
