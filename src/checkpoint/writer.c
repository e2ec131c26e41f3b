/*
 * The writer: which checkpoints of a folder are a run's, and a thread that writes them while the
 * training goes on.
 */
#include "dtrain/checkpoint.h"

#include "dtrain/clock.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "dtrain/signals.h"
#include "folder.h"
#include "format.h"
#include "lock.h"
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct dtr_checkpoint_writer {
    struct store store;
    struct lock lock;
    char newest[PATH_MAX + 64]; /* path of the last one written, "" before */
    struct dtr_checkpoint_image image;
    int64_t keep;
    int64_t *steps; /* of the checkpoints written and not yet removed, oldest first */
    int64_t count;

    pthread_t thread;
    bool running; /* the thread is there to be joined */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    /* Under the mutex: */
    bool stop, busy;            /* busy: `work` is to be written, or is being written */
    struct dtr_checkpoint work; /* its slabs are the caller's */
    struct dtr_error failure;   /* of the last one, until it is asked for */
    double seconds;             /* that the last one took */
};

/* ---- Writing ---- */

static enum dtr_status store_as(const struct dtr_checkpoint_writer *writer, const char *name,
    const void *bytes, size_t size, struct dtr_error *error)
{
    const char *failed = store_file(&writer->store, name, bytes, size);
    if (failed == NULL)
        return DTR_OK;
    return dtr_error_set(error, DTR_WRITE, "cannot write %s/%s: %s: %s", writer->store.folder, name,
        failed, strerror(errno));
}

/* Makes room before the file is there, so that no file is ever forgotten. */
static enum dtr_status reserve_step(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    int64_t *steps = realloc(writer->steps, (size_t)(writer->count + 1) * sizeof *steps);
    if (steps == NULL)
        return dtr_error_set(error, DTR_WRITE, "out of memory for the list of checkpoints");
    writer->steps = steps;
    return DTR_OK;
}

static void forget_step(struct dtr_checkpoint_writer *writer, int64_t index)
{
    writer->count--;
    for (int64_t i = index; i < writer->count; i++)
        writer->steps[i] = writer->steps[i + 1];
}

/* A step that is written again counts as new. */
static void remember_step(struct dtr_checkpoint_writer *writer, int64_t step)
{
    for (int64_t i = writer->count - 1; i >= 0; i--) {
        if (writer->steps[i] == step)
            forget_step(writer, i);
    }
    writer->steps[writer->count++] = step;
}

/* One that cannot be removed is tried again the next time: the new one is there even so. */
static void remove_oldest(struct dtr_checkpoint_writer *writer)
{
    while (writer->count > writer->keep) {
        char name[FOLDER_NAME];
        folder_name(writer->steps[0], name);
        if (unlinkat(writer->store.fd, name, 0) != 0 && errno != ENOENT) {
            dtr_warn("cannot remove old checkpoint %s/%s: %s", writer->store.folder, name,
                strerror(errno));
            return;
        }
        forget_step(writer, 0);
    }
}

/* Makes `latest` name it; then older ones can go. */
static enum dtr_status name_newest(
    struct dtr_checkpoint_writer *writer, const char *name, struct dtr_error *error)
{
    char line[FOLDER_NAME + 2];
    int length = snprintf(line, sizeof line, "%s\n", name);
    enum dtr_status status = store_as(writer, folder_latest, line, (size_t)length, error);
    if (status != DTR_OK)
        return status;
    snprintf(writer->newest, sizeof writer->newest, "%s/%s", writer->store.folder, name);
    remove_oldest(writer);
    return DTR_OK;
}

static enum dtr_status write_file(struct dtr_checkpoint_writer *writer, const char *name,
    const struct dtr_checkpoint *checkpoint, struct dtr_error *error)
{
    struct dtr_checkpoint_image *image = &writer->image;
    if (dtr_checkpoint_encode(checkpoint, image, error) != DTR_OK)
        return dtr_error_set(
            error, DTR_WRITE, "cannot write %s/%s: %s", writer->store.folder, name, error->message);
    return store_as(writer, name, image->bytes, image->size, error);
}

