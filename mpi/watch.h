/*
 * What watches tell each other, and what is concluded from it. Private to mpi/. Local.
 */
#ifndef DTRAIN_MPI_WATCH_H
#define DTRAIN_MPI_WATCH_H

#include "dtrain/pulse.h"

/* A rank, as it was seen last. */
struct watch_sign {
    int rank, process;
    char host[64];
    struct dtr_pulse pulse;
    bool waiting;    /* for others */
    double quiet_s;  /* since it got something done */
    double silent_s; /* since its watch was heard */
};

static inline double watch_min(double a_s, double b_s)
{
    return a_s < b_s ? a_s : b_s;
}

static inline double watch_max(double a_s, double b_s)
{
    return a_s > b_s ? a_s : b_s;
}

/* From the most to the least to blame. */
enum watch_fault { WATCH_SILENT, WATCH_STUCK, WATCH_NONE, WATCH_FAULTS };

enum { WATCH_WORST = 4 };

/* Beyond the limit: how much longer those wait for a verdict who are not the first to judge.
 * Whoever has judged is silent while it ends the job, for which it has 5 s. */
enum { WATCH_PATIENCE_S = 6 };

/* What there is to say of any number of ranks: who is to blame most, if anybody is. */
struct watch_word {
    struct watch_sign leader; /* who says it */
    int ranks[WATCH_FAULTS];  /* how many there are */
    double quiet_s;           /* since any of them got something done */
    int count;
    struct watch_sign worst[WATCH_WORST]; /* [count], the worst first */
};

/* Of no ranks. */
struct watch_word watch_nobody(void);

void watch_add(struct watch_word *word, const struct watch_sign *sign, double limit_s);

/* Adds what was said `age_s` ago; after the limit its leader counts as silent. */
void watch_merge(
    struct watch_word *word, const struct watch_word *said, double age_s, double limit_s);

/* Whether the job hangs. */
bool watch_hangs(const struct watch_word *word, double limit_s);

/* Says so on standard error. */
void watch_print(const struct watch_word *word, double limit_s);

#endif
