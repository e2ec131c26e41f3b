/* What a running training prints on rank 0: the tutorial's four lines, a progress bar, the end. */
#ifndef DTRAIN_REPORT_H
#define DTRAIN_REPORT_H

#include "dtrain/trainer.h"

struct dtr_reporter {
    struct dtr_trainer *trainer;
    bool bar;
    double bar_s;         /* when the bar was last drawn */
    double steps_s;       /* time of all steps, evaluation and checkpoints left out */
    double since_s;       /* the same since the last report */
    int64_t since, steps; /* steps in each */
    int64_t samples;
    double loss; /* of the last step */
};

struct dtr_reporter dtr_reporter_begin(struct dtr_trainer *trainer);

/* Counts a step that took so long, and moves the bar. */
void dtr_reporter_step(
    struct dtr_reporter *reporter, const struct dtr_batch_report *batch, double seconds);

/* The four lines; `validation` is the misclassified share. */
void dtr_reporter_print(
    struct dtr_reporter *reporter, const struct dtr_batch_report *batch, double validation);

/* Test error, weights hash and throughput. */
void dtr_reporter_end(struct dtr_reporter *reporter, double test);

/* Where and why it ended early, weights hash and throughput; `checkpoint` is what it left. */
void dtr_reporter_stop(struct dtr_reporter *reporter, const char *reason, const char *checkpoint);

/* "Test error" and "Weights" alone, as `dtrain eval` prints them too. */
void dtr_report_result(const struct dtr_model *model, const float *weights, double test);

#endif
