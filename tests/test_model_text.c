/* Networks as texts and files: how they may be written, and what is refused. */
#include "model_fixture.h"
#include "unit_main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Texts that are unusual but right. */

START_TEST(test_ways_to_write_the_same)
{
    static const char *const texts[] = {
        "input 9 8 3\nconv 4 3x2 relu stride 2 valid\nmaxpool 2 stride 1\ndropout 0.25\ndense 5\n",
        "input 9 8 3\nconv 4 3x2 relu stride 2 valid\nmaxpool 2 stride 1\ndropout 0.25\ndense 5",
        "input 9 8 3\r\nconv 4 3x2 relu stride 2 valid\r\nmaxpool 2 stride 1\r\ndropout 0.25\r\n"
        "dense 5\r\n",
        "\tinput\t9\t8\t3\t\n\tconv 4\t3x2  valid stride 2 relu\n maxpool  2 stride 1 \n"
        "dropout 2.5e-1\n\n\n  dense 5\n   ",
        "# a network\n\n input 009 8 3# pixels\nconv 4 3x2 stride 2 valid relu # stride 3\n#\n"
        "maxpool 2 stride 1\n# dense 7\ndropout .25\ndense 5 #relu",
    };
    struct dtr_model *expected = model_parse(texts[0]);
    for (size_t i = 1; i < sizeof texts / sizeof *texts; i++) {
        struct dtr_model *model = model_parse(texts[i]);
        ck_assert(model_same_shape(model->input, expected->input));
        ck_assert_int_eq(model->classes, 5);
        ck_assert_int_eq(model->layer_count, 4);
        ck_assert_int_eq(model->tensor_count, 4);
        for (int j = 0; j < 4; j++) {
            ck_assert_msg(model_same_layer(&model->layers[j], &expected->layers[j]), "text %zu", i);
            ck_assert_msg(
                model_same_tensor(&model->tensors[j], &expected->tensors[j]), "text %zu", i);
        }
        ck_assert_int_eq(model->slab_count, expected->slab_count);
        dtr_model_free(model);
    }
    dtr_model_free(expected);
}
END_TEST

START_TEST(test_limits_are_allowed)
{
    static const char *const texts[] = {
        "input 1 1 1\ndense 2\n",
        "input 1 1 1\ndense 256\n",
        "input 65535 1 1\nconv 1 1x65535 stride 65535\ndense 2\n",
        "input 300 300 1\nmaxpool 255 stride 65535\ndense 2\n",
        "input 4 4 1\ndropout 0\ndropout 0.999999\ndense 2\n",
        "input 1 1 1\ndense 16777216\ndense 2\n",
        "input 2 3 1\nconv 1 9x9\ndense 2\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        dtr_model_free(model_parse(texts[i]));
}
END_TEST

START_TEST(test_number_of_layers)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model;
    char *text = model_deep_text(200);
    model = model_parse(text);
    ck_assert_int_eq(model->layer_count, 200);
    ck_assert_str_eq(model->layers[199].name, "dense200");
    ck_assert_str_eq(model->tensors[399].name, "dense200/bias");
    dtr_model_free(model);
    free(text);
    text = model_deep_text(201);
    ck_assert_int_eq(dtr_model_parse(text, "net.txt", &model, &error), DTR_INPUT);
    ck_assert_str_eq(error.message, "net.txt, line 202: more than 200 layers");
    free(text);
}
END_TEST

/* Texts that are wrong: the line, 0 if none is named, and part of the reason. */

#define IN "input 8 8 3\n"