static enum dtr_status write_checkpoint(struct dtr_checkpoint_writer *writer,
    const struct dtr_checkpoint *checkpoint, struct dtr_error *error)
{
    char name[FOLDER_NAME];
    if (checkpoint->prepare != NULL && checkpoint->prepare(checkpoint->context, error) != DTR_OK)
        return error->status;
    folder_name(checkpoint->step, name);
    if (!lock_renew(&writer->store, &writer->lock))
        return dtr_error_set(error, DTR_WRITE,
            "cannot write %s/%s: another run has taken the folder", writer->store.folder, name);
    enum dtr_status status = reserve_step(writer, error);
    if (status == DTR_OK)
        status = write_file(writer, name, checkpoint, error);
    if (status != DTR_OK)
        return status;
    remember_step(writer, checkpoint->step);
    return name_newest(writer, name, error);
}

/* ---- The thread ---- */

/* Until there is something to do; renews the lock meanwhile. With the mutex. */
static void wait_for_work(struct dtr_checkpoint_writer *writer)
{
    while (!writer->busy && !writer->stop) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += LOCK_RENEW_S;
        if (pthread_cond_timedwait(&writer->changed, &writer->mutex, &until) == ETIMEDOUT)
            lock_renew(&writer->store, &writer->lock);
    }
}

/* Below the compute threads: a checkpoint has time until the next one. */
static void *run_thread(void *context)
{
    struct dtr_checkpoint_writer *writer = context;
    setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
    pthread_mutex_lock(&writer->mutex);
    for (;;) {
        wait_for_work(writer);
        if (!writer->busy)
            break;
        struct dtr_error error = DTR_ERROR_NONE;
        double start_s = dtr_clock_s();
        pthread_mutex_unlock(&writer->mutex);
        write_checkpoint(writer, &writer->work, &error);
        pthread_mutex_lock(&writer->mutex);
        writer->failure = error;
        writer->seconds = dtr_clock_s() - start_s;
        writer->busy = false;
        pthread_cond_broadcast(&writer->changed);
    }
    pthread_mutex_unlock(&writer->mutex);
    return NULL;
}

static enum dtr_status start_thread(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    int code = dtr_signals_create_thread(&writer->thread, run_thread, writer);
    writer->running = code == 0;
    if (code == 0)
        return DTR_OK;
    return dtr_error_set(
        error, DTR_FAILED, "cannot start the thread that writes checkpoints: %s", strerror(code));
}

void dtr_checkpoint_begin(
    struct dtr_checkpoint_writer *writer, const struct dtr_checkpoint *checkpoint)
{
    pthread_mutex_lock(&writer->mutex);
    writer->work = *checkpoint;
    writer->busy = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
}

static enum dtr_status take_failure(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    enum dtr_status status = writer->failure.status;
    if (status != DTR_OK)
        *error = writer->failure;
    writer->failure = DTR_ERROR_NONE;
    return status;
}

enum dtr_status dtr_checkpoint_finish(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    pthread_mutex_lock(&writer->mutex);
    while (writer->busy)
        pthread_cond_wait(&writer->changed, &writer->mutex);
    enum dtr_status status = take_failure(writer, error);
    pthread_mutex_unlock(&writer->mutex);
    return status;
}

enum dtr_status dtr_checkpoint_check(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    enum dtr_status status = DTR_OK;
    pthread_mutex_lock(&writer->mutex);
    if (!writer->busy)
        status = take_failure(writer, error);
    pthread_mutex_unlock(&writer->mutex);
    return status;
}

enum dtr_status dtr_checkpoint_write(struct dtr_checkpoint_writer *writer,
    const struct dtr_checkpoint *checkpoint, struct dtr_error *error)
{
    dtr_checkpoint_begin(writer, checkpoint);
    return dtr_checkpoint_finish(writer, error);
}

const char *dtr_checkpoint_written(const struct dtr_checkpoint_writer *writer)
{
    return writer->newest[0] != '\0' ? writer->newest : NULL;
}

double dtr_checkpoint_seconds(const struct dtr_checkpoint_writer *writer)
{
    return writer->seconds;
}

/* ---- Its making ---- */

