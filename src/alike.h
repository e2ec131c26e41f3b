/*
 * Ranks of one job have to be alike: the same program, MPI library and options, the same network
 * and data. Where they are not, the ranks that differ from most of the others are told, before
 * anything else goes wrong. Collective.
 */
#ifndef DTRAIN_ALIKE_H
#define DTRAIN_ALIKE_H

#include "dtrain/dataset.h"
#include "dtrain/model.h"
#include "dtrain/options.h"
#include "dtrain/world.h"

/* DTR_LAUNCH, or of the input DTR_INPUT, where a rank differs; the ranks have agreed then, and the
 * reason has been printed. */
enum dtr_status dtr_alike_start(struct dtr_world *world, const struct dtr_options *options);
enum dtr_status dtr_alike_input(
    struct dtr_world *world, const struct dtr_model *model, const struct dtr_dataset_info *data);

#endif
