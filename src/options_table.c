/* The table of options, and how it is printed. */
#include "dtrain/options.h"

#include <string.h>

enum { TRAIN = DTR_COMMAND_TRAIN, BOTH = DTR_COMMAND_TRAIN | DTR_COMMAND_EVAL };

/* A field of another type than c_type does not compile. */
#define OPTION(kind, c_type, label, field)                                                         \
    .type = DTR_OPTION_##kind, .name = label,                                                      \
    .offset = _Generic(((struct dtr_options *)0)->field, c_type                                    \
                       : offsetof(struct dtr_options, field))
#define TEXT(label, what, field) OPTION(TEXT, const char *, label, field), .metavar = what
#define INT(label, what, field, low, high)                                                         \
    OPTION(INT, int64_t, label, field), .metavar = what, .min = low, .max = high
#define REAL(label, what, field, low, high)                                                        \
    OPTION(REAL, double, label, field), .metavar = what, .min = low, .max = high
#define CHOICE(label, field, words) OPTION(CHOICE, int, label, field), .choices = words
#define YES_NO(label, field) OPTION(YES_NO, bool, label, field), .choices = "yes|no"
#define FLAG(label, field) OPTION(FLAG, bool, label, field), .choices = "yes|no"

static const struct dtr_option table[] = {
    {TEXT("data", "PATH", data), .apart = true, .heading = "Data and model", .commands = BOTH,
        .recorded = true, .revisable = true,
        .absent = "$DTRAIN_DATA, else ./data/mnist if it is there, else synthetic",
        .help = "a folder with MNIST's four IDX files, plain or .gz; or synthetic[:COUNT], "
                "built-in procedural digits; eval and --resume take the run's"},
    {TEXT("model", "MODEL", model), .apart = true, .commands = TRAIN, .recorded = true,
        .revisable = true, .fallback = "mnist-cnn",
        .help = "a built-in network (mnist-cnn) or a model file"},
    {INT("validation-size", "N", validation_size, 0, 1e9), .commands = TRAIN, .recorded = true,
        .fallback = "5000", .help = "hold out the first N training samples for validation"},

    {REAL("epochs", "X", epochs, 1e-6, 1e6), .heading = "Training", .commands = TRAIN,
        .recorded = true, .revisable = true, .fallback = "10",
        .help = "passes over the training set; may be a fraction"},
    {INT("steps", "N", steps, 1, 1e12), .commands = TRAIN, .recorded = true, .revisable = true,
        .absent = "--epochs decides", .help = "optimizer steps, instead of --epochs"},
    {INT("batch-size", "N", batch_size, 1, 1e9), .commands = TRAIN, .recorded = true,
        .fallback = "64",
        .help = "samples per optimizer step over all ranks; a multiple of the shards"},
    {INT("batch-per-rank", "N", batch_per_rank, 1, 1e9), .commands = TRAIN, .recorded = true,
        .absent = "--batch-size decides",
        .help = "samples per step on each rank, one shard per rank; the number of ranks then "
                "changes the result"},
    {INT("shards", "N", shards, 1, 1 << 22), .commands = TRAIN, .recorded = true,
        .absent = "8; with more ranks the smallest divisor of the batch that is at least as many",
        .help = "fixed parts of the training set; no more ranks than that can take part"},
    {CHOICE("optimizer", optimizer, "sgd"), .commands = TRAIN, .recorded = true, .fallback = "sgd",
        .help = "sgd is gradient descent with momentum"},
    {REAL("lr", "X", learning_rate, 0, 1e6), .commands = TRAIN, .recorded = true,
        .fallback = "0.01", .help = "learning rate"},
    {TEXT("lr-schedule", "SCHEDULE", lr_schedule), .commands = TRAIN, .recorded = true,
        .fallback = "exp:0.95",
        .help = "constant, exp:FACTOR (times FACTOR after every epoch) or cosine (to zero at the "
                "end)"},
    {REAL("warmup-epochs", "X", warmup_epochs, 0, 1e6), .commands = TRAIN, .recorded = true,
        .fallback = "0", .help = "let the rate rise linearly over the first X epochs"},
    {CHOICE("lr-scaling", lr_scaling, "none|linear|sqrt"), .commands = TRAIN, .recorded = true,
        .fallback = "none",
        .help = "multiply the rate by batch / 64 (linear) or its square root (sqrt)"},
    {REAL("momentum", "X", momentum, 0, 1), .commands = TRAIN, .recorded = true, .fallback = "0.9",
        .help = "share of the last update that is kept in the next"},
    {REAL("weight-decay", "X", weight_decay, 0, 1e6), .commands = TRAIN, .recorded = true,
        .fallback = "0.0005", .help = "factor of the L2 penalty on weights"},
    {CHOICE("weight-decay-on", weight_decay_on, "dense|all"), .commands = TRAIN, .recorded = true,
        .fallback = "dense",
        .help = "what decays: the dense layers, as in the TensorFlow tutorial, or all kernels"},
    {YES_NO("shuffle", shuffle), .commands = TRAIN, .recorded = true, .fallback = "yes",
        .help = "take the samples in a new order in every epoch"},
    {INT("seed", "N", seed, 0, 0x1p63), .commands = TRAIN, .recorded = true, .fallback = "66478",
        .help = "decides initial weights, order of samples, dropout, synthetic digits"},

    {INT("threads", "N", threads, 1, 1024), .apart = true, .heading = "Run", .commands = BOTH,
        .absent = "the rank's fair share of the cores it may use",
        .help = "compute threads per rank"},
    {CHOICE("backend", backend, "auto|cpu|cuda"), .commands = BOTH, .recorded = true,
        .revisable = true, .fallback = "auto",
        .help = "what computes; cuda: a GPU per rank; auto: GPUs where all ranks have one"},
    {CHOICE("precision", precision, "auto|fp32|tf32|bf16"), .commands = BOTH, .recorded = true,
        .revisable = true, .fallback = "auto",
        .help = "what a GPU rounds the factors of products to; auto: tf32"},
    {FLAG("allow-gpu-sharing", allow_gpu_sharing), .commands = BOTH, .fallback = "no",
        .help = "let several ranks use one GPU"},
    {CHOICE("comm", comm, "auto|mpi|nccl"), .commands = TRAIN, .fallback = "auto",
        .help = "who sums gradients; nccl: the GPUs themselves, which then update the parameters, "
                "too; mpi: the ranks' CPUs; auto: nccl where each rank has a GPU of its own"},
    {CHOICE("reduce", reduce, "auto|tree|allreduce"), .commands = TRAIN, .recorded = true,
        .fallback = "auto",
        .help = "how gradients are summed over the ranks; tree (auto): in a fixed order, the same "
                "bits on any number of ranks; allreduce: by the MPI library's own MPI_Iallreduce"},
    {INT("time-limit", "SECONDS", time_limit, 1, 1e9), .commands = TRAIN,
        .absent = "the Slurm job's, where it can be asked",
        .help = "end early enough, with a checkpoint, that the program takes no longer"},
    {INT("preempt-exit-code", "N", preempt_exit_code, 0, 255), .commands = TRAIN, .fallback = "75",
        .help = "exit status after an early end with a checkpoint, by a signal or the time limit"},
    {INT("watchdog", "SECONDS", watchdog, 0, 1e6), .commands = BOTH, .fallback = "60",
        .help = "end a job that hangs, with the name of the rank that has got nothing done for so "
                "long (status 124); 0: never"},
    {CHOICE("on-nan", on_nan, "stop|skip"), .commands = TRAIN, .fallback = "stop",
        .help = "what a loss that is no number means: the end, or no update by that batch"},
    {FLAG("dry-run", dry_run), .commands = TRAIN, .fallback = "no",
        .help = "check options, data and memory, print the plan, train nothing"},

    {TEXT("checkpoint-dir", "DIR", checkpoint_dir), .apart = true, .heading = "Checkpoints",
        .commands = TRAIN, .absent = "runs/ and the Slurm job id or start time",
        .help = "folder for the checkpoints; none: write none"},
    {INT("checkpoint-every", "STEPS", checkpoint_every, 1, 1e12), .commands = TRAIN,
        .fallback = "1000", .help = "steps between checkpoints; one is always written at the end"},
    {INT("keep", "K", keep, 1, 1e9), .commands = TRAIN, .fallback = "3",
        .help = "keep the newest K checkpoints of this run"},
    {TEXT("resume", "auto|never|FILE", resume), .commands = TRAIN, .fallback = "never",
        .help = "go on where a checkpoint ends, with its options: the newest good one of the "
                "checkpoint folder if there is one (auto), or FILE, which may be a folder"},
    {CHOICE("on-checkpoint-failure", on_checkpoint_failure, "warn|stop"), .commands = TRAIN,
        .fallback = "warn",
        .help =
            "what a checkpoint that cannot be written means: a warning, or the end (status 74)"},

    {INT("eval-every", "STEPS", eval_every, 1, 1e12), .heading = "Output", .commands = TRAIN,
        .fallback = "100", .help = "steps between reports of loss, learning rate and errors"},
    {CHOICE("progress", progress, "auto|yes|no"), .apart = true, .commands = TRAIN,
        .fallback = "auto", .help = "a one-line bar on standard error; auto: on a terminal"},

    {YES_NO("overlap", overlap), .heading = "Tests and benchmarks", .commands = TRAIN,
        .fallback = "yes", .help = "send gradients while the backward pass is still running"},
    {INT("bucket-bytes", "N", bucket_bytes, 4, 1 << 26), .commands = TRAIN, .recorded = true,
        .revisable = true, .absent = "chosen by dtrain",
        .help = "bytes of gradients that are sent together"},
    {INT("window-ranks", "N", window_ranks, 1, 1e6), .commands = TRAIN, .absent = "all of a host",
        .help = "ranks of a host that exchange through shared memory, at most; 1: by messages "
                "alone"},
    {CHOICE("kernels", kernels, "auto|reference|onednn|fused"), .commands = BOTH, .recorded = true,
        .fallback = "auto",
        .help = "implementation of the layers; fused: our own where there is one, else oneDNN"},
    {CHOICE("isa", isa, "auto|baseline|avx2|avx512"), .apart = true, .commands = BOTH,
        .recorded = true, .revisable = true, .fallback = "auto",
        .help = "instruction set of the layers; auto: the largest that all ranks' CPUs have"},
};

