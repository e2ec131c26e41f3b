/*
 * What a source of images and labels has to do. A source is one file with one table of functions;
 * dataset.c lists the tables and asks them in order.
 */
#ifndef DTRAIN_DATA_SOURCE_H
#define DTRAIN_DATA_SOURCE_H

#include "dtrain/dataset.h"

#include <stdbool.h>

struct dtr_source {
    /* Whether this source opens what `where` names; the first one in the list that does, opens. */
    bool (*accepts)(const char *where);

    /* Fills all of `info_out`. After a failure nothing stays open and there is nothing to close. */
    enum dtr_status (*open)(const char *where, uint64_t seed, struct dtr_dataset_info *info_out,
        void **state_out, struct dtr_error *error);

    /* Fills images and labels of the range in `samples`, which has one sample at least and lies
     * within the split. Labels are checked here, where their origin has a name. */
    enum dtr_status (*read)(void *state, enum dtr_split split, int64_t classes,
        const struct dtr_samples *samples, struct dtr_error *error);

    void (*close)(void *state);
};

/* A folder with the four IDX files of MNIST. Accepts any name: it comes last. */
extern const struct dtr_source dtr_source_idx;

/* DTR_INPUT for the first label that is not below `classes`; `origin` begins the message. */
enum dtr_status dtr_source_check_labels(const char *origin, const struct dtr_samples *samples,
    int64_t classes, struct dtr_error *error);

/* That message by itself, for a source whose labels are wider than a byte. */
enum dtr_status dtr_source_label_error(
    const char *origin, int64_t sample, int64_t label, int64_t classes, struct dtr_error *error);

#endif
