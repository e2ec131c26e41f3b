#include "options_fixture.h"

#include <check.h>
#include <string.h>

struct parsed options_parse(enum dtr_command command, const char *const *words)
{
    char *argv[40] = {"dtrain", "--command"};
    int argc = 2;
    for (int i = 0; words[i]; i++)
        argv[argc++] = (char *)(uintptr_t)words[i];
    struct parsed parsed = {.error = DTR_ERROR_NONE, .operands = {"untouched", "untouched"}};
    parsed.status = dtr_options_parse(command, argc, argv, 2, command == DTR_COMMAND_EVAL,
        parsed.operands, &parsed.operand_count, &parsed.options, &parsed.error);
    for (int i = 2; i < argc; i++)
        ck_assert_ptr_eq(argv[i], words[i - 2]);
    return parsed;
}

const struct dtr_option *options_find(const char *name)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (int i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    ck_abort_msg("there is no option %s", name);
}

size_t options_field_bytes(const struct dtr_option *option)
{
    switch (option->type) {
    case DTR_OPTION_TEXT:
        return sizeof(const char *);
    case DTR_OPTION_INT:
        return sizeof(int64_t);
    case DTR_OPTION_REAL:
        return sizeof(double);
    case DTR_OPTION_CHOICE:
        return sizeof(int);
    case DTR_OPTION_YES_NO:
    case DTR_OPTION_FLAG:
        return sizeof(bool);
    }
    ck_abort_msg("an option without a type");
}

bool options_same_value(
    const struct dtr_option *option, const struct dtr_options *a, const struct dtr_options *b)
{
    const char *a_field = (const char *)a + option->offset;
    const char *b_field = (const char *)b + option->offset;
    if (option->type != DTR_OPTION_TEXT)
        return memcmp(a_field, b_field, options_field_bytes(option)) == 0;
    const char *a_text = *(const char *const *)a_field, *b_text = *(const char *const *)b_field;
    return a_text == b_text || (a_text && b_text && strcmp(a_text, b_text) == 0);
}
