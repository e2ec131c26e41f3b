/* The thread that moves messages. A test ends at once when what it waits for has happened. */
#include "../mpi/progress.h"

#include "dtrain/clock.h"
#include "unit_main.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

enum { HANG_S = 40, CALM_NS = 50000000, SLOW_NS = 300000 };

/* A call does one piece of the work. */
struct job {
    atomic_int left, calls;
    atomic_int elsewhere; /* calls on another thread than the test's */
    atomic_int inside, most_inside;
    int64_t plain; /* as calls: one thread at a time needs no atomic */
    bool slow;     /* takes its time between the piece and its return */
    pthread_t test;
};

static struct job job;

static void rest(long nanoseconds)
{
    const struct timespec pause = {.tv_nsec = nanoseconds};
    nanosleep(&pause, NULL);
}

static bool do_piece(void *context)
{
    struct job *mine = context;
    int inside = atomic_fetch_add(&mine->inside, 1) + 1;
    if (inside > atomic_load(&mine->most_inside))
        atomic_store(&mine->most_inside, inside);
    mine->plain++;
    if (!pthread_equal(pthread_self(), mine->test))
        atomic_fetch_add(&mine->elsewhere, 1);
    int left = atomic_load(&mine->left);
    while (left > 0 && !atomic_compare_exchange_weak(&mine->left, &left, left - 1))
        ;
    if (mine->slow)
        rest(SLOW_NS);
    atomic_fetch_sub(&mine->inside, 1);
    atomic_fetch_add(&mine->calls, 1);
    return left <= 1;
}

static struct progress *start(bool slow)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct progress *progress;
    job = (struct job){.test = pthread_self(), .slow = slow};
    ck_assert_msg(progress_start(do_piece, &job, &progress, &error) == DTR_OK, "%s", error.message);
    ck_assert_ptr_nonnull(progress);
    return progress;
}

static void stop(struct progress *progress)
{
    progress_stop(progress);
    ck_assert_int_le(atomic_load(&job.most_inside), 1);
    ck_assert_int_eq(job.plain, atomic_load(&job.calls));
}

static void wait_until_done(void)
{
    double end_s = dtr_clock_s() + HANG_S;
    while (atomic_load(&job.left) > 0) {
        ck_assert_double_lt(dtr_clock_s(), end_s);
        rest(100000);
    }
}

/* Waits for CALM_NS without a call: one that is always awake never leaves so many out. */
static int wait_until_asleep(void)
{
    double end_s = dtr_clock_s() + HANG_S;
    int before, calls = atomic_load(&job.calls);
    do {
        ck_assert_double_lt(dtr_clock_s(), end_s);
        before = calls;
        rest(CALM_NS);
        calls = atomic_load(&job.calls);
    } while (calls != before);
    return calls;
}

START_TEST(test_works_alone)
{
    struct progress *progress = start(false);
    atomic_store(&job.left, 50);
    progress_help(progress, true);
    wait_until_done();
    ck_assert_int_ge(atomic_load(&job.elsewhere), 49);
    stop(progress);
}
END_TEST

START_TEST(test_sleeps_when_idle)
{
    struct progress *progress = start(false);
    ck_assert_int_eq(wait_until_asleep(), 0);
    for (int round = 0; round < 3; round++) {
        atomic_store(&job.left, 5);
        progress_help(progress, true);
        wait_until_done();
        wait_until_asleep();
    }
    stop(progress);
}
END_TEST

/* Whoever only waits helps, but does not wake the thread. */
START_TEST(test_help_alone_wakes_nobody)
{
    struct progress *progress = start(false);
    wait_until_asleep();
    atomic_store(&job.left, 100);
    for (int i = 0; i < 10; i++)
        progress_help(progress, false);
    ck_assert_int_eq(atomic_load(&job.left), 90);
    wait_until_asleep();
    ck_assert_int_eq(atomic_load(&job.left), 90);
    ck_assert_int_eq(atomic_load(&job.elsewhere), 0);
    progress_help(progress, true);
    wait_until_done();
    ck_assert_int_ge(atomic_load(&job.elsewhere), 1);
    stop(progress);
}
END_TEST

