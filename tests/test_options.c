#include "dtrain/gradsync.h"
#include "dtrain/options.h"
#include "dtrain/random.h"
#include "dtrain/replica.h"
#include "unit_main.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORDS = 8 };
#define TRAIN DTR_COMMAND_TRAIN
#define EVAL DTR_COMMAND_EVAL

/* What a command line was parsed to. */
struct parsed {
    enum dtr_status status;
    struct dtr_options options;
    struct dtr_error error;
    const char *operands[2];
    int operand_count;
};

/* Words up to a NULL, after two that are the caller's; eval takes one operand, as in the program.
 */
static struct parsed parse(enum dtr_command command, const char *const *words)
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

#define PARSE(command, ...) parse(command, (const char *const[]){__VA_ARGS__, NULL})

static const struct dtr_option *find(const char *name)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    for (int i = 0; i < count; i++)
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    ck_abort_msg("there is no option %s", name);
}

static size_t field_bytes(const struct dtr_option *option)
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

static bool same_value(
    const struct dtr_option *option, const struct dtr_options *a, const struct dtr_options *b)
{
    const char *a_field = (const char *)a + option->offset;
    const char *b_field = (const char *)b + option->offset;
    if (option->type != DTR_OPTION_TEXT)
        return memcmp(a_field, b_field, field_bytes(option)) == 0;
    const char *a_text = *(const char *const *)a_field, *b_text = *(const char *const *)b_field;
    return a_text == b_text || (a_text && b_text && strcmp(a_text, b_text) == 0);
}

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
        size_t bytes = field_bytes(sorted[i]);
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
    struct parsed nothing = parse(TRAIN, (const char *const[]){NULL});
    ck_assert_int_eq(nothing.status, DTR_OK);
    for (int i = 0; i < COUNT; i++) {
        const struct dtr_option *option = find(contract[i].name);
        ck_assert_msg(option->offset == contract[i].offset, "%s", option->name);
        const char *fallback = contract[i].fallback;
        if (fallback)
            ck_assert_str_eq(option->fallback, fallback);
        char text[128];
        dtr_option_format(option, &options, text, sizeof text);
        ck_assert_str_eq(text, fallback ? fallback : option->absent);
        ck_assert_msg(same_value(option, &options, &nothing.options), "%s", option->name);
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
    struct parsed parsed = parse(TRAIN, good[_i].words);
    ck_assert_msg(parsed.status == DTR_OK, "%s", parsed.error.message);
    char text[128];
    dtr_option_format(find(good[_i].name), &parsed.options, text, sizeof text);
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

    parsed = parse(EVAL, (const char *const[]){NULL});
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
    struct parsed parsed = parse(bad[_i].command, bad[_i].words);
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

/* ---- formatting ---- */

/* A value is the same after it has been written and parsed again. */
static void check_round_trip(const struct dtr_option *option, const void *value)
{
    struct dtr_options options;
    dtr_options_default(&options);
    memcpy((char *)&options + option->offset, value, field_bytes(option));
    char word[160];
    int length = snprintf(word, sizeof word, "--%s", option->name);
    if (option->type != DTR_OPTION_FLAG) {
        word[length++] = '=';
        dtr_option_format(option, &options, word + length, sizeof word - (size_t)length);
    }
    struct parsed parsed = PARSE(TRAIN, word);
    ck_assert_msg(parsed.status == DTR_OK, "%s: %s", word, parsed.error.message);
    ck_assert_msg(same_value(option, &options, &parsed.options), "%s", word);
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
        dtr_option_format(find("lr"), &options, text, sizeof text);
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
    dtr_option_format(find("epochs"), &parsed.options, text, sizeof text);
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
    struct parsed parsed = parse(TRAIN, words);
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
    tcase = add_case(suite, "format");
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
