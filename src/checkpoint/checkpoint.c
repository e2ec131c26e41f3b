/* Checkpoints as files: their names, how they get durable, which are kept, which is the latest. */
#include "dtrain/checkpoint.h"

#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char latest_name[] = "latest";

struct dtr_checkpoint_writer {
    char folder[PATH_MAX];
    char newest[PATH_MAX + 64]; /* path of the last one written, "" before */
    char suffix[96];            /* of temporary names: host and process */
    int folder_fd;
    int64_t keep;
    int64_t *steps; /* of the checkpoints written and not yet removed, oldest first */
    int64_t count;
};

/* ---- Writing ---- */

static int sync_file(int fd)
{
    int result;
    do {
        result = fsync(fd);
    } while (result != 0 && errno == EINTR);
    return result;
}

static int write_all(int fd, const void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t part = write(fd, (const char *)bytes + done, size - done);
        if (part < 0 && errno != EINTR)
            return -1;
        done += part > 0 ? (size_t)part : 0;
    }
    return 0;
}

/* NULL, or the name of the operation that failed, with errno; then there is no file. */
static const char *create_file(int folder_fd, const char *name, const void *bytes, size_t size)
{
    int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return "open";
    const char *failed = NULL;
    if (write_all(fd, bytes, size) != 0)
        failed = "write";
    else if (sync_file(fd) != 0)
        failed = "fsync";
    int reason = errno;
    /* Some network file systems tell only here that the disk is full. */
    if (close(fd) != 0 && failed == NULL) {
        failed = "close";
        reason = errno;
    }
    if (failed != NULL)
        unlinkat(folder_fd, name, 0);
    errno = reason;
    return failed;
}

static const char *replace_file(
    const struct dtr_checkpoint_writer *writer, const char *name, const void *bytes, size_t size)
{
    char temporary[192];
    snprintf(temporary, sizeof temporary, ".%s.%s", name, writer->suffix);
    const char *failed = create_file(writer->folder_fd, temporary, bytes, size);
    if (failed != NULL)
        return failed;
    if (renameat(writer->folder_fd, temporary, writer->folder_fd, name) != 0) {
        int reason = errno;
        unlinkat(writer->folder_fd, temporary, 0);
        errno = reason;
        return "rename";
    }
    return sync_file(writer->folder_fd) != 0 ? "fsync of the folder" : NULL;
}

/* The same, with the failure told. */
static enum dtr_status store(const struct dtr_checkpoint_writer *writer, const char *name,
    const void *bytes, size_t size, struct dtr_error *error)
{
    const char *failed = replace_file(writer, name, bytes, size);
    if (failed == NULL)
        return DTR_OK;
    return dtr_error_set(error, DTR_WRITE, "cannot write %s/%s: %s: %s", writer->folder, name,
        failed, strerror(errno));
}

/* ---- The writer ---- */

