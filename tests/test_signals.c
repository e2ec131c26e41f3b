#include "dtrain/signals.h"
#include "dtrain/threads.h"
#include "kernel_fixture.h"
#include "unit_main.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static atomic_int came;
static _Atomic(uintptr_t) handled_at; /* the handler's frame */

static void note(int number)
{
    (void)number;
    atomic_store(&handled_at, (uintptr_t)__builtin_frame_address(0)); /* ASan moves locals */
    atomic_fetch_add(&came, 1);
}

struct sender {
    pthread_t to, thread;
    atomic_bool stop;
};

static void *send(void *context)
{
    struct sender *sender = context;
    while (!atomic_load(&sender->stop)) {
        pthread_kill(sender->to, SIGUSR1);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return NULL;
}

/* Wherever a signal comes, the sums are what they were, and the heap is whole. */
START_TEST(test_signals_while_onednn_multiplies)
{
    struct fixture fixture = {.layer = fixture_dense((struct dtr_shape){14, 14, 6}, 40, true),
        .n = 8,
        .run = {0, 2, 2},
        .steps = 50};
    struct dtr_random random = fixture_random(1);
    struct fixture_result first, again;
    struct sender sender = {.to = pthread_self()};
    fixture_fill(&fixture, 0x1p-20, &random);
    fixture_run(&fixture, &dtr_onednn_dense, &first);
    dtr_signals_handle(SIGUSR1, note, DTR_SIGNALS_ALWAYS);
    ck_assert_int_eq(dtr_signals_create_thread(&sender.thread, send, &sender), 0);
    while (atomic_load(&came) < 2000) {
        fixture_run(&fixture, &dtr_onednn_dense, &again);
        ck_assert_mem_eq(again.dst, first.dst, (size_t)(2 * 8 * 40) * sizeof(float));
        ck_assert_mem_eq(
            again.diff_kernel, first.diff_kernel, (size_t)fixture.kernel_count * sizeof(float));
        fixture_result_free(&again);
    }
    atomic_store(&sender.stop, true);
    pthread_join(sender.thread, NULL);
    fixture_result_free(&first);
    fixture_free(&fixture);
}
END_TEST

START_TEST(test_handlers_have_a_stack_of_their_own)
{
    stack_t stack;
    dtr_signals_handle(SIGUSR2, note, DTR_SIGNALS_ALWAYS);
    raise(SIGUSR2);
    ck_assert_int_eq(sigaltstack(NULL, &stack), 0);
    uintptr_t from = (uintptr_t)stack.ss_sp, at = atomic_load(&handled_at);
    ck_assert(at > from && at < from + stack.ss_size);
}
END_TEST

START_TEST(test_once_is_once)
{
    dtr_signals_handle(SIGUSR2, note, DTR_SIGNALS_ONCE);
    raise(SIGUSR2);
    ck_assert_int_eq(atomic_load(&came), 1);
    raise(SIGUSR2); /* what ends the process, as the test's entry says */
}
END_TEST

static void look(void *context, int64_t item, int thread)
{
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    (void)context, (void)item;
    if (sigismember(&blocked, SIGUSR1) != (thread > 0))
        abort();
}

START_TEST(test_only_the_caller_of_a_pool_gets_signals)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_threads *threads;
    ck_assert_int_eq(dtr_threads_create(4, &threads, &error), DTR_OK);
    dtr_threads_run(threads, 4, look, NULL);
    dtr_threads_free(threads);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("signals");
    TCase *tests = add_case(suite, "signals");
    tcase_add_test(tests, test_signals_while_onednn_multiplies);
    tcase_add_test(tests, test_handlers_have_a_stack_of_their_own);
    tcase_add_test_raise_signal(tests, test_once_is_once, SIGUSR2);
    tcase_add_test(tests, test_only_the_caller_of_a_pool_gets_signals);
    return suite;
}
