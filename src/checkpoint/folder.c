/* Which checkpoints a folder holds, and which of them is read. */
#include "folder.h"

#include "dtrain/checkpoint.h"
#include "dtrain/log.h"
#include "format.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char folder_latest[] = "latest";

int64_t folder_step_of(const char *name)
{
    int64_t step;
    int end = 0;
    if (sscanf(name, "ckpt-s%" SCNd64 ".h5%n", &step, &end) != 1 || end == 0 || name[end] != '\0')
        return -1;
    return step;
}

void folder_name(int64_t step, char name_out[FOLDER_NAME])
{
    snprintf(name_out, FOLDER_NAME, "ckpt-s%09" PRId64 ".h5", step);
}

static int by_step(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

bool folder_list(const char *folder, int64_t **steps_out, int64_t *count_out)
{
    int64_t room = 0;
    *steps_out = NULL;
    *count_out = 0;
    DIR *entries = opendir(folder);
    if (entries == NULL)
        return false;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        int64_t step = folder_step_of(entry->d_name);
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

int64_t folder_step_in(const char *folder, const char *path)
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
    return folder_step_of(slash == NULL ? path : slash + 1);
}

/* The file that the folder's `latest` names. */
static enum dtr_status find_latest(
    const char *folder, char path_out[PATH_MAX], struct dtr_error *error)
{
    char name[256] = "";
    snprintf(path_out, PATH_MAX, "%s/%s", folder, folder_latest);
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
    return strcmp(slash == NULL ? path : slash + 1, folder_latest) == 0;
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
        folder[strlen(folder) - strlen(folder_latest)] = '\0';
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
    if (!folder_list(folder, &steps, &count)) {
        if (errno == ENOENT)
            return DTR_OK;
        return dtr_error_set(
            error, DTR_INPUT, "cannot list checkpoint folder %s: %s", folder, strerror(errno));
    }
    struct dtr_error reason = DTR_ERROR_NONE;
    for (int64_t i = count - 1; i >= 0 && file_out->path == NULL; i--) {
        char name[FOLDER_NAME], path[PATH_MAX];
        folder_name(steps[i], name);
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
