/*
 * Where a job computes: on the CPU, or with the GPU plugin on a device per rank; and whether the
 * devices train by themselves. Collective: all ranks use the same backend, and know who uses which
 * device.
 */
#ifndef DTRAIN_BACKEND_H
#define DTRAIN_BACKEND_H

#include "dtrain/options.h"
#include "dtrain/plugin.h"
#include "dtrain/replica.h"
#include "dtrain/world.h"

/* Values of --backend, --precision and --comm. */
enum dtr_backend_choice { DTR_BACKEND_AUTO, DTR_BACKEND_CPU, DTR_BACKEND_CUDA };
enum dtr_precision_choice { DTR_PRECISION_AUTO, DTR_PRECISION_FP32 }; /* and enum dtr_precision */
enum dtr_comm_choice { DTR_COMM_AUTO, DTR_COMM_MPI, DTR_COMM_NCCL };

/* A rank's device. */
struct dtr_placement {
    char host[64];
    int number; /* of the devices that the rank sees */
    int seen;   /* so many */
    struct dtr_device device;
};

struct dtr_backend {
    struct dtr_world *world;
    const struct dtr_plugin *plugin; /* NULL: the CPU computes */
    enum dtr_precision precision;
    char why_not[200];            /* auto has not taken a GPU that may be there; "" */
    struct dtr_placement *places; /* [ranks]; NULL without a plugin */
    bool shared;                  /* some ranks have the same device */
    bool trains; /* devices sum gradients and update parameters (start_step of a replica) */
    struct dtr_collective *collective; /* for that; NULL: the rank is alone */
};

/* Chooses by the options. The ranks have agreed, and the reason has been printed, when this returns
 * other than DTR_OK. dtr_backend_free() is due then, too. */
enum dtr_status dtr_backend_choose(
    struct dtr_world *world, const struct dtr_options *options, struct dtr_backend *backend_out);
void dtr_backend_free(struct dtr_backend *backend); /* after its replicas */

/* Chooses how a training's gradients are summed: on the devices, where NCCL can, or by the exchange
 * (dtrain/gradsync.h). The ranks have agreed then, too. */
enum dtr_status dtr_backend_connect(struct dtr_backend *backend, const struct dtr_options *options);

/* A replica there (dtrain/replica.h). Local. */
enum dtr_status dtr_backend_compile(struct dtr_backend *backend,
    const struct dtr_replica_config *config, struct dtr_replica **replica_out,
    struct dtr_error *error);

#endif