/* What lies in the folder already: this run's checkpoints are adopted, others refused. */
static enum dtr_status adopt_folder(struct dtr_checkpoint_writer *writer, const char *resumed,
    bool newer_are_bad, struct dtr_error *error)
{
    char name[FOLDER_NAME];
    int64_t count, step = folder_step_in(writer->store.folder, resumed);
    if (!folder_list(writer->store.folder, &writer->steps, &count))
        return dtr_error_set(error, DTR_WRITE, "cannot list checkpoint folder %s: %s",
            writer->store.folder, strerror(errno));
    if (count == 0)
        return DTR_OK;
    folder_name(writer->steps[count - 1], name);
    if (step < 0)
        return dtr_error_set(error, DTR_USAGE,
            "%s already holds checkpoints (newest %s); go on with --resume auto, name another "
            "folder or remove them",
            writer->store.folder, name);
    if (writer->steps[count - 1] > step && !newer_are_bad)
        return dtr_error_set(error, DTR_USAGE,
            "%s holds newer checkpoints than %s (newest %s); name another --checkpoint-dir or "
            "remove them",
            writer->store.folder, resumed, name);
    while (count > 0 && writer->steps[count - 1] > step)
        count--;
    writer->count = count;
    return DTR_OK;
}

/* A run that was killed may have left `latest` and the oldest as they were before its last one. */
static enum dtr_status tidy_folder(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    char name[FOLDER_NAME];
    store_clean(&writer->store);
    if (writer->count == 0)
        return DTR_OK;
    folder_name(writer->steps[writer->count - 1], name);
    return name_newest(writer, name, error);
}

static enum dtr_status refuse(const char *what, const char *folder, struct dtr_error *error)
{
    return dtr_error_set(
        error, DTR_WRITE, "cannot %s checkpoint folder %s: %s", what, folder, strerror(errno));
}

static enum dtr_status probe(const struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    const char *failed = store_probe(&writer->store);
    if (failed == NULL)
        return DTR_OK;
    return dtr_error_set(error, DTR_WRITE, "cannot write into checkpoint folder %s: %s: %s",
        writer->store.folder, failed, strerror(errno));
}

static enum dtr_status open_folder(struct dtr_checkpoint_writer *writer, const char *folder,
    const char *resumed, bool newer_are_bad, struct dtr_error *error)
{
    const char *failed = store_open(folder, &writer->store);
    if (failed != NULL)
        return refuse(failed, folder, error);
    if (probe(writer, error) != DTR_OK ||
        lock_take(&writer->store, &writer->lock, error) != DTR_OK ||
        adopt_folder(writer, resumed, newer_are_bad, error) != DTR_OK ||
        tidy_folder(writer, error) != DTR_OK)
        return error->status;
    return start_thread(writer, error);
}

enum dtr_status dtr_checkpoint_writer_create(const char *folder, int64_t keep, const char *resumed,
    bool newer_are_bad, struct dtr_checkpoint_writer **writer_out, struct dtr_error *error)
{
    struct dtr_checkpoint_writer *writer = dtr_alloc(
        1, sizeof *writer, "the checkpoint writer", error);
    *writer_out = NULL;
    if (writer == NULL)
        return error->status;
    writer->keep = keep;
    writer->store.fd = writer->lock.fd = -1;
    pthread_mutex_init(&writer->mutex, NULL);
    pthread_cond_init(&writer->changed, NULL);
    enum dtr_status status = open_folder(writer, folder, resumed, newer_are_bad, error);
    if (status == DTR_OK)
        *writer_out = writer;
    else
        dtr_checkpoint_writer_free(writer);
    return status;
}

static void stop_thread(struct dtr_checkpoint_writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    writer->stop = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->mutex);
    pthread_join(writer->thread, NULL);
}

void dtr_checkpoint_writer_free(struct dtr_checkpoint_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->running)
        stop_thread(writer);
    lock_release(&writer->store, &writer->lock);
    store_close(&writer->store);
    pthread_cond_destroy(&writer->changed);
    pthread_mutex_destroy(&writer->mutex);
    free(writer->image.bytes);
    free(writer->steps);
    free(writer);
}
