/* Options as text: values, help, those that a run has recorded; and where the data is. */
#include "dtrain/random.h"
#include "options_fixture.h"
#include "unit_main.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- formatting ---- */

/* A value is the same after it has been written and parsed again. */
static void check_round_trip(const struct dtr_option *option, const void *value)
{
    struct dtr_options options;
    dtr_options_default(&options);
    memcpy((char *)&options + option->offset, value, options_field_bytes(option));
    char word[160];
    int length = snprintf(word, sizeof word, "--%s", option->name);
    if (option->type != DTR_OPTION_FLAG) {
        word[length++] = '=';
        dtr_option_format(option, &options, word + length, sizeof word - (size_t)length);
    }
    struct parsed parsed = PARSE(TRAIN, word);
    ck_assert_msg(parsed.status == DTR_OK, "%s: %s", word, parsed.error.message);
    ck_assert_msg(options_same_value(option, &options, &parsed.options), "%s", word);
}

/* The ends of the range and numbers of all sizes between them. */
static void check_reals(const struct dtr_option *option)
{
    struct dtr_random random = dtr_random_at(1, 0, 0, 0, option->offset);
    const double ends[] = {option->min, nextafter(option->max, 0), option->max};
    for (int i = 0; i < 3; i++)
        check_round_trip(option, &ends[i]);
    for (int i = 0; i < 2000; i++) {
        double share = (dtr_random_u32(&random) + dtr_random_uniform(&random)) * 0x1p-32;
        double value = ldexp(share, -(int)dtr_random_below(&random, 60)) * option->max;
        if (value >= option->min)
            check_round_trip(option, &value);
    }
}

START_TEST(test_round_trip)
{
    static const char *const text = "some where/a=b --c";
    static const bool yes = true, no = false;
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (int i = 0; i < count; i++) {
        const struct dtr_option *option = &table[i];
        const int64_t whole[] = {(int64_t)option->min, option->max < 1000 ? 7 : 1000,
            option->max < 0x1p63 ? (int64_t)option->max : INT64_MAX};
        switch (option->type) {
        case DTR_OPTION_TEXT:
            check_round_trip(option, &text);
            break;
        case DTR_OPTION_INT:
            for (int k = 0; k < 3; k++)
                check_round_trip(option, &whole[k]);
            break;
        case DTR_OPTION_REAL:
            check_reals(option);
            break;
        case DTR_OPTION_CHOICE: {
            int index = 0;
            check_round_trip(option, &index);
            for (const char *c = option->choices; (c = strchr(c, '|')) != NULL; c++) {
                index++;
                check_round_trip(option, &index);
            }
            break;
        }
        case DTR_OPTION_YES_NO:
            check_round_trip(option, &no);
            check_round_trip(option, &yes);
            break;
        case DTR_OPTION_FLAG:
            check_round_trip(option, &yes);
            break;
        }
    }
}
END_TEST

START_TEST(test_reals_are_short)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0.1, "0.1"}, {0.95, "0.95"}, {5e-4, "0.0005"}, {1e-5, "1e-05"}, {10, "10"},
        {1e6, "1000000"}, {123456.789, "123456.789"}, {0.1 + 0.2, "0.30000000000000004"},
        {1.0 / 3, "0.3333333333333333"}, {2.0 / 3, "0.6666666666666666"}};
    struct dtr_options options;
    dtr_options_default(&options);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[32];
        options.learning_rate = cases[i].value;
        dtr_option_format(options_find("lr"), &options, text, sizeof text);
        ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

/* The whole process may be in a locale that writes 0,5. */
START_TEST(test_locale)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8",
        "fr_FR.utf8", "nl_NL.UTF-8", "es_ES.UTF-8", "it_IT.UTF-8", "pl_PL.UTF-8"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !found; i++)
        found = setlocale(LC_NUMERIC, names[i]) != NULL;
    if (!found)
        return; /* none is installed */
    ck_assert_str_eq(localeconv()->decimal_point, ",");

    struct parsed parsed = PARSE(TRAIN, "--lr", "0.125", "--epochs", "1.5e-1");
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    ck_assert(parsed.options.learning_rate == 0.125);
    ck_assert(parsed.options.epochs == 0.15);
    char text[32];
    dtr_option_format(options_find("epochs"), &parsed.options, text, sizeof text);
    ck_assert_str_eq(text, "0.15");
    ck_assert_int_eq(PARSE(TRAIN, "--lr", "0,125").status, DTR_USAGE);
    ck_assert_str_eq(localeconv()->decimal_point, ","); /* left as it was */
    setlocale(LC_NUMERIC, "C");
}
END_TEST

/* ---- help ---- */

/* What `print` writes; free it. */
static char *printed(void (*print)(FILE *file))
{
    char *text = NULL;
    size_t bytes;
    FILE *file = open_memstream(&text, &bytes);
    ck_assert_ptr_nonnull(file);
    print(file);
    ck_assert_int_eq(fclose(file), 0);
    return text;
}

