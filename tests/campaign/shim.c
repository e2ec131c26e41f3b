/*
 * A failing disk: preloaded into a program, it counts the calls that concern one folder, what is in
 * it, and descriptors of either, and lets the n-th go wrong.
 *
 * DTRAIN_TEST_FOLDER is the folder, as an absolute path without links.
 * DTRAIN_TEST_LOG is a file for a line per call: its name and the path below the folder.
 * DTRAIN_TEST_FAIL is N:HOW, or N+:HOW for the n-th and all that follow. HOW is
 *   a number   nothing is done, and that is the errno
 *   kill       the process is killed before the call
 *   torn       it is killed after half of a write
 *   short      half of a write is done and owned up to
 *   lost       half of a write is done and said to be all
 *
 * These are the functions that src/checkpoint/ calls; writes.py notices when it calls others. Each
 * goes to the system by itself, as its name means this file here.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *folder, *log_path;
static long fail_at;
static bool fail_on;      /* and all that follow */
static char fail_how[16]; /* "" where nothing fails */

__attribute__((constructor)) static void begin(void)
{
    const char *fail = getenv("DTRAIN_TEST_FAIL");
    char *rest;
    folder = getenv("DTRAIN_TEST_FOLDER");
    log_path = getenv("DTRAIN_TEST_LOG");
    if (fail == NULL)
        return;
    fail_at = strtol(fail, &rest, 10);
    fail_on = *rest == '+';
    snprintf(fail_how, sizeof fail_how, "%s", strchr(rest, ':') + 1);
}

/* ---- Which calls count ---- */

/* The path of a descriptor, or of a name that begins there; "" where there is none. */
static void find_path(int fd, const char *name, char path_out[2 * PATH_MAX])
{
    char link[64], base[PATH_MAX] = "";
    if (name != NULL && name[0] == '/') {
        snprintf(path_out, 2 * PATH_MAX, "%s", name);
        return;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(fd == AT_FDCWD ? "/proc/self/cwd" : link, base, sizeof base - 1);
    base[length > 0 ? length : 0] = '\0';
    snprintf(
        path_out, 2 * PATH_MAX, "%s%s%s", base, name != NULL ? "/" : "", name != NULL ? name : "");
}

/* The call's number, 0 for one that does not count. */
static long count(const char *call, int fd, const char *name)
{
    static atomic_long calls;
    char path[2 * PATH_MAX];
    size_t length = folder != NULL ? strlen(folder) : 0;
    int reason = errno;
    find_path(fd, name, path);
    errno = reason;
    if (length == 0 || strncmp(path, folder, length) != 0 || !memchr("/", path[length], 2))
        return 0;
    FILE *log = log_path != NULL ? fopen(log_path, "ae") : NULL;
    if (log != NULL) {
        fprintf(log, "%s %s\n", call, path + length + (path[length] == '/'));
        fclose(log);
    }
    return atomic_fetch_add(&calls, 1) + 1;
}

/* ---- What becomes of them ---- */

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static bool fails_as(const char *how)
{
    return strcmp(fail_how, how) == 0;
}

/* Whether it is a call's turn to go wrong. */
static bool is_due(const char *call, int fd, const char *name)
{
    long number = count(call, fd, name);
    bool due = number != 0 && (number == fail_at || (fail_on && number > fail_at));
    if (due && fails_as("kill"))
        die();
    return due && fail_how[0] != '\0';
}

/* The same for calls that are done or not; with errno. */
static bool fails(const char *call, int fd, const char *name)
{
    if (!is_due(call, fd, name) || atoi(fail_how) == 0)
        return false;
    errno = atoi(fail_how);
    return true;
}

static mode_t mode_in(int flags, va_list arguments)
{
    return flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
}

int openat(int fd, const char *name, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_in(flags, arguments);
    va_end(arguments);
    return fails("openat", fd, name) ? -1 : (int)syscall(SYS_openat, fd, name, flags, mode);
}

int open(const char *name, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_in(flags, arguments);
    va_end(arguments);
    return fails("open", AT_FDCWD, name) ? -1
                                         : (int)syscall(SYS_openat, AT_FDCWD, name, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    if (!is_due("write", fd, NULL))
        return syscall(SYS_write, fd, bytes, size);
    if (atoi(fail_how) != 0) {
        errno = atoi(fail_how);
        return -1;
    }
    ssize_t done = syscall(SYS_write, fd, bytes, size / 2);
    if (fails_as("torn"))
        die();
    return fails_as("lost") ? (ssize_t)size : done;
}

ssize_t read(int fd, void *bytes, size_t size)
{
    return fails("read", fd, NULL) ? -1 : syscall(SYS_read, fd, bytes, size);
}

int fsync(int fd)
{
    return fails("fsync", fd, NULL) ? -1 : (int)syscall(SYS_fsync, fd);
}

/* The descriptor is gone even so, as Linux has it. */
int close(int fd)
{
    bool failed = fails("close", fd, NULL);
    int reason = errno, result = (int)syscall(SYS_close, fd);
    if (failed)
        errno = reason;
    return failed ? -1 : result;
}

int mkdir(const char *name, mode_t mode)
{
    return fails("mkdir", AT_FDCWD, name) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, name, mode);
}

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return fails("renameat", to_fd, to) ? -1
                                        : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return fails("linkat", to_fd, to) ? -1
                                      : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

int unlinkat(int fd, const char *name, int flags)
{
    return fails("unlinkat", fd, name) ? -1 : (int)syscall(SYS_unlinkat, fd, name, flags);
}

int futimens(int fd, const struct timespec times[2])
{
    return fails("futimens", fd, NULL) ? -1 : (int)syscall(SYS_utimensat, fd, NULL, times, 0);
}
