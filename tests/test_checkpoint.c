/* Checkpoints: round trip, durability, rotation, failing disks, wrong files (campaign/damage.c:
 * damaged ones). */
#include "dtrain/checkpoint.h"
#include "dtrain/memory.h"
#include "unit_main.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char small_text[] = "input 8 8 1  # small\nconv 4 3x3 relu\nmaxpool 2\ndense 10\n";
/* Its kernel takes three chunks, the last of them only partly filled. */
static const char large_text[] = "input 28 28 1\ndense 700\ndense 10\n";
/* All that a folder holds after step 860. */
static const char one_checkpoint[] = "ckpt-s000000860.h5 latest";

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

/* HDF5 loses a little memory of its own over a damaged file. LeakSanitizer asks for this. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

/* ---- One folder, one state and one writer per test ---- */

static char top[256], folder[300], path[512];
static struct dtr_options options;
static struct dtr_checkpoint state;
static struct dtr_model *model;
static struct dtr_checkpoint_writer *writer;
static struct dtr_error error;

static const float *random_slab(uint64_t seed)
{
    float *slab = dtr_alloc(model->slab_count, sizeof *slab, "a test", &error);
    ck_assert_ptr_nonnull(slab);
    dtr_model_initialize(model, seed, slab);
    return slab;
}

static void make_state(const char *model_text)
{
    ck_assert_int_eq(dtr_model_parse(model_text, "test", &model, &error), DTR_OK);
    dtr_options_default(&options);
    options.seed = INT64_MAX;
    state = (struct dtr_checkpoint){
        .model = model,
        .options = &options,
        .step = 860,
        .epoch = 1.0 / 3,
        .data_fingerprint = 0x0edcba9876543210,
        .weights = random_slab(1),
        .momentum = random_slab(2),
    };
}

static void free_state(void)
{
    free((void *)(uintptr_t)state.weights);
    free((void *)(uintptr_t)state.momentum);
    dtr_model_free(model);
}

static void setup(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(top, sizeof top, "%s/dtrain-test-XXXXXX", parent != NULL ? parent : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(top));
    snprintf(folder, sizeof folder, "%s/runs/a", top);
    snprintf(path, sizeof path, "%s/ckpt-s000000860.h5", folder);
    make_state(small_text);
}

