#include "dtrain/synthetic.h"

#include "dtrain/dataset.h"
#include "unit_main.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE = DTR_SYNTHETIC_SIDE, PIXELS = SIDE * SIDE, CLASSES = DTR_SYNTHETIC_CLASSES };

/* Images with what lies around them, to see that a call fills its image and nothing else. */
struct sample {
    uint8_t before[8], image[PIXELS], after[8];
    uint8_t label;
};

static const uint64_t seed = 66478;

static struct sample draw(uint64_t from_seed, enum dtr_split split, int64_t index, int fill)
{
    struct sample sample;
    memset(&sample, fill, sizeof sample);
    sample.label = dtr_synthetic_digit(from_seed, split, index, sample.image);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(sample.before[i], fill);
        ck_assert_int_eq(sample.after[i], fill);
    }
    return sample;
}

static void check_equal(const struct sample *a, const struct sample *b)
{
    ck_assert_int_eq(a->label, b->label);
    ck_assert_mem_eq(a->image, b->image, PIXELS);
}

static int64_t count_different_pixels(const struct sample *a, const struct sample *b)
{
    int64_t count = 0;
    for (int i = 0; i < PIXELS; i++)
        count += a->image[i] != b->image[i];
    return count;
}

START_TEST(test_same_arguments_give_the_same_image)
{
    for (int64_t index = 0; index < 200; index++) {
        struct sample a = draw(seed, DTR_TRAIN, index, 0x00);
        struct sample b = draw(seed, DTR_TRAIN, index, 0xFF);
        check_equal(&a, &b);
    }
}
END_TEST

START_TEST(test_order_of_calls_does_not_matter)
{
    enum { COUNT = 200 };
    static struct sample samples[COUNT];
    for (int64_t index = 0; index < COUNT; index++)
        samples[index] = draw(seed, DTR_TRAIN, index, 0);
    for (int64_t index = COUNT - 1; index >= 0; index -= 3) {
        draw(seed + 1, DTR_TEST, index * index, 0);
        struct sample again = draw(seed, DTR_TRAIN, index, 0);
        check_equal(&samples[index], &again);
    }
}
END_TEST

/* Every bit of each argument counts, the upper ones too. */
START_TEST(test_other_arguments_give_another_image)
{
    const int64_t index = 7;
    struct sample image = draw(seed, DTR_TRAIN, index, 0);
    struct sample others[] = {
        draw(seed, DTR_TEST, index, 0),
        draw(seed + 1, DTR_TRAIN, index, 0),
        draw(seed + (UINT64_C(1) << 32), DTR_TRAIN, index, 0),
        draw(seed + (UINT64_C(1) << 63), DTR_TRAIN, index, 0),
        draw(seed, DTR_TRAIN, index + 1, 0),
        draw(seed, DTR_TRAIN, index + (INT64_C(1) << 32), 0),
        draw(seed, DTR_TRAIN, index + (INT64_C(1) << 40), 0),
    };
    const size_t count = sizeof others / sizeof *others;
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_gt(count_different_pixels(&image, &others[i]), 20);
        for (size_t k = 0; k < i; k++)
            ck_assert_int_gt(count_different_pixels(&others[k], &others[i]), 20);
    }
}
END_TEST

START_TEST(test_labels_are_equally_likely)
{
    enum { COUNT = 10000 };
    for (enum dtr_split split = DTR_TRAIN; split <= DTR_TEST; split++) {
        int counts[CLASSES] = {0};
        for (int64_t index = 0; index < COUNT; index++) {
            struct sample sample = draw(seed, split, index, 0);
            ck_assert_int_lt(sample.label, CLASSES);
            counts[sample.label]++;
        }
        /* Five standard deviations of a binomial distribution: 5 sqrt(10000 * 0.1 * 0.9). */
        for (int i = 0; i < CLASSES; i++)
            ck_assert_msg(abs(counts[i] - COUNT / CLASSES) <= 150, "%d times the label %d in %d",
                counts[i], i, COUNT);
    }
}
END_TEST

