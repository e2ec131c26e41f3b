/*
 * The GPU plugin: a library of its own, loaded only where a GPU is wanted, so that the same dtrain
 * runs on machines without CUDA. It uses the program's own functions (memory, errors, pulse), so
 * both must be of one build. Local.
 */
#ifndef DTRAIN_PLUGIN_H
#define DTRAIN_PLUGIN_H

#include "dtrain/precision.h"
#include "dtrain/replica.h"
#include "dtrain/status.h"

#include <stdint.h>

enum { DTR_DEVICES_MOST = 64 };

struct dtr_device {
    char name[96];
    char uuid[48]; /* "GPU-..." as nvidia-smi prints it */
    char bus[24];  /* PCI bus id */
    int64_t memory_bytes;
    int major, minor; /* compute capability */
    uint64_t peers;   /* bit i: it reaches the memory of device i by itself */
};

/* What this process may use (CUDA_VISIBLE_DEVICES hides the others). */
struct dtr_device_list {
    char driver[16], runtime[16], nccl[16]; /* versions: "13.0", "2.27.3"; "" unknown */
    int count;
    struct dtr_device devices[DTR_DEVICES_MOST];
};

/* Ranks with a device each that sum over ranks by themselves (NCCL). The name, which rank 0 gives
 * and all need, is NCCL's unique id. */
struct dtr_collective;
struct dtr_collective_name {
    unsigned char bytes[128];
};
struct dtr_collective_config {
    const struct dtr_collective_name *name;
    int device, rank, size;
    double limit_s; /* how long other ranks are waited for */
};

struct dtr_device_config {
    int device; /* of the list */
    enum dtr_precision precision;
    bool trains; /* the replica sums and updates on the device (start_step of dtrain/replica.h) */
    struct dtr_collective *collective; /* for that; must outlive the replica; NULL: it is alone */
    /* A step cannot go on: ends the job. */
    void (*fail)(void *context, const struct dtr_error *error);
    void *context;
};

struct dtr_plugin {
    const char *version; /* DTRAIN_VERSION of its build */
    /* DTR_LAUNCH where CUDA finds no driver or no device; the versions are filled all the same. */
    enum dtr_status (*list)(struct dtr_device_list *list_out, struct dtr_error *error);
    /* Opening is collective: those who wait for a rank that is missing fail after the limit. */
    enum dtr_status (*collective_name)(
        struct dtr_collective_name *name_out, struct dtr_error *error);
    enum dtr_status (*collective_open)(const struct dtr_collective_config *config,
        struct dtr_collective **collective_out, struct dtr_error *error);
    void (*collective_close)(struct dtr_collective *collective);
    /* A replica on a device (dtrain/replica.h). */
    enum dtr_status (*compile)(const struct dtr_replica_config *config,
        const struct dtr_device_config *device, struct dtr_replica **replica_out,
        struct dtr_error *error);
};

/* The plugin's only symbol. */
typedef const struct dtr_plugin *dtr_plugin_entry(void);
#define DTR_PLUGIN_SYMBOL "dtr_plugin"

/* Loads the plugin: $DTRAIN_PLUGIN, else libdtrain_cuda.so beside the program or, where it is
 * installed, in ../<lib>/dtrain. It stays until the process ends. DTR_LAUNCH where there is none or
 * one that cannot be used. */
enum dtr_status dtr_plugin_load(const struct dtr_plugin **plugin_out, struct dtr_error *error);

#endif
