/* The table of options, and what command lines are parsed to. What is made of the options then is
 * for test_options_text.c. */
#include "dtrain/gradsync.h"
#include "dtrain/replica.h"
#include "options_fixture.h"
#include "unit_main.h"

#include <stdlib.h>
#include <string.h>

enum { WORDS = 8 };

/* ---- the table ---- */

START_TEST(test_table_is_sound)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    ck_assert_ptr_nonnull(table[0].heading);
    for (int i = 0; i < count; i++) {
        const struct dtr_option *option = &table[i];
        const char *name = option->name;
        ck_assert_msg(strspn(name, "abcdefghijklmnopqrstuvwxyz-") == strlen(name), "%s", name);
        ck_assert_str_ne(name, "help");
        ck_assert_str_ne(name, "version");
        for (int k = 0; k < i; k++) {
            ck_assert_str_ne(name, table[k].name);
            ck_assert_msg(option->offset != table[k].offset, "%s and %s", name, table[k].name);
        }
        ck_assert_msg(option->commands & TRAIN, "%s", name);
        ck_assert_msg(option->help && strchr(option->help, '|') == NULL, "%s", name);

        bool chosen = option->type == DTR_OPTION_CHOICE || option->type == DTR_OPTION_YES_NO ||
                      option->type == DTR_OPTION_FLAG;
        ck_assert_msg((option->choices != NULL) == chosen, "%s", name);
        ck_assert_msg((option->metavar != NULL) == !chosen, "%s", name);
        if (option->type == DTR_OPTION_INT || option->type == DTR_OPTION_REAL)
            ck_assert_msg(option->min >= 0 && option->min < option->max, "%s", name);

        /* What nobody can write must be NULL or 0, which the field is until it is set. */
        ck_assert_msg((option->fallback == NULL) == (option->absent != NULL), "%s", name);
        if (option->absent)
            ck_assert_msg(option->type == DTR_OPTION_TEXT ||
                              (option->type == DTR_OPTION_INT && option->min >= 1),
                "%s", name);
    }
}
END_TEST

static int by_offset(const void *a, const void *b)
{
    size_t a_offset = (*(const struct dtr_option *const *)a)->offset;
    size_t b_offset = (*(const struct dtr_option *const *)b)->offset;
    return a_offset < b_offset ? -1 : a_offset > b_offset;
}

/* Fields follow each other with no more than the compiler's padding between them, up to the end. */
START_TEST(test_table_covers_the_struct)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count), *sorted[64];
    ck_assert_int_le(count, 64);
    for (int i = 0; i < count; i++)
        sorted[i] = &table[i];
    qsort(sorted, (size_t)count, sizeof sorted[0], by_offset);
    size_t end = 0;
    for (int i = 0; i < count; i++) {
        size_t bytes = options_field_bytes(sorted[i]);
        size_t aligned = (end + bytes - 1) / bytes * bytes;
        ck_assert_msg(sorted[i]->offset == aligned, "before %s", sorted[i]->name);
        end = aligned + bytes;
    }
    size_t alignment = _Alignof(uint64_t), named = offsetof(struct dtr_options, named);
    ck_assert_uint_eq((end + alignment - 1) / alignment * alignment, named);
    ck_assert_uint_eq(named + sizeof(uint64_t), sizeof(struct dtr_options));
}
END_TEST

/* ---- defaults ---- */

