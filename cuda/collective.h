/*
 * Sums over ranks by NCCL, one rank a device. Communicators are non-blocking: where another rank is
 * missing or has failed, a call ends with an error instead of never. Opening one is collective, and
 * so is a sum: all ranks ask for the same ones in the same order.
 */
#ifndef DTRAIN_CUDA_COLLECTIVE_H
#define DTRAIN_CUDA_COLLECTIVE_H

#include "dtrain/plugin.h"

#include <cuda_runtime_api.h>

/* The functions of dtrain/plugin.h. */
enum dtr_status dtr_cuda_collective_name(
    struct dtr_collective_name *name_out, struct dtr_error *error);
enum dtr_status dtr_cuda_collective_open(const struct dtr_collective_config *config,
    struct dtr_collective **collective_out, struct dtr_error *error);
/* No graph that holds its sums may be left. */
void dtr_cuda_collective_close(struct dtr_collective *collective);

/* Puts values [count], on the device, = their sum over ranks on the stream, which may be captured.
 */
enum dtr_status dtr_cuda_collective_sum(struct dtr_collective *collective, float *values,
    int64_t count, cudaStream_t stream, struct dtr_error *error);

/* Whether all is well, also elsewhere. NULL: it is. */
enum dtr_status dtr_cuda_collective_check(
    struct dtr_collective *collective, struct dtr_error *error);

#endif
