/*
 * The CUDA backend: a replica (dtrain/replica.h) whose passes run on a device. Parameters and
 * gradients are exchanged and updated in the host's memory, bucket by bucket, as the CPU backend's:
 * a layer's gradients travel while the layers below it are computed.
 */
#ifndef DTRAIN_CUDA_REPLICA_H
#define DTRAIN_CUDA_REPLICA_H

#include "dtrain/plugin.h"
#include "dtrain/replica.h"

enum dtr_status dtr_cuda_replica_compile(const struct dtr_replica_config *config,
    const struct dtr_device_config *device, struct dtr_replica **replica_out,
    struct dtr_error *error);

#endif