/* Where each option belongs, and the defaults of the contract as they are written. */
static const struct {
    const char *name;
    size_t offset;
    const char *fallback; /* NULL: nothing, told by `absent` */
} contract[] = {
#define AT(field) offsetof(struct dtr_options, field)
    {"data", AT(data), NULL},
    {"model", AT(model), "mnist-cnn"},
    {"epochs", AT(epochs), "10"},
    {"steps", AT(steps), NULL},
    {"batch-size", AT(batch_size), "64"},
    {"batch-per-rank", AT(batch_per_rank), NULL},
    {"shards", AT(shards), NULL},
    {"lr", AT(learning_rate), "0.01"},
    {"lr-schedule", AT(lr_schedule), "exp:0.95"},
    {"warmup-epochs", AT(warmup_epochs), "0"},
    {"lr-scaling", AT(lr_scaling), "none"},
    {"optimizer", AT(optimizer), "sgd"},
    {"momentum", AT(momentum), "0.9"},
    {"weight-decay", AT(weight_decay), "0.0005"},
    {"weight-decay-on", AT(weight_decay_on), "dense"},
    {"validation-size", AT(validation_size), "5000"},
    {"eval-every", AT(eval_every), "100"},
    {"shuffle", AT(shuffle), "yes"},
    {"seed", AT(seed), "66478"},
    {"threads", AT(threads), NULL},
    {"backend", AT(backend), "auto"},
    {"precision", AT(precision), "auto"},
    {"allow-gpu-sharing", AT(allow_gpu_sharing), "no"},
    {"comm", AT(comm), "auto"},
    {"reduce", AT(reduce), "auto"},
    {"checkpoint-dir", AT(checkpoint_dir), NULL},
    {"checkpoint-every", AT(checkpoint_every), "1000"},
    {"keep", AT(keep), "3"},
    {"resume", AT(resume), "never"},
    {"on-checkpoint-failure", AT(on_checkpoint_failure), "warn"},
    {"time-limit", AT(time_limit), NULL},
    {"preempt-exit-code", AT(preempt_exit_code), "75"},
    {"watchdog", AT(watchdog), "60"},
    {"on-nan", AT(on_nan), "stop"},
    {"progress", AT(progress), "auto"},
    {"overlap", AT(overlap), "yes"},
    {"bucket-bytes", AT(bucket_bytes), NULL},
    {"window-ranks", AT(window_ranks), NULL},
    {"kernels", AT(kernels), "auto"},
    {"isa", AT(isa), "auto"},
    {"dry-run", AT(dry_run), "no"},
#undef AT
};

START_TEST(test_defaults)
{
    enum { COUNT = sizeof contract / sizeof contract[0] };
    int count;
    dtr_options_table(&count);
    ck_assert_int_eq(count, COUNT);
    struct dtr_options options;
    memset(&options, 0xA5, sizeof options);
    dtr_options_default(&options);
    struct parsed nothing = options_parse(TRAIN, (const char *const[]){NULL});
    ck_assert_int_eq(nothing.status, DTR_OK);
    for (int i = 0; i < COUNT; i++) {
        const struct dtr_option *option = options_find(contract[i].name);
        ck_assert_msg(option->offset == contract[i].offset, "%s", option->name);
        const char *fallback = contract[i].fallback;
        if (fallback)
            ck_assert_str_eq(option->fallback, fallback);
        char text[128];
        dtr_option_format(option, &options, text, sizeof text);
        ck_assert_str_eq(text, fallback ? fallback : option->absent);
        ck_assert_msg(options_same_value(option, &options, &nothing.options), "%s", option->name);
    }
}
END_TEST

START_TEST(test_values)
{
    struct parsed parsed = PARSE(TRAIN, "--data", "d", "--epochs", "2.5", "--lr=.125",
        "--batch-size=128", "--lr-scaling", "sqrt", "--weight-decay-on=all", "--shuffle=no",
        "--reduce", "allreduce", "--progress", "no", "--kernels=reference", "--dry-run",
        "--window-ranks", "3", "--bucket-bytes=67108864");
    const struct dtr_options *options = &parsed.options;
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    ck_assert_str_eq(options->data, "d");
    ck_assert(options->epochs == 2.5 && options->learning_rate == 0.125);
    ck_assert_int_eq(options->batch_size, 128);
    ck_assert_int_eq(options->lr_scaling, DTR_SCALING_SQRT);
    ck_assert_int_eq(options->weight_decay_on, 1);
    ck_assert_int_eq(options->reduce, DTR_REDUCE_ALLREDUCE);
    ck_assert_int_eq(options->window_ranks, 3);
    ck_assert_int_eq(options->bucket_bytes, 1 << 26);
    ck_assert_int_eq(options->progress, DTR_NO);
    ck_assert_int_eq(options->kernels, DTR_KERNELS_REFERENCE);
    ck_assert(!options->shuffle && options->overlap && options->dry_run);

    struct parsed tree = PARSE(TRAIN, "--reduce=tree");
    ck_assert_int_eq(tree.status, DTR_OK);
    ck_assert_int_eq(tree.options.reduce, DTR_REDUCE_TREE);

    dtr_options_default(&parsed.options);
    ck_assert(options->data == NULL && options->checkpoint_dir == NULL);
    ck_assert(options->steps == 0 && options->threads == 0 && options->bucket_bytes == 0);
    ck_assert_int_eq(options->window_ranks, 0);
    ck_assert_int_eq(options->reduce, DTR_REDUCE_AUTO);
    ck_assert(options->epochs == 10 && options->momentum == 0.9 && options->weight_decay == 5e-4);
    ck_assert_int_eq(options->optimizer, DTR_OPTIMIZER_SGD);
    ck_assert_int_eq(options->progress, DTR_AUTO);
    ck_assert(options->shuffle && options->overlap && !options->dry_run);
}
END_TEST

