/*
 * Where the kernels of a test run: on the CPU, which stands for a GPU (emulated.c, and streams.c
 * for tests that use CUDA's runtime), or on a GPU (device.c). The tests are the same.
 */
#ifndef DTRAIN_TESTS_CUDA_MACHINE_H
#define DTRAIN_TESTS_CUDA_MACHINE_H

#include "dtrain/precision.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether the test can be run. Called first, before any test forks. */
bool machine_is_there(void);

/* Memory that the host and kernels reach; NULL: there is none. */
void *machine_alloc(size_t bytes);
void machine_free(void *memory);

/* What was started with this result has been done: how that ended. */
cudaError_t machine_finish(cudaError_t started);

/* The order in which threads run, where it can be chosen (tests/simt/): "forward", "reverse", or
 * the number of a random one; and streams (tests/fake_cuda/). A GPU has its own, another each time.
 */
void machine_order_threads(const char *order);
void machine_order_streams(uint64_t seed);

/* NULL, or what is wrong at the end of a test: memory that was not freed, misuse of the runtime. */
const char *machine_fault(void);

/* What one addition in a sum of products may be wrong by, relative to the sum of magnitudes. */
double machine_rounding(enum dtr_precision precision);

#endif
