#include "dtrain/threads.h"
#include "unit_main.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ITEMS = 100, MOST_THREADS = 9 };

/* What a call of dtr_threads_run() did. Plain memory: whether it is written and read in the right
 * order is what the thread sanitizer looks at. */
struct record {
    int64_t input;
    int hits[MOST_ITEMS];
    int thread[MOST_ITEMS];
    int64_t output[MOST_ITEMS];
    pthread_t self[MOST_ITEMS];
    int pause_ms[MOST_THREADS];
};

static void sleep_ms(int milliseconds)
{
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L}, NULL);
}

static void note(void *context, int64_t item, int thread)
{
    struct record *record = context;
    record->hits[item]++;
    record->thread[item] = thread;
    record->output[item] = record->input + item;
    record->self[item] = pthread_self();
    if (record->pause_ms[thread] > 0)
        sleep_ms(record->pause_ms[thread]);
}

static struct dtr_threads *make_threads(int count)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_threads *threads;
    enum dtr_status status = dtr_threads_create(count, &threads, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
    ck_assert_int_eq(dtr_threads_count(threads), count);
    return threads;
}

/* Each item once, by a thread of the pool; ends the test where it is not so. */
static void check_record(const struct record *record, int64_t items, int count)
{
    for (int64_t item = 0; item < MOST_ITEMS; item++) {
        if (record->hits[item] != (item < items))
            ck_abort_msg("item %lld of %lld: done %d times", (long long)item, (long long)items,
                record->hits[item]);
        if (item < items && (record->thread[item] < 0 || record->thread[item] >= count ||
                                record->output[item] != record->input + item))
            ck_abort_msg("item %lld of %lld: thread %d of %d", (long long)item, (long long)items,
                record->thread[item], count);
    }
}

static void run(struct dtr_threads *threads, int64_t items, int64_t input, struct record *record)
{
    memset(record->hits, 0, sizeof record->hits);
    record->input = input;
    dtr_threads_run(threads, items, note, record);
    check_record(record, items, dtr_threads_count(threads));
}