/* ---- good command lines ---- */

/* Words, and how an option formats afterwards. */
static const struct {
    const char *words[WORDS], *name, *text;
} good[] = {
    {{"--epochs", "10"}, "epochs", "10"},
    {{"--epochs=10."}, "epochs", "10"},
    {{"--epochs", "0.30000000000000004"}, "epochs", "0.30000000000000004"},
    {{"--epochs", "1000000"}, "epochs", "1000000"},
    {{"--lr", "1e-3"}, "lr", "0.001"},
    {{"--lr", "1E-3"}, "lr", "0.001"},
    {{"--lr", "1.e+2"}, "lr", "100"},
    {{"--lr", "0.5"}, "lr", "0.5"},
    {{"--lr", ".5"}, "lr", "0.5"},
    {{"--lr", "0"}, "lr", "0"},
    {{"--lr", "00.10"}, "lr", "0.1"},
    {{"--momentum", "1"}, "momentum", "1"},
    {{"--batch-size", "010"}, "batch-size", "10"},
    {{"--seed", "0"}, "seed", "0"},
    {{"--seed", "9223372036854775807"}, "seed", "9223372036854775807"},
    {{"--seed", "00000000000000000000000000000001"}, "seed", "1"},
    {{"--shuffle", "yes"}, "shuffle", "yes"},
    {{"--shuffle=no"}, "shuffle", "no"},
    {{"--progress", "yes"}, "progress", "yes"},
    {{"--kernels", "onednn"}, "kernels", "onednn"},
    {{"--isa", "avx2"}, "isa", "avx2"},
    {{"--lr-scaling=linear"}, "lr-scaling", "linear"},
    {{"--dry-run"}, "dry-run", "yes"},
    {{"--dry-run", "--dry-run"}, "dry-run", "yes"},
    {{"--data", "a b=c"}, "data", "a b=c"},
    {{"--data=a=b"}, "data", "a=b"},
    {{"--data", "-"}, "data", "-"},
    {{"--data", "-x"}, "data", "-x"},
    {{"--data=--x"}, "data", "--x"},
    {{"--checkpoint-dir", "none"}, "checkpoint-dir", "none"},
    /* Later ones win, in whichever form, and others stay. */
    {{"--epochs", "3", "--epochs", "5"}, "epochs", "5"},
    {{"--epochs=3", "--lr", "1", "--epochs=5"}, "epochs", "5"},
    {{"--epochs", "5", "--epochs=3"}, "epochs", "3"},
    {{"--epochs", "5", "--epochs=10"}, "epochs", "10"},
    {{"--shuffle=no", "--shuffle=yes"}, "shuffle", "yes"},
    {{"--steps", "5", "--steps", "6"}, "epochs", "10"},
    {{"--batch-per-rank", "5"}, "batch-size", "64"},
    {{"--shards", "4", "--batch-size", "8"}, "shards", "4"},
};

START_TEST(test_good)
{
    struct parsed parsed = options_parse(TRAIN, good[_i].words);
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    char text[128];
    dtr_option_format(options_find(good[_i].name), &parsed.options, text, sizeof text);
    ck_assert_str_eq(text, good[_i].text);
}
END_TEST

START_TEST(test_operands)
{
    struct parsed parsed = PARSE(EVAL, "runs/a", "--data", "d", "--threads=2");
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    ck_assert_int_eq(parsed.operand_count, 1);
    ck_assert_str_eq(parsed.operands[0], "runs/a");
    ck_assert_str_eq(parsed.operands[1], "untouched");
    ck_assert_str_eq(parsed.options.data, "d");

    parsed = PARSE(EVAL, "--data", "d", "--kernels", "reference", "epochs");
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    ck_assert_int_eq(parsed.operand_count, 1);
    ck_assert_str_eq(parsed.operands[0], "epochs");
    ck_assert_int_eq(parsed.options.kernels, DTR_KERNELS_REFERENCE);

    parsed = options_parse(EVAL, (const char *const[]){NULL});
    ck_assert_int_eq(parsed.status, DTR_OK);
    ck_assert_int_eq(parsed.operand_count, 0);
}
END_TEST

