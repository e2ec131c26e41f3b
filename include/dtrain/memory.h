/*
 * Memory of slabs and activations: zeroed, aligned to 64 bytes, with a message that names what it
 * was for. Everything is taken when a model is compiled or a data set is read; a step takes none.
 */
#ifndef DTRAIN_MEMORY_H
#define DTRAIN_MEMORY_H

#include "dtrain/status.h"

#include <stdint.h>

/* Slabs and tensors start at multiples of this many floats (64 bytes). */
enum { DTR_ALIGN_FLOATS = 16 };

/* `count` elements of `size` bytes, zeroed; free with free(). NULL when there is no memory for it:
 * then the error, a DTR_FAILED, says what it was for. count == 0 gives a pointer that can be freed.
 */
void *dtr_alloc(int64_t count, int64_t size, const char *what, struct dtr_error *error);

/* The same with any values in it, for memory that is filled at once. */
void *dtr_alloc_unset(int64_t count, int64_t size, const char *what, struct dtr_error *error);

static inline int64_t dtr_align_floats(int64_t count)
{
    return (count + DTR_ALIGN_FLOATS - 1) / DTR_ALIGN_FLOATS * DTR_ALIGN_FLOATS;
}

#endif
