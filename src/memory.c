#include "dtrain/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Large memory asks for huge pages: the first touch costs a sixth of the time (reading MNIST: 0.02
 * instead of 0.05 s), and there are fewer TLB misses. */
enum { HUGE_PAGE_BYTES = 2 << 20, HUGE_BYTES = 1 << 20 };

static size_t byte_count(int64_t count, int64_t size)
{
    size_t bytes;
    return __builtin_mul_overflow((size_t)count, (size_t)size, &bytes) ? SIZE_MAX : bytes;
}

void *dtr_alloc_unset(int64_t count, int64_t size, const char *what, struct dtr_error *error)
{
    size_t bytes = byte_count(count, size);
    size_t align = bytes >= HUGE_BYTES ? HUGE_PAGE_BYTES : 64;
    void *memory = NULL;
    if (bytes <= SIZE_MAX - align) {
        size_t rounded = (bytes + align - 1) / align * align;
        memory = aligned_alloc(align, rounded == 0 ? align : rounded);
        if (memory != NULL && align == HUGE_PAGE_BYTES)
            madvise(memory, rounded, MADV_HUGEPAGE); /* only a wish */
    }
    if (memory == NULL)
        dtr_error_set(error, DTR_FAILED, "out of memory: %.1f MB for %s",
            (double)count * (double)size * 1e-6, what);
    return memory;
}

void *dtr_alloc(int64_t count, int64_t size, const char *what, struct dtr_error *error)
{
    void *memory = dtr_alloc_unset(count, size, what, error);
    return memory == NULL ? NULL : memset(memory, 0, byte_count(count, size));
}
