/*
 * Steps of a replica that takes them alone (a GPU): it is given some ahead, so that it never waits
 * for the host, and is heard of later. Every few steps the ranks combine what they have heard
 * since, and look at the result some steps later, so that nobody waits for that either. All give,
 * hear and combine at the same steps, and so decide alike. Collective.
 */
#ifndef DTRAIN_AHEAD_H
#define DTRAIN_AHEAD_H

#include "dtrain/trainer.h"

struct dtr_ahead {
    int64_t most;                  /* steps that are given and have not been heard of */
    int64_t given, heard;          /* steps so far */
    int64_t real[DTR_STEPS_AHEAD]; /* samples of the steps that are given */
    struct dtr_control sum;        /* of this rank's steps that have been heard of, but are not
                                      combined yet */
    int64_t steps, samples;        /* how many these are, and everyone's samples in them */
    int64_t stop;                  /* this rank's reason to end, 0 for none */
    bool combining;
    int64_t combining_samples;
    struct dtr_batch_report last; /* what was combined last */
};

enum dtr_status dtr_ahead_create(struct dtr_trainer *trainer, struct dtr_error *error);

/* Gives a step; `stop` is this rank's reason to end after it (stop.h), 0 for none. Returns what is
 * known by now: mean loss and errors of some steps before it, with this step's samples and rate.
 * `due`: the step is waited for, and nothing is under way afterwards, nor is it when trainer->stop
 * is set; parameters and momenta are where others look for them. */
struct dtr_batch_report dtr_ahead_step(
    struct dtr_trainer *trainer, const struct dtr_batch *batch, int64_t stop, bool due);

#endif
