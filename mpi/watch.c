#include "watch.h"

#include "dtrain/log.h"

#include <math.h>
#include <string.h>

static enum watch_fault fault_of(const struct watch_sign *sign, double limit_s)
{
    if (sign->silent_s >= limit_s)
        return WATCH_SILENT;
    return sign->quiet_s >= limit_s && !sign->waiting ? WATCH_STUCK : WATCH_NONE;
}

/* Who is not so far yet in the training comes first. */
static int compare_places(const struct dtr_pulse *a, const struct dtr_pulse *b)
{
    if (a->step != b->step)
        return a->step < b->step ? -1 : 1;
    if (a->phase != b->phase)
        return a->phase < b->phase ? -1 : 1;
    if (a->bucket != b->bucket)
        return a->bucket < b->bucket ? -1 : 1;
    return 0;
}

static bool is_worse(const struct watch_sign *a, const struct watch_sign *b, double limit_s)
{
    enum watch_fault fault_a = fault_of(a, limit_s), fault_b = fault_of(b, limit_s);
    if (fault_a != fault_b)
        return fault_a < fault_b;
    int places = compare_places(&a->pulse, &b->pulse);
    return places != 0 ? places < 0 : a->rank < b->rank;
}

struct watch_word watch_nobody(void)
{
    return (struct watch_word){.quiet_s = INFINITY};
}

void watch_add(struct watch_word *word, const struct watch_sign *sign, double limit_s)
{
    word->ranks[fault_of(sign, limit_s)]++;
    word->quiet_s = watch_min(word->quiet_s, sign->quiet_s);
    int place = word->count;
    while (place > 0 && is_worse(sign, &word->worst[place - 1], limit_s))
        place--;
    if (place == WATCH_WORST)
        return;
    word->count += word->count < WATCH_WORST;
    for (int i = word->count - 1; i > place; i--)
        word->worst[i] = word->worst[i - 1];
    word->worst[place] = *sign;
}

void watch_merge(
    struct watch_word *word, const struct watch_word *said, double age_s, double limit_s)
{
    if (age_s >= limit_s) {
        struct watch_sign leader = said->leader;
        leader.silent_s += age_s;
        leader.quiet_s += age_s;
        watch_add(word, &leader, limit_s);
        return;
    }
    for (int i = 0; i < said->count; i++) {
        struct watch_sign sign = said->worst[i];
        word->ranks[fault_of(&sign, limit_s)]--; /* is among those below */
        sign.silent_s += age_s;
        sign.quiet_s += age_s;
        watch_add(word, &sign, limit_s);
    }
    for (int i = 0; i < WATCH_FAULTS; i++)
        word->ranks[i] += said->ranks[i];
    word->quiet_s = watch_min(word->quiet_s, said->quiet_s + age_s);
}

bool watch_hangs(const struct watch_word *word, double limit_s)
{
    return word->ranks[WATCH_SILENT] + word->ranks[WATCH_STUCK] > 0 || word->quiet_s >= limit_s;
}

static void print_sign(const struct watch_sign *sign, enum watch_fault fault)
{
    struct dtr_pulse pulse = sign->pulse;
    char place[DTR_PULSE_TEXT];
    if (pulse.within == DTR_WAITS_FOR_BUCKET && !sign->waiting)
        pulse.within = DTR_WITHIN_EXCHANGE; /* it does not even look */
    dtr_pulse_describe(&pulse, place);
    if (fault == WATCH_SILENT)
        dtr_complain(
            "rank %d on %s (process %d) has not answered for %.0f s: it is stopped, or its "
            "host is gone; last seen in: %s",
            sign->rank, sign->host, sign->process, sign->silent_s, place);
    else
        dtr_complain("rank %d on %s (process %d) has got nothing done for %.0f s: %s", sign->rank,
            sign->host, sign->process, sign->quiet_s, place);
}

void watch_print(const struct watch_word *word, double limit_s)
{
    enum watch_fault fault = fault_of(&word->worst[0], limit_s);
    int printed = 0;
    for (int i = 0; i < word->count; i++) {
        const struct watch_sign *sign = &word->worst[i];
        bool alike = fault != WATCH_NONE ||
                     compare_places(&sign->pulse, &word->worst[0].pulse) == 0;
        if (fault_of(sign, limit_s) != fault || !alike)
            continue;
        print_sign(sign, fault);
        printed++;
    }
    if (fault != WATCH_NONE && word->ranks[fault] > printed)
        dtr_complain("and %d ranks more", word->ranks[fault] - printed);
    if (fault == WATCH_NONE)
        dtr_complain("all ranks wait for each other; named is who has got least far");
    dtr_complain("the job hangs, the watchdog ends it (--watchdog %.0f)", limit_s);
}
