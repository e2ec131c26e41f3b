/* Options: from words to values and back. */
#include "dtrain/options.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SHOWN_BYTES = 64, TAKES_BYTES = 128 };

/* A user's word for a message: on one line and not too long. */
static const char *shown(const char *word, char text_out[SHOWN_BYTES])
{
    size_t length = strlen(word);
    snprintf(text_out, SHOWN_BYTES, "%s", word);
    if (length >= SHOWN_BYTES)
        memcpy(text_out + SHOWN_BYTES - 4, "...", 4);
    for (char *c = text_out; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == '\x7f')
            *c = '?';
    return text_out;
}

static bool is_name(const char *name, const char *word, size_t length)
{
    return strlen(name) == length && strncmp(name, word, length) == 0;
}

/* The index of a word in "auto|yes|no", -1 if it is not there. */
static int choice_index(const char *choices, const char *word)
{
    for (int index = 0;; index++) {
        size_t length = strcspn(choices, "|");
        if (is_name(word, choices, length))
            return index;
        if (choices[length] == '\0')
            return -1;
        choices += length + 1;
    }
}

static void format_choice(const char *choices, int index, char *text_out, size_t text_bytes)
{
    for (; index > 0; index--)
        choices += strcspn(choices, "|") + 1;
    snprintf(text_out, text_bytes, "%.*s", (int)strcspn(choices, "|"), choices);
}

/* Decimal digits alone: no sign, no space, and a leading zero means nothing. */
static bool parse_int(const char *text, int64_t *value_out)
{
    int64_t value = 0;
    for (const char *c = text; *c != '\0'; c++) {
        if (*c < '0' || *c > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *c - '0', &value))
            return false;
    }
    *value_out = value;
    return *text != '\0';
}

/* 12, 1.5, .5, 1e-3; no sign, no hexadecimal, neither infinity nor NaN. */
static bool is_decimal(const char *text)
{
    static const char digits[] = "0123456789";
    size_t whole = strspn(text, digits), fraction = 0;
    text += whole;
    if (*text == '.') {
        fraction = strspn(text + 1, digits);
        text += 1 + fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        text++;
        text += *text == '+' || *text == '-';
        size_t exponent = strspn(text, digits);
        if (exponent == 0)
            return false;
        text += exponent;
    }
    return *text == '\0';
}

/* Libraries may have set a locale with a decimal comma; this thread leaves it until ..._leave(). */
static locale_t c_locale_enter(locale_t *c_locale_out)
{
    *c_locale_out = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    return uselocale(*c_locale_out);
}

static void c_locale_leave(locale_t before, locale_t c_locale)
{
    uselocale(before);
    freelocale(c_locale);
}

static bool parse_real(const char *text, double *value_out)
{
    if (!is_decimal(text))
        return false;
    locale_t c_locale, before = c_locale_enter(&c_locale);
    errno = 0;
    *value_out = strtod(text, NULL);
    bool fits = errno != ERANGE;
    c_locale_leave(before, c_locale);
    return fits;
}

/* The fewest digits that give the same value again; 15 always reproduce what a user wrote with up
 * to 15, 17 are enough for any value. */
static void format_real(double value, char *text_out, size_t text_bytes)
{
    locale_t c_locale, before = c_locale_enter(&c_locale);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text_out, text_bytes, "%.*g", digits, value);
        if (strtod(text_out, NULL) == value)
            break;
    }
    c_locale_leave(before, c_locale);
}

/* "auto|yes|no" as "auto, yes or no". */
static void list_choices(const char *choices, char *text_out, size_t text_bytes)
{
    size_t length = 0;
    for (const char *c = choices; *c != '\0'; c++) {
        char letter[2] = {*c, '\0'};
        const char *text = *c != '|' ? letter : strchr(c + 1, '|') ? ", " : " or ";
        length += (size_t)snprintf(text_out + length, text_bytes - length, "%s", text);
    }
}

