/* Checkpoints: round trip, rotation, whose the folder is, and what other programs read. */
#include "checkpoint_fixture.h"
#include "unit_main.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Its kernel takes three chunks, the last of them only partly filled. */
static const char large_text[] = "input 28 28 1\ndense 700\ndense 10\n";

/* ---- Writing ---- */

START_TEST(test_round_trip)
{
    ckpt_open_writer(3);
    ck_assert_ptr_null(dtr_checkpoint_written(ckpt.writer));
    ckpt_write_step(860);
    ck_assert_str_eq(dtr_checkpoint_written(ckpt.writer), ckpt.path);
    ckpt_check_latest("ckpt-s000000860.h5\n");
    ckpt_check_folder(ckpt_one);
    ckpt_check_file(ckpt.path);
    ckpt_check_file(ckpt.folder);
}
END_TEST

START_TEST(test_momentum_is_written)
{
    const struct dtr_tensor *tensor = &ckpt.model->tensors[0];
    float found[36];
    ck_assert_int_eq(tensor->count, 36);
    ckpt_write_one();
    hid_t file = H5Fopen(ckpt.path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t data = H5Dopen2(file, "/optimizer/momentum/conv1/kernel", H5P_DEFAULT);
    ck_assert_int_ge(H5Dread(data, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, found), 0);
    ck_assert_mem_eq(found, ckpt.state.momentum + tensor->offset, sizeof found);
    H5Dclose(data);
    H5Fclose(file);
}
END_TEST

START_TEST(test_special_values_keep_their_bits)
{
    static const uint32_t bits[] = {0x80000000, 0x7fc00001, 0xff812345, 0x7f800000, 1, 0x007fffff};
    memcpy((void *)(uintptr_t)ckpt.state.weights, bits, sizeof bits);
    ckpt_write_one();
    ckpt_check_file(ckpt.path);
}
END_TEST

/* Sums that are 0 modulo 65535 are told from sums of nothing but zeros. */
START_TEST(test_checksums_that_are_zero)
{
    const struct dtr_tensor *tensor = &ckpt.model->tensors[0];
    memset((float *)(uintptr_t)ckpt.state.weights + tensor->offset, 0xff,
        (size_t)tensor->count * sizeof(float));
    memset((float *)(uintptr_t)ckpt.state.momentum + tensor->offset, 0,
        (size_t)tensor->count * sizeof(float));
    ckpt_write_one();
    ckpt_check_file(ckpt.path);
}
END_TEST

/* The last chunk reaches beyond the tensor's end by two rows. */
START_TEST(test_chunks_are_filled_with_zeros)
{
    enum { ROW = 700, ROWS = 262 };
    static float found[ROWS * ROW + 1];
    static const float zeros[2 * ROW];
    uint32_t filters;
    ckpt_set_model(large_text);
    ckpt_write_one();
    hid_t file = H5Fopen(ckpt.path, H5F_ACC_RDONLY, H5P_DEFAULT);
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
    ((float *)(uintptr_t)ckpt.state.weights)[0] *= 2;
    return DTR_OK;
}

START_TEST(test_slabs_are_prepared_by_the_writer)
{
    float before = ckpt.state.weights[0];
    ckpt_open_writer(3);
    ckpt.state.prepare = prepare;
    ckpt_write_step(860);
    ck_assert(before != 0 && ckpt.state.weights[0] == 2 * before);
    ckpt_check_file(ckpt.path);
    ckpt.state.context = &ckpt.state;
    ckpt.state.step = 900;
    ckpt_check_error(
        dtr_checkpoint_write(ckpt.writer, &ckpt.state, &ckpt.error), DTR_FAILED, "not today");
    ckpt_check_folder(ckpt_one);
    ckpt_check_latest("ckpt-s000000860.h5\n");
}
END_TEST

static const char *const texts[] = {ckpt_small_model, large_text};

/* At another time, and on memory that held something else. */
START_TEST(test_equal_states_give_equal_bytes)
{
    ckpt_set_model(texts[_i]);
    mallopt(M_PERTURB, 0x55);
    ckpt_write_one();
    struct ckpt_bytes first = ckpt_load(ckpt.path);
    sleep(1);
    mallopt(M_PERTURB, 0x2a);
    ckpt_write_step(860);
    struct ckpt_bytes second = ckpt_load(ckpt.path);
    ck_assert_uint_eq(first.count, second.count);
    ck_assert_mem_eq(first.data, second.data, first.count);
    ckpt_check_file(ckpt.path);
    free(first.data);
    free(second.data);
}
END_TEST

START_TEST(test_rotation)
{
    ckpt_open_writer(_i);
    char foreign[512];
    snprintf(foreign, sizeof foreign, "%s/ckpt-s000000001.h5", ckpt.folder);
    ckpt_save(foreign, "not ours", 8);
    for (int64_t step = 10; step <= 50; step += 10)
        ckpt_write_step(step);
    ckpt_write_step(50);
    ckpt_check_folder(_i == 1 ? "ckpt-s000000001.h5 ckpt-s000000050.h5 latest"
                              : "ckpt-s000000001.h5 ckpt-s000000030.h5 ckpt-s000000040.h5 "
                                "ckpt-s000000050.h5 latest");
    ckpt_check_latest("ckpt-s000000050.h5\n");
    ckpt_check_file(ckpt.folder);
}
END_TEST

START_TEST(test_folder_of_another_run)
{
    ckpt_write_one();
    ckpt_write_step(1000000000);
    struct dtr_checkpoint_writer *other;
    ckpt_check_error(dtr_checkpoint_writer_create(ckpt.folder, 3, NULL, false, &other, &ckpt.error),
        DTR_USAGE, "is in use by another run (host ");
    dtr_checkpoint_writer_free(ckpt.writer);
    ckpt.writer = NULL;
    ckpt_check_error(dtr_checkpoint_writer_create(ckpt.folder, 3, NULL, false, &other, &ckpt.error),
        DTR_USAGE,
        "already holds checkpoints (newest ckpt-s1000000000.h5); go on with --resume auto,");
    ck_assert_ptr_null(other);
    ckpt_check_folder("ckpt-s000000860.h5 ckpt-s1000000000.h5 latest");
}
END_TEST

/* A run that goes on from `step`, whose name is written in another way. */
static enum dtr_status resume_in_folder(int64_t step, bool newer_are_bad)
{
    char from[600];
    snprintf(from, sizeof from, "%s/../a/ckpt-s%09lld.h5", ckpt.folder, (long long)step);
    dtr_checkpoint_writer_free(ckpt.writer);
    return dtr_checkpoint_writer_create(
        ckpt.folder, 2, from, newer_are_bad, &ckpt.writer, &ckpt.error);
}

START_TEST(test_resumed_run_keeps_its_folder)
{
    ckpt_open_writer(3);
    for (int64_t step = 10; step <= 30; step += 10)
        ckpt_write_step(step);
    ckpt_check_error(resume_in_folder(20, false), DTR_USAGE, "holds newer checkpoints than");
    ckpt.error = DTR_ERROR_NONE;
    ck_assert_int_eq(resume_in_folder(20, true), DTR_OK);
    ckpt_write_step(25); /* the newer one is not this run's, and stays until it is written again */
    ckpt_check_folder("ckpt-s000000020.h5 ckpt-s000000025.h5 ckpt-s000000030.h5 latest");
    ckpt_write_step(30);
    ckpt_check_folder("ckpt-s000000025.h5 ckpt-s000000030.h5 latest");
    ckpt_check_latest("ckpt-s000000030.h5\n");
    ck_assert_int_eq(resume_in_folder(30, false), DTR_OK);
}
END_TEST

START_TEST(test_newest_that_is_good)
{
    struct dtr_checkpoint_file file;
    char path_of[600];
    ck_assert_int_eq(dtr_checkpoint_read_newest(ckpt.folder, &file, &ckpt.error), DTR_OK);
    ck_assert_ptr_null(file.path);
    ckpt_open_writer(3);
    ck_assert_int_eq(dtr_checkpoint_read_newest(ckpt.folder, &file, &ckpt.error), DTR_OK);
    ck_assert_ptr_null(file.path);
    for (int64_t step = 10; step <= 30; step += 10)
        ckpt_write_step(step);
    for (int64_t step = 30; step >= 10; step -= 10) {
        ck_assert_int_eq(dtr_checkpoint_read_newest(ckpt.folder, &file, &ckpt.error), DTR_OK);
        ck_assert_int_eq(file.step, step);
        dtr_checkpoint_file_free(&file);
        snprintf(path_of, sizeof path_of, "%s/ckpt-s%09lld.h5", ckpt.folder, (long long)step);
        ck_assert_int_eq(truncate(path_of, 5000), 0);
    }
    ckpt_check_error(dtr_checkpoint_read_newest(ckpt.folder, &file, &ckpt.error), DTR_INPUT,
        "none of the 3 checkpoints");
    ck_assert_ptr_null(file.path);
}
END_TEST

START_TEST(test_folders_that_cannot_be_written)
{
    char file[512], below[600];
    snprintf(file, sizeof file, "%s/file", ckpt.top);
    snprintf(below, sizeof below, "%s/a/b", file);
    ckpt_save(file, "", 0);
    ckpt_check_error(dtr_checkpoint_writer_create(below, 3, NULL, false, &ckpt.writer, &ckpt.error),
        DTR_WRITE, below);
    ckpt_check_error(dtr_checkpoint_writer_create(file, 3, NULL, false, &ckpt.writer, &ckpt.error),
        DTR_WRITE, file);
    ckpt_check_error(dtr_checkpoint_writer_create("", 3, NULL, false, &ckpt.writer, &ckpt.error),
        DTR_WRITE, "cannot create");
    /* It exists, and not even root can make a file in it. */
    ckpt_check_error(
        dtr_checkpoint_writer_create("/proc", 3, NULL, false, &ckpt.writer, &ckpt.error), DTR_WRITE,
        "/proc: open");
    ck_assert_ptr_null(ckpt.writer);
}
END_TEST

/* ---- Others that read checkpoints ---- */

static char *print_to_text(enum dtr_status expected)
{
    char output[512];
    snprintf(output, sizeof output, "%s/stdout", ckpt.top);
    int kept = ckpt_capture_begin(STDOUT_FILENO, output);
    enum dtr_status status = dtr_checkpoint_print(ckpt.folder, &ckpt.error);
    ckpt_capture_end(STDOUT_FILENO, kept);
    ck_assert_int_eq(status, expected);
    return (char *)ckpt_load(output).data;
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
    ckpt.options.learning_rate = 0.025;
    ckpt.options.shuffle = false;
    ckpt.options.model = "nets/small.txt";
    ckpt_write_one();
    char *text = print_to_text(DTR_OK);
    ck_assert_ptr_nonnull(strstr(text, "\nFormat: 1, written by dtrain "));
    check_line(text, "Step: 860");
    check_line(text, "Epoch: 0.333333");
    check_line(text, "Parameters: 690");
    snprintf(line, sizeof line, "Weights: %016llx",
        (unsigned long long)dtr_model_hash(ckpt.model, ckpt.state.weights));
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
    ckpt_write_one();
    hid_t file = H5Fopen(ckpt.path, H5F_ACC_RDWR, H5P_DEFAULT);
    ckpt_damage(file);
    H5Fclose(file);
    char *text = print_to_text(DTR_INPUT);
    ck_assert_ptr_nonnull(strstr(ckpt.error.message, ckpt_victim));
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
    ckpt_set_model(texts[_i]);
    ckpt_write_one();
    int status = ckpt_shell("h5dump '%s' >/dev/null 2>&1", ckpt.path);
    ck_assert_msg(status == 0 || status == 127, "h5dump: %d", status);
    status = ckpt_shell("/usr/bin/python3 '%.*s/check_checkpoint.py' '%s' >'%s/report'",
        (int)(name - __FILE__), __FILE__, ckpt.path, ckpt.top);
    ck_assert_msg(status == 0 || status == 127 || status == 77, "check_checkpoint.py: %d", status);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("checkpoint");
    TCase *writing = add_case(suite, "writing");
    tcase_add_checked_fixture(writing, ckpt_setup, ckpt_teardown);
    tcase_add_test(writing, test_round_trip);
    tcase_add_test(writing, test_special_values_keep_their_bits);
    tcase_add_test(writing, test_checksums_that_are_zero);
    tcase_add_test(writing, test_chunks_are_filled_with_zeros);
    tcase_add_test(writing, test_slabs_are_prepared_by_the_writer);
    tcase_add_loop_test(writing, test_equal_states_give_equal_bytes, 0, 2);
    tcase_add_test(writing, test_momentum_is_written);
    tcase_add_loop_test(writing, test_rotation, 1, 2);
    tcase_add_loop_test(writing, test_rotation, 3, 4);
    tcase_add_test(writing, test_folder_of_another_run);
    tcase_add_test(writing, test_resumed_run_keeps_its_folder);
    tcase_add_test(writing, test_newest_that_is_good);
    tcase_add_test(writing, test_folders_that_cannot_be_written);

    TCase *others = add_case(suite, "others");
    tcase_add_checked_fixture(others, ckpt_setup, ckpt_teardown);
    tcase_add_test(others, test_print);
    tcase_add_test(others, test_print_shows_the_bad_tensor);
    tcase_add_loop_test(others, test_other_programs_read_it, 0, 2);
    return suite;
}