/* ---- bad command lines ---- */

static const struct {
    enum dtr_command command;
    const char *words[WORDS], *message; /* a part of it */
} bad[] = {
    /* unknown options */
    {TRAIN, {"--bacth-size", "64"}, "unknown option --bacth-size; did you mean --batch-size?"},
    {TRAIN, {"--bacth-size=64"}, "unknown option --bacth-size=64; did you mean --batch-size?"},
    {TRAIN, {"--batch_size", "64"}, "unknown option --batch_size; did you mean --batch-size?"},
    {TRAIN, {"--Epochs", "1"}, "unknown option --Epochs; did you mean --epochs?"},
    {TRAIN, {"--epoch", "1"}, "unknown option --epoch; did you mean --epochs?"},
    {TRAIN, {"--batch", "64"}, "unknown option --batch; did you mean --batch-size?"},
    {TRAIN, {"--checkpoint=d"}, "unknown option --checkpoint=d; did you mean --checkpoint-dir?"},
    {TRAIN, {"--sede", "1"}, "unknown option --sede; did you mean --seed?"},
    {TRAIN, {"--steps-", "1"}, "unknown option --steps-; did you mean --steps?"},
    {TRAIN, {"--ls", "1"}, "unknown option --ls; did you mean --lr?"},
    {TRAIN, {"--hlep"}, "unknown option --hlep; did you mean --help?"},
    {TRAIN, {"--vresion"}, "unknown option --vresion; did you mean --version?"},
    {TRAIN, {"--no-shuffle"}, "unknown option --no-shuffle; did you mean --shuffle?"},
    {TRAIN, {"--frobnicate"}, "unknown option --frobnicate; dtrain --help lists all options"},
    {TRAIN, {"--xy", "1"}, "unknown option --xy; dtrain --help"},
    {TRAIN, {"--"}, "unknown option --; dtrain --help"},
    {TRAIN, {"-"}, "unknown option -; dtrain --help"},
    {TRAIN, {"---"}, "unknown option ---; dtrain --help"},
    {TRAIN, {"--=5"}, "unknown option --=5; dtrain --help"},
    {TRAIN, {"--epochs 5"}, "unknown option --epochs 5; did you mean --epochs?"},
    {TRAIN, {"-epochs", "5"}, "unknown option -epochs; did you mean --epochs?"},
    {TRAIN, {"---epochs", "5"}, "unknown option ---epochs; did you mean --epochs?"},
    {TRAIN, {"-b", "5"}, "unknown option -b; did you mean --batch-size?"},
    {TRAIN, {"-h"}, "unknown option -h; did you mean --help?"},
    {TRAIN, {"-5"}, "unknown option -5; dtrain --help"},
    {TRAIN, {"--a-name-that-is-far-longer-than-any-that-dtrain-has-or-will-have", "1"},
        "unknown option --a-name-that-is-far-longer-than-any-that-dtrain-has-or-will...; "},
    /* options of the other command, and what is near in this one */
    {EVAL, {"c.h5", "--epochs", "3"}, "--epochs is an option of train, not of eval"},
    {EVAL, {"c.h5", "--batch-size=3"}, "--batch-size is an option of train, not of eval"},
    {EVAL, {"c.h5", "--dry-run"}, "--dry-run is an option of train, not of eval"},
    {EVAL, {"c.h5", "--dta", "x"}, "unknown option --dta; did you mean --data?"},
    {EVAL, {"c.h5", "--epoch", "3"}, "unknown option --epoch; dtrain --help"},
    /* words that are no options */
    {TRAIN, {"epochs", "5"}, "\"epochs\" is neither an option nor a command (train, eval, info)"},
    {TRAIN, {"--epochs", "5", "6"}, "\"6\" is neither an option nor a command"},
    {TRAIN, {"--dry-run", "yes"}, "\"yes\" is neither an option nor a command"},
    {TRAIN, {""}, "one of the words is empty"},
    {EVAL, {""}, "one of the words is empty"},
    {EVAL, {"a.h5", "b.h5"}, "\"b.h5\" is one word too many"},
    /* values that are missing */
    {TRAIN, {"--epochs"}, "--epochs takes a number from 1e-06 to 1000000, but nothing follows it"},
    {TRAIN, {"--data"}, "--data takes PATH, but nothing follows it"},
    {TRAIN, {"--shuffle"}, "--shuffle takes yes or no, but nothing follows it"},
    {TRAIN, {"--steps", "--lr", "1"}, "to 1000000000000, but --lr follows it"},
    {TRAIN, {"--data", "--lr", "1"}, "--data takes PATH, but --lr follows it"},
    {TRAIN, {"--data="}, "--data takes PATH, not \"\""},
    {TRAIN, {"--model", ""}, "--model takes MODEL, not \"\""},
    {TRAIN, {"--steps="}, "--steps takes a whole number from 1 to 1000000000000, not \"\""},
    {TRAIN, {"--seed="}, "--seed takes a whole number from 0 to 9223372036854775807, not \"\""},
    {TRAIN, {"--lr", ""}, "--lr takes a number from 0 to 1000000, not \"\""},
    {TRAIN, {"--kernels="}, "--kernels takes auto, reference, onednn or fused, not \"\""},
    {TRAIN, {"--dry-run=yes"}, "--dry-run takes no value, but \"yes\" was given"},
    {TRAIN, {"--dry-run="}, "--dry-run takes no value, but \"\" was given"},
    /* ranges */
    {TRAIN, {"--steps", "0"}, "--steps takes a whole number from 1 to 1000000000000, not \"0\""},
    {TRAIN, {"--threads", "0"}, "--threads takes a whole number from 1 to 1024, not \"0\""},
    {TRAIN, {"--shards", "4194305"}, "--shards takes a whole number from 1 to 4194304, not"},
    {TRAIN, {"--bucket-bytes", "3"}, "--bucket-bytes takes a whole number from 4 to 67108864"},
    {TRAIN, {"--bucket-bytes", "67108865"}, "from 4 to 67108864, not \"67108865\""},
    {TRAIN, {"--window-ranks", "0"}, "--window-ranks takes a whole number from 1 to 1000000, not"},
    {TRAIN, {"--window-ranks", "1000001"}, "from 1 to 1000000, not \"1000001\""},
    {TRAIN, {"--validation-size", "-1"}, "--validation-size takes a whole number from 0 to"},
    {TRAIN, {"--keep", "0"}, "--keep takes a whole number from 1 to 1000000000, not \"0\""},
    {TRAIN, {"--seed", "-1"},
        "--seed takes a whole number from 0 to 9223372036854775807, not \"-1\""},
    {TRAIN, {"--seed", "9223372036854775808"}, "not \"9223372036854775808\""},
    {TRAIN, {"--seed", "18446744073709551617"}, "not \"18446744073709551617\""},
    {TRAIN, {"--epochs", "0"}, "--epochs takes a number from 1e-06 to 1000000, not \"0\""},
    {TRAIN, {"--momentum", "1.01"}, "--momentum takes a number from 0 to 1, not \"1.01\""},
    /* choices */
    {TRAIN, {"--optimizer", "adam"}, "--optimizer takes sgd, not \"adam\""},
    {TRAIN, {"--reduce", "ring"}, "--reduce takes auto, tree or allreduce, not \"ring\""},
    {TRAIN, {"--reduce", "auto|tree"}, "not \"auto|tree\""},
    {TRAIN, {"--reduce", "tree|allreduce"}, "not \"tree|allreduce\""},
    {TRAIN, {"--reduce", "all"}, "not \"all\""},
    {TRAIN, {"--reduce", "autos"}, "not \"autos\""},
    {TRAIN, {"--progress", "on"}, "--progress takes auto, yes or no, not \"on\""},
    {TRAIN, {"--lr-scaling", "Linear"}, "--lr-scaling takes none, linear or sqrt, not \"Linear\""},
    {TRAIN, {"--weight-decay-on", "conv"}, "--weight-decay-on takes dense or all, not \"conv\""},
    {TRAIN, {"--shuffle", "true"}, "--shuffle takes yes or no, not \"true\""},
    {TRAIN, {"--shuffle", "1"}, "--shuffle takes yes or no, not \"1\""},
    {TRAIN, {"--overlap=n"}, "--overlap takes yes or no, not \"n\""},
    {EVAL, {"--kernels", "cudnn"},
        "--kernels takes auto, reference, onednn or fused, not \"cudnn\""},
    /* options that exclude each other, also when they name their defaults */
    {TRAIN, {"--epochs", "10", "--steps", "5"},
        "--epochs and --steps exclude each other: both say how long to train"},
    {TRAIN, {"--steps=5", "--lr", "1", "--epochs=1"}, "--epochs and --steps exclude each other"},
    {TRAIN, {"--batch-per-rank=5", "--batch-size=64"},
        "--batch-size and --batch-per-rank exclude each other: both set the batch"},
    {TRAIN, {"--shards=8", "--batch-per-rank=5"},
        "--shards and --batch-per-rank exclude each other: the latter makes one shard per rank"},
    /* The first mistake is the one that is told. */
    {TRAIN, {"--lr", "x", "--seed", "y", "--nonsense"}, "--lr takes"},
};

