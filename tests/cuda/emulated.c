/* The CPU runs kernels when they are started (tests/simt/). */
#include "machine.h"

#include <stdlib.h>

void dtr_simt_set_schedule(const char *schedule);

bool machine_is_there(void)
{
    return true;
}

void *machine_alloc(size_t bytes)
{
    return malloc(bytes);
}

void machine_free(void *memory)
{
    free(memory);
}

cudaError_t machine_finish(cudaError_t started)
{
    return started;
}

void machine_order_threads(const char *order)
{
    dtr_simt_set_schedule(order);
}

double machine_rounding(enum dtr_precision precision)
{
    (void)precision;
    return 0x1p-24; /* to nearest */
}