/* Every run of spaces and newlines becomes one space. */
static void squeeze(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        char c = *from == '\n' ? ' ' : *from;
        if (c != ' ' || to == text || to[-1] != ' ')
            *to++ = c;
    }
    *to = '\0';
}

START_TEST(test_help_is_aligned)
{
    char *text = printed(dtr_options_help), *rest = text;
    ck_assert_msg(strncmp(text, "usage: dtrain [train] [OPTIONS]", 31) == 0, "%s", text);
    size_t column = 0, widest = 0, entries = 0;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        size_t length = strlen(line);
        widest = length > widest ? length : widest;
        ck_assert_msg(length == 0 || line[length - 1] != ' ', "\"%s\"", line);
        if (strncmp(line, "  --", 4) != 0)
            continue;
        /* The form, at least two spaces, and the text where all others have it. */
        char *gap = strstr(line + 2, "  ");
        ck_assert_msg(gap, "%s", line);
        size_t begin = (size_t)(gap - line) + strspn(gap, " ");
        column = entries++ == 0 ? begin : column;
        ck_assert_msg(begin == column, "%s", line);
    }
    int count;
    dtr_options_table(&count);
    ck_assert_uint_eq(entries, (size_t)count + 2); /* and --help, --version */
    ck_assert_uint_ge(widest, 80);
    ck_assert_uint_le(widest, 100);
    free(text);
}
END_TEST

START_TEST(test_help_is_complete)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    char *text = printed(dtr_options_help);
    squeeze(text);
    for (int i = 0; i < count; i++) {
        const struct dtr_option *option = &table[i];
        char entry[400];
        if (option->type == DTR_OPTION_FLAG)
            snprintf(entry, sizeof entry, " --%s %s", option->name, option->help);
        else
            snprintf(entry, sizeof entry, " --%s %s %s [%s]", option->name,
                option->choices ? option->choices : option->metavar, option->help,
                option->fallback ? option->fallback : option->absent);
        ck_assert_msg(strstr(text, entry), "%s", entry);
    }
    static const char *const parts[] = {"dtrain eval CHECKPOINT [OPTIONS]", "dtrain info FILE",
        "mpirun -n 2 --bind-to none dtrain --data mnist", "srun -n 4 dtrain", "--version",
        "Those of eval are --data, --threads, --backend, --precision, --allow-gpu-sharing,",
        " --watchdog, --kernels, --isa.", "Training:", "Tests and benchmarks:"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        ck_assert_msg(strstr(text, parts[i]), "%s", parts[i]);
    free(text);
}
END_TEST

START_TEST(test_markdown)
{
    int count, lines = 0, headings = 0;
    const struct dtr_option *table = dtr_options_table(&count);
    char *text = printed(dtr_options_markdown), *rest = text;
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    text[strlen(text) - 1] = '\0';
    for (char *line; (line = strsep(&rest, "\n")) != NULL; lines++) {
        int bars = 0;
        for (const char *c = line; *c != '\0'; c++)
            bars += *c == '|' && (c == line || c[-1] != '\\');
        ck_assert_msg(bars == 4, "%s", line);
        if (lines == 0)
            ck_assert_str_eq(line, "| option | default | meaning |");
        if (lines < 2)
            continue;
        const struct dtr_option *option = &table[lines - 2 - headings];
        char begin[64];
        int length = snprintf(begin, sizeof begin, "| **%s**", option->heading);
        if (option->heading && strncmp(line, begin, (size_t)length) == 0) {
            headings++;
            continue;
        }
        length = snprintf(begin, sizeof begin, "| `--%s", option->name);
        ck_assert_msg(strncmp(line, begin, (size_t)length) == 0, "%s", line);
        ck_assert_msg(strstr(line, option->help), "%s", line);
    }
    ck_assert_int_eq(lines, count + headings + 2);
    ck_assert_int_eq(headings, 6);
    free(text);
    text = printed(dtr_options_markdown);
    ck_assert_ptr_nonnull(strstr(text, "\n| `--epochs X` | `10` | passes"));
    ck_assert_ptr_nonnull(strstr(text, "\n| `--steps N` | --epochs decides | optimizer"));
    ck_assert_ptr_nonnull(strstr(text, "\n| `--shuffle yes\\|no` | `yes` | "));
    ck_assert_ptr_nonnull(strstr(text, "\n| `--dry-run` | `no` | "));
    free(text);
}
END_TEST

/* ---- where the data is ---- */

static void check_data(const char *given, const char *expected, const char *expected_origin)
{
    struct dtr_options options;
    dtr_options_default(&options);
    options.data = given;
    const char *origin = "";
    ck_assert_str_eq(dtr_options_data(&options, &origin), expected);
    ck_assert_pstr_eq(origin, expected_origin);
}