/* Work that comes just when the thread finds none left is not overlooked. */
START_TEST(test_wakes_on_more)
{
    struct progress *progress = start(false);
    for (int round = 0; round < 2000; round++) {
        atomic_store(&job.left, 1 + round % 3);
        progress_lock(progress); /* so that the caller cannot do it */
        progress_help(progress, true);
        progress_unlock(progress);
        double end_s = dtr_clock_s() + HANG_S;
        while (atomic_load(&job.left) > 0) {
            if (dtr_clock_s() > end_s)
                ck_abort_msg("round %d", round);
            if (round % 2 == 0)
                rest(1000);
        }
    }
    ck_assert_int_ge(atomic_load(&job.elsewhere), 2000);
    stop(progress);
}
END_TEST

/* The thread has already found that there is no more. */
START_TEST(test_more_during_the_work)
{
    struct progress *progress = start(true);
    for (int round = 0; round < 200; round++) {
        atomic_store(&job.left, 1);
        progress_lock(progress);
        progress_help(progress, true);
        progress_unlock(progress);
        wait_until_done();
        atomic_store(&job.left, 1);
        progress_help(progress, true);
        wait_until_done();
    }
    stop(progress);
}
END_TEST

START_TEST(test_lock_keeps_out)
{
    struct progress *progress = start(false);
    progress_lock(progress);
    atomic_store(&job.left, INT_MAX);
    progress_help(progress, true);
    progress_help(progress, false);
    rest(CALM_NS / 2);
    ck_assert_int_eq(atomic_load(&job.calls), 0);
    atomic_store(&job.left, 20);
    progress_unlock(progress);
    wait_until_done();
    stop(progress);
}
END_TEST

START_TEST(test_one_at_a_time)
{
    struct progress *progress = start(false);
    atomic_store(&job.left, 200000);
    progress_help(progress, true);
    double end_s = dtr_clock_s() + HANG_S;
    while (atomic_load(&job.left) > 0 && dtr_clock_s() < end_s)
        progress_help(progress, atomic_load(&job.left) % 1000 == 0);
    ck_assert_int_eq(atomic_load(&job.left), 0);
    stop(progress);
}
END_TEST

START_TEST(test_stop)
{
    for (int round = 0; round < 50; round++) {
        progress_stop(start(false)); /* perhaps before it ran at all */

        struct progress *busy = start(false);
        atomic_store(&job.left, INT_MAX);
        progress_help(busy, true);
        if (round % 2 == 0)
            rest(200000);
        stop(busy);
        ck_assert_int_gt(atomic_load(&job.left), 0);
    }
    struct progress *idle = start(false);
    wait_until_asleep();
    stop(idle);
}
END_TEST

START_TEST(test_no_thread)
{
    job = (struct job){.left = 5, .test = pthread_self()};
    progress_help(NULL, true);
    progress_help(NULL, false);
    progress_lock(NULL);
    progress_unlock(NULL);
    progress_stop(NULL);
    ck_assert_int_eq(atomic_load(&job.calls), 0);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("progress");
    TCase *tcase = add_case(suite, "progress");
    tcase_add_test(tcase, test_works_alone);
    tcase_add_test(tcase, test_sleeps_when_idle);
    tcase_add_test(tcase, test_help_alone_wakes_nobody);
    tcase_add_test(tcase, test_wakes_on_more);
    tcase_add_test(tcase, test_more_during_the_work);
    tcase_add_test(tcase, test_lock_keeps_out);
    tcase_add_test(tcase, test_one_at_a_time);
    tcase_add_test(tcase, test_stop);
    tcase_add_test(tcase, test_no_thread);
    return suite;
}
