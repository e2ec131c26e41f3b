/* Networks, and whether they are the same, for tests of the model and of its text. */
#ifndef DTRAIN_TESTS_MODEL_FIXTURE_H
#define DTRAIN_TESTS_MODEL_FIXTURE_H

#include "dtrain/model.h"

#include <stdbool.h>

/* The text must be right, else the test fails. The caller frees it. */
struct dtr_model *model_parse(const char *text);

/* A text with as many layers as asked for, none of which changes the shape. The caller frees it. */
char *model_deep_text(int layers);

bool model_same_shape(struct dtr_shape one, struct dtr_shape other);
bool model_same_layer(
    const struct dtr_layer *one, const struct dtr_layer *other); /* but its line */
bool model_same_tensor(const struct dtr_tensor *one, const struct dtr_tensor *other);

#endif