/* What an option takes, to complete "--name takes ...". */
static const char *takes(const struct dtr_option *option, char text_out[TAKES_BYTES])
{
    char least[32], most[32];
    switch (option->type) {
    case DTR_OPTION_TEXT:
        snprintf(text_out, TAKES_BYTES, "%s", option->metavar);
        break;
    case DTR_OPTION_INT:
        snprintf(text_out, TAKES_BYTES, "a whole number from %" PRId64 " to %" PRId64,
            (int64_t)option->min, option->max < 0x1p63 ? (int64_t)option->max : INT64_MAX);
        break;
    case DTR_OPTION_REAL:
        format_real(option->min, least, sizeof least);
        format_real(option->max, most, sizeof most);
        snprintf(text_out, TAKES_BYTES, "a number from %s to %s", least, most);
        break;
    case DTR_OPTION_CHOICE:
    case DTR_OPTION_YES_NO:
        list_choices(option->choices, text_out, TAKES_BYTES);
        break;
    case DTR_OPTION_FLAG:
        snprintf(text_out, TAKES_BYTES, "no value");
        break;
    }
    return text_out;
}

/* Stores a value unless the option does not take it. */
static bool set_value(
    const struct dtr_option *option, const char *text, struct dtr_options *options)
{
    void *field = (char *)options + option->offset;
    int64_t whole;
    double real;
    int index;
    switch (option->type) {
    case DTR_OPTION_TEXT:
        *(const char **)field = text;
        return *text != '\0';
    case DTR_OPTION_INT:
        if (!parse_int(text, &whole) || (double)whole < option->min || (double)whole > option->max)
            return false;
        *(int64_t *)field = whole;
        return true;
    case DTR_OPTION_REAL:
        if (!parse_real(text, &real) || real < option->min || real > option->max)
            return false;
        *(double *)field = real;
        return true;
    case DTR_OPTION_CHOICE:
        index = choice_index(option->choices, text);
        *(int *)field = index;
        return index >= 0;
    case DTR_OPTION_YES_NO:
    case DTR_OPTION_FLAG:
        index = choice_index(option->choices, text);
        *(bool *)field = index == 0;
        return index >= 0;
    }
    return false;
}

void dtr_options_default(struct dtr_options *options_out)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    memset(options_out, 0, sizeof *options_out);
    for (int i = 0; i < count; i++)
        if (table[i].fallback)
            set_value(&table[i], table[i].fallback, options_out);
}

/* Whether the field holds what no user can write: no fallback, and never set. */
static bool is_absent(const struct dtr_option *option, const void *field)
{
    if (option->fallback)
        return false;
    if (option->type == DTR_OPTION_TEXT)
        return *(const char *const *)field == NULL;
    return *(const int64_t *)field == 0;
}

void dtr_option_format(const struct dtr_option *option, const struct dtr_options *options,
    char *text_out, size_t text_bytes)
{
    const void *field = (const char *)options + option->offset;
    if (is_absent(option, field)) {
        snprintf(text_out, text_bytes, "%s", option->absent);
        return;
    }
    switch (option->type) {
    case DTR_OPTION_TEXT:
        snprintf(text_out, text_bytes, "%s", *(const char *const *)field);
        break;
    case DTR_OPTION_INT:
        snprintf(text_out, text_bytes, "%" PRId64, *(const int64_t *)field);
        break;
    case DTR_OPTION_REAL:
        format_real(*(const double *)field, text_out, text_bytes);
        break;
    case DTR_OPTION_CHOICE:
        format_choice(option->choices, *(const int *)field, text_out, text_bytes);
        break;
    case DTR_OPTION_YES_NO:
    case DTR_OPTION_FLAG:
        format_choice(option->choices, *(const bool *)field ? 0 : 1, text_out, text_bytes);
        break;
    }
}

/* The index of the option named by the first `length` characters of a word, -1 if there is none. */
static int find_option(const char *word, size_t length)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (int i = 0; i < count; i++)
        if (is_name(table[i].name, word, length))
            return i;
    return -1;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* How many letters must be changed, dropped, inserted or swapped with their neighbour. */
