#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char lock_name[] = ".lock";

/* When a process began: field 22 of /proc/PID/stat, of which field 2 is a name in parentheses that
 * may hold anything and field 3 the state. 0 where there is no such process, or it has ended and
 * nobody has asked for its status yet. */
static long long start_of(long long process)
{
    char path[64], text[1024] = "";
    snprintf(path, sizeof path, "/proc/%lld/stat", process);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = '\0';
    const char *at = strrchr(text, ')');
    if (at == NULL || strchr("ZX", at[1] == ' ' ? at[2] : 'Z') != NULL)
        return 0;
    for (int field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at != NULL ? atoll(at) : 0;
}

struct lock_owner lock_me(void)
{
    struct lock_owner me = {.process = getpid()};
    const char *job = getenv("SLURM_JOB_ID"), *restart = getenv("SLURM_RESTART_COUNT");
    gethostname(me.host, sizeof me.host - 1);
    me.started = start_of(me.process);
    ssize_t length = readlink("/proc/self/ns/pid", me.space, sizeof me.space - 1);
    me.space[length > 0 ? length : 0] = '\0';
    snprintf(me.job, sizeof me.job, "%s", job == NULL ? "" : job);
    me.restart = restart == NULL ? 0 : atoll(restart);
    return me;
}

bool lock_is_stale(const struct lock_owner *owner, const struct lock_owner *me, double age_s)
{
    if (owner->job[0] != '\0' && strcmp(owner->job, me->job) == 0 && owner->restart < me->restart)
        return true;
    if (strcmp(owner->host, me->host) == 0 && strcmp(owner->space, me->space) == 0)
        return start_of(owner->process) != owner->started;
    return age_s > LOCK_STALE_S;
}

/* Where a crash has left a lock without words there is nobody to be asked: only its age counts. */
static struct lock_owner read_owner(int fd)
{
    struct lock_owner owner = {.host = "?"};
    char text[400];
    ssize_t length = pread(fd, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = '\0';
    sscanf(text, "host %64s process %lld started %lld space %63s job %31s restart %lld", owner.host,
        &owner.process, &owner.started, owner.space, owner.job, &owner.restart);
    if (strcmp(owner.space, "-") == 0)
        owner.space[0] = '\0';
    if (strcmp(owner.job, "-") == 0)
        owner.job[0] = '\0';
    return owner;
}

static enum dtr_status refuse(const struct store *store, const char *what, struct dtr_error *error)
{
    return dtr_error_set(error, DTR_WRITE, "cannot write into checkpoint folder %s: %s: %s",
        store->folder, what, strerror(errno));
}

/* By the file system's clock, which need not be this host's. */
static double age_of(const struct store *store, const struct stat *lock)
{
    char name[160];
    struct stat now = *lock;
    snprintf(name, sizeof name, ".clock.%s", store->suffix);
    int fd = openat(store->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return 0;
    fstat(fd, &now);
    close(fd);
    unlinkat(store->fd, name, 0);
    return (double)(now.st_mtim.tv_sec - lock->st_mtim.tv_sec);
}

/* Removes the lock that was found stale, and none that has taken its place since. */
static void remove_stale(const struct store *store, ino_t inode)
{
    char name[160];
    struct stat moved;
    snprintf(name, sizeof name, ".stale.%s", store->suffix);
    if (renameat(store->fd, lock_name, store->fd, name) != 0)
        return;
    if (fstatat(store->fd, name, &moved, AT_SYMLINK_NOFOLLOW) == 0 && moved.st_ino != inode)
        linkat(store->fd, name, store->fd, lock_name, 0);
    unlinkat(store->fd, name, 0);
}

/* Whether there was a lock and it is gone now; an owner that lives is named. */
static bool drop_stale(
    const struct store *store, const struct lock_owner *me, struct dtr_error *error)
{
    struct stat found;
    int fd = openat(store->fd, lock_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT;
    struct lock_owner owner = read_owner(fd);
    bool there = fstat(fd, &found) == 0;
    close(fd);
    if (there && lock_is_stale(&owner, me, age_of(store, &found))) {
        remove_stale(store, found.st_ino);
        return true;
    }
    dtr_error_set(error, DTR_USAGE,
        "%s is in use by another run (host %s, process %lld%s%s); name another folder, or remove "
        "%s/%s if that run is dead",
        store->folder, owner.host, owner.process, owner.job[0] != '\0' ? ", Slurm job " : "",
        owner.job, store->folder, lock_name);
    return false;
}

/* A file of our own that says who we are, by a name that nobody looks at yet. */
static enum dtr_status write_owner(const struct store *store, const char *own,
    const struct lock_owner *me, struct lock *lock_out, struct dtr_error *error)
{
    char text[400];
    struct stat made;
    int length = snprintf(text, sizeof text,
        "host %s\nprocess %lld\nstarted %lld\nspace %s\njob %s\nrestart %lld\n", me->host,
        me->process, me->started, me->space[0] != '\0' ? me->space : "-",
        me->job[0] != '\0' ? me->job : "-", me->restart);
    const char *failed = store_own(store, own, text, (size_t)length);
    if (failed != NULL)
        return refuse(store, failed, error);
    lock_out->fd = openat(store->fd, own, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (lock_out->fd < 0 || fstat(lock_out->fd, &made) != 0)
        return refuse(store, "lock", error);
    lock_out->inode = made.st_ino;
    return DTR_OK;
}

/* Makes that file the lock if there is none: a link, so that nobody sees a lock without words.
 * Where the file system has no links, an empty file keeps others out until it is replaced. */
static bool place_lock(const struct store *store, const char *own)
{
    if (linkat(store->fd, own, store->fd, lock_name, 0) == 0)
        return true;
    if (errno == EEXIST)
        return false;
    int fd = openat(store->fd, lock_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return false;
    close(fd);
    if (renameat(store->fd, own, store->fd, lock_name) == 0)
        return true;
    int reason = errno;
    unlinkat(store->fd, lock_name, 0);
    errno = reason;
    return false;
}

/* Waits a little for an owner: a run that is being killed needs a moment to be dead. */
static enum dtr_status become_owner(const struct store *store, const char *own,
    const struct lock_owner *me, struct dtr_error *error)
{
    enum { TRIES = 50 };
    const struct timespec pause = {.tv_nsec = 100000000};
    for (int i = 0; i < TRIES; i++) {
        *error = DTR_ERROR_NONE;
        if (place_lock(store, own))
            return DTR_OK;
        if (errno != EEXIST || (!drop_stale(store, me, error) && error->status == DTR_OK))
            return refuse(store, "lock", error);
        if (error->status != DTR_OK)
            nanosleep(&pause, NULL);
    }
    return error->status != DTR_OK ? error->status : refuse(store, "lock", error);
}

enum dtr_status lock_take(const struct store *store, struct lock *lock_out, struct dtr_error *error)
{
    char own[160];
    struct lock_owner me = lock_me();
    *lock_out = (struct lock){.fd = -1};
    snprintf(own, sizeof own, ".own.%s", store->suffix);
    if (write_owner(store, own, &me, lock_out, error) == DTR_OK)
        become_owner(store, own, &me, error);
    unlinkat(store->fd, own, 0);
    if (error->status != DTR_OK && lock_out->fd >= 0) {
        close(lock_out->fd);
        lock_out->fd = -1;
    }
    return error->status;
}

bool lock_renew(const struct store *store, const struct lock *lock)
{
    struct stat found;
    if (fstatat(store->fd, lock_name, &found, AT_SYMLINK_NOFOLLOW) == 0 &&
        found.st_ino != lock->inode)
        return false;
    futimens(lock->fd, NULL); /* where that fails, the next one may not */
    return true;
}

void lock_release(const struct store *store, struct lock *lock)
{
    if (lock->fd < 0)
        return;
    if (lock_renew(store, lock))
        unlinkat(store->fd, lock_name, 0);
    close(lock->fd);
    lock->fd = -1;
}
