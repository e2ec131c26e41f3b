/* Checkpoints that are no good: none there, or changed (campaign/damage.c: damaged ones). */
#include "checkpoint_fixture.h"
#include "unit_main.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

START_TEST(test_paths_without_a_checkpoint)
{
    char where[512], latest[512];
    snprintf(where, sizeof where, "%s/nothing", ckpt.top);
    ckpt_check_refused(where, strerror(ENOENT));
    ckpt_check_refused(ckpt.top, "no checkpoint in this folder");
    snprintf(where, sizeof where, "%s/text", ckpt.top);
    ckpt_save(where, "weights", 7);
    ckpt_check_refused(where, "not an HDF5 file");
    ckpt_save(where, "", 0);
    ckpt_check_refused(where, "not an HDF5 file");

    ckpt_write_one();
    unlink(ckpt.path);
    ckpt_check_refused(ckpt.folder, "ckpt-s000000860.h5: No such file");
    snprintf(latest, sizeof latest, "%s/latest", ckpt.folder);
    ckpt_save(latest, "../x\n", 5);
    ckpt_check_refused(ckpt.folder, "does not hold a file name");
    ckpt_save(latest, "", 0);
    ckpt_check_refused(ckpt.folder, "does not hold a file name");
    ckpt_save(latest, ".\n", 2);
    ckpt_check_refused(ckpt.folder, "not a regular file");
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

static void replace_victim(hid_t file, hid_t type, int dims, const hsize_t extent[])
{
    H5Ldelete(file, ckpt_victim, H5P_DEFAULT);
    hid_t space = H5Screate_simple(dims, extent, NULL);
    hid_t data = H5Dcreate2(file, ckpt_victim, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert_int_ge(data, 0);
    H5Dclose(data);
    H5Sclose(space);
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
    const char *text = ckpt_small_model;
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
    H5Ldelete(file, ckpt_victim, H5P_DEFAULT);
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
    {ckpt_damage, "tensor /weights/dense1/kernel is damaged: its hash is"},
};

START_TEST(test_changed_file)
{
    ckpt_write_one();
    hid_t file = H5Fopen(ckpt.path, H5F_ACC_RDWR, H5P_DEFAULT);
    changes[_i].change(file);
    ck_assert_int_ge(H5Fclose(file), 0);
    ckpt_check_refused(ckpt.path, changes[_i].says);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("checkpoint_files");
    TCase *reading = add_case(suite, "files that are no good");
    tcase_add_checked_fixture(reading, ckpt_setup, ckpt_teardown);
    tcase_add_test(reading, test_paths_without_a_checkpoint);
    tcase_add_loop_test(reading, test_changed_file, 0, sizeof changes / sizeof changes[0]);
    return suite;
}
