/* What is said about ranks that were bound badly, and how cores are written. */
#include "../src/placement.h"
#include "unit_main.h"

#include <stdlib.h>
#include <string.h>

static struct dtr_place place(int rank, int first, int count, int threads)
{
    struct dtr_place made = {.host = "node7", .rank = rank, .online = 8, .threads = threads};
    for (int core = first; core < first + count; core++)
        CPU_SET((size_t)core, &made.cores);
    return made;
}

static const char *complaint(const struct dtr_place *places, int count)
{
    static char text[300];
    memset(text, 'x', sizeof text);
    dtr_placement_complaint(places, count, text, sizeof text);
    return text;
}

START_TEST(test_cores_are_written_as_ranges)
{
    char text[DTR_CORES_TEXT];
    cpu_set_t cores;
    CPU_ZERO(&cores);
    ck_assert_str_eq(dtr_cores_text(&cores, text), "");
    CPU_SET(0, &cores);
    ck_assert_str_eq(dtr_cores_text(&cores, text), "0");
    CPU_SET(1, &cores);
    CPU_SET(2, &cores);
    CPU_SET(7, &cores);
    CPU_SET(CPU_SETSIZE - 1, &cores);
    ck_assert_str_eq(dtr_cores_text(&cores, text), "0-2,7,1023");
    for (size_t core = 100; core < CPU_SETSIZE; core += 3)
        CPU_SET(core, &cores);
    ck_assert_msg(strncmp(dtr_cores_text(&cores, text), "0-2,7,100,103,", 14) == 0, "%s", text);
    ck_assert_str_eq(text + strlen(text) - 4, ",...");
}
END_TEST

START_TEST(test_ranks_that_are_well_bound)
{
    struct dtr_place apart[] = {place(0, 0, 4, 4), place(1, 4, 4, 4)};
    ck_assert_str_eq(complaint(apart, 2), "");
    struct dtr_place unbound[] = {place(0, 0, 8, 4), place(1, 0, 8, 4)};
    ck_assert_str_eq(complaint(unbound, 2), "");
    struct dtr_place alone = place(0, 0, 8, 8);
    ck_assert_str_eq(complaint(&alone, 1), "");
}
END_TEST

START_TEST(test_common_cores)
{
    struct dtr_place places[] = {place(0, 0, 4, 2), place(1, 5, 2, 2), place(2, 3, 3, 2)};
    ck_assert_str_eq(complaint(places, 3),
        "ranks on node7 are bound to common cores (3), where they wait for each other");
}
END_TEST

START_TEST(test_more_threads_than_cores)
{
    struct dtr_place places[] = {place(0, 2, 1, 1), place(1, 2, 1, 1)};
    const char *text = complaint(places, 2);
    ck_assert_msg(strstr(text, "2 threads share 1 core of node7 (2); ") == text, "%s", text);
    struct dtr_place wide[] = {place(0, 0, 4, 4), place(1, 0, 4, 1)};
    text = complaint(wide, 2);
    ck_assert_msg(strstr(text, "5 threads share 4 cores of node7 (0-3); ") == text, "%s", text);
}
END_TEST

START_TEST(test_idle_cores)
{
    struct dtr_place places[] = {place(0, 2, 1, 1), place(1, 3, 1, 1)};
    unsetenv("SLURM_JOB_ID");
    const char *text = complaint(places, 2);
    ck_assert_msg(strstr(text, "6 of its 8 cores stay idle") != NULL, "%s", text);
    places[0].online = 2;
    ck_assert_str_eq(complaint(places, 2), "");
    places[0].online = 8;
    setenv("SLURM_JOB_ID", "1", 1); /* there the others may be somebody else's */
    ck_assert_str_eq(complaint(places, 2), "");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("placement");
    TCase *cases = add_case(suite, "placement");
    tcase_add_test(cases, test_cores_are_written_as_ranges);
    tcase_add_test(cases, test_ranks_that_are_well_bound);
    tcase_add_test(cases, test_common_cores);
    tcase_add_test(cases, test_more_threads_than_cores);
    tcase_add_test(cases, test_idle_cores);
    return suite;
}
