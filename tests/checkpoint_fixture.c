#include "checkpoint_fixture.h"

#include "dtrain/memory.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

const char ckpt_small_model[] = "input 8 8 1  # small\nconv 4 3x3 relu\nmaxpool 2\ndense 10\n";
const char ckpt_one[] = "ckpt-s000000860.h5 latest";
const char ckpt_victim[] = "/weights/dense1/kernel";

struct ckpt ckpt;

/* HDF5 loses a little memory of its own over a damaged file. LeakSanitizer asks for this. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

static const float *random_slab(uint64_t seed)
{
    float *slab = dtr_alloc(ckpt.model->slab_count, sizeof *slab, "a test", &ckpt.error);
    ck_assert_ptr_nonnull(slab);
    dtr_model_initialize(ckpt.model, seed, slab);
    return slab;
}

static void make_state(const char *text)
{
    ck_assert_int_eq(dtr_model_parse(text, "test", &ckpt.model, &ckpt.error), DTR_OK);
    dtr_options_default(&ckpt.options);
    ckpt.options.seed = INT64_MAX;
    ckpt.state = (struct dtr_checkpoint){
        .model = ckpt.model,
        .options = &ckpt.options,
        .step = 860,
        .epoch = 1.0 / 3,
        .data_fingerprint = 0x0edcba9876543210,
        .weights = random_slab(1),
        .momentum = random_slab(2),
    };
}

static void free_state(void)
{
    free((void *)(uintptr_t)ckpt.state.weights);
    free((void *)(uintptr_t)ckpt.state.momentum);
    dtr_model_free(ckpt.model);
}

void ckpt_setup(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(ckpt.top, sizeof ckpt.top, "%s/dtrain-test-XXXXXX", parent != NULL ? parent : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(ckpt.top));
    snprintf(ckpt.folder, sizeof ckpt.folder, "%s/runs/a", ckpt.top);
    snprintf(ckpt.path, sizeof ckpt.path, "%s/ckpt-s000000860.h5", ckpt.folder);
    make_state(ckpt_small_model);
}

void ckpt_teardown(void)
{
    ckpt_check_closed();
    dtr_checkpoint_writer_free(ckpt.writer);
    free_state();
    ck_assert_int_eq(ckpt_shell("rm -rf '%s'", ckpt.top), 0);
}

void ckpt_set_model(const char *text)
{
    free_state();
    make_state(text);
}

void ckpt_open_writer(int64_t keep)
{
    enum dtr_status status = dtr_checkpoint_writer_create(
        ckpt.folder, keep, NULL, false, &ckpt.writer, &ckpt.error);
    ck_assert_msg(status == DTR_OK, "%s", ckpt.error.message);
}

void ckpt_write_step(int64_t step)
{
    ckpt.state.step = step;
    ck_assert_msg(dtr_checkpoint_write(ckpt.writer, &ckpt.state, &ckpt.error) == DTR_OK, "%s",
        ckpt.error.message);
}

void ckpt_write_one(void)
{
    ckpt_open_writer(3);
    ckpt_write_step(860);
}

void ckpt_check_closed(void)
{
    ck_assert_int_eq(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
}

void ckpt_check_error(enum dtr_status status, enum dtr_status expected, const char *says)
{
    ck_assert_msg(
        status == expected && ckpt.error.status == expected, "%d: %s", status, ckpt.error.message);
    ck_assert_msg(
        strstr(ckpt.error.message, says) != NULL, "'%s' lacks '%s'", ckpt.error.message, says);
    ck_assert_ptr_null(strchr(ckpt.error.message, '\n'));
}

void ckpt_check_refused(const char *where, const char *says)
{
    struct dtr_checkpoint_file file;
    ckpt_check_error(dtr_checkpoint_read(where, &file, &ckpt.error), DTR_INPUT, says);
    ck_assert_msg(strstr(ckpt.error.message, ckpt.top) != NULL, "%s", ckpt.error.message);
    ck_assert_ptr_null(file.model);
    ck_assert_ptr_null(file.weights);
    ckpt_check_closed();
}

void ckpt_check_file(const char *where)
{
    struct dtr_checkpoint_file file;
    ck_assert_msg(
        dtr_checkpoint_read(where, &file, &ckpt.error) == DTR_OK, "%s", ckpt.error.message);
    ck_assert_str_eq(file.model->text, ckpt.model->text);
    ck_assert_int_eq(file.step, ckpt.state.step);
    ck_assert(file.epoch == ckpt.state.epoch);
    ck_assert_uint_eq(file.data_fingerprint, ckpt.state.data_fingerprint);
    ck_assert_int_eq(file.seed, ckpt.options.seed);
    ck_assert_uint_eq(file.weights_hash, dtr_model_hash(ckpt.model, ckpt.state.weights));
    ck_assert_mem_eq(
        file.weights, ckpt.state.weights, (size_t)ckpt.model->slab_count * sizeof(float));
    ck_assert_mem_eq(
        file.momentum, ckpt.state.momentum, (size_t)ckpt.model->slab_count * sizeof(float));
    ck_assert_ptr_nonnull(strstr(file.path, "ckpt-s"));
    dtr_checkpoint_file_free(&file);
    ck_assert_ptr_null(file.model);
    ckpt_check_closed();
}

void ckpt_damage(hid_t file)
{
    static const float zeros[64 * 10];
    hid_t data = H5Dopen2(file, ckpt_victim, H5P_DEFAULT);
    H5Dwrite(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros);
    H5Dclose(data);
}

struct ckpt_bytes ckpt_load(const char *path)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fstat(fileno(file), &info), 0);
    struct ckpt_bytes bytes = {(size_t)info.st_size, calloc(1, (size_t)info.st_size + 1)};
    ck_assert_uint_eq(fread(bytes.data, 1, bytes.count, file), bytes.count);
    fclose(file);
    return bytes;
}

void ckpt_save(const char *path, const void *data, size_t count)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, count, file), count);
    ck_assert_int_eq(fclose(file), 0);
}

static int no_dots(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
           strcmp(entry->d_name, ".lock") != 0;
}

void ckpt_check_folder(const char *expected)
{
    char found[1024] = "";
    struct dirent **entries;
    int count = scandir(ckpt.folder, &entries, no_dots, alphasort);
    ck_assert_int_ge(count, 0);
    for (int i = 0; i < count; i++) {
        size_t used = strlen(found);
        snprintf(found + used, sizeof found - used, "%s%s", i == 0 ? "" : " ", entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    ck_assert_str_eq(found, expected);
}

void ckpt_check_latest(const char *expected)
{
    char latest[512];
    snprintf(latest, sizeof latest, "%s/latest", ckpt.folder);
    struct ckpt_bytes bytes = ckpt_load(latest);
    ck_assert_str_eq((char *)bytes.data, expected);
    free(bytes.data);
}

int ckpt_capture_begin(int fd, const char *path)
{
    int kept = dup(fd), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(dup2(file, fd), fd);
    close(file);
    return kept;
}

void ckpt_capture_end(int fd, int kept)
{
    fflush(NULL);
    dup2(kept, fd);
    close(kept);
}

int ckpt_shell(const char *format, ...)
{
    char command[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return WEXITSTATUS(system(command));
}