enum { OPTION_COUNT = sizeof table / sizeof table[0] };
_Static_assert(OPTION_COUNT <= 64, "dtr_options_parse() keeps a bit per option in a uint64_t");

enum { HELP_COLUMN = 41, HELP_WIDTH = 98 };

const struct dtr_option *dtr_options_table(int *count_out)
{
    *count_out = OPTION_COUNT;
    return table;
}

/* What follows the name: "N", "yes|no", nothing after a flag. */
static const char *argument(const struct dtr_option *option)
{
    if (option->type == DTR_OPTION_FLAG)
        return "";
    return option->choices ? option->choices : option->metavar;
}

/* Prints words from HELP_COLUMN to HELP_WIDTH, on as many lines as it takes. */
static void print_wrapped(FILE *file, const char *text)
{
    int column = HELP_COLUMN;
    while (*text != '\0') {
        int word = (int)strcspn(text, " ");
        if (column == HELP_COLUMN) {
            column += fprintf(file, "%.*s", word, text);
        } else if (column + 1 + word <= HELP_WIDTH) {
            column += fprintf(file, " %.*s", word, text);
        } else {
            fprintf(file, "\n%*s%.*s", HELP_COLUMN, "", word, text);
            column = HELP_COLUMN + word;
        }
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', file);
}

static void print_option(FILE *file, const struct dtr_option *option)
{
    char text[400];
    if (option->type == DTR_OPTION_FLAG)
        snprintf(text, sizeof text, "%s", option->help);
    else
        snprintf(text, sizeof text, "%s [%s]", option->help,
            option->fallback ? option->fallback : option->absent);
    if (option->heading)
        fprintf(file, "\n%s:\n", option->heading);
    int length = fprintf(file, "  --%s %s", option->name, argument(option));
    fprintf(file, "%*s", HELP_COLUMN - length, "");
    print_wrapped(file, text);
}

/* "--data, --threads, --kernels", on as many lines as it takes, from `column` on. */
static void print_names(FILE *file, enum dtr_command command, int column)
{
    bool first = true;
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (!(table[i].commands & command))
            continue;
        int length = (int)strlen(", --") + (int)strlen(table[i].name);
        bool fits = column + length < HELP_WIDTH;
        fprintf(file, "%s%s--%s", first ? "" : ",", first ? "" : fits ? " " : "\n", table[i].name);
        column = (fits ? column : 0) + length;
        first = false;
    }
}

