/*
 * Channel blocks and pixels: where every float lies, and that padding channels are zero.
 */
#include "dtrain/kernel.h"
#include "dtrain/random.h"
#include "unit_main.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t blocks[] = {1, 2, 3, 5, 8, 16, 64};
enum { BLOCKS = sizeof blocks / sizeof *blocks };

static struct dtr_shape random_shape(struct dtr_random *random)
{
    return (struct dtr_shape){1 + dtr_random_below(random, 5), 1 + dtr_random_below(random, 5),
        1 + dtr_random_below(random, 70)};
}

/* As the header defines it: [n, ceil(c / b), h, w, b]. */
static int64_t offset_of(
    struct dtr_shape shape, int64_t block, int64_t n, int64_t y, int64_t x, int64_t c)
{
    int64_t planes = (shape.c + block - 1) / block;
    return (((n * planes + c / block) * shape.h + y) * shape.w + x) * block + c % block;
}

/* Calls check for every channel of every pixel, those of the padding included. */
typedef void check_float(struct dtr_shape shape, int64_t n, int64_t y, int64_t x, int64_t c,
    float value, const void *expected);

static void check_floats(struct dtr_shape shape, int64_t block, int64_t n, const float *values,
    check_float *check, const void *expected)
{
    int64_t channels = (shape.c + block - 1) / block * block;
    ck_assert_int_eq(dtr_layout_count(shape, block, n), n * shape.h * shape.w * channels);
    for (int64_t i = 0; i < n * shape.h * shape.w * channels; i++) {
        int64_t c = i % channels, x = i / channels % shape.w;
        int64_t y = i / channels / shape.w % shape.h, sample = i / channels / shape.w / shape.h;
        float value = values[offset_of(shape, block, sample, y, x, c)];
        check(shape, sample, y, x, c, value, expected);
    }
}

/* malloc's exact size lets the sanitizer see a write beyond the end. */
static float *nan_floats(int64_t count)
{
    float *floats = malloc((size_t)count * sizeof *floats);
    for (int64_t i = 0; i < count; i++)
        floats[i] = NAN;
    return floats;
}

static void check_converted(struct dtr_shape shape, int64_t n, int64_t y, int64_t x, int64_t c,
    float value, const void *expected)
{
    const float *plain = expected; /* [n, h, w, c] */
    int64_t at = ((n * shape.h + y) * shape.w + x) * shape.c + c;
    ck_assert_float_eq(value, c < shape.c ? plain[at] : 0);
}

START_TEST(test_convert)
{
    enum { N = 2 };
    struct dtr_random random = dtr_random_at(1, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int k = 0; k < 150; k++) {
        struct dtr_shape shape = random_shape(&random);
        int64_t first = blocks[dtr_random_below(&random, BLOCKS)];
        int64_t second = k % 3 == 0 ? shape.c : blocks[dtr_random_below(&random, BLOCKS)];
        int64_t count = N * dtr_shape_count(shape);
        float *plain = nan_floats(count), *back = nan_floats(count);
        float *one = nan_floats(dtr_layout_count(shape, first, N));
        float *two = nan_floats(dtr_layout_count(shape, second, N));
        for (int64_t i = 0; i < count; i++)
            plain[i] = (float)dtr_random_uniform(&random);
        dtr_layout_convert(shape, N, plain, shape.c, one, first);
        check_floats(shape, first, N, one, check_converted, plain);
        dtr_layout_convert(shape, N, one, first, two, second);
        check_floats(shape, second, N, two, check_converted, plain);
        dtr_layout_convert(shape, N, two, second, back, shape.c);
        ck_assert_mem_eq(back, plain, (size_t)count * sizeof *plain);
        free(plain);
        free(back);
        free(one);
        free(two);
    }
}
END_TEST

static void check_pixel(struct dtr_shape shape, int64_t n, int64_t y, int64_t x, int64_t c,
    float value, const void *expected)
{
    (void)n;
    const uint8_t *pixels = expected;
    int64_t at = (y * shape.w + x) * shape.c + c;
    ck_assert_float_eq(value, c < shape.c ? ((float)pixels[at] - 127.5f) / 255.0f : 0);
}

START_TEST(test_scale_pixels)
{
    struct dtr_random random = dtr_random_at(2, DTR_RANDOM_SYNTHETIC, 0, 0, 0);
    for (int k = 0; k < 60; k++) {
        struct dtr_shape shape = random_shape(&random);
        shape.c = k % 2 == 0 ? 1 : 1 + k % 5;
        uint8_t *pixels = malloc((size_t)dtr_shape_count(shape));
        for (int64_t i = 0; i < dtr_shape_count(shape); i++)
            pixels[i] = (uint8_t)dtr_random_u32(&random);
        for (size_t b = 0; b < BLOCKS; b++) {
            float *dst = nan_floats(dtr_layout_count(shape, blocks[b], 1));
            dtr_scale_pixels(shape, pixels, blocks[b], dst);
            check_floats(shape, blocks[b], 1, dst, check_pixel, pixels);
            free(dst);
        }
        free(pixels);
    }
}
END_TEST

START_TEST(test_scale_range)
{
    const uint8_t pixels[] = {0, 255};
    float values[2];
    dtr_scale_pixels((struct dtr_shape){1, 2, 1}, pixels, 1, values);
    ck_assert_float_eq(values[0], -0.5f);
    ck_assert_float_eq(values[1], 0.5f);
}
END_TEST

START_TEST(test_no_pixels)
{
    struct dtr_shape shape = {3, 2, 5};
    float *dst = nan_floats(dtr_layout_count(shape, 8, 1));
    dtr_scale_pixels(shape, NULL, 8, dst);
    for (int64_t i = 0; i < dtr_layout_count(shape, 8, 1); i++)
        ck_assert_float_eq(dst[i], 0);
    free(dst);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("layout");
    TCase *tcase = tcase_create("blocks");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_convert);
    tcase_add_test(tcase, test_scale_pixels);
    tcase_add_test(tcase, test_scale_range);
    tcase_add_test(tcase, test_no_pixels);
    suite_add_tcase(suite, tcase);
    return suite;
}