START_TEST(test_bad)
{
    struct parsed parsed = options_parse(bad[_i].command, bad[_i].words);
    const char *message = parsed.error.message;
    ck_assert_int_eq(parsed.status, DTR_USAGE);
    ck_assert_int_eq(parsed.error.status, DTR_USAGE);
    ck_assert_msg(
        strstr(message, bad[_i].message), "\"%s\" has no part \"%s\"", message, bad[_i].message);
    ck_assert_ptr_null(strchr(message, '\n'));
    ck_assert_uint_lt(strlen(message), 200);
}
END_TEST

static const char *const bad_whole_numbers[] = {"64x", "x64", "6 4", " 64", "64 ", "0x40", "6e1",
    "64.0", "1,000", "1_000", "+64", "-64", "--64", "0", "1000000001", "99999999999999999999999",
    "nan", "inf", "\xd9\xa3", "1/2", ""};

static const char *const bad_numbers[] = {"fast", "nan", "NaN(1)", "inf", "-inf", "infinity",
    "1e999", "1e-999", "-0.1", "+0.1", "-0", "0x1p-3", "0x1", "0,1", "0.1f", "0.1 ", " 0.1",
    "0.1.2", ".", "e1", ".e1", "1e", "1e+", "1e+-1", "1e1.5", "1d1", "1000000.1", "1/2", ""};