static int edit_distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    enum { LONGEST = 32 }; /* letters compared */
    int rows = a_bytes < LONGEST ? (int)a_bytes : LONGEST;
    int columns = b_bytes < LONGEST ? (int)b_bytes : LONGEST;
    int distance[LONGEST + 1][LONGEST + 1]; /* of the first i letters of a and the first j of b */
    for (int i = 0; i <= rows; i++) {
        for (int j = 0; j <= columns; j++) {
            int best = i + j;
            if (i > 0 && j > 0) {
                best = smaller(distance[i - 1][j], distance[i][j - 1]) + 1;
                best = smaller(best, distance[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            }
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = smaller(best, distance[i - 2][j - 2] + 1);
            distance[i][j] = best;
        }
    }
    return distance[rows][columns];
}

struct guess {
    const char *name;
    int distance;
};

static void consider(const char *name, const char *word, size_t length, struct guess *guess)
{
    bool abbreviated = strncmp(name, word, length) == 0;
    int distance = abbreviated ? 0 : edit_distance(name, strlen(name), word, length);
    if (distance < guess->distance)
        *guess = (struct guess){name, distance};
}

/* The option that the first `length` letters of a word may have meant: one that they abbreviate, or
 * else the one with the fewest typing errors, at most one in three letters. NULL if none is near.
 */
static const char *nearest_name(enum dtr_command command, const char *word, size_t length)
{
    struct guess guess = {NULL, length < 3 ? 2 : (int)(length / 3) + 1};
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (int i = 0; i < count; i++)
        if (table[i].commands & command)
            consider(table[i].name, word, length, &guess);
    consider("help", word, length, &guess);
    consider("version", word, length, &guess);
    return length > 0 ? guess.name : NULL;
}

static enum dtr_status refuse_unknown(
    enum dtr_command command, const char *word, struct dtr_error *error)
{
    char text[SHOWN_BYTES];
    const char *name = word + strspn(word, "-");
    const char *nearest = nearest_name(command, name, strcspn(name, "="));
    if (nearest == NULL)
        return dtr_error_set(error, DTR_USAGE, "unknown option %s; dtrain --help lists all options",
            shown(word, text));
    return dtr_error_set(
        error, DTR_USAGE, "unknown option %s; did you mean --%s?", shown(word, text), nearest);
}

static enum dtr_status refuse_operand(int limit, const char *word, struct dtr_error *error)
{
    char text[SHOWN_BYTES];
    if (*word == '\0')
        return dtr_error_set(
            error, DTR_USAGE, "one of the words is empty; is a variable of the script not set?");
    return dtr_error_set(error, DTR_USAGE, "\"%s\" is %s; dtrain --help shows the usage",
        shown(word, text),
        limit > 0 ? "one word too many" : "neither an option nor a command (train, eval, info)");
}

/* The value of the option at argv[*index], which moves to the last word that was used. */
static enum dtr_status take_value(const struct dtr_option *option, int argc, char **argv,
    int *index, const char **value_out, struct dtr_error *error)
{
    char what[TAKES_BYTES], text[SHOWN_BYTES];
    char *equals = strchr(argv[*index], '=');
    const char *next = *index + 1 < argc ? argv[*index + 1] : NULL;
    if (option->type == DTR_OPTION_FLAG) {
        *value_out = "yes";
        if (equals)
            return dtr_error_set(error, DTR_USAGE, "--%s takes no value, but \"%s\" was given",
                option->name, shown(equals + 1, text));
    } else if (equals) {
        *value_out = equals + 1;
    } else if (next == NULL) {
        return dtr_error_set(error, DTR_USAGE, "--%s takes %s, but nothing follows it",
            option->name, takes(option, what));
    } else if (strncmp(next, "--", 2) == 0) {
        /* A forgotten value; who means it can write --name=--value. */
        return dtr_error_set(error, DTR_USAGE, "--%s takes %s, but %s follows it", option->name,
            takes(option, what), shown(next, text));
    } else {
        *value_out = next;
        ++*index;
    }
    return DTR_OK;
}

/* Parses the option at argv[*index], which moves to the last word that was used. */
static enum dtr_status parse_option(enum dtr_command command, int argc, char **argv, int *index,
    struct dtr_options *options, struct dtr_error *error)
{
    const char *word = argv[*index];
    int count, found = -1;
    if (strncmp(word, "--", 2) == 0)
        found = find_option(word + 2, strcspn(word + 2, "="));
    if (found < 0)
        return refuse_unknown(command, word, error);

    const struct dtr_option *option = &dtr_options_table(&count)[found];
    if (!(option->commands & command)) {
        bool training = command == DTR_COMMAND_TRAIN;
        return dtr_error_set(error, DTR_USAGE, "--%s is an option of %s, not of %s", option->name,
            training ? "eval" : "train", training ? "train" : "eval");
    }
    const char *value;
    enum dtr_status status = take_value(option, argc, argv, index, &value, error);
    if (status != DTR_OK)
        return status;
    if (!set_value(option, value, options)) {
        char what[TAKES_BYTES], text[SHOWN_BYTES];
        return dtr_error_set(error, DTR_USAGE, "--%s takes %s, not \"%s\"", option->name,
            takes(option, what), shown(value, text));
    }
    options->named |= UINT64_C(1) << found;
    return DTR_OK;
}

/* Options that say the same thing in two ways; who names both expects one of them in vain. */
static enum dtr_status check_conflicts(uint64_t named, struct dtr_error *error)
{
    static const struct {
        const char *one, *other, *reason;
    } conflicts[] = {
        {"epochs", "steps", "both say how long to train"},
        {"batch-size", "batch-per-rank", "both set the batch"},
        {"shards", "batch-per-rank", "the latter makes one shard per rank"},
    };
    for (size_t i = 0; i < sizeof conflicts / sizeof conflicts[0]; i++) {
        const char *one = conflicts[i].one, *other = conflicts[i].other;
        uint64_t both = UINT64_C(1) << find_option(one, strlen(one)) |
                        UINT64_C(1) << find_option(other, strlen(other));
        if ((named & both) == both)
            return dtr_error_set(error, DTR_USAGE, "--%s and --%s exclude each other: %s", one,
                other, conflicts[i].reason);
    }
    return DTR_OK;
}

enum dtr_status dtr_options_parse(enum dtr_command command, int argc, char **argv, int first,
    int operand_limit, const char **operands_out, int *operand_count_out,
    struct dtr_options *options_out, struct dtr_error *error)
{
    dtr_options_default(options_out);
    *operand_count_out = 0;
    for (int i = first; i < argc; i++) {
        if (argv[i][0] == '-') {
            enum dtr_status status = parse_option(command, argc, argv, &i, options_out, error);
            if (status != DTR_OK)
                return status;
        } else if (argv[i][0] != '\0' && *operand_count_out < operand_limit) {
            operands_out[(*operand_count_out)++] = argv[i];
        } else {
            return refuse_operand(operand_limit, argv[i], error);
        }
    }
    return check_conflicts(options_out->named, error);
}

bool dtr_options_named(const struct dtr_options *options, const char *name)
{
    return options->named >> find_option(name, strlen(name)) & 1;
}

/* A run's value of an option, "" where it had none; `said` is what the user has said. */
static enum dtr_status resume_option(const struct dtr_option *option, const char *value,
    const char *where, const struct dtr_options *said, struct dtr_options *options,
    struct dtr_error *error)
{
    char mine[SHOWN_BYTES], theirs[SHOWN_BYTES] = "no such option";
    struct dtr_options run = *options;
    if (*value != '\0' && !set_value(option, value, &run))
        return dtr_error_set(error, DTR_INPUT, "%s: --%s %s, which this program does not take",
            where, option->name, shown(value, theirs));
    if (!dtr_options_named(said, option->name)) {
        *options = run;
        return DTR_OK;
    }
    dtr_option_format(option, said, mine, sizeof mine);
    if (*value != '\0')
        dtr_option_format(option, &run, theirs, sizeof theirs);
    if (option->revisable || strcmp(mine, theirs) == 0)
        return DTR_OK;
    return dtr_error_set(error, DTR_USAGE,
        "--%s %s contradicts %s, whose run has %s; leave it out to go on with that run",
        option->name, mine, where, theirs);
}

enum dtr_status dtr_options_resume(
    struct dtr_options *options, const char *recorded, const char *where, struct dtr_error *error)
{
    const struct dtr_options said = *options;
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (const char *entry = recorded; *entry != '\0'; entry += strlen(entry) + 1) {
        size_t length = strcspn(entry, "=");
        int found = find_option(entry, length);
        if (found < 0 || !table[found].recorded || entry[length] == '\0')
            continue;
        if (resume_option(&table[found], entry + length + 1, where, &said, options, error) !=
            DTR_OK)
            return error->status;
    }
    if (dtr_options_named(&said, "epochs")) /* steps, where they are known, would decide */
        options->steps = 0;
    return DTR_OK;
}

const char *dtr_options_data(const struct dtr_options *options, const char **origin_out)
{
    static const char usual_folder[] = "./data/mnist";
    const char *variable = getenv("DTRAIN_DATA");
    struct stat status;
    if (options->data) {
        *origin_out = dtr_options_named(options, "data") ? "--data" : "the checkpoint";
        return options->data;
    }
    if (variable && *variable != '\0') {
        *origin_out = "DTRAIN_DATA";
        return variable;
    }
    bool found = stat(usual_folder, &status) == 0 && S_ISDIR(status.st_mode);
    *origin_out = found ? "the default" : NULL;
    return found ? usual_folder : "synthetic";
}
