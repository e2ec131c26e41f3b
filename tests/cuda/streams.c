/* CUDA's runtime is tests/fake_cuda/, which counts mistakes. */
#include "../fake_cuda/fake_cuda.h"
#include "machine.h"

void machine_order_streams(uint64_t seed)
{
    dtr_fake_seed(seed);
}

const char *machine_fault(void)
{
    if (dtr_fake_mistakes() > 0)
        return dtr_fake_last_mistake();
    return dtr_fake_leaks() > 0 ? "something was not freed" : NULL;
}