void dtr_options_help(FILE *file)
{
    fputs(
        "usage: dtrain [train] [OPTIONS]          train a network on all ranks\n"
        "       dtrain eval CHECKPOINT [OPTIONS]  error of a checkpoint on the test set\n"
        "       dtrain info FILE | --devices      what a file holds; what there is to compute on\n"
        "       dtrain --help | --version\n"
        "\n"
        "  mpirun -n 2 --bind-to none dtrain --data mnist\n"
        "  srun -n 4 dtrain\n"
        "\n"
        "Options are written in full, as --name value or --name=value; the last one counts.\n"
        "Defaults stand in brackets. Those of eval are ",
        file);
    print_names(file, DTR_COMMAND_EVAL, 46);
    fputs(".\n", file);
    for (int i = 0; i < OPTION_COUNT; i++)
        print_option(file, &table[i]);
    fputs(
        "\n"
        "Help:\n"
        "  --help[=markdown]                      this text, or the options as a table for a web page\n"
        "  --version                              the version\n",
        file);
}

void dtr_options_markdown(FILE *file)
{
    fputs("| option | default | meaning |\n"
          "| --- | --- | --- |\n",
        file);
    for (int i = 0; i < OPTION_COUNT; i++) {
        const struct dtr_option *option = &table[i];
        if (option->heading)
            fprintf(file, "| **%s** | | |\n", option->heading);
        fprintf(file, "| `--%s", option->name);
        const char *space = " ";
        for (const char *c = argument(option); *c != '\0'; c++, space = "")
            fprintf(file, "%s%s%c", space, *c == '|' ? "\\" : "", *c);
        if (option->fallback)
            fprintf(file, "` | `%s` | %s |\n", option->fallback, option->help);
        else
            fprintf(file, "` | %s | %s |\n", option->absent, option->help);
    }
}