/* Threads of this process; one that has been joined may be listed for a moment more. */
static int count_tasks(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    ck_assert_ptr_nonnull(tasks);
    for (struct dirent *entry = readdir(tasks); entry != NULL; entry = readdir(tasks))
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void check_tasks(int expected)
{
    int count = count_tasks();
    for (int i = 0; i < 1000 && count != expected; i++) {
        sleep_ms(2);
        count = count_tasks();
    }
    ck_assert_int_eq(count, expected);
}

/* What a call does. */

START_TEST(test_every_item_once)
{
    struct dtr_threads *threads = make_threads(_i);
    struct record record = {0};
    for (int64_t items = 0; items <= MOST_ITEMS; items++)
        run(threads, items, items * 1000, &record);
    dtr_threads_free(threads);
}
END_TEST

/* Runs of consecutive items, as even as possible; thread 0 is the caller. */
START_TEST(test_shares)
{
    struct dtr_threads *threads = make_threads(_i);
    struct record record = {0};
    for (int64_t items = 1; items <= MOST_ITEMS; items++) {
        int64_t share[MOST_THREADS] = {0};
        run(threads, items, 0, &record);
        for (int64_t item = 0; item < items; item++) {
            share[record.thread[item]]++;
            if (item > 0 && record.thread[item] < record.thread[item - 1])
                ck_abort_msg("item %lld: thread %d", (long long)item, record.thread[item]);
            if ((record.thread[item] == 0) != (pthread_equal(record.self[item], pthread_self())))
                ck_abort_msg("item %lld: only thread 0 is the caller", (long long)item);
        }
        for (int thread = 0; thread < _i; thread++)
            ck_assert(share[thread] >= items / _i && share[thread] <= (items + _i - 1) / _i);
    }
    dtr_threads_free(threads);
}
END_TEST

START_TEST(test_equal_calls_use_equal_threads)
{
    struct dtr_threads *threads = make_threads(_i);
    for (int64_t items = 1; items <= MOST_ITEMS; items += 9) {
        struct record first = {0}, again = {0};
        run(threads, items, 0, &first);
        run(threads, (items + 1) / 2, 0, &again);
        run(threads, items, 0, &again);
        for (int64_t item = 0; item < items; item++) {
            ck_assert_int_eq(first.thread[item], again.thread[item]);
            ck_assert(pthread_equal(first.self[item], again.self[item]));
            for (int64_t other = 0; other < item; other++) {
                if ((first.thread[item] == first.thread[other]) !=
                    (pthread_equal(first.self[item], first.self[other]) != 0))
                    ck_abort_msg("items %lld and %lld", (long long)item, (long long)other);
            }
        }
    }
    dtr_threads_free(threads);
}
END_TEST

/* Each thread adds to what another one left in the call before. */
static void add_neighbour(void *context, int64_t item, int thread)
{
    int64_t(*values)[MOST_THREADS] = context;
    (void)thread;
    values[1][item] = values[0][item] + values[0][(item + 1) % MOST_THREADS];
}

static void swap_values(void *context, int64_t item, int thread)
{
    int64_t(*values)[MOST_THREADS] = context;
    (void)thread;
    values[0][MOST_THREADS - 1 - item] = values[1][item] % 1000003;
}

START_TEST(test_results_are_seen_by_the_next_call)
{
    struct dtr_threads *one = make_threads(1), *many = make_threads(4);
    int64_t expected[2][MOST_THREADS] = {{1, 2, 3, 5, 7, 11, 13, 17, 19}};
    int64_t values[2][MOST_THREADS];
    memcpy(values, expected, sizeof values);
    for (int i = 0; i < 2000; i++) {
        dtr_threads_run(one, MOST_THREADS, add_neighbour, expected);
        dtr_threads_run(one, MOST_THREADS, swap_values, expected);
        dtr_threads_run(many, MOST_THREADS, add_neighbour, values);
        dtr_threads_run(many, MOST_THREADS, swap_values, values);
        values[0][i % MOST_THREADS]++;
        expected[0][i % MOST_THREADS]++;
    }
    ck_assert_mem_eq(values, expected, sizeof values);
    dtr_threads_free(one);
    dtr_threads_free(many);
}
END_TEST

/* Many calls. */

static void add_one(void *context, int64_t item, int thread)
{
    (void)item;
    ((int64_t *)context)[16 * thread]++; /* a cache line each */
}

START_TEST(test_many_short_calls)
{
    const int64_t calls = _i <= 2 ? 100000 : 10000, items = 5;
    struct dtr_threads *threads = make_threads(_i);
    int64_t sums[16 * MOST_THREADS] = {0}, sum = 0;
    for (int64_t i = 0; i < calls; i++)
        dtr_threads_run(threads, items, add_one, sums);
    for (int thread = 0; thread < _i; thread++)
        sum += sums[16 * thread];
    ck_assert_int_eq(sum, calls * items);
    dtr_threads_free(threads);
}
END_TEST

/* Pauses between the calls, so that the threads sleep when the next one comes. */
START_TEST(test_pauses_between_calls)
{
    struct dtr_threads *threads = make_threads(_i);
    struct record record = {0};
    for (int i = 0; i < 100; i++) {
        run(threads, 2 * _i + i % 3, i, &record);
        sleep_ms(i % 4);
    }
    dtr_threads_free(threads);
}
END_TEST

/* One thread is late, so that the others sleep before it is done: the caller, or one that it waits
 * for. */
START_TEST(test_pauses_in_calls)
{
    struct dtr_threads *threads = make_threads(_i);
    for (int late = 0; late < _i; late++) {
        struct record record = {0};
        record.pause_ms[late] = 3;
        for (int i = 0; i < 10; i++)
            run(threads, _i, i, &record);
    }
    dtr_threads_free(threads);
}
END_TEST

/* Making and freeing. */

START_TEST(test_no_thread_is_left)
{
    dtr_threads_free(
        make_threads(2)); /* a sanitizer may start a thread of its own with the first */
    const int before = count_tasks();
    struct record record = {0};
    for (int i = 0; i < 200; i++) {
        struct dtr_threads *threads = make_threads(1 + i % MOST_THREADS);
        if (i % 3 > 0)
            run(threads, 7, i, &record);
        if (i % 3 > 1)
            sleep_ms(1);
        if (i < MOST_THREADS)
            check_tasks(before + i);
        dtr_threads_free(threads);
    }
    check_tasks(before);
    dtr_threads_free(NULL);
}
END_TEST

START_TEST(test_pools_side_by_side)
{
    struct dtr_threads *pools[4];
    struct record record = {0};
    for (int i = 0; i < 4; i++)
        pools[i] = make_threads(i + 1);
    for (int i = 0; i < 1000; i++)
        run(pools[i % 4], 10, i, &record);
    for (int i = 0; i < 4; i++)
        dtr_threads_free(pools[i]);
}
END_TEST

static void set_stack_size(size_t bytes)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    ck_assert_int_eq(pthread_attr_setstacksize(&attributes, bytes), 0);
    ck_assert_int_eq(pthread_setattr_default_np(&attributes), 0);
    pthread_attr_destroy(&attributes);
}

static void check_create_fails(int count, const char *reason)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_threads *threads = NULL;
    ck_assert_int_eq(dtr_threads_create(count, &threads, &error), DTR_FAILED);
    ck_assert_int_eq(error.status, DTR_FAILED);
    ck_assert_ptr_null(threads);
    ck_assert_msg(strstr(error.message, reason) != NULL, "%s", error.message);
}