START_TEST(test_data)
{
    const char *parent = getenv("TMPDIR");
    char folder[512], before[512];
    snprintf(folder, sizeof folder, "%s/dtrain-options-XXXXXX", parent ? parent : "/tmp");
    ck_assert_ptr_nonnull(getcwd(before, sizeof before));
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(chdir(folder), 0);

    unsetenv("DTRAIN_DATA");
    check_data(NULL, "synthetic", NULL);
    check_data("there", "there", "the checkpoint");
    ck_assert_int_eq(mkdir("data", 0777), 0);
    FILE *file = fopen("data/mnist", "w");
    ck_assert_ptr_nonnull(file);
    fclose(file);
    check_data(NULL, "synthetic", NULL); /* a file, no folder */
    ck_assert_int_eq(unlink("data/mnist"), 0);
    ck_assert_int_eq(mkdir("data/mnist", 0777), 0);
    check_data(NULL, "./data/mnist", "the default");
    setenv("DTRAIN_DATA", "", 1);
    check_data(NULL, "./data/mnist", "the default");
    setenv("DTRAIN_DATA", "/is/not/there", 1);
    check_data(NULL, "/is/not/there", "DTRAIN_DATA");
    check_data("there", "there", "the checkpoint");
    unsetenv("DTRAIN_DATA");
    const char *origin;
    struct parsed named = PARSE(EVAL, "--data", "there");
    ck_assert_str_eq(dtr_options_data(&named.options, &origin), "there");
    ck_assert_str_eq(origin, "--data");

    ck_assert_int_eq(rmdir("data/mnist"), 0);
    ck_assert_int_eq(rmdir("data"), 0);
    ck_assert_int_eq(chdir(before), 0);
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

/* ---- resume ---- */

/* What the user has said, with a run's options behind it. */
static struct parsed resumed(const char *const *words, const char *recorded)
{
    struct parsed parsed = options_parse(TRAIN, words);
    ck_assert_int_eq(parsed.status, DTR_OK);
    parsed.status = dtr_options_resume(&parsed.options, recorded, "a/ckpt.h5", &parsed.error);
    return parsed;
}
#define RESUME(recorded, ...) resumed((const char *const[]){__VA_ARGS__, NULL}, recorded)

static const char run[] = "lr=0.5\0epochs=3\0steps=120\0batch-per-rank=\0seed=7\0"
                          "data=some/where\0shuffle=no\0later=1\0";

START_TEST(test_resume_takes_what_is_not_named)
{
    struct parsed parsed = RESUME(run, "--seed", "7", "--data", "else/where", "--keep", "9");
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    ck_assert(parsed.options.learning_rate == 0.5);
    ck_assert(parsed.options.epochs == 3);
    ck_assert_int_eq(parsed.options.steps, 120);
    ck_assert_int_eq(parsed.options.batch_per_rank, 0);
    ck_assert_int_eq(parsed.options.keep, 9);
    ck_assert(!parsed.options.shuffle);
    ck_assert_str_eq(parsed.options.data, "else/where");
    ck_assert(dtr_options_named(&parsed.options, "seed"));
    ck_assert(!dtr_options_named(&parsed.options, "lr"));
}
END_TEST

START_TEST(test_resume_goes_on_longer)
{
    struct parsed epochs = RESUME(run, "--epochs", "5"), steps = RESUME(run, "--steps", "500");
    ck_assert(epochs.options.epochs == 5 && epochs.options.steps == 0);
    ck_assert_int_eq(steps.options.steps, 500);
}
END_TEST

START_TEST(test_resume_refuses_contradictions)
{
    static const char *const words[][3] = {{"--lr", "0.25", "has 0.5;"},
        {"--batch-per-rank", "4", "has no such option;"}, {"--shuffle", "yes", "has no;"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        struct parsed parsed = RESUME(run, words[i][0], words[i][1]);
        ck_assert_int_eq(parsed.status, DTR_USAGE);
        ck_assert_ptr_nonnull(strstr(parsed.error.message, words[i][0]));
        ck_assert_ptr_nonnull(strstr(parsed.error.message, "a/ckpt.h5"));
        ck_assert_ptr_nonnull(strstr(parsed.error.message, words[i][2]));
    }
    ck_assert_int_eq(RESUME("optimizer=lion\0", "--keep", "2").status, DTR_INPUT);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("options_text");
    TCase *tcase = add_case(suite, "format");
    tcase_add_test(tcase, test_round_trip);
    tcase_add_test(tcase, test_reals_are_short);
    tcase_add_test(tcase, test_locale);
    tcase = add_case(suite, "print");
    tcase_add_test(tcase, test_help_is_aligned);
    tcase_add_test(tcase, test_help_is_complete);
    tcase_add_test(tcase, test_markdown);
    tcase = add_case(suite, "resume");
    tcase_add_test(tcase, test_resume_takes_what_is_not_named);
    tcase_add_test(tcase, test_resume_goes_on_longer);
    tcase_add_test(tcase, test_resume_refuses_contradictions);
    tcase = add_case(suite, "data");
    tcase_add_test(tcase, test_data);
    return suite;
}