static int run(const char *format, ...)
{
    char command[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return WEXITSTATUS(system(command));
}

/* No HDF5 object may be left open, whatever happened. */
static void check_closed(void)
{
    ck_assert_int_eq(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
}

static void teardown(void)
{
    check_closed();
    dtr_checkpoint_writer_free(writer);
    free_state();
    ck_assert_int_eq(run("rm -rf '%s'", top), 0);
}

static void open_writer(int64_t keep)
{
    enum dtr_status status = dtr_checkpoint_writer_create(
        folder, keep, NULL, false, &writer, &error);
    ck_assert_msg(status == DTR_OK, "%s", error.message);
}

static void write_step(int64_t step)
{
    state.step = step;
    ck_assert_msg(dtr_checkpoint_write(writer, &state, &error) == DTR_OK, "%s", error.message);
}

static void write_one(void)
{
    open_writer(3);
    write_step(860);
}

static void refuses_to_write(int64_t step, const char *operation, int reason)
{
    state.step = step;
    error = DTR_ERROR_NONE;
    ck_assert_int_eq(dtr_checkpoint_write(writer, &state, &error), DTR_WRITE);
    ck_assert_int_eq(error.status, DTR_WRITE);
    ck_assert_ptr_nonnull(strstr(error.message, folder));
    ck_assert_ptr_nonnull(strstr(error.message, operation));
    ck_assert_ptr_nonnull(strstr(error.message, strerror(reason)));
    check_closed();
}

static void check_error(enum dtr_status status, enum dtr_status expected, const char *says)
{
    ck_assert_msg(status == expected && error.status == expected, "%d: %s", status, error.message);
    ck_assert_msg(strstr(error.message, says) != NULL, "'%s' lacks '%s'", error.message, says);
    ck_assert_ptr_null(strchr(error.message, '\n'));
}

static void refuses_to_read(const char *where, const char *says)
{
    struct dtr_checkpoint_file file;
    check_error(dtr_checkpoint_read(where, &file, &error), DTR_INPUT, says);
    ck_assert_msg(strstr(error.message, top) != NULL, "%s", error.message);
    ck_assert_ptr_null(file.model);
    ck_assert_ptr_null(file.weights);
    check_closed();
}

/* Reads `where` and compares it with the state, bit for bit. */
static void check_file(const char *where)
{
    struct dtr_checkpoint_file file;
    ck_assert_msg(dtr_checkpoint_read(where, &file, &error) == DTR_OK, "%s", error.message);
    ck_assert_str_eq(file.model->text, model->text);
    ck_assert_int_eq(file.step, state.step);
    ck_assert(file.epoch == state.epoch);
    ck_assert_uint_eq(file.data_fingerprint, state.data_fingerprint);
    ck_assert_int_eq(file.seed, options.seed);
    ck_assert_uint_eq(file.weights_hash, dtr_model_hash(model, state.weights));
    ck_assert_mem_eq(file.weights, state.weights, (size_t)model->slab_count * sizeof(float));
    ck_assert_mem_eq(file.momentum, state.momentum, (size_t)model->slab_count * sizeof(float));
    ck_assert_ptr_nonnull(strstr(file.path, "ckpt-s"));
    dtr_checkpoint_file_free(&file);
    ck_assert_ptr_null(file.model);
    check_closed();
}

struct bytes {
    size_t count;
    unsigned char *data;
};

static struct bytes load(const char *file_path)
{
    struct stat info;
    FILE *file = fopen(file_path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fstat(fileno(file), &info), 0);
    struct bytes bytes = {(size_t)info.st_size, calloc(1, (size_t)info.st_size + 1)};
    ck_assert_uint_eq(fread(bytes.data, 1, bytes.count, file), bytes.count);
    fclose(file);
    return bytes;
}

static void save(const char *file_path, const void *data, size_t count)
{
    FILE *file = fopen(file_path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, count, file), count);
    ck_assert_int_eq(fclose(file), 0);
}

static int no_dots(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
           strcmp(entry->d_name, ".lock") != 0;
}

static void check_folder(const char *expected)
{
    char found[1024] = "";
    struct dirent **entries;
    int count = scandir(folder, &entries, no_dots, alphasort);
    ck_assert_int_ge(count, 0);
    for (int i = 0; i < count; i++) {
        size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%s%s", i == 0 ? "" : " ", entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    ck_assert_str_eq(found, expected);
}

static void check_latest(const char *expected)
{
    char latest[512];
    snprintf(latest, sizeof latest, "%s/latest", folder);
    struct bytes bytes = load(latest);
    ck_assert_str_eq((char *)bytes.data, expected);
    free(bytes.data);
}

/* Sends what is written to `fd` into a file until capture_end(). */
static int capture_begin(int fd, const char *file_path)
{
    int kept = dup(fd), file = open(file_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(dup2(file, fd), fd);
    close(file);
    return kept;
}

static void capture_end(int fd, int kept)
{
    fflush(NULL);
    dup2(kept, fd);
    close(kept);
}

/* ---- Writing ---- */

START_TEST(test_round_trip)
{
    open_writer(3);
    ck_assert_ptr_null(dtr_checkpoint_written(writer));
    write_step(860);
    ck_assert_str_eq(dtr_checkpoint_written(writer), path);
    check_latest("ckpt-s000000860.h5\n");
    check_folder(one_checkpoint);
    check_file(path);
    check_file(folder);
}
END_TEST

START_TEST(test_momentum_is_written)
{
    const struct dtr_tensor *tensor = &model->tensors[0];
    float found[36];
    ck_assert_int_eq(tensor->count, 36);
    write_one();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t data = H5Dopen2(file, "/optimizer/momentum/conv1/kernel", H5P_DEFAULT);
    ck_assert_int_ge(H5Dread(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, found), 0);
    ck_assert_mem_eq(found, state.momentum + tensor->offset, sizeof found);
    H5Dclose(data);
    H5Fclose(file);
}
END_TEST

START_TEST(test_special_values_keep_their_bits)
{
    static const uint32_t bits[] = {0x80000000, 0x7fc00001, 0xff812345, 0x7f800000, 1, 0x007fffff};
    memcpy((void *)(uintptr_t)state.weights, bits, sizeof bits);
    write_one();
    check_file(path);
}
END_TEST

/* Sums that are 0 modulo 65535 are told from sums of nothing but zeros. */
START_TEST(test_checksums_that_are_zero)
{
    const struct dtr_tensor *tensor = &model->tensors[0];
    memset((float *)(uintptr_t)state.weights + tensor->offset, 0xff,
        (size_t)tensor->count * sizeof(float));
    memset((float *)(uintptr_t)state.momentum + tensor->offset, 0,
        (size_t)tensor->count * sizeof(float));
    write_one();
    check_file(path);
}
END_TEST

/* The last chunk reaches beyond the tensor's end by two rows. */
START_TEST(test_chunks_are_filled_with_zeros)
{
    enum { ROW = 700, ROWS = 262 };
    static float found[ROWS * ROW + 1];
    static const float zeros[2 * ROW];
    uint32_t filters;
    free_state();
    make_state(large_text);
    write_one();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t data = H5Dopen2(file, "/weights/dense1/kernel", H5P_DEFAULT);
    const hsize_t last[] = {2 * ROWS, 0};
    hsize_t bytes;
    ck_assert_int_ge(H5Dget_chunk_storage_size(data, last, &bytes), 0);
    ck_assert_uint_eq(bytes, sizeof found);
    ck_assert_int_ge(H5Dread_chunk(data, H5P_DEFAULT, last, &filters, found), 0);
    ck_assert_uint_eq(filters, 0);
    ck_assert_mem_eq(found + (ROWS - 2) * ROW, zeros, sizeof zeros);
    H5Dclose(data);
    H5Fclose(file);
}
END_TEST

/* Doubles a weight, or fails. */
static enum dtr_status prepare(void *fails, struct dtr_error *failure)
{
    if (fails != NULL)
        return dtr_error_set(failure, DTR_FAILED, "not today");
    ((float *)(uintptr_t)state.weights)[0] *= 2;
    return DTR_OK;
}

START_TEST(test_slabs_are_prepared_by_the_writer)
{
    float before = state.weights[0];
    open_writer(3);
    state.prepare = prepare;
    write_step(860);
    ck_assert(before != 0 && state.weights[0] == 2 * before);
    check_file(path);
    state.context = &state;
    state.step = 900;
    check_error(dtr_checkpoint_write(writer, &state, &error), DTR_FAILED, "not today");
    check_folder(one_checkpoint);
    check_latest("ckpt-s000000860.h5\n");
}
END_TEST

static const char *const texts[] = {small_text, large_text};

/* At another time, and on memory that held something else. */
START_TEST(test_equal_states_give_equal_bytes)
{
    free_state();
    make_state(texts[_i]);
    mallopt(M_PERTURB, 0x55);
    write_one();
    struct bytes first = load(path);
    sleep(1);
    mallopt(M_PERTURB, 0x2a);
    write_step(860);
    struct bytes second = load(path);
    ck_assert_uint_eq(first.count, second.count);
    ck_assert_mem_eq(first.data, second.data, first.count);
    check_file(path);
    free(first.data);
    free(second.data);
}
END_TEST

START_TEST(test_every_file_is_durable_before_it_has_its_name)
{
    open_writer(1);
    write_step(1);
    write_step(2);
    ck_assert_str_eq(disk_calls, "ff" /* the probe, the lock */
                                 "frdfrd"
                                 "frdfrd");
}
END_TEST

START_TEST(test_rotation)
{
    open_writer(_i);
    char foreign[512];
    snprintf(foreign, sizeof foreign, "%s/ckpt-s000000001.h5", folder);
    save(foreign, "not ours", 8);
    for (int64_t step = 10; step <= 50; step += 10)
        write_step(step);
    write_step(50);
    check_folder(_i == 1 ? "ckpt-s000000001.h5 ckpt-s000000050.h5 latest"
                         : "ckpt-s000000001.h5 ckpt-s000000030.h5 ckpt-s000000040.h5 "
                           "ckpt-s000000050.h5 latest");
    check_latest("ckpt-s000000050.h5\n");
    check_file(folder);
}
END_TEST

START_TEST(test_folder_of_another_run)
{
    write_one();
    write_step(1000000000);
    struct dtr_checkpoint_writer *other;
    check_error(dtr_checkpoint_writer_create(folder, 3, NULL, false, &other, &error), DTR_USAGE,
        "is in use by another run (host ");
    dtr_checkpoint_writer_free(writer);
    writer = NULL;
    check_error(dtr_checkpoint_writer_create(folder, 3, NULL, false, &other, &error), DTR_USAGE,
        "already holds checkpoints (newest ckpt-s1000000000.h5); go on with --resume auto,");
    ck_assert_ptr_null(other);
    check_folder("ckpt-s000000860.h5 ckpt-s1000000000.h5 latest");
}
END_TEST

/* A run that goes on from `step`, whose name is written in another way. */
static enum dtr_status resume_in_folder(int64_t step, bool newer_are_bad)
{
    char from[600];
    snprintf(from, sizeof from, "%s/../a/ckpt-s%09lld.h5", folder, (long long)step);
    dtr_checkpoint_writer_free(writer);
    return dtr_checkpoint_writer_create(folder, 2, from, newer_are_bad, &writer, &error);
}

START_TEST(test_resumed_run_keeps_its_folder)
{
    open_writer(3);
    for (int64_t step = 10; step <= 30; step += 10)
        write_step(step);
    check_error(resume_in_folder(20, false), DTR_USAGE, "holds newer checkpoints than");
    error = DTR_ERROR_NONE;
    ck_assert_int_eq(resume_in_folder(20, true), DTR_OK);
    write_step(25); /* the newer one is not this run's, and stays until it is written again */
    check_folder("ckpt-s000000020.h5 ckpt-s000000025.h5 ckpt-s000000030.h5 latest");
    write_step(30);
    check_folder("ckpt-s000000025.h5 ckpt-s000000030.h5 latest");
    check_latest("ckpt-s000000030.h5\n");
    ck_assert_int_eq(resume_in_folder(30, false), DTR_OK);
}
END_TEST

START_TEST(test_newest_that_is_good)
{
    struct dtr_checkpoint_file file;
    char path_of[600];
    ck_assert_int_eq(dtr_checkpoint_read_newest(folder, &file, &error), DTR_OK);
    ck_assert_ptr_null(file.path);
    open_writer(3);
    ck_assert_int_eq(dtr_checkpoint_read_newest(folder, &file, &error), DTR_OK);
    ck_assert_ptr_null(file.path);
    for (int64_t step = 10; step <= 30; step += 10)
        write_step(step);
    for (int64_t step = 30; step >= 10; step -= 10) {
        ck_assert_int_eq(dtr_checkpoint_read_newest(folder, &file, &error), DTR_OK);
        ck_assert_int_eq(file.step, step);
        dtr_checkpoint_file_free(&file);
        snprintf(path_of, sizeof path_of, "%s/ckpt-s%09lld.h5", folder, (long long)step);
        ck_assert_int_eq(truncate(path_of, 5000), 0);
    }
    check_error(
        dtr_checkpoint_read_newest(folder, &file, &error), DTR_INPUT, "none of the 3 checkpoints");
    ck_assert_ptr_null(file.path);
}
END_TEST

START_TEST(test_folders_that_cannot_be_written)
{
    char file[512], below[600];
    snprintf(file, sizeof file, "%s/file", top);
    snprintf(below, sizeof below, "%s/a/b", file);
    save(file, "", 0);
    check_error(
        dtr_checkpoint_writer_create(below, 3, NULL, false, &writer, &error), DTR_WRITE, below);
    check_error(
        dtr_checkpoint_writer_create(file, 3, NULL, false, &writer, &error), DTR_WRITE, file);
    check_error(dtr_checkpoint_writer_create("", 3, NULL, false, &writer, &error), DTR_WRITE,
        "cannot create");
    /* It exists, and not even root can make a file in it. */
    check_error(dtr_checkpoint_writer_create("/proc", 3, NULL, false, &writer, &error), DTR_WRITE,
        "/proc: open");
    ck_assert_ptr_null(writer);
}
END_TEST

/* ---- Failing disks ---- */

START_TEST(test_failing_call_leaves_the_old_checkpoint)
{
    static const struct {
        const char *operation, *files;
    } cases[] = {
        {"fsync", one_checkpoint},
        {"rename", one_checkpoint},
        {"fsync of the folder", "ckpt-s000000860.h5 ckpt-s000000900.h5 latest"},
        {"latest: fsync", "ckpt-s000000860.h5 ckpt-s000000900.h5 latest"},
        {"latest: rename", "ckpt-s000000860.h5 ckpt-s000000900.h5 latest"},
    };
    open_writer(1);
    write_step(860);
    struct bytes before = load(path);
    fail_at = _i + 1;
    fail_with = EIO;
    refuses_to_write(900, cases[_i].operation, EIO);
    check_folder(cases[_i].files);
    check_latest("ckpt-s000000860.h5\n");
    ck_assert_str_eq(dtr_checkpoint_written(writer), path);
    struct bytes after = load(path);
    ck_assert_mem_eq(before.data, after.data, before.count);
    free(before.data);
    free(after.data);
    write_step(900);
    check_folder("ckpt-s000000900.h5 latest");
    check_file(folder);
}
END_TEST

START_TEST(test_interrupted_call_is_repeated)
{
    open_writer(1);
    fail_at = 1;
    fail_with = EINTR;
    write_step(860);
    check_file(folder);
}
END_TEST

START_TEST(test_file_size_limit)
{
    struct rlimit limit;
    write_one();
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, limit.rlim_max});
    refuses_to_write(900, "write", EFBIG);
    setrlimit(RLIMIT_FSIZE, &limit);
    check_folder(one_checkpoint);
    state.step = 860;
    check_file(folder);
}
END_TEST

/* A full disk, where the system lets a test mount a small one. */
START_TEST(test_full_disk)
{
    char filler[512], below[512];
    static const char zeros[4096];
    ck_assert_int_eq(run("mkdir -p '%s'", folder), 0);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", folder, "tmpfs", 0, "size=1m") != 0)
        return;
    open_writer(1);
    write_step(860);
    snprintf(filler, sizeof filler, "%s/filler", folder);
    int fd = open(filler, O_WRONLY | O_CREAT, 0600);
    while (write(fd, zeros, sizeof zeros) > 0)
        continue;
    close(fd);
    refuses_to_write(900, "write", ENOSPC);
    check_folder("ckpt-s000000860.h5 filler latest");
    struct dtr_checkpoint_writer *other;
    snprintf(below, sizeof below, "%s/below", folder);
    check_error(dtr_checkpoint_writer_create(below, 3, NULL, false, &other, &error), DTR_WRITE,
        strerror(ENOSPC));
    unlink(filler);
    write_step(900);
    check_file(folder);
    umount2(folder, MNT_DETACH);
}
END_TEST

START_TEST(test_vanished_folder)
{
    write_one();
    ck_assert_int_eq(run("rm -r '%s'", folder), 0);
    refuses_to_write(900, "open", ENOENT);
}
END_TEST

/* ---- Files that are no good ---- */

START_TEST(test_paths_without_a_checkpoint)
{
    char where[512], latest[512];
    snprintf(where, sizeof where, "%s/nothing", top);
    refuses_to_read(where, strerror(ENOENT));
    refuses_to_read(top, "no checkpoint in this folder");
    snprintf(where, sizeof where, "%s/text", top);
    save(where, "weights", 7);
    refuses_to_read(where, "not an HDF5 file");
    save(where, "", 0);
    refuses_to_read(where, "not an HDF5 file");

    write_one();
    unlink(path);
    refuses_to_read(folder, "ckpt-s000000860.h5: No such file");
    snprintf(latest, sizeof latest, "%s/latest", folder);
    save(latest, "../x\n", 5);
    refuses_to_read(folder, "does not hold a file name");
    save(latest, "", 0);
    refuses_to_read(folder, "does not hold a file name");
    save(latest, ".\n", 2);
    refuses_to_read(folder, "not a regular file");
}
END_TEST

static void put_attribute(hid_t object, const char *name, hid_t type, const void *value)
{
    H5Adelete(object, name);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert_int_ge(H5Awrite(attribute, type, value), 0);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_text(hid_t object, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, strlen(text));
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    put_attribute(object, name, type, text);
    H5Tclose(type);
}

static const char victim[] = "/weights/dense1/kernel";

static void replace_victim(hid_t file, hid_t type, int dims, const hsize_t extent[])
{
    H5Ldelete(file, victim, H5P_DEFAULT);
    hid_t space = H5Screate_simple(dims, extent, NULL);
    hid_t data = H5Dcreate2(file, victim, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert_int_ge(data, 0);
    H5Dclose(data);
    H5Sclose(space);
}

static void with_victim(hid_t file, void (*change)(hid_t data))
{
    hid_t data = H5Dopen2(file, victim, H5P_DEFAULT);
    change(data);
    H5Dclose(data);
}

static const hsize_t right_extent[] = {64, 10}, wrong_extent[] = {10, 64};

static void no_step(hid_t file)
{
    H5Adelete(file, "step");
}

static void no_seed(hid_t file)
{
    H5Adelete(file, "seed");
}

static void text_step(hid_t file)
{
    put_text(file, "step", "860");
}

static void newer(hid_t file)
{
    put_attribute(file, "format_version", H5T_NATIVE_INT, &(int){2});
}

static void bad_model(hid_t file)
{
    put_text(file, "model_text", "input 8 8 1\nconv 4 3y3\ndense 10\n");
}

static void variable_text(hid_t file)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    const char *text = small_text;
    H5Tset_size(type, H5T_VARIABLE);
    put_attribute(file, "model_text", type, &text);
    H5Tclose(type);
}

static void bad_weights_hash(hid_t file)
{
    put_text(file, "weights_hash", "0123456789abcdef");
}

static void long_fingerprint(hid_t file)
{
    put_text(file, "data_fingerprint", "0123456789abcdef0");
}

static void no_fingerprint(hid_t file)
{
    put_text(file, "data_fingerprint", "0x23456789abcdef");
}

static void no_tensor(hid_t file)
{
    H5Ldelete(file, victim, H5P_DEFAULT);
}

static void no_layer(hid_t file)
{
    H5Ldelete(file, "/weights/dense1", H5P_DEFAULT);
}

static void wrong_shape(hid_t file)
{
    replace_victim(file, H5T_IEEE_F32LE, 2, wrong_extent);
}

static void scalar(hid_t file)
{
    replace_victim(file, H5T_IEEE_F32LE, 0, NULL);
}

static void doubles(hid_t file)
{
    replace_victim(file, H5T_IEEE_F64LE, 2, right_extent);
}

static void integers(hid_t file)
{
    replace_victim(file, H5T_STD_I32LE, 2, right_extent);
}

static void without_hash(hid_t file)
{
    replace_victim(file, H5T_IEEE_F32LE, 2, right_extent);
}

static void zero(hid_t data)
{
    static const float zeros[640];
    H5Dwrite(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros);
}

static void other_values(hid_t file)
{
    with_victim(file, zero);
}

static const struct {
    void (*change)(hid_t file);
    const char *says;
} changes[] = {
    {no_step, "attribute step"},
    {no_seed, "cannot read attribute seed of /"},
    {text_step, "attribute step of / is not one number"},
    {newer, "made by a newer dtrain: format 2, this program reads 1"},
    {bad_model, "line 2"},
    {variable_text, "attribute model_text of / is not one text of fixed length"},
    {bad_weights_hash, "the hash of the weights is"},
    {long_fingerprint, "data_fingerprint of / is '0123456789abcdef0', expected 16 hex digits"},
    {no_fingerprint, "data_fingerprint of / is '0x23456789abcdef', expected 16 hex digits"},
    {no_tensor, "tensor /weights/dense1/kernel: object 'kernel' doesn't exist"},
    {no_layer, "tensor /weights/dense1/kernel: "},
    {wrong_shape, "has shape 10x64, the model needs 64x10"},
    {scalar, "has shape no shape, the model needs 64x10"},
    {doubles, "/weights/dense1/kernel does not hold little-endian 32-bit floats"},
    {integers, "does not hold little-endian 32-bit floats"},
    {without_hash, "attribute xxh64 of /weights/dense1/kernel"},
    {other_values, "tensor /weights/dense1/kernel is damaged: its hash is"},
};

START_TEST(test_changed_file)
{
    write_one();
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    changes[_i].change(file);
    ck_assert_int_ge(H5Fclose(file), 0);
    refuses_to_read(path, changes[_i].says);
}
END_TEST

START_TEST(test_failures_are_told_once)
{
    char output[512];
    snprintf(output, sizeof output, "%s/stderr", top);
    write_one();
    struct bytes bytes = load(path);
    int kept = capture_begin(STDERR_FILENO, output);
    fail_at = 1;
    fail_with = EIO;
    refuses_to_write(900, "fsync", EIO);
    save(path, bytes.data, bytes.count / 2);
    refuses_to_read(path, "damaged or cut short");
    capture_end(STDERR_FILENO, kept);
    struct bytes written = load(output);
    ck_assert_str_eq((char *)written.data, "");
    free(written.data);
    free(bytes.data);
}
END_TEST

/* ---- Others that read checkpoints ---- */

static char *print_to_text(enum dtr_status expected)
{
    char output[512];
    snprintf(output, sizeof output, "%s/stdout", top);
    int kept = capture_begin(STDOUT_FILENO, output);
    enum dtr_status status = dtr_checkpoint_print(folder, &error);
    capture_end(STDOUT_FILENO, kept);
    ck_assert_int_eq(status, expected);
    return (char *)load(output).data;
}

static void check_line(const char *text, const char *line)
{
    char whole[256];
    snprintf(whole, sizeof whole, "\n%s\n", line);
    ck_assert_msg(strstr(text, whole) != NULL, "no line '%s' in\n%s", line, text);
}

START_TEST(test_print)
{
    char line[128];
    options.learning_rate = 0.025;
    options.shuffle = false;
    options.model = "nets/small.txt";
    write_one();
    char *text = print_to_text(DTR_OK);
    ck_assert_ptr_nonnull(strstr(text, "\nFormat: 1, written by dtrain "));
    check_line(text, "Step: 860");
    check_line(text, "Epoch: 0.333333");
    check_line(text, "Parameters: 690");
    snprintf(line, sizeof line, "Weights: %016llx",
        (unsigned long long)dtr_model_hash(model, state.weights));
    check_line(text, line);
    check_line(text, "Data fingerprint: 0edcba9876543210");
    check_line(text, "  batch-size           64");
    check_line(text, "  lr                   0.025");
    check_line(text, "  shuffle              no");
    check_line(text, "  model                nets/small.txt");
    check_line(text, "  /weights/dense1/bias                           10"
                     "        0.1        0.1        0.1      0.316  OK");
    ck_assert_ptr_nonnull(strstr(text, "/optimizer/momentum/conv1/kernel          3x3x1x4"));
    free(text);
}
END_TEST

START_TEST(test_print_shows_the_bad_tensor)
{
    write_one();
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    other_values(file);
    H5Fclose(file);
    char *text = print_to_text(DTR_INPUT);
    ck_assert_ptr_nonnull(strstr(error.message, victim));
    check_line(text, "  /weights/dense1/kernel                      64x10"
                     "          -          -          -          -  BAD");
    check_line(text, "  /weights/dense1/bias                           10"
                     "        0.1        0.1        0.1      0.316  OK");
    free(text);
}
END_TEST

/* h5dump and h5py, where they are installed. */
START_TEST(test_other_programs_read_it)
{
    const char *name = strrchr(__FILE__, '/');
    free_state();
    make_state(texts[_i]);
    write_one();
    int status = run("h5dump '%s' >/dev/null 2>&1", path);
    ck_assert_msg(status == 0 || status == 127, "h5dump: %d", status);
    status = run("/usr/bin/python3 '%.*s/check_checkpoint.py' '%s' >'%s/report'",
        (int)(name - __FILE__), __FILE__, path, top);
    ck_assert_msg(status == 0 || status == 127 || status == 77, "check_checkpoint.py: %d", status);
}
END_TEST

static TCase *add_case_with_state(Suite *suite, const char *name)
{
    TCase *tcase = add_case(suite, name);
    tcase_add_checked_fixture(tcase, setup, teardown);
    return tcase;
}

static Suite *make_suite(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *writing = add_case_with_state(suite, "writing");
    tcase_add_test(writing, test_round_trip);
    tcase_add_test(writing, test_special_values_keep_their_bits);
    tcase_add_test(writing, test_checksums_that_are_zero);
    tcase_add_test(writing, test_chunks_are_filled_with_zeros);
    tcase_add_test(writing, test_slabs_are_prepared_by_the_writer);
    tcase_add_loop_test(writing, test_equal_states_give_equal_bytes, 0, 2);
    tcase_add_test(writing, test_momentum_is_written);
    tcase_add_test(writing, test_every_file_is_durable_before_it_has_its_name);
    tcase_add_loop_test(writing, test_rotation, 1, 2);
    tcase_add_loop_test(writing, test_rotation, 3, 4);
    tcase_add_test(writing, test_folder_of_another_run);
    tcase_add_test(writing, test_resumed_run_keeps_its_folder);
    tcase_add_test(writing, test_newest_that_is_good);
    tcase_add_test(writing, test_folders_that_cannot_be_written);

    TCase *failing = add_case_with_state(suite, "failing disks");
    tcase_add_loop_test(failing, test_failing_call_leaves_the_old_checkpoint, 0, 5);
    tcase_add_test(failing, test_interrupted_call_is_repeated);
    tcase_add_test(failing, test_file_size_limit);
    tcase_add_test(failing, test_full_disk);
    tcase_add_test(failing, test_vanished_folder);

    TCase *reading = add_case_with_state(suite, "files that are no good");
    tcase_add_test(reading, test_paths_without_a_checkpoint);
    tcase_add_loop_test(reading, test_changed_file, 0, sizeof changes / sizeof changes[0]);
    tcase_add_test(reading, test_failures_are_told_once);

    TCase *others = add_case_with_state(suite, "others");
    tcase_add_test(others, test_print);
    tcase_add_test(others, test_print_shows_the_bad_tensor);
    tcase_add_loop_test(others, test_other_programs_read_it, 0, 2);
    return suite;
}
