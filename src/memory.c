#include "dtrain/memory.h"

#include <stdlib.h>
#include <string.h>

enum dtr_status dtr_alloc(
    int64_t count, int64_t size, const char *what, void **memory_out, struct dtr_error *error)
{
    size_t bytes = 0;
    *memory_out = NULL;
    if (!__builtin_mul_overflow((size_t)count, (size_t)size, &bytes) && bytes <= SIZE_MAX - 64)
        *memory_out = aligned_alloc(64, (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0));
    if (*memory_out == NULL)
        return dtr_error_set(error, DTR_FAILED, "out of memory: %.1f MB for %s",
            (double)count * (double)size * 1e-6, what);
    memset(*memory_out, 0, bytes);
    return DTR_OK;
}