static void check_refused(const char *name, const char *what, const char *value)
{
    char word[80], message[160];
    snprintf(word, sizeof word, "--%s=%s", name, value);
    snprintf(message, sizeof message, "--%s takes %s, not \"%s\"", name, what, value);
    struct parsed parsed = PARSE(TRAIN, word);
    ck_assert_int_eq(parsed.status, DTR_USAGE);
    ck_assert_str_eq(parsed.error.message, message);
}

START_TEST(test_bad_numbers)
{
    for (size_t i = 0; i < sizeof bad_whole_numbers / sizeof bad_whole_numbers[0]; i++)
        check_refused("batch-size", "a whole number from 1 to 1000000000", bad_whole_numbers[i]);
    for (size_t i = 0; i < sizeof bad_numbers / sizeof bad_numbers[0]; i++)
        check_refused("lr", "a number from 0 to 1000000", bad_numbers[i]);
}
END_TEST

/* Whatever is given comes back as one short line. */
START_TEST(test_strange_words)
{
    char word[1000];
    memset(word, 'x', sizeof word);
    memcpy(word, "--", 2);
    word[sizeof word - 1] = '\0';
    word[5] = '\n';
    word[6] = '\x1b';
    struct parsed as_option = PARSE(TRAIN, word);
    struct parsed as_operand = PARSE(TRAIN, word + 3);
    struct parsed as_value = PARSE(TRAIN, "--lr", word + 3);
    struct parsed as_follower = PARSE(TRAIN, "--lr", word);
    const struct parsed *all[] = {&as_option, &as_operand, &as_value, &as_follower};
    for (int i = 0; i < 4; i++) {
        const char *message = all[i]->error.message;
        ck_assert_int_eq(all[i]->status, DTR_USAGE);
        ck_assert_msg(strstr(message, "xx??xx"), "%s", message);
        ck_assert_msg(strstr(message, "xxx..."), "%s", message);
        ck_assert_uint_lt(strlen(message), 200);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("options");
    TCase *tcase = add_case(suite, "table");
    tcase_add_test(tcase, test_table_is_sound);
    tcase_add_test(tcase, test_table_covers_the_struct);
    tcase_add_test(tcase, test_defaults);
    tcase = add_case(suite, "parse");
    tcase_add_test(tcase, test_values);
    tcase_add_loop_test(tcase, test_good, 0, sizeof good / sizeof good[0]);
    tcase_add_test(tcase, test_operands);
    tcase_add_loop_test(tcase, test_bad, 0, sizeof bad / sizeof bad[0]);
    tcase_add_test(tcase, test_bad_numbers);
    tcase_add_test(tcase, test_strange_words);
    return suite;
}
