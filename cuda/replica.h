/*
 * The CUDA backend: a replica (dtrain/replica.h) on a device. There are two ways to take a step:
 *
 *   device_steps.c   all of it on the device, as one CUDA graph, some steps ahead of the host:
 *                    gradients are summed over ranks by NCCL, parameters updated there
 *   host_steps.c     the passes on the device, the rest by the exchange in the host's memory, where
 *                    ranks share a device, or the sums have to be the tree's
 *
 * replica.c has what both need.
 */
#ifndef DTRAIN_CUDA_REPLICA_H
#define DTRAIN_CUDA_REPLICA_H

#include "collective.h"
#include "dtrain/plugin.h"
#include "dtrain/replica.h"
#include "network.h"
#include "staging.h"

/* Whose parameters (and momenta, where both have some) are the newest. */
enum dtr_cuda_newest { DTR_CUDA_BOTH, DTR_CUDA_HOST, DTR_CUDA_DEVICE };

/* A step on its way through the device. */
struct dtr_cuda_slot {
    struct dtr_cuda_staging staging;
    struct dtr_cuda_result *result; /* pinned */
    cudaGraphExec_t graph;          /* NULL: not captured yet */
    cudaEvent_t done;
};

struct dtr_cuda_device_steps {
    struct dtr_cuda_slot slots[DTR_STEPS_AHEAD];
    int64_t started, finished;
    float *momenta;      /* device: a slab */
    uint8_t *decayed;    /* device: [slab / 16], whether they decay */
    cudaStream_t side;   /* sums and updates, while the passes go on */
    cudaEvent_t *ready;  /* [stages] gradients from here to the stage that was ready before */
    cudaEvent_t updated; /* all parameters */
};

struct dtr_cuda_host_steps {
    float *arriving;     /* pinned: a slab of gradients */
    cudaEvent_t *copied; /* [stages] a stage's gradients are in `arriving` */
};

/* Evaluation: while a block is computed, the host writes the next one. */
struct dtr_cuda_block {
    struct dtr_cuda_staging staging;
    cudaEvent_t copied;
};

struct dtr_cuda_replica {
    struct dtr_replica base;
    struct dtr_replica_ops ops; /* what all have, and those of its way to take a step */
    struct dtr_replica_config config;
    struct dtr_device_config device;
    struct dtr_cuda_memory memory;
    float *own;                 /* slabs, where there is no exchange to have them */
    float *momenta;             /* [share_count] */
    float *weights, *gradients; /* device: slabs */
    enum dtr_cuda_newest newest;
    cudaStream_t stream;
    cublasHandle_t blas;
    struct dtr_cuda_resident resident;
    struct dtr_cuda_network training, inference;
    struct dtr_cuda_block blocks[2];
    int64_t *errors, *device_errors;
    struct dtr_cuda_slot alone;             /* of a forward pass that no step follows at once */
    struct dtr_cuda_device_steps on_device; /* one of these two is used */
    struct dtr_cuda_host_steps in_host;
};

enum dtr_status dtr_cuda_replica_compile(const struct dtr_replica_config *config,
    const struct dtr_device_config *device, struct dtr_replica **replica_out,
    struct dtr_error *error);

/* For the two files. */

/* A step has no way to fail but to end the job. */
void dtr_cuda_check(const struct dtr_cuda_replica *replica, const struct dtr_error *error);

/* The newest parameters, on the device too: waits for the exchange's. */
enum dtr_status dtr_cuda_refresh(struct dtr_cuda_replica *replica, struct dtr_error *error);

/* Slab elements of a stage's kernel and bias; count 0: it has none. */
void dtr_cuda_stage_range(const struct dtr_cuda_replica *replica,
    const struct dtr_cuda_stage *stage, int64_t *first_out, int64_t *count_out);

/* A slot for a batch. The graph is left to be captured. */
enum dtr_status dtr_cuda_slot_create(
    struct dtr_cuda_replica *replica, struct dtr_cuda_slot *slot_out, struct dtr_error *error);
void dtr_cuda_slot_free(struct dtr_cuda_slot *slot);

/* Puts a slot's batch and its way through the network on the stream; then its result's way back. */
enum dtr_status dtr_cuda_start_forward(
    struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot, struct dtr_error *error);
enum dtr_status dtr_cuda_return_result(
    struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot, struct dtr_error *error);

/* A result that has returned, as the trainer wants it. */
void dtr_cuda_tell(const struct dtr_cuda_replica *replica, const struct dtr_cuda_slot *slot,
    struct dtr_step_result *result_out);

/* Memory, events, and the functions of replica->ops. */
enum dtr_status dtr_cuda_device_steps_create(
    struct dtr_cuda_replica *replica, struct dtr_error *error);
void dtr_cuda_device_steps_free(struct dtr_cuda_replica *replica);
enum dtr_status dtr_cuda_host_steps_create(
    struct dtr_cuda_replica *replica, struct dtr_error *error);
void dtr_cuda_host_steps_free(struct dtr_cuda_replica *replica);

#endif
