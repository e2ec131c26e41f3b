/* What watches conclude from what they see. */
#include "../mpi/watch.h"

#include "unit_main.h"

enum { LIMIT_S = 10 };

static struct watch_sign sign(int rank, double quiet_s, double silent_s, bool waiting)
{
    return (struct watch_sign){.rank = rank,
        .host = "h",
        .pulse = {.step = 5, .phase = DTR_PHASE_BACKWARD},
        .waiting = waiting,
        .quiet_s = quiet_s,
        .silent_s = silent_s};
}

static struct watch_word word_of(int count, const struct watch_sign *signs)
{
    struct watch_word word = watch_nobody();
    for (int i = 0; i < count; i++)
        watch_add(&word, &signs[i], LIMIT_S);
    word.leader = signs[0];
    return word;
}

#define WORD(...)                                                                                  \
    word_of(sizeof((struct watch_sign[]){__VA_ARGS__}) / sizeof(struct watch_sign),                \
        (struct watch_sign[]){__VA_ARGS__})

START_TEST(test_who_waits_is_not_to_blame)
{
    struct watch_word word = WORD(sign(0, 30, 0, true), sign(1, 9, 0, false));
    ck_assert(!watch_hangs(&word, LIMIT_S));
    word = WORD(sign(0, 30, 0, true), sign(1, 10, 0, false), sign(2, 30, 0, true));
    ck_assert(watch_hangs(&word, LIMIT_S));
    ck_assert_int_eq(word.worst[0].rank, 1);
    ck_assert_int_eq(word.ranks[WATCH_STUCK], 1);
}
END_TEST

START_TEST(test_silence_is_worse)
{
    struct watch_word word = WORD(
        sign(0, 99, 0, false), sign(1, 0, 10, true), sign(2, 99, 0, true));
    ck_assert(watch_hangs(&word, LIMIT_S));
    ck_assert_int_eq(word.worst[0].rank, 1);
    ck_assert_int_eq(word.worst[1].rank, 0);
    word = WORD(sign(0, 0, 9, true), sign(1, 0, 0, false));
    ck_assert(!watch_hangs(&word, LIMIT_S));
}
END_TEST

/* When all wait, those come first who have got least far. */
START_TEST(test_deadlock)
{
    struct watch_sign late = sign(3, 12, 0, true), early = sign(1, 12, 0, true),
                      same_step = sign(2, 12, 0, true);
    late.pulse.step = 6;
    same_step.pulse.bucket = 2;
    struct watch_word word = WORD(late, same_step, early);
    ck_assert(watch_hangs(&word, LIMIT_S));
    ck_assert_int_eq(word.worst[0].rank, 1);
    ck_assert_int_eq(word.worst[1].rank, 2);
    ck_assert_int_eq(word.worst[2].rank, 3);
    late.quiet_s = 3;
    word = WORD(late, same_step, early);
    ck_assert(!watch_hangs(&word, LIMIT_S));
}
END_TEST

/* More ranks than a word has room for: the worst stay, all are counted. */
START_TEST(test_many)
{
    enum { RANKS = 50 };
    struct watch_sign signs[RANKS];
    for (int i = 0; i < RANKS; i++)
        signs[i] = sign(i, 20, 0, i % 5 != 3);
    struct watch_word word = word_of(RANKS, signs);
    ck_assert_int_eq(word.ranks[WATCH_STUCK], RANKS / 5);
    ck_assert_int_eq(word.ranks[WATCH_NONE], RANKS - RANKS / 5);
    ck_assert_int_eq(word.count, WATCH_WORST);
    for (int i = 0; i < WATCH_WORST; i++)
        ck_assert_int_eq(word.worst[i].rank, 3 + 5 * i);
}
END_TEST

/* What was said a while ago is older by now. */
START_TEST(test_merge)
{
    struct watch_word word = WORD(sign(0, 1, 0, true));
    struct watch_word said = WORD(sign(4, 0, 0, true), sign(5, 6, 0, false), sign(6, 6, 0, true));
    watch_merge(&word, &said, 3, LIMIT_S);
    ck_assert(!watch_hangs(&word, LIMIT_S));
    ck_assert_int_eq(word.ranks[WATCH_NONE], 4);
    ck_assert(word.quiet_s == 1);

    word = WORD(sign(0, 1, 0, true));
    watch_merge(&word, &said, 4, LIMIT_S);
    ck_assert(watch_hangs(&word, LIMIT_S));
    ck_assert_int_eq(word.worst[0].rank, 5);
    ck_assert_int_eq(word.ranks[WATCH_STUCK], 1);
    ck_assert_int_eq(word.ranks[WATCH_NONE], 3);

    /* A host that says nothing any more: its other ranks are not known to be to blame. */
    word = WORD(sign(0, 1, 0, true));
    watch_merge(&word, &said, 10, LIMIT_S);
    ck_assert(watch_hangs(&word, LIMIT_S));
    ck_assert_int_eq(word.worst[0].rank, 4);
    ck_assert_int_eq(word.ranks[WATCH_SILENT], 1);
    ck_assert_int_eq(word.ranks[WATCH_STUCK], 0);
}
END_TEST

START_TEST(test_describe)
{
    char text[DTR_PULSE_TEXT];
    struct dtr_pulse pulse = {.step = -1};
    dtr_pulse_describe(&pulse, text);
    ck_assert_str_eq(text, "set-up");
    pulse = (struct dtr_pulse){
        .step = 7, .phase = DTR_PHASE_FORWARD, .within = DTR_WAITS_FOR_BUCKET, .bucket = 3};
    dtr_pulse_describe(&pulse, text);
    ck_assert_str_eq(text, "step 7, forward pass, waiting for bucket 3 of the exchange");
    pulse.within = DTR_WITHIN_EXCHANGE;
    pulse.updating = 2;
    dtr_pulse_describe(&pulse, text);
    ck_assert_str_eq(text, "step 7, forward pass, optimizer, bucket 3 of the exchange");
    pulse = (struct dtr_pulse){.step = 8, .phase = DTR_PHASE_DEVICE, .gpu = 3};
    dtr_pulse_describe(&pulse, text);
    ck_assert_str_eq(text, "step 8, passes queued, GPU 2");
    pulse = (struct dtr_pulse){.phase = DTR_PHASE_END, .within = DTR_WAITS_FOR_OTHERS};
    dtr_pulse_describe(&pulse, text);
    ck_assert_str_eq(text, "step 0, the end, waiting for other ranks");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("watch");
    TCase *tcase = add_case(suite, "watch");
    tcase_add_test(tcase, test_who_waits_is_not_to_blame);
    tcase_add_test(tcase, test_silence_is_worse);
    tcase_add_test(tcase, test_deadlock);
    tcase_add_test(tcase, test_many);
    tcase_add_test(tcase, test_merge);
    tcase_add_test(tcase, test_describe);
    return suite;
}