/* With its parents; false with errno. */
static bool make_folder(const char *folder)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", folder);
    for (char *slash = strchr(path, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (slash != path && mkdir(path, 0777) != 0 && errno != EEXIST)
            return false;
        *slash = '/';
    }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

/* The step in "ckpt-s000000860.h5", -1 for any other name. */
static int64_t step_of(const char *name)
{
    int64_t step;
    int end = 0;
    if (sscanf(name, "ckpt-s%" SCNd64 ".h5%n", &step, &end) != 1 || end == 0 || name[end] != '\0')
        return -1;
    return step;
}

static void format_name(int64_t step, char name_out[40])
{
    snprintf(name_out, 40, "ckpt-s%09" PRId64 ".h5", step);
}

static int by_step(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* The steps of a folder's checkpoints, in rising order; free *steps_out with free(). False with
 * errno. */
static bool list_steps(const char *folder, int64_t **steps_out, int64_t *count_out)
{
    int64_t room = 0;
    *steps_out = NULL;
    *count_out = 0;
    DIR *entries = opendir(folder);
    if (entries == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        int64_t step = step_of(entry->d_name);
        if (step < 0)
            continue;
        if (*count_out == room) {
            room = 2 * room + 16;
            int64_t *more = realloc(*steps_out, (size_t)room * sizeof *more);
            if (more == NULL) {
                free(*steps_out);
                closedir(entries);
                return false;
            }
            *steps_out = more;
        }
        (*steps_out)[(*count_out)++] = step;
    }
    closedir(entries);
    if (*count_out > 0)
        qsort(*steps_out, (size_t)*count_out, sizeof **steps_out, by_step);
    return true;
}

/* The step of a checkpoint in this folder, -1 if it lies elsewhere. */
static int64_t step_in_folder(const char *folder, const char *path)
{
    char parent[PATH_MAX];
    struct stat here, there;
    const char *slash = path == NULL ? NULL : strrchr(path, '/');
    if (path == NULL)
        return -1;
    snprintf(parent, sizeof parent, "%.*s", slash == NULL ? 1 : (int)(slash - path + 1),
        slash == NULL ? "." : path);
    if (stat(folder, &here) != 0 || stat(parent, &there) != 0 || here.st_dev != there.st_dev ||
        here.st_ino != there.st_ino)
        return -1;
    return step_of(slash == NULL ? path : slash + 1);
}

/* What lies in the folder already: this run's checkpoints are adopted, others refused. */
static enum dtr_status adopt_folder(struct dtr_checkpoint_writer *writer, const char *resumed,
    bool newer_are_bad, struct dtr_error *error)
{
    char name[40];
    int64_t count, step = step_in_folder(writer->folder, resumed);
    if (!list_steps(writer->folder, &writer->steps, &count))
        return dtr_error_set(error, DTR_WRITE, "cannot list checkpoint folder %s: %s",
            writer->folder, strerror(errno));
    if (count == 0)
        return DTR_OK;
    format_name(writer->steps[count - 1], name);
    if (step < 0)
        return dtr_error_set(error, DTR_USAGE,
            "%s already holds checkpoints (newest %s); go on with --resume auto, name another "
            "folder or remove them",
            writer->folder, name);
    if (writer->steps[count - 1] > step && !newer_are_bad)
        return dtr_error_set(error, DTR_USAGE,
            "%s holds newer checkpoints than %s (newest %s); name another --checkpoint-dir or "
            "remove them",
            writer->folder, resumed, name);
    while (count > 0 && writer->steps[count - 1] > step)
        count--;
    writer->count = count;
    return DTR_OK;
}

/* Permissions, quotas and read-only mounts are best asked by trying. */
static enum dtr_status probe_folder(
    const struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    char name[160];
    snprintf(name, sizeof name, ".probe.%s", writer->suffix);
    const char *failed = create_file(writer->folder_fd, name, "\n", 1);
    if (failed == NULL && unlinkat(writer->folder_fd, name, 0) != 0)
        failed = "unlink";
    if (failed == NULL)
        return DTR_OK;
    return dtr_error_set(error, DTR_WRITE, "cannot write into checkpoint folder %s: %s: %s",
        writer->folder, failed, strerror(errno));
}

static enum dtr_status open_folder(struct dtr_checkpoint_writer *writer, const char *folder,
    const char *resumed, bool newer_are_bad, struct dtr_error *error)
{
    if (strlen(folder) >= sizeof writer->folder)
        return dtr_error_set(
            error, DTR_WRITE, "cannot create checkpoint folder: its name is too long");
    strcpy(writer->folder, folder);
    if (!make_folder(folder))
        return dtr_error_set(
            error, DTR_WRITE, "cannot create checkpoint folder %s: %s", folder, strerror(errno));
    writer->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (writer->folder_fd < 0)
        return dtr_error_set(
            error, DTR_WRITE, "cannot open checkpoint folder %s: %s", folder, strerror(errno));
    enum dtr_status status = adopt_folder(writer, resumed, newer_are_bad, error);
    return status == DTR_OK ? probe_folder(writer, error) : status;
}

enum dtr_status dtr_checkpoint_writer_create(const char *folder, int64_t keep, const char *resumed,
    bool newer_are_bad, struct dtr_checkpoint_writer **writer_out, struct dtr_error *error)
{
    struct dtr_checkpoint_writer *writer = dtr_alloc(
        1, sizeof *writer, "the checkpoint writer", error);
    *writer_out = NULL;
    if (writer == NULL)
        return error->status;
    char host[65] = "";
    gethostname(host, sizeof host - 1);
    snprintf(writer->suffix, sizeof writer->suffix, "tmp-%s-%ld", host, (long)getpid());
    writer->keep = keep;
    writer->folder_fd = -1;
    enum dtr_status status = open_folder(writer, folder, resumed, newer_are_bad, error);
    if (status == DTR_OK)
        *writer_out = writer;
    else
        dtr_checkpoint_writer_free(writer);
    return status;
}

void dtr_checkpoint_writer_free(struct dtr_checkpoint_writer *writer)
{
    if (writer == NULL)
        return;
    if (writer->folder_fd >= 0)
        close(writer->folder_fd);
    free(writer->steps);
    free(writer);
}

const char *dtr_checkpoint_written(const struct dtr_checkpoint_writer *writer)
{
    return writer->newest[0] != '\0' ? writer->newest : NULL;
}

/* Makes room before the file is there, so that no file is ever forgotten. */
static enum dtr_status reserve_step(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    int64_t *steps = realloc(writer->steps, (size_t)(writer->count + 1) * sizeof *steps);
    if (steps == NULL)
        return dtr_error_set(error, DTR_FAILED, "out of memory for the list of checkpoints");
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

static enum dtr_status remove_oldest(struct dtr_checkpoint_writer *writer, struct dtr_error *error)
{
    while (writer->count > writer->keep) {
        char name[40];
        format_name(writer->steps[0], name);
        forget_step(writer, 0);
        if (unlinkat(writer->folder_fd, name, 0) != 0 && errno != ENOENT)
            return dtr_error_set(error, DTR_WRITE, "cannot remove old checkpoint %s/%s: %s",
                writer->folder, name, strerror(errno));
    }
    return DTR_OK;
}

static enum dtr_status write_checkpoint(struct dtr_checkpoint_writer *writer, const char *name,
    const struct dtr_checkpoint *checkpoint, struct dtr_error *error)
{
    void *bytes;
    size_t size;
    enum dtr_status status = dtr_checkpoint_encode(checkpoint, &bytes, &size, error);
    if (status != DTR_OK)
        return dtr_error_set(
            error, DTR_WRITE, "cannot write %s/%s: %s", writer->folder, name, error->message);
    status = store(writer, name, bytes, size, error);
    free(bytes);
    return status;
}

enum dtr_status dtr_checkpoint_write(struct dtr_checkpoint_writer *writer,
    const struct dtr_checkpoint *checkpoint, struct dtr_error *error)
{
    char name[40], line[42];
    format_name(checkpoint->step, name);
    enum dtr_status status = reserve_step(writer, error);
    if (status == DTR_OK)
        status = write_checkpoint(writer, name, checkpoint, error);
    if (status != DTR_OK)
        return status;
    remember_step(writer, checkpoint->step);
    int length = snprintf(line, sizeof line, "%s\n", name);
    status = store(writer, latest_name, line, (size_t)length, error);
    if (status != DTR_OK)
        return status;
    snprintf(writer->newest, sizeof writer->newest, "%s/%s", writer->folder, name);
    return remove_oldest(writer, error);
}

/* ---- Reading ---- */

/* The file that the folder's `latest` names. */
static enum dtr_status find_latest(
    const char *folder, char path_out[PATH_MAX], struct dtr_error *error)
{
    char name[256] = "";
    snprintf(path_out, PATH_MAX, "%s/%s", folder, latest_name);
    FILE *file = fopen(path_out, "re");
    if (file == NULL)
        return dtr_error_set(error, DTR_INPUT,
            "%s: no checkpoint in this folder: cannot open its file `latest`: %s", folder,
            strerror(errno));
    char *line = fgets(name, sizeof name, file);
    fclose(file);
    name[strcspn(name, "\n")] = '\0';
    if (line == NULL || name[0] == '\0' || strchr(name, '/') != NULL)
        return dtr_error_set(error, DTR_INPUT,
            "%s/latest: does not hold a file name; name the checkpoint itself", folder);
    snprintf(path_out, PATH_MAX, "%s/%s", folder, name);
    return DTR_OK;
}

static enum dtr_status check_signature(const char *path, struct dtr_error *error)
{
    static const char expected[8] = "\211HDF\r\n\032\n";
    char found[sizeof expected] = "";
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return dtr_error_set(
            error, DTR_INPUT, "cannot read checkpoint %s: %s", path, strerror(errno));
    size_t count = fread(found, 1, sizeof found, file);
    fclose(file);
    if (count != sizeof found || memcmp(found, expected, sizeof found) != 0)
        return dtr_error_set(error, DTR_INPUT, "%s: not an HDF5 file", path);
    return DTR_OK;
}

/* Whether a path ends in a folder's `latest`, which is as good as the folder. */
static bool is_latest(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strcmp(slash == NULL ? path : slash + 1, latest_name) == 0;
}

/* From what the user named to a file that looks like HDF5. */
static enum dtr_status find_file(const char *path, char file_out[PATH_MAX], struct dtr_error *error)
{
    struct stat info;
    bool found = stat(path, &info) == 0;
    char folder[PATH_MAX];
    snprintf(file_out, PATH_MAX, "%s", path);
    if (found && S_ISREG(info.st_mode) && is_latest(path)) {
        snprintf(folder, sizeof folder, "%s", path);
        folder[strlen(folder) - strlen(latest_name)] = '\0';
        return find_file(folder[0] == '\0' ? "." : folder, file_out, error);
    }
    if (found && S_ISDIR(info.st_mode)) {
        enum dtr_status status = find_latest(path, file_out, error);
        if (status != DTR_OK)
            return status;
        found = stat(file_out, &info) == 0;
    }
    if (!found)
        return dtr_error_set(
            error, DTR_INPUT, "cannot read checkpoint %s: %s", file_out, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return dtr_error_set(error, DTR_INPUT, "%s: not a regular file", file_out);
    return check_signature(file_out, error);
}

enum dtr_status dtr_checkpoint_read(
    const char *path, struct dtr_checkpoint_file *file_out, struct dtr_error *error)
{
    char file[PATH_MAX];
    *file_out = (struct dtr_checkpoint_file){0};
    if (find_file(path, file, error) != DTR_OK ||
        dtr_checkpoint_decode(file, file_out, error) != DTR_OK)
        return error->status;
    file_out->path = strdup(file);
    if (file_out->path != NULL)
        return DTR_OK;
    dtr_checkpoint_file_free(file_out);
    return dtr_error_set(error, DTR_FAILED, "out of memory for a checkpoint's name");
}

enum dtr_status dtr_checkpoint_read_newest(
    const char *folder, struct dtr_checkpoint_file *file_out, struct dtr_error *error)
{
    int64_t *steps, count;
    *file_out = (struct dtr_checkpoint_file){0};
    if (!list_steps(folder, &steps, &count)) {
        if (errno == ENOENT)
            return DTR_OK;
        return dtr_error_set(
            error, DTR_INPUT, "cannot list checkpoint folder %s: %s", folder, strerror(errno));
    }
    struct dtr_error reason = DTR_ERROR_NONE;
    for (int64_t i = count - 1; i >= 0 && file_out->path == NULL; i--) {
        char name[40], path[PATH_MAX];
        format_name(steps[i], name);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        if (dtr_checkpoint_read(path, file_out, &reason) != DTR_OK)
            dtr_warn("skipped %s", reason.message);
    }
    free(steps);
    if (count == 0 || file_out->path != NULL)
        return DTR_OK;
    return dtr_error_set(error, DTR_INPUT,
        "none of the %" PRId64 " checkpoints in %s can be used (%s); remove them to begin anew",
        count, folder, reason.message);
}

enum dtr_status dtr_checkpoint_print(const char *path, struct dtr_error *error)
{
    char file[PATH_MAX];
    enum dtr_status status = find_file(path, file, error);
    return status == DTR_OK ? dtr_checkpoint_describe(file, error) : status;
}

void dtr_checkpoint_file_free(struct dtr_checkpoint_file *file)
{
    dtr_model_free(file->model);
    free(file->path);
    free(file->options);
    free(file->weights);
    free(file->momentum);
    *file = (struct dtr_checkpoint_file){0};
}
