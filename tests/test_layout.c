/*
 * Layouts and pixels: where every float lies, that channels beyond the last are zero, and that the
 * border around an image stays as it is.
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

static struct dtr_layout random_layout(struct dtr_random *random, int64_t block)
{
    struct dtr_layout layout = {.block = block};
    if (dtr_random_below(random, 2) == 0)
        return layout;
    layout.top = dtr_random_below(random, 3);
    layout.left = dtr_random_below(random, 3);
    layout.bottom = dtr_random_below(random, 3);
    layout.right = dtr_random_below(random, 3);
    return layout;
}

/* Calls check for every channel of every pixel, those beyond the last channel included; the border
 * has to be NaN. */
typedef void check_float(struct dtr_shape shape, int64_t n, int64_t y, int64_t x, int64_t c,
    float value, const void *expected);

/* As the header defines it: [n][ceil(c / b)][top + h + bottom][left + w + right][b]. */
static void check_floats(struct dtr_shape shape, struct dtr_layout layout, int64_t n,
    const float *values, check_float *check, const void *expected)
{
    int64_t blocks_count = (shape.c + layout.block - 1) / layout.block;
    int64_t height = layout.top + shape.h + layout.bottom;
    int64_t width = layout.left + shape.w + layout.right;
    ck_assert_int_eq(dtr_layout_row(shape, layout), width * layout.block);
    ck_assert_int_eq(dtr_layout_plane(shape, layout), height * width * layout.block);
    ck_assert_int_eq(
        dtr_layout_sample(shape, layout), blocks_count * height * width * layout.block);
    for (int64_t i = 0; i < n * dtr_layout_sample(shape, layout); i++) {
        int64_t c = i % layout.block, x = i / layout.block % width - layout.left;
        int64_t y = i / layout.block / width % height - layout.top;
        int64_t plane = i / layout.block / width / height;
        if (y < 0 || y >= shape.h || x < 0 || x >= shape.w)
            ck_assert(isnan(values[i]));
        else
            check(shape, plane / blocks_count, y, x, plane % blocks_count * layout.block + c,
                values[i], expected);
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
        struct dtr_layout whole = {.block = shape.c};
        struct dtr_layout first = random_layout(&random, blocks[dtr_random_below(&random, BLOCKS)]);
        struct dtr_layout second = random_layout(
            &random, k % 3 == 0 ? shape.c : blocks[dtr_random_below(&random, BLOCKS)]);
        int64_t count = N * dtr_shape_count(shape);
        float *plain = nan_floats(count), *back = nan_floats(count);
        float *one = nan_floats(N * dtr_layout_sample(shape, first));
        float *two = nan_floats(N * dtr_layout_sample(shape, second));
        for (int64_t i = 0; i < count; i++)
            plain[i] = (float)dtr_random_uniform(&random);
        dtr_layout_convert(shape, N, plain, whole, one, first);
        check_floats(shape, first, N, one, check_converted, plain);
        dtr_layout_convert(shape, N, one, first, two, second);
        check_floats(shape, second, N, two, check_converted, plain);
        dtr_layout_convert(shape, N, two, second, back, whole);
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
            struct dtr_layout layout = random_layout(&random, blocks[b]);
            float *dst = nan_floats(dtr_layout_sample(shape, layout));
            dtr_scale_pixels(shape, pixels, layout, dst);
            check_floats(shape, layout, 1, dst, check_pixel, pixels);
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
    dtr_scale_pixels((struct dtr_shape){1, 2, 1}, pixels, (struct dtr_layout){.block = 1}, values);
    ck_assert_float_eq(values[0], -0.5f);
    ck_assert_float_eq(values[1], 0.5f);
}
END_TEST

static void check_zero(struct dtr_shape shape, int64_t n, int64_t y, int64_t x, int64_t c,
    float value, const void *expected)
{
    (void)shape, (void)n, (void)y, (void)x, (void)c, (void)expected;
    ck_assert_float_eq(value, 0);
}

START_TEST(test_no_pixels)
{
    struct dtr_shape shape = {3, 2, 5};
    struct dtr_layout layouts[] = {{.block = 8}, {5, 1, 2, 3, 4}, {2, 1, 0, 0, 1}};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        float *dst = nan_floats(dtr_layout_sample(shape, layouts[i]));
        dtr_scale_pixels(shape, NULL, layouts[i], dst);
        check_floats(shape, layouts[i], 1, dst, check_zero, NULL);
        free(dst);
    }
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("layout");
    TCase *tcase = add_case(suite, "blocks");
    tcase_add_test(tcase, test_convert);
    tcase_add_test(tcase, test_scale_pixels);
    tcase_add_test(tcase, test_scale_range);
    tcase_add_test(tcase, test_no_pixels);
    return suite;
}
