#include "dtrain/kernel.h"

#include <string.h>

/* Where channel c of the image's first pixel lies in a sample. */
static int64_t channel_offset(struct dtr_shape shape, struct dtr_layout layout, int64_t c)
{
    return dtr_layout_origin(shape, layout) + c / layout.block * dtr_layout_plane(shape, layout) +
           c % layout.block;
}

/* The same few channels of a row of pixels. Inlined with `count` known where it matters, so that a
 * copy is a few moves and no call. */
static inline __attribute__((always_inline)) void copy_channels(int64_t pixels, int64_t count,
    const float *src, int64_t src_block, float *dst, int64_t dst_block)
{
    for (int64_t i = 0; i < pixels; i++)
        memcpy(dst + i * dst_block, src + i * src_block, (size_t)count * sizeof *dst);
}

static void copy_row(int64_t pixels, int64_t count, const float *src, int64_t src_block, float *dst,
    int64_t dst_block)
{
    if (count == src_block && count == dst_block)
        memcpy(dst, src, (size_t)(pixels * count) * sizeof *dst);
    else if (count == 1)
        copy_channels(pixels, 1, src, src_block, dst, dst_block);
    else if (count == 8)
        copy_channels(pixels, 8, src, src_block, dst, dst_block);
    else
        copy_channels(pixels, count, src, src_block, dst, dst_block);
}

static void copy_image(struct dtr_shape shape, int64_t count, const float *src,
    struct dtr_layout from, float *dst, struct dtr_layout to)
{
    int64_t src_row = dtr_layout_row(shape, from), dst_row = dtr_layout_row(shape, to);
    for (int64_t y = 0; y < shape.h; y++)
        copy_row(shape.w, count, src + y * src_row, from.block, dst + y * dst_row, to.block);
}

/* Zeroes the image in a sample's last block, if not all of its channels are going to be written. */
static void clear_padding(struct dtr_shape shape, struct dtr_layout layout, float *dst)
{
    int64_t used = shape.c % layout.block, row = dtr_layout_row(shape, layout);
    if (used == 0)
        return;
    dst += channel_offset(shape, layout, shape.c - used);
    for (int64_t y = 0; y < shape.h; y++)
        memset(dst + y * row, 0, (size_t)(shape.w * layout.block) * sizeof *dst);
}

static void convert_sample(struct dtr_shape shape, const float *src, struct dtr_layout from,
    float *dst, struct dtr_layout to)
{
    clear_padding(shape, to, dst);
    int64_t count = 0; /* channels that are neighbours in both */
    for (int64_t c = 0; c < shape.c; c += count) {
        int64_t in_src = from.block - c % from.block, in_dst = to.block - c % to.block;
        count = in_src < in_dst ? in_src : in_dst;
        count = count < shape.c - c ? count : shape.c - c;
        copy_image(shape, count, src + channel_offset(shape, from, c), from,
            dst + channel_offset(shape, to, c), to);
    }
}

void dtr_layout_convert(struct dtr_shape shape, int64_t n, const float *src, struct dtr_layout from,
    float *dst, struct dtr_layout to)
{
    for (int64_t i = 0; i < n; i++)
        convert_sample(shape, src + i * dtr_layout_sample(shape, from), from,
            dst + i * dtr_layout_sample(shape, to), to);
}

static inline __attribute__((always_inline)) void scale(
    int64_t count, const uint8_t *pixels, int64_t pixel_step, float *dst, int64_t dst_step)
{
    for (int64_t i = 0; i < count; i++)
        dst[i * dst_step] = ((float)pixels[i * pixel_step] - 127.5f) / 255;
}

static void clear_image(struct dtr_shape shape, struct dtr_layout layout, float *dst)
{
    int64_t row = dtr_layout_row(shape, layout), plane = dtr_layout_plane(shape, layout);
    for (int64_t c = 0; c < shape.c; c += layout.block) {
        for (int64_t y = 0; y < shape.h; y++)
            memset(dst + channel_offset(shape, layout, 0) + c / layout.block * plane + y * row, 0,
                (size_t)(shape.w * layout.block) * sizeof *dst);
    }
}

void dtr_scale_pixels(
    struct dtr_shape shape, const uint8_t *pixels, struct dtr_layout layout, float *dst)
{
    int64_t row = dtr_layout_row(shape, layout), pixel_row = shape.w * shape.c;
    if (pixels == NULL) {
        clear_image(shape, layout, dst);
        return;
    }
    if (layout.block == shape.c) {
        for (int64_t y = 0; y < shape.h; y++)
            scale(pixel_row, pixels + y * pixel_row, 1,
                dst + dtr_layout_origin(shape, layout) + y * row, 1);
        return;
    }
    clear_padding(shape, layout, dst);
    for (int64_t c = 0; c < shape.c; c++) {
        for (int64_t y = 0; y < shape.h; y++)
            scale(shape.w, pixels + y * pixel_row + c, shape.c,
                dst + channel_offset(shape, layout, c) + y * row, layout.block);
    }
}
