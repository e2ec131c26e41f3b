/*
 * A CUDA runtime, cuBLAS and NCCL on the CPU, for tests: the functions of the real headers, as far
 * as a trainer needs them.
 *
 * Streams are queues. Nothing runs until somebody synchronizes or queries; then a seeded random
 * scheduler picks among the streams whose head may run. So a forgotten event is a wrong result with
 * some seeds. What the program does wrong (freed memory, wrong directions, leaks, a communicator
 * destroyed before its graphs) is an error of the call where the real one has one, and a mistake
 * that dtr_fake_mistakes() counts.
 *
 * Environment:
 *     DTRAIN_FAKE_SEED=N        of the scheduler
 *     DTRAIN_FAKE_DEVICES=N     how many devices; 0: none; nodriver: no driver either
 *     CUDA_VISIBLE_DEVICES      which of them
 *     DTRAIN_FAKE_FAULT=F:N[:C] call N of function F, from 1, fails with code C. kernel:N[:C]:
 *                               launch N; async:N[:C]: work N that runs on a device, which is
 *                               found at a synchronization
 *     DTRAIN_FAKE_COUNTS=FILE   gets a line "function calls" per function at exit
 *     DTRAIN_FAKE_STRICT=1      exit with DTR_FAKE_EXIT if there were mistakes or leaks
 */
#ifndef DTRAIN_FAKE_CUDA_H
#define DTRAIN_FAKE_CUDA_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#define DTR_FAKE_EXIT 86

#ifdef __cplusplus
extern "C" {
#endif

void dtr_fake_seed(uint64_t seed);

/* As DTRAIN_FAKE_FAULT; counts begin anew. NULL: no fault. */
void dtr_fake_fault(const char *fault);
int64_t dtr_fake_calls(const char *function);

/* Mistakes so far, which are printed to stderr too, and the last one's text ("" without). */
int64_t dtr_fake_mistakes(void);
const char *dtr_fake_last_mistake(void);

/* Bytes of device memory and of pinned memory that are allocated. */
int64_t dtr_fake_allocated(void);
int64_t dtr_fake_pinned(void);
/* Allocations, streams, events, graphs, handles and communicators that still exist. */
int64_t dtr_fake_leaks(void);

/* Begins anew as in a new process: drops the queues, errors, mistakes and all memory. Handles from
 * before must not be used. */
void dtr_fake_reset(void);

/* How the ranks of a communicator exchange data. All are collective, block, and return 0 or not.
 * types and operations are those of ncclDataType_t and ncclRedOp_t. Without callbacks a
 * communicator has one rank. */
struct dtr_fake_exchange {
    void *context;
    int rank, size;
    /* buffer = the sum or maximum over ranks; averages are sums divided afterwards. */
    int (*allreduce)(void *context, void *buffer, int64_t count, int type, int operation);
    int (*broadcast)(void *context, void *buffer, int64_t bytes, int root);
    /* all [size, bytes] = each rank's mine [bytes]. */
    int (*allgather)(void *context, const void *mine, int64_t bytes, void *all);
};
/* NULL: one rank. The struct must live as long as it is set. */
void dtr_fake_exchange_set(const struct dtr_fake_exchange *exchange);

#ifdef __cplusplus
}
#include <functional>

/* A kernel: puts work on a stream, or into the graph that the stream captures. */
cudaError_t dtr_simt_enqueue(cudaStream_t stream, std::function<void()> work);
#endif

#endif
