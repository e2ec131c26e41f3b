#include "dtrain/memory.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Large memory asks for huge pages: the first touch costs a sixth of the time (reading MNIST: 0.02
 * instead of 0.05 s), and there are fewer TLB misses. */
enum { HUGE_PAGE_BYTES = 2 << 20, HUGE_BYTES = 4 << 20 };

enum dtr_status dtr_alloc(
    int64_t count, int64_t size, const char *what, void **memory_out, struct dtr_error *error)
{
    size_t bytes = 0;
    *memory_out = NULL;
    bool fits = !__builtin_mul_overflow((size_t)count, (size_t)size, &bytes);
    size_t align = bytes >= HUGE_BYTES ? HUGE_PAGE_BYTES : 64;
    if (fits && bytes <= SIZE_MAX - align) {
        size_t rounded = (bytes + align - 1) / align * align;
        *memory_out = aligned_alloc(align, rounded == 0 ? align : rounded);
        if (*memory_out != NULL && align == HUGE_PAGE_BYTES)
            madvise(*memory_out, rounded, MADV_HUGEPAGE); /* only a wish */
    }
    if (*memory_out == NULL)
        return dtr_error_set(error, DTR_FAILED, "out of memory: %.1f MB for %s",
            (double)count * (double)size * 1e-6, what);
    memset(*memory_out, 0, bytes);
    return DTR_OK;
}
