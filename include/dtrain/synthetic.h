/*
 * Synthetic digits: 28x28 grey images like handwriting, made from strokes with random shape, affine
 * transform, thickness and noise. An image is a function of (seed, split, index) alone, so that any
 * rank makes just its own, and any count works. No libm: the same bits everywhere.
 */
#ifndef DTRAIN_SYNTHETIC_H
#define DTRAIN_SYNTHETIC_H

#include <stdint.h>

enum { DTR_SYNTHETIC_SIDE = 28, DTR_SYNTHETIC_CLASSES = 10 };

/* Draws sample `index` of `split` (an enum dtr_split): image_out is [28, 28], 0 is background.
 * Returns the label, 0 to 9; all ten are equally likely. */
uint8_t dtr_synthetic_digit(
    uint64_t seed, uint32_t split, int64_t index, uint8_t image_out[28 * 28]);

#endif