/* No system has memory for such a stack. */
START_TEST(test_create_fails_at_once)
{
    const int before = count_tasks();
    set_stack_size((size_t)1 << 50);
    check_create_fails(3, "cannot start thread 2 of 3: ");
    check_tasks(before);
}
END_TEST

/* This process's data in bytes, stacks of threads included. */
static int64_t data_bytes(void)
{
    char line[200];
    long long kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    ck_assert_ptr_nonnull(file);
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "VmData: %lld", &kilobytes) != 1)
        continue;
    fclose(file);
    return kilobytes * 1024;
}

/* Room for the stacks of two threads and a half: those that started must end. */
START_TEST(test_create_fails_half_way)
{
    const int64_t stack = 64 << 20;
    dtr_threads_free(make_threads(2));
    const int before = count_tasks();
    set_stack_size((size_t)stack);
    rlim_t limit = (rlim_t)(data_bytes() + stack * 5 / 2);
    ck_assert_int_eq(setrlimit(RLIMIT_DATA, &(struct rlimit){limit, limit}), 0);
    check_create_fails(9, "cannot start thread 4 of 9: ");
    check_tasks(before);
}
END_TEST

static void note_mask(void *context, int64_t item, int thread)
{
    (void)thread;
    sched_getaffinity(0, sizeof(cpu_set_t), (cpu_set_t *)context + item);
}

START_TEST(test_affinity_is_inherited)
{
    cpu_set_t all, one, masks[3] = {0};
    ck_assert_int_eq(sched_getaffinity(0, sizeof all, &all), 0);
    int core = 0;
    while (!CPU_ISSET((size_t)core, &all))
        core++;
    CPU_ZERO(&one);
    CPU_SET((size_t)core, &one);
    ck_assert_int_eq(sched_setaffinity(0, sizeof one, &one), 0);
    struct dtr_threads *threads = make_threads(3);
    dtr_threads_run(threads, 3, note_mask, masks);
    for (int i = 0; i < 3; i++)
        ck_assert(CPU_EQUAL(&masks[i], &one));
    dtr_threads_free(threads);
}
END_TEST

/* How many threads. */

static void check_share(double cores, int expected)
{
    int count = dtr_threads_choose(0, cores);
    ck_assert_msg(count == expected, "%.17g cores: %d threads, not %d", cores, count, expected);
}

START_TEST(test_choose_the_share)
{
    check_share(0, 1);
    check_share(0.25, 1);
    check_share(1, 1);
    check_share(1.75, 1);
    check_share(2, 2);
    check_share(7.5, 7);
    check_share(128, 128);
}
END_TEST

/* Six cores that three ranks share are two for each, though six thirds add up to less in floating
 * point. */
START_TEST(test_choose_a_rounded_share)
{
    for (int ranks = 1; ranks <= 64; ranks++) {
        for (int share = 1; share <= 8; share++) {
            double cores = 0;
            for (int core = 0; core < ranks * share; core++)
                cores += 1.0 / ranks;
            check_share(cores, share);
        }
    }
}
END_TEST

START_TEST(test_choose_what_is_named)
{
    ck_assert_int_eq(dtr_threads_choose(1, 16), 1);
    ck_assert_int_eq(dtr_threads_choose(7, 0.5), 7);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("threads");
    TCase *items = add_case(suite, "items");
    tcase_add_loop_test(items, test_every_item_once, 1, MOST_THREADS + 1);
    tcase_add_loop_test(items, test_shares, 1, MOST_THREADS + 1);
    tcase_add_loop_test(items, test_equal_calls_use_equal_threads, 1, MOST_THREADS + 1);
    tcase_add_test(items, test_results_are_seen_by_the_next_call);

    TCase *calls = add_case(suite, "calls");
    tcase_set_timeout(calls, 300);
    tcase_add_loop_test(calls, test_many_short_calls, 1, 4);
    tcase_add_loop_test(calls, test_pauses_between_calls, 1, 5);
    tcase_add_loop_test(calls, test_pauses_in_calls, 1, 5);

    TCase *pools = add_case(suite, "pools");
    tcase_add_test(pools, test_no_thread_is_left);
    tcase_add_test(pools, test_pools_side_by_side);
    tcase_add_test(pools, test_create_fails_at_once);
    tcase_add_test(pools, test_create_fails_half_way);
    tcase_add_test(pools, test_affinity_is_inherited);

    TCase *choice = add_case(suite, "choice");
    tcase_add_test(choice, test_choose_the_share);
    tcase_add_test(choice, test_choose_a_rounded_share);
    tcase_add_test(choice, test_choose_what_is_named);
    return suite;
}