static const struct {
    const char *text;
    int line;
    const char *reason;
} wrong[] = {
    {"", 0, "has no layers"},
    {"# nothing\n", 0, "has no layers"},
    {IN, 0, "has no layers"},
    {"dense 10\n", 1, "the first line must be 'input HEIGHT WIDTH CHANNELS'"},
    {"\n\ndense 10\n" IN, 3, "the first line must be 'input"},
    {IN IN "dense 10\n", 2, "input is given twice"},
    {"input\n", 1, "input needs a height"},
    {"input 8\n", 1, "input needs a width"},
    {"input 8 8\n", 1, "input needs a number of channels"},
    {"input 8 8 3 4\n", 1, "unexpected '4'; takes HEIGHT WIDTH CHANNELS"},
    {"input 0 8 3\n", 1, "a height is '0', must be a whole number from 1 to 65535"},
    {"input 8 65536 3\n", 1, "a width is '65536', must be a whole number from 1 to 65535"},
    {"input 8 8 -3\n", 1, "a number of channels is '-3'"},
    {"input 8 8 +3\n", 1, "'+3'"},
    {"input 8 8 3.0\n", 1, "'3.0'"},
    {"input 8 8 0x3\n", 1, "'0x3'"},
    {"input 8 8 3,\n", 1, "'3,'"},
    {"input 8 8 18446744073709551619\n", 1, "'18446744073709551619'"},
    {IN "Conv 8 3x3\n", 2, "unknown layer 'Conv'; known are input, conv, maxpool, dense, dropout"},
    {IN "relu\n", 2, "unknown layer 'relu'"},
    {IN "convolution 8 3x3\n", 2, "unknown layer 'convolution'"},
    {"\xEF\xBB\xBF" IN, 1, "unknown layer"},
    {"# a\r\n\r\n" IN "\tbad\r\n", 4, "unknown layer 'bad'"},
    {IN "conv\n", 2, "conv needs a number of output channels"},
    {IN "conv 0 3x3\n", 2, "a number of output channels is '0'"},
    {IN "conv 16777217 1x1\n", 2, "must be a whole number from 1 to 16777216"},
    {IN "conv 3x3 8\n", 2, "a number of output channels is '3x3'"},
    {IN "conv 8\n", 2, "conv needs a kernel such as 5x5"},
    {IN "conv 8 3\n", 2, "conv: kernel is '3', must be like 5x5"},
    {IN "conv 8 3x\n", 2, "kernel is '3x'"},
    {IN "conv 8 x3\n", 2, "kernel is 'x3'"},
    {IN "conv 8 3X3\n", 2, "kernel is '3X3'"},
    {IN "conv 8 3x3x3\n", 2, "kernel is '3x3x3'"},
    {IN "conv 8 0x3\n", 2, "kernel is '0x3'"},
    {IN "conv 8 3x0\n", 2, "kernel is '3x0'"},
    {IN "conv 8 -3x3\n", 2, "kernel is '-3x3'"},
    {IN "conv 8 3x65536\n", 2, "kernel is '3x65536'"},
    {IN "conv 8 3x3 same\n", 2, "unexpected 'same'; takes OUT KHxKW [relu] [stride N] [valid]"},
    {IN "conv 8 3x3 stride\n", 2, "conv needs a stride"},
    {IN "conv 8 3x3 stride 0\n", 2, "conv: a stride is '0'"},
    {IN "conv 8 3x3 stride relu\n", 2, "a stride is 'relu'"},
    {IN "conv 8 9x3 valid\n", 2, "a valid 9x3 kernel does not fit into 8x8"},
    {IN "conv 8 3x9 valid\n", 2, "a valid 3x9 kernel does not fit into 8x8"},
    {IN "conv 8 3x3 relu valid stride 1 2 3\n", 2, "more than 8 words"},
    {IN "maxpool\n", 2, "maxpool needs a window size"},
    {IN "maxpool 0\n", 2, "a window size is '0', must be a whole number from 1 to 255"},
    {IN "maxpool 256\n", 2, "a window size is '256'"},
    {IN "maxpool 2x2\n", 2, "a window size is '2x2'"},
    {IN "maxpool 2 2\n", 2, "unexpected '2'; takes SIZE [stride N]"},
    {IN "maxpool 2 relu\n", 2, "unexpected 'relu'"},
    {IN "maxpool 2 stride\n", 2, "maxpool needs a stride"},
    {IN "maxpool 2 stride 0\n", 2, "a stride is '0'"},
    {IN "maxpool 9\n", 2, "a window of 9 does not fit into 8x8"},
    {"input 8 2 1\nmaxpool 3\n", 2, "a window of 3 does not fit into 8x2"},
    {IN "maxpool 2\nmaxpool 2\nmaxpool 2\nmaxpool 2\n", 5, "does not fit into 1x1"},
    {IN "dense\n", 2, "dense needs a number of outputs"},
    {IN "dense 0\n", 2, "a number of outputs is '0'"},
    {IN "dense ten\n", 2, "a number of outputs is 'ten'"},
    {IN "dense 10 softmax\n", 2, "unexpected 'softmax'; takes OUT [relu]"},
    {IN "dense 10 relu relu\n", 2, "unexpected 'relu'"},
    {IN "dropout\ndense 10\n", 2, "dropout needs a rate"},
    {IN "dropout 1\ndense 10\n", 2, "rate is '1', must be at least 0 and less than 1"},
    {IN "dropout -0.1\ndense 10\n", 2, "rate is '-0.1'"},
    {IN "dropout nan\ndense 10\n", 2, "rate is 'nan'"},
    {IN "dropout half\ndense 10\n", 2, "rate is 'half'"},
    {IN "dropout 50%\ndense 10\n", 2, "rate is '50%'"},
    {IN "dropout 0,5\ndense 10\n", 2, "rate is '0,5'"},
    {IN "dropout 0.5 0.5\ndense 10\n", 2, "unexpected '0.5'; takes RATE"},
    {IN "conv 8 3x3\n", 2, "the last layer must be 'dense CLASSES' without relu"},
    {IN "dense 10 relu\n", 2, "the last layer must be 'dense CLASSES' without relu"},
    {IN "dense 10\ndropout 0.5\n# end\n", 3, "the last layer must be 'dense CLASSES'"},
    {IN "dense 1\n", 2, "1 classes; labels are bytes, so 2 to 256 are possible"},
    {IN "dense 257\n", 2, "257 classes"},
    {"input 1 1 65535\ndense 16777216\n", 2, "dense1 has more than 2147483648 parameters"},
    {"input 65535 65535 65535\nconv 16777216 65535x65535\n", 2, "conv1 has more than 2147483648"},
    {"input 65535 65535 65535\ndense 16777216\n", 2, "dense1 has more than 2147483648"},
    {"input 1 1 1024\ndense 1048576\ndense 1024\n", 3,
        "the network has more than 2147483648 parameters here"},
    {"input 65535 65535 1\nconv 1 1x1\n", 2, "conv1 puts out more than 2147483648 values a sample"},
    {"input 65535 65535 1\ndropout 0.5\n", 2, "dropout1 puts out more than 2147483648"},
};

