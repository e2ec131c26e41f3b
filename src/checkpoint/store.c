#include "store.h"

#include "dtrain/pulse.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char temporary_mark[] = ".tmp-";

static int sync_file(int fd)
{
    int result;
    do {
        result = fsync(fd);
    } while (result != 0 && errno == EINTR);
    return result;
}

/* A file is written piece by piece, so that one on a slow disk is seen to move. */
enum { BLOCK = 4096, PIECE = 16 << 20 };

static size_t piece_of(size_t left)
{
    return left < PIECE ? left : PIECE;
}

/* Writes past the system's cache, which takes longer to fill than a checkpoint to make: whole
 * blocks, as far as memory and file system allow it. Returns how much, without an error. */
static size_t write_direct(int fd, const char *bytes, size_t size)
{
    int flags = fcntl(fd, F_GETFL);
    if ((uintptr_t)bytes % BLOCK != 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0)
        return 0;
    size_t done = 0;
    for (ssize_t part = 1; part > 0 && size - done >= BLOCK;) {
        part = write(fd, bytes + done, piece_of(size - done) / BLOCK * BLOCK);
        done += part > 0 ? (size_t)part : 0;
        dtr_pulse_beat();
    }
    fcntl(fd, F_SETFL, flags);
    return done;
}

static int write_all(int fd, const char *bytes, size_t size)
{
    for (size_t done = write_direct(fd, bytes, size); done < size;) {
        ssize_t part = write(fd, bytes + done, piece_of(size - done));
        if (part < 0 && errno != EINTR)
            return -1;
        done += part > 0 ? (size_t)part : 0;
        if (done < size && sync_file(fd) != 0)
            return -1;
        dtr_pulse_beat();
    }
    return 0;
}

/* Whether the file holds these bytes and no more; errno is EIO where they differ. */
static int compare(int fd, const void *bytes, size_t size)
{
    char found[1 << 16];
    size_t done = 0;
    for (;;) {
        ssize_t part = read(fd, found, sizeof found);
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return -1;
        if (part == 0)
            break;
        if (done + (size_t)part > size ||
            memcmp((const char *)bytes + done, found, (size_t)part) != 0)
            done = size + 1;
        if (done > size)
            break;
        done += (size_t)part;
        dtr_pulse_beat();
    }
    errno = EIO;
    return done == size ? 0 : -1;
}

static const char *write_file(int folder_fd, const char *name, const void *bytes, size_t size)
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
    errno = reason;
    return failed;
}

/* From the disk, as far as the system lets its own memory of the file go. */
static const char *verify_file(int folder_fd, const char *name, const void *bytes, size_t size)
{
    int fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return "open again";
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    bool same = compare(fd, bytes, size) == 0;
    int reason = errno;
    close(fd);
    errno = reason;
    return same ? NULL : "read again";
}

static const char *remove_failed(int folder_fd, const char *name, const char *failed)
{
    int reason = errno;
    if (failed != NULL)
        unlinkat(folder_fd, name, 0);
    errno = reason;
    return failed;
}

const char *store_own(const struct store *store, const char *name, const void *bytes, size_t size)
{
    const char *failed = write_file(store->fd, name, bytes, size);
    if (failed == NULL)
        failed = verify_file(store->fd, name, bytes, size);
    return remove_failed(store->fd, name, failed);
}

const char *store_file(const struct store *store, const char *name, const void *bytes, size_t size)
{
    char temporary[192];
    snprintf(temporary, sizeof temporary, ".%s.%s", name, store->suffix);
    const char *failed = store_own(store, temporary, bytes, size);
    if (failed != NULL)
        return failed;
    if (renameat(store->fd, temporary, store->fd, name) != 0)
        return remove_failed(store->fd, temporary, "rename");
    return sync_file(store->fd) != 0 ? "fsync of the folder" : NULL;
}

const char *store_probe(const struct store *store)
{
    char name[160];
    snprintf(name, sizeof name, ".probe.%s", store->suffix);
    const char *failed = store_own(store, name, "\n", 1);
    if (failed == NULL && unlinkat(store->fd, name, 0) != 0)
        failed = "unlink";
    return failed;
}

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

const char *store_open(const char *folder, struct store *store_out)
{
    char host[65] = "";
    gethostname(host, sizeof host - 1);
    *store_out = (struct store){.fd = -1};
    /* The mark without its dot, which comes before the suffix. */
    snprintf(store_out->suffix, sizeof store_out->suffix, "%s%s-%ld", temporary_mark + 1, host,
        (long)getpid());
    if (strlen(folder) >= sizeof store_out->folder) {
        errno = ENAMETOOLONG;
        return "create";
    }
    strcpy(store_out->folder, folder);
    if (!make_folder(folder))
        return "create";
    store_out->fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return store_out->fd < 0 ? "open" : NULL;
}

void store_close(struct store *store)
{
    if (store->fd >= 0)
        close(store->fd);
    store->fd = -1;
}

void store_clean(const struct store *store)
{
    DIR *entries = opendir(store->folder);
    if (entries == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        const char *name = entry->d_name;
        if (name[0] == '.' && strstr(name, temporary_mark) != NULL)
            unlinkat(store->fd, name, 0);
    }
    closedir(entries);
}
