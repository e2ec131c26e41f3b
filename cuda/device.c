/* The devices that this process may use, and the versions of what drives them. */
#include "plugin.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>
#include <string.h>

/* CUDA's 13000 is version 13.0. */
static void write_version(int version, char text_out[16])
{
    snprintf(text_out, 16, "%d.%d", version / 1000 % 1000, version % 1000 / 10);
}

static void write_uuid(const cudaUUID_t *uuid, char text_out[48])
{
    const unsigned char *b = (const unsigned char *)uuid->bytes;
    snprintf(text_out, 48,
        "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
        b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static void read_versions(struct dtr_device_list *list)
{
    int version = 0;
    if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0)
        write_version(version, list->driver);
    if (cudaRuntimeGetVersion(&version) == cudaSuccess)
        write_version(version, list->runtime);
    if (ncclGetVersion(&version) == ncclSuccess)
        snprintf(list->nccl, sizeof list->nccl, "%d.%d.%d", version / 10000, version / 100 % 100,
            version % 100);
    cudaGetLastError(); /* nothing depends on these, and it would be found again by the next call */
}

static cudaError_t read_device(int number, int count, struct dtr_device *device_out)
{
    struct cudaDeviceProp properties;
    cudaError_t result = cudaGetDeviceProperties(&properties, number);
    if (result != cudaSuccess)
        return result;
    snprintf(device_out->name, sizeof device_out->name, "%.95s", properties.name);
    write_uuid(&properties.uuid, device_out->uuid);
    device_out->memory_bytes = (int64_t)properties.totalGlobalMem;
    device_out->major = properties.major;
    device_out->minor = properties.minor;
    for (int other = 0; other < count; other++) {
        int reachable = 0;
        if (other != number && (result = cudaDeviceCanAccessPeer(&reachable, number, other)) != 0)
            return result;
        device_out->peers |= (uint64_t)(reachable != 0) << other;
    }
    return cudaDeviceGetPCIBusId(device_out->bus, sizeof device_out->bus, number);
}

enum dtr_status dtr_cuda_list(struct dtr_device_list *list_out, struct dtr_error *error)
{
    int count = 0; /* CUDA leaves it alone where there is no driver */
    memset(list_out, 0, sizeof *list_out);
    read_versions(list_out);
    cudaError_t result = cudaGetDeviceCount(&count);
    count = count < DTR_DEVICES_MOST ? count : DTR_DEVICES_MOST;
    for (int i = 0; i < count && result == cudaSuccess; i++)
        result = read_device(i, count, &list_out->devices[i]);
    if (result == cudaSuccess && count == 0)
        result = cudaErrorNoDevice;
    if (result != cudaSuccess) {
        cudaGetLastError(); /* it would be found again by the next call */
        return dtr_error_set(error, DTR_LAUNCH, "no GPU can be used: %s (%s)",
            cudaGetErrorString(result), cudaGetErrorName(result));
    }
    list_out->count = count;
    return DTR_OK;
}
