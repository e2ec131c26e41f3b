/*
 * Errors: what kind of failure (the process's exit status) and one line that says what, where and
 * what to do.
 *
 * A function that can fail takes a `struct dtr_error *` as its last argument and returns the
 * status. The function that first knows of a failure records it; its callers only pass it on, up to
 * the end of the phase, where dtr_world_agree() makes it every rank's.
 */
#ifndef DTRAIN_STATUS_H
#define DTRAIN_STATUS_H

/* The values are the exit statuses that scripts may rely on. */
enum dtr_status {
    DTR_OK = 0,
    DTR_FAILED = 1,   /* out of memory, a bug, anything without a kind of its own */
    DTR_USAGE = 2,    /* an option is unknown, ill-typed or contradicts another */
    DTR_INPUT = 65,   /* data, model or checkpoint missing, unreadable or malformed */
    DTR_LAUNCH = 69,  /* the launcher or the devices contradict what was asked for */
    DTR_WRITE = 74,   /* a write failed */
    DTR_STOPPED = 75, /* stopped early with a checkpoint (or --preempt-exit-code) */
    DTR_HUNG = 124,   /* the watchdog ended the job */
};

struct dtr_error {
    enum dtr_status status;
    char message[600]; /* one line, no newline, no "dtrain:" before it */
};

#define DTR_ERROR_NONE ((struct dtr_error){DTR_OK, ""})

/* Records a failure, replacing what was there, and returns `status`. */
__attribute__((format(printf, 3, 4))) enum dtr_status dtr_error_set(
    struct dtr_error *error, enum dtr_status status, const char *format, ...);

#endif
