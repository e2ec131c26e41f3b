/* The IDX format of MNIST, for tests that write such files. */
#ifndef DTRAIN_TESTS_IDX_H
#define DTRAIN_TESTS_IDX_H

#include <stdint.h>

enum { TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS, IDX_FILES };
enum { IDX_MAX_HEADER = 20 };

static const char *const idx_name[IDX_FILES] = {"train-images-idx3-ubyte",
    "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};

static inline void put_big_endian(uint8_t *at, int64_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Writes the header, dim[0] samples of dim[1] x ..., and returns how many bytes it takes. */
static inline int64_t put_idx_header(uint8_t *at, int dims, const int64_t dim[])
{
    put_big_endian(at, 0x800 + dims);
    for (int i = 0; i < dims; i++)
        put_big_endian(at + 4 + 4 * i, dim[i]);
    return 4 + 4 * dims;
}

#endif
