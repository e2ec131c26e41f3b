#include "dtrain/kernel.h"

#include <string.h>

int64_t dtr_layout_count(struct dtr_shape shape, int64_t block, int64_t n)
{
    return n * ((shape.c + block - 1) / block) * shape.h * shape.w * block;
}

/* Where channel c of the first pixel lies in a sample. */
static int64_t channel_offset(struct dtr_shape shape, int64_t block, int64_t c)
{
    return c / block * block * shape.h * shape.w + c % block;
}

/* The same few channels of every pixel. Inlined with `count` known where it matters, so that a
 * copy is a few moves and no call. */
static inline __attribute__((always_inline)) void copy_channels(int64_t pixels, int64_t count,
    const float *src, int64_t src_block, float *dst, int64_t dst_block)
{
    for (int64_t i = 0; i < pixels; i++)
        memcpy(dst + i * dst_block, src + i * src_block, (size_t)count * sizeof *dst);
}

static void copy_run(int64_t pixels, int64_t count, const float *src, int64_t src_block, float *dst,
    int64_t dst_block)
{
    if (count == 1)
        copy_channels(pixels, 1, src, src_block, dst, dst_block);
    else if (count == 8)
        copy_channels(pixels, 8, src, src_block, dst, dst_block);
    else
        copy_channels(pixels, count, src, src_block, dst, dst_block);
}

/* Zeroes a sample's last block, if not all of its channels are going to be written. */
static void clear_padding(struct dtr_shape shape, int64_t block, float *dst)
{
    int64_t used = shape.c % block, count = shape.h * shape.w * block;
    if (used != 0)
        memset(dst + shape.c / block * count, 0, (size_t)count * sizeof *dst);
}

static void convert_sample(
    struct dtr_shape shape, const float *src, int64_t src_block, float *dst, int64_t dst_block)
{
    clear_padding(shape, dst_block, dst);
    int64_t count = 0; /* channels that are neighbours in both */
    for (int64_t c = 0; c < shape.c; c += count) {
        int64_t in_src = src_block - c % src_block, in_dst = dst_block - c % dst_block;
        count = in_src < in_dst ? in_src : in_dst;
        count = count < shape.c - c ? count : shape.c - c;
        copy_run(shape.h * shape.w, count, src + channel_offset(shape, src_block, c), src_block,
            dst + channel_offset(shape, dst_block, c), dst_block);
    }
}

void dtr_layout_convert(struct dtr_shape shape, int64_t n, const float *src, int64_t src_block,
    float *dst, int64_t dst_block)
{
    int64_t src_count = dtr_layout_count(shape, src_block, 1);
    int64_t dst_count = dtr_layout_count(shape, dst_block, 1);
    for (int64_t i = 0; i < n; i++)
        convert_sample(shape, src + i * src_count, src_block, dst + i * dst_count, dst_block);
}

static inline __attribute__((always_inline)) void scale(
    int64_t count, const uint8_t *pixels, int64_t pixel_step, float *dst, int64_t dst_step)
{
    for (int64_t i = 0; i < count; i++)
        dst[i * dst_step] = ((float)pixels[i * pixel_step] - 127.5f) / 255;
}

void dtr_scale_pixels(struct dtr_shape shape, const uint8_t *pixels, int64_t block, float *dst)
{
    int64_t area = shape.h * shape.w, count = dtr_layout_count(shape, block, 1);
    if (pixels == NULL) {
        memset(dst, 0, (size_t)count * sizeof *dst);
        return;
    }
    if (block == shape.c) {
        scale(count, pixels, 1, dst, 1);
        return;
    }
    clear_padding(shape, block, dst);
    for (int64_t c = 0; c < shape.c; c++)
        scale(area, pixels + c, shape.c, dst + channel_offset(shape, block, c), block);
}