START_TEST(test_wrong_text)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model untouched, *model = &untouched; /* must become NULL */
    char expected[100] = "net.txt: ";
    if (wrong[_i].line > 0)
        snprintf(expected, sizeof expected, "net.txt, line %d: ", wrong[_i].line);
    ck_assert_int_eq(dtr_model_parse(wrong[_i].text, "net.txt", &model, &error), DTR_INPUT);
    ck_assert_int_eq(error.status, DTR_INPUT);
    ck_assert_ptr_null(model);
    ck_assert_msg(strncmp(error.message, expected, strlen(expected)) == 0, "'%s': %s",
        wrong[_i].text, error.message);
    ck_assert_msg(
        strstr(error.message, wrong[_i].reason) != NULL, "'%s': %s", wrong[_i].text, error.message);
    ck_assert_ptr_null(strchr(error.message, '\n'));
}
END_TEST

START_TEST(test_endless_word)
{
    enum { LENGTH = 100000 };
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model;
    char *text = malloc(LENGTH + 1);
    memset(text, 'x', LENGTH);
    text[LENGTH] = '\0';
    ck_assert_int_eq(dtr_model_parse(text, "net.txt", &model, &error), DTR_INPUT);
    ck_assert_ptr_nonnull(strstr(error.message, "net.txt, line 1: unknown layer 'xxx"));
    free(text);
}
END_TEST

/* Files. The folder is made and removed in the parent process, so that failed tests leave none. */

static char folder[256], path[300];
static const char good_text[] = "input 5 7 3\nconv 5 3x3 relu\ndense 11\n";

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_model_text.XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(folder) == NULL)
        abort();
    snprintf(path, sizeof path, "%s/net.txt", folder);
}

