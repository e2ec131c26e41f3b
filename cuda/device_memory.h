/*
 * Memory that a replica keeps as long as it lives: on the device, and on the host where the device
 * reads and writes it. All is taken when the replica is compiled, and given back at once.
 */
#ifndef DTRAIN_CUDA_DEVICE_MEMORY_H
#define DTRAIN_CUDA_DEVICE_MEMORY_H

#include "dtrain/status.h"

#include <stdint.h>

enum { DTR_CUDA_BLOCKS_MOST = 1024 };

struct dtr_cuda_memory {
    int device_count, host_count;
    void *device[DTR_CUDA_BLOCKS_MOST], *host[DTR_CUDA_BLOCKS_MOST];
    int64_t device_bytes;
};

/* Zeroed, aligned to 256 bytes. NULL where there is none left: the error says what it was for. */
void *dtr_cuda_alloc(struct dtr_cuda_memory *memory, int64_t count, int64_t size, const char *what,
    struct dtr_error *error);
void *dtr_cuda_alloc_host(struct dtr_cuda_memory *memory, int64_t count, int64_t size,
    const char *what, struct dtr_error *error);
void dtr_cuda_memory_free(struct dtr_cuda_memory *memory);

#endif
