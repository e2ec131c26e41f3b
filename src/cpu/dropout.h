/* Which units dropout keeps, for those who compute nothing else. Private to src/cpu/. Local. */
#ifndef DTRAIN_CPU_DROPOUT_H
#define DTRAIN_CPU_DROPOUT_H

#include "dtrain/kernel.h"

/* keep_out [n][units]: 1 where dropout layer `layer` keeps a unit; none of a padded sample. */
void dropout_keep(
    const struct dtr_layer *layer, const struct dtr_dropout_key *key, int64_t n, uint8_t *keep_out);

#endif
