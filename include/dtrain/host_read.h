/*
 * Reading a data set on several ranks of a host, so that the host reads every byte once.
 */
#ifndef DTRAIN_HOST_READ_H
#define DTRAIN_HOST_READ_H

#include "dtrain/dataset.h"
#include "dtrain/world.h"

/*
 * dtr_dataset_read(), each rank with a range of its own (count may be 0). Ranges of a data set in
 * which they can be found are read by their ranks; what has to be passed over from its beginning,
 * as compressed files, is read by the host's first rank for all of them, and handed on in messages.
 *
 * Collective, also for a rank whose `error` is one already: it reads nothing more. A rank that is
 * not to have its samples because of another's error returns DTR_OK and has unset ones:
 * dtr_world_agree() is due next.
 */
enum dtr_status dtr_host_read(struct dtr_world *world, struct dtr_dataset *dataset,
    enum dtr_split split, int64_t first, int64_t count, int64_t classes,
    struct dtr_samples *samples_out, struct dtr_error *error);

#endif
