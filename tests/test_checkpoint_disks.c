/* Checkpoints on disks: what is asked of them in which order, and what is left when they fail. */
#include "checkpoint_fixture.h"
#include "unit_main.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- What the code asks of the disk, in order: f is fsync of a file, r rename, d fsync of a
 * folder. The fail_at-th call from now fails with fail_with. ---- */

static char disk_calls[64];
static int fail_at, fail_with;

static bool call_fails(char call)
{
    size_t length = strlen(disk_calls);
    if (length + 1 < sizeof disk_calls)
        disk_calls[length] = call;
    bool fails = fail_at == 1;
    fail_at -= fail_at > 0;
    errno = fail_with;
    return fails;
}

int fsync(int fd)
{
    struct stat info;
    ck_assert_int_eq(fstat(fd, &info), 0);
    return call_fails(S_ISDIR(info.st_mode) ? 'd' : 'f') ? -1 : (int)syscall(SYS_fsync, fd);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return call_fails('r') ? -1 : (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
}

/* The next checkpoint cannot be written. The error says where, doing what, and why. */
static void refuses_to_write(int64_t step, const char *operation, int reason)
{
    ckpt.state.step = step;
    ckpt.error = DTR_ERROR_NONE;
    ck_assert_int_eq(dtr_checkpoint_write(ckpt.writer, &ckpt.state, &ckpt.error), DTR_WRITE);
    ck_assert_int_eq(ckpt.error.status, DTR_WRITE);
    ck_assert_ptr_nonnull(strstr(ckpt.error.message, ckpt.folder));
    ck_assert_ptr_nonnull(strstr(ckpt.error.message, operation));
    ck_assert_ptr_nonnull(strstr(ckpt.error.message, strerror(reason)));
    ckpt_check_closed();
}

/* ---- The order ---- */

START_TEST(test_every_file_is_durable_before_it_has_its_name)
{
    ckpt_open_writer(1);
    ckpt_write_step(1);
    ckpt_write_step(2);
    ck_assert_str_eq(disk_calls, "ff" /* the probe, the lock */
                                 "frdfrd"
                                 "frdfrd");
}
END_TEST

/* ---- Failing disks ---- */

START_TEST(test_failing_call_leaves_the_old_checkpoint)
{
    static const struct {
        const char *operation, *files;
    } cases[] = {
        {"fsync", ckpt_one},
        {"rename", ckpt_one},
        {"fsync of the folder", "ckpt-s000000860.h5 ckpt-s000000900.h5 latest"},
        {"latest: fsync", "ckpt-s000000860.h5 ckpt-s000000900.h5 latest"},
        {"latest: rename", "ckpt-s000000860.h5 ckpt-s000000900.h5 latest"},
    };
    ckpt_open_writer(1);
    ckpt_write_step(860);
    struct ckpt_bytes before = ckpt_load(ckpt.path);
    fail_at = _i + 1;
    fail_with = EIO;
    refuses_to_write(900, cases[_i].operation, EIO);
    ckpt_check_folder(cases[_i].files);
    ckpt_check_latest("ckpt-s000000860.h5\n");
    ck_assert_str_eq(dtr_checkpoint_written(ckpt.writer), ckpt.path);
    struct ckpt_bytes after = ckpt_load(ckpt.path);
    ck_assert_mem_eq(before.data, after.data, before.count);
    free(before.data);
    free(after.data);
    ckpt_write_step(900);
    ckpt_check_folder("ckpt-s000000900.h5 latest");
    ckpt_check_file(ckpt.folder);
}
END_TEST

START_TEST(test_interrupted_call_is_repeated)
{
    ckpt_open_writer(1);
    fail_at = 1;
    fail_with = EINTR;
    ckpt_write_step(860);
    ckpt_check_file(ckpt.folder);
}
END_TEST

START_TEST(test_file_size_limit)
{
    struct rlimit limit;
    ckpt_write_one();
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, limit.rlim_max});
    refuses_to_write(900, "write", EFBIG);
    setrlimit(RLIMIT_FSIZE, &limit);
    ckpt_check_folder(ckpt_one);
    ckpt.state.step = 860;
    ckpt_check_file(ckpt.folder);
}
END_TEST

/* A full disk, where the system lets a test mount a small one. */
START_TEST(test_full_disk)
{
    char filler[512], below[512];
    static const char zeros[4096];
    ck_assert_int_eq(ckpt_shell("mkdir -p '%s'", ckpt.folder), 0);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", ckpt.folder, "tmpfs", 0, "size=1m") != 0)
        return;
    ckpt_open_writer(1);
    ckpt_write_step(860);
    snprintf(filler, sizeof filler, "%s/filler", ckpt.folder);
    int fd = open(filler, O_WRONLY | O_CREAT, 0600);
    while (write(fd, zeros, sizeof zeros) > 0)
        continue;
    close(fd);
    refuses_to_write(900, "write", ENOSPC);
    ckpt_check_folder("ckpt-s000000860.h5 filler latest");
    struct dtr_checkpoint_writer *other;
    snprintf(below, sizeof below, "%s/below", ckpt.folder);
    ckpt_check_error(dtr_checkpoint_writer_create(below, 3, NULL, false, &other, &ckpt.error),
        DTR_WRITE, strerror(ENOSPC));
    unlink(filler);
    ckpt_write_step(900);
    ckpt_check_file(ckpt.folder);
    umount2(ckpt.folder, MNT_DETACH);
}
END_TEST

START_TEST(test_vanished_folder)
{
    ckpt_write_one();
    ck_assert_int_eq(ckpt_shell("rm -r '%s'", ckpt.folder), 0);
    refuses_to_write(900, "open", ENOENT);
}
END_TEST

/* The error says what failed; nobody, HDF5 included, prints it as well. */
START_TEST(test_failures_are_told_once)
{
    char output[512];
    snprintf(output, sizeof output, "%s/stderr", ckpt.top);
    ckpt_write_one();
    struct ckpt_bytes bytes = ckpt_load(ckpt.path);
    int kept = ckpt_capture_begin(STDERR_FILENO, output);
    fail_at = 1;
    fail_with = EIO;
    refuses_to_write(900, "fsync", EIO);
    ckpt_save(ckpt.path, bytes.data, bytes.count / 2);
    ckpt_check_refused(ckpt.path, "damaged or cut short");
    ckpt_capture_end(STDERR_FILENO, kept);
    struct ckpt_bytes written = ckpt_load(output);
    ck_assert_str_eq((char *)written.data, "");
    free(written.data);
    free(bytes.data);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("checkpoint_disks");
    TCase *order = add_case(suite, "order");
    tcase_add_checked_fixture(order, ckpt_setup, ckpt_teardown);
    tcase_add_test(order, test_every_file_is_durable_before_it_has_its_name);

    TCase *failing = add_case(suite, "failing disks");
    tcase_add_checked_fixture(failing, ckpt_setup, ckpt_teardown);
    tcase_add_loop_test(failing, test_failing_call_leaves_the_old_checkpoint, 0, 5);
    tcase_add_test(failing, test_interrupted_call_is_repeated);
    tcase_add_test(failing, test_file_size_limit);
    tcase_add_test(failing, test_full_disk);
    tcase_add_test(failing, test_vanished_folder);
    tcase_add_test(failing, test_failures_are_told_once);
    return suite;
}
