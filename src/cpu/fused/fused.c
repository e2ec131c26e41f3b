#include "fused.h"

#include <stddef.h>

const struct dtr_kernel *fused_kernel(enum dtr_layer_kind kind, enum dtr_isa isa)
{
    (void)kind;
    (void)isa;
    return NULL;
}