/* The first and last row or column with ink, along x (step 1) or y (step SIDE). */
static void find_extent(const uint8_t image[PIXELS], int step, int *first_out, int *last_out)
{
    *first_out = SIDE;
    *last_out = -1;
    for (int i = 0; i < PIXELS; i++) {
        int position = i / step % SIDE;
        if (image[i] == 0)
            continue;
        *first_out = position < *first_out ? position : *first_out;
        *last_out = position > *last_out ? position : *last_out;
    }
}

START_TEST(test_ink_fills_the_middle)
{
    for (int64_t index = 0; index < 20000; index++) {
        struct sample sample = draw(seed, DTR_TRAIN, index, 0);
        int left, right, top, bottom;
        find_extent(sample.image, 1, &left, &right);
        find_extent(sample.image, SIDE, &top, &bottom);
        int width = right - left + 1, height = bottom - top + 1;
        int size = width > height ? width : height;
        ck_assert_msg(left >= 1 && right <= SIDE - 2 && top >= 1 && bottom <= SIDE - 2,
            "sample %d: ink in columns %d to %d, rows %d to %d", (int)index, left, right, top,
            bottom);
        ck_assert_msg(size >= 16 && size <= 23, "sample %d: %d pixels", (int)index, size);

        int strong = 0;
        for (int i = 0; i < PIXELS; i++)
            strong += sample.image[i] >= 100;
        ck_assert_msg(strong >= 15 && strong <= PIXELS / 2, "sample %d: %d pixels of ink",
            (int)index, strong);
    }
}
END_TEST

/* The number of the class whose mean image is nearest. */
static int find_nearest(const double means[CLASSES][PIXELS], const uint8_t image[PIXELS])
{
    int nearest = 0;
    double least = 1e30;
    for (int class = 0; class < CLASSES; class ++) {
        double distance = 0;
        for (int i = 0; i < PIXELS; i++)
            distance += (means[class][i] - image[i]) * (means[class][i] - image[i]);
        nearest = distance < least ? class : nearest;
        least = distance < least ? distance : least;
    }
    return nearest;
}

/* The labels belong to the images, but the classes overlap as those of handwriting do. */
START_TEST(test_classes_can_be_told_apart_with_effort)
{
    enum { TRAIN = 5000, TEST = 2000 };
    static double means[CLASSES][PIXELS];
    int counts[CLASSES] = {0}, correct = 0;
    for (int64_t index = 0; index < TRAIN; index++) {
        struct sample sample = draw(seed, DTR_TRAIN, index, 0);
        counts[sample.label]++;
        for (int i = 0; i < PIXELS; i++)
            means[sample.label][i] += sample.image[i];
    }
    for (int class = 0; class < CLASSES; class ++)
        for (int i = 0; i < PIXELS; i++)
            means[class][i] /= counts[class];
    for (int64_t index = 0; index < TEST; index++) {
        struct sample sample = draw(seed, DTR_TEST, index, 0);
        correct += find_nearest(means, sample.image) == sample.label;
    }
    ck_assert_int_gt(correct, TEST * 60 / 100);
    ck_assert_int_lt(correct, TEST * 80 / 100);
}
END_TEST

/* A change of these bits changes every result on synthetic data: make it knowingly. */
START_TEST(test_bits_are_as_always)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325); /* FNV-1a */
    for (int64_t index = 0; index < 100; index++) {
        struct sample sample = draw(seed, DTR_TRAIN, index, 0);
        hash = (hash ^ sample.label) * UINT64_C(0x100000001B3);
        for (int i = 0; i < PIXELS; i++)
            hash = (hash ^ sample.image[i]) * UINT64_C(0x100000001B3);
    }
    ck_assert_msg(hash == UINT64_C(0xAFA02EFA727799FE), "%016llx", (unsigned long long)hash);
}
END_TEST

static Suite *make_suite(void)
{
    Suite *suite = suite_create("synthetic");
    TCase *tcase = add_case(suite, "digits");
    tcase_add_test(tcase, test_same_arguments_give_the_same_image);
    tcase_add_test(tcase, test_order_of_calls_does_not_matter);
    tcase_add_test(tcase, test_other_arguments_give_another_image);
    tcase_add_test(tcase, test_labels_are_equally_likely);
    tcase_add_test(tcase, test_ink_fills_the_middle);
    tcase_add_test(tcase, test_classes_can_be_told_apart_with_effort);
    tcase_add_test(tcase, test_bits_are_as_always);
    return suite;
}
