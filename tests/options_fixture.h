/* Command lines and single options for tests of the parser and of what is made of options. Failures
 * end the test. */
#ifndef DTRAIN_TESTS_OPTIONS_FIXTURE_H
#define DTRAIN_TESTS_OPTIONS_FIXTURE_H

#include "dtrain/options.h"

#define TRAIN DTR_COMMAND_TRAIN
#define EVAL DTR_COMMAND_EVAL

/* What a command line was parsed to. */
struct parsed {
    enum dtr_status status;
    struct dtr_options options;
    struct dtr_error error;
    const char *operands[2]; /* "untouched" where there is none */
    int operand_count;
};

/* Words up to a NULL, after two that are the caller's; eval takes one operand, as in the program.
 * The words must stay as they are. PARSE(TRAIN, "--lr", "1") adds the NULL. */
struct parsed options_parse(enum dtr_command command, const char *const *words);
#define PARSE(command, ...) options_parse(command, (const char *const[]){__VA_ARGS__, NULL})

/* The row of the table. */
const struct dtr_option *options_find(const char *name);

/* The size of the option's field. */
size_t options_field_bytes(const struct dtr_option *option);

/* Whether an option has the same value in both; texts are compared by what they say. */
bool options_same_value(
    const struct dtr_option *option, const struct dtr_options *a, const struct dtr_options *b);

#endif