static void remove_file(void)
{
    remove(path);
}

static void remove_folder(void)
{
    remove_file();
    rmdir(folder);
}

static void write_file(const char *bytes, size_t count)
{
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, count, file), count);
    ck_assert_int_eq(fclose(file), 0);
}

static void check_refused(const char *name, const char *reason)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model untouched, *model = &untouched; /* must become NULL */
    ck_assert_int_eq(dtr_model_load(name, &model, &error), DTR_INPUT);
    ck_assert_int_eq(error.status, DTR_INPUT);
    ck_assert_ptr_null(model);
    ck_assert_msg(strstr(error.message, name) != NULL, "%s", error.message);
    ck_assert_msg(strstr(error.message, reason) != NULL, "%s", error.message);
}

static void check_loads(const char *name, const char *text)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_model *model = NULL;
    ck_assert_msg(dtr_model_load(name, &model, &error) == DTR_OK, "%s", error.message);
    ck_assert_str_eq(model->text, text);
    dtr_model_free(model);
}

START_TEST(test_load)
{
    ck_assert_ptr_null(dtr_model_builtin("mnist"));
    ck_assert_ptr_null(dtr_model_builtin(""));
    check_loads("mnist-cnn", dtr_model_builtin("mnist-cnn"));
    write_file(good_text, strlen(good_text));
    check_loads(path, good_text);
    dtr_model_free(NULL);
}
END_TEST

START_TEST(test_load_wrong_files)
{
    char below[400];
    check_refused(path, "neither a built-in model (mnist-cnn) nor a readable model file: No such");
    check_refused("mnist_cnn", "neither a built-in model (mnist-cnn) nor a readable model file");
    check_refused("", "neither a built-in model");
    check_refused(folder, "is not a model file");
    check_refused("/dev/null", "is not a model file");
    write_file("", 0);
    check_refused(path, "has no layers");
    write_file("input 8 8 3\ndense ten\n", 22);
    check_refused(path, "net.txt, line 2: dense: a number of outputs is 'ten'");
    write_file("input 8 8 3\0dense 10\n", 21);
    check_refused(path, "it is binary");
    write_file("\0", 1);
    check_refused(path, "it is binary");
    snprintf(below, sizeof below, "%s/below", path);
    check_refused(below, "Not a directory");
    remove_file();
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    check_refused(path, "is not a model file");
}
END_TEST

START_TEST(test_load_large_files)
{
    enum { LIMIT = 1 << 20 };
    const size_t count = strlen(good_text);
    char *text = malloc(LIMIT + 2);
    memset(text, ' ', LIMIT + 1);
    text[LIMIT] = text[LIMIT + 1] = '\0';
    memcpy(text, good_text, count);
    write_file(text, LIMIT);
    check_loads(path, text);
    text[LIMIT] = ' ';
    write_file(text, LIMIT + 1);
    check_refused(path, "is not a model file (a text of at most 1 MB)");
    free(text);
}
END_TEST

START_TEST(test_load_unreadable)
{
    if (geteuid() == 0)
        return; /* may read everything */
    write_file(good_text, strlen(good_text));
    ck_assert_int_eq(chmod(path, 0), 0);
    check_refused(path, "Permission denied");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("model text");
    TCase *text = add_case(suite, "text");
    tcase_add_test(text, test_ways_to_write_the_same);
    tcase_add_test(text, test_limits_are_allowed);
    tcase_add_test(text, test_number_of_layers);
    tcase_add_loop_test(text, test_wrong_text, 0, sizeof wrong / sizeof *wrong);
    tcase_add_test(text, test_endless_word);

    TCase *files = add_case(suite, "files");
    tcase_add_unchecked_fixture(files, make_folder, remove_folder);
    tcase_add_checked_fixture(files, remove_file, NULL);
    tcase_add_test(files, test_load);
    tcase_add_test(files, test_load_wrong_files);
    tcase_add_test(files, test_load_large_files);
    tcase_add_test(files, test_load_unreadable);
    return suite;
}
