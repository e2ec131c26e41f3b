/*
 * Options: one table drives parsing, --help, the echo in the plan, the record in the checkpoint and
 * the list in README.md. Local; what depends on the number of ranks is resolved by trainer.
 */
#ifndef DTRAIN_OPTIONS_H
#define DTRAIN_OPTIONS_H

#include "dtrain/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum dtr_tristate { DTR_AUTO, DTR_YES, DTR_NO };

struct dtr_options {
    const char *data; /* NULL: not named; dtr_options_data() finds the default */
    const char *model;
    double epochs;
    int64_t steps;                      /* 0: epochs decide */
    int64_t batch_size, batch_per_rank; /* batch_per_rank 0: not named */
    int64_t shards;                     /* 0: not named */
    double learning_rate;
    const char *lr_schedule;
    double warmup_epochs;
    int lr_scaling; /* enum dtr_lr_scaling */
    int optimizer;  /* enum dtr_optimizer_kind */
    double momentum, weight_decay;
    int weight_decay_on; /* 0 dense, 1 all */
    int64_t validation_size, eval_every;
    bool shuffle;
    int64_t seed;
    int64_t threads; /* 0: the rank's fair share of cores */
    int backend;     /* enum dtr_backend_choice (src/backend.h) */
    int precision;   /* enum dtr_precision_choice (src/backend.h) */
    bool allow_gpu_sharing;
    int comm;                   /* enum dtr_comm_choice (src/backend.h) */
    int reduce;                 /* enum dtr_reduce (gradsync.h) */
    const char *checkpoint_dir; /* NULL: the default; "none": write none */
    int64_t checkpoint_every, keep;
    const char *resume;        /* "never", "auto" or a path */
    int on_checkpoint_failure; /* enum dtr_on_failure */
    int64_t time_limit;        /* seconds; 0: Slurm's */
    int64_t preempt_exit_code;
    int64_t watchdog; /* seconds; 0: off */
    int on_nan;       /* enum dtr_on_nan */
    int progress;     /* enum dtr_tristate */
    bool overlap;
    int64_t bucket_bytes; /* 0: chosen */
    int64_t window_ranks; /* 0: all of a host */
    int kernels;          /* enum dtr_kernel_choice */
    int isa;              /* enum dtr_isa + 1; 0: chosen */
    bool dry_run;

    uint64_t named; /* bit i: entry i of the table was given by the user */
};

enum dtr_on_failure { DTR_FAILURE_WARN, DTR_FAILURE_STOP };
enum dtr_on_nan { DTR_NAN_STOP, DTR_NAN_SKIP };
enum dtr_optimizer_kind { DTR_OPTIMIZER_SGD };
enum dtr_lr_scaling { DTR_SCALING_NONE, DTR_SCALING_LINEAR, DTR_SCALING_SQRT };

enum dtr_option_type {
    DTR_OPTION_TEXT,   /* const char * */
    DTR_OPTION_INT,    /* int64_t */
    DTR_OPTION_REAL,   /* double */
    DTR_OPTION_CHOICE, /* int, index into `choices` */
    DTR_OPTION_YES_NO, /* bool, written --name yes|no */
    DTR_OPTION_FLAG,   /* bool, written --name */
};

struct dtr_option {
    const char *heading;  /* set where a group begins */
    const char *name;     /* without the dashes */
    const char *metavar;  /* "PATH", "N"; NULL where there are choices */
    const char *fallback; /* the default as the user would write it; NULL: shown by `absent` */
    const char *absent;   /* what happens without it, when that is no value; the field is then NULL
                             or 0, which nobody can write */
    const char *help;     /* one or two short lines, no full stop */
    const char *choices;  /* "auto|reference|onednn" */
    enum dtr_option_type type;
    size_t offset;     /* in struct dtr_options */
    double min, max;   /* INT and REAL, inclusive */
    unsigned commands; /* of enum dtr_command */
    bool recorded;     /* kept in the checkpoint: it can change the trained bits */
    bool revisable;    /* recorded, but whoever resumes may name another value */
    bool apart;        /* ranks may have different values */
};

/* Commands, as bits of dtr_option.commands. */
enum dtr_command { DTR_COMMAND_TRAIN = 1, DTR_COMMAND_EVAL = 2 };

/* The table, in the order of the help; *count_out entries. */
const struct dtr_option *dtr_options_table(int *count_out);

/* Sets every default. Texts point into the table or into argv. */
void dtr_options_default(struct dtr_options *options_out);

/*
 * Parses argv[first .. argc-1] for a command: --name value, --name=value, flags; later ones win.
 * Up to `operand_limit` words that are no options go to operands_out. DTR_USAGE with one line that
 * names the option, what was given and what it takes; an unknown option names the nearest known
 * one. Changes neither argv nor its order. --help and --version are the caller's.
 */
enum dtr_status dtr_options_parse(enum dtr_command command, int argc, char **argv, int first,
    int operand_limit, const char **operands_out, int *operand_count_out,
    struct dtr_options *options_out, struct dtr_error *error);

/* Whether the user has given an option; `name` is without the dashes. */
bool dtr_options_named(const struct dtr_options *options, const char *name);

/*
 * Goes on with a run's options: takes the recorded values of those that the user has not named.
 * `recorded` is "name=value" after "name=value", each with a '\0' behind it, and an empty one at
 * the end; texts point into it. DTR_USAGE when the user has named another value for an option that
 * is not revisable; `where` is the checkpoint, for messages. Unknown names are passed over.
 */
enum dtr_status dtr_options_resume(
    struct dtr_options *options, const char *recorded, const char *where, struct dtr_error *error);

/* The value as a user would write it (parsing it gives the same bits), or option->absent. A text
 * that is longer than text_bytes is cut off. */
void dtr_option_format(const struct dtr_option *option, const struct dtr_options *options,
    char *text_out, size_t text_bytes);

/* --help: usage, examples, one entry per option with its default. */
void dtr_options_help(FILE *file);

/* --help=markdown: the same options as the table in README.md, option | default | meaning. */
void dtr_options_markdown(FILE *file);

/* Where the data is: --data, else that of a resumed run, else $DTRAIN_DATA unless empty, else
 * ./data/mnist if it is a folder, else "synthetic". *origin_out says which, for messages: "--data",
 * "the checkpoint", "DTRAIN_DATA", "the default"; NULL: "synthetic", for want of all these. */
const char *dtr_options_data(const struct dtr_options *options, const char **origin_out);

#endif
