/*
 * Devices, as the environment says, and errors.
 */
#include "internal.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

namespace fake
{

cudaError_t sticky;
bool in_host_function;

namespace
{

constexpr int VERSION = CUDART_VERSION;
thread_local cudaError_t last_error;
thread_local int device;

/* The devices that the program may see, by their numbers; why there are none. */
cudaError_t visible_devices(std::vector<int> *numbers_out)
{
    const char *text = getenv("DTRAIN_FAKE_DEVICES");
    if (text && strcmp(text, "nodriver") == 0)
        return cudaErrorInsufficientDriver;
    int count = text ? atoi(text) : 1;
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (list) {
        /* As the real one: the list ends at the first number that is none. */
        while (*list != '\0') {
            char *end = nullptr;
            long number = strtol(list, &end, 10);
            if (end == list || number < 0 || number >= count)
                break;
            numbers_out->push_back(static_cast<int>(number));
            list = *end == ',' ? end + 1 : end;
        }
    } else {
        for (int i = 0; i < count; i++)
            numbers_out->push_back(i);
    }
    return numbers_out->empty() ? cudaErrorNoDevice : cudaSuccess;
}

/* The number of visible device `index`. */
cudaError_t find_device(int index, int *number_out)
{
    std::vector<int> numbers;
    if (cudaError_t status = visible_devices(&numbers))
        return status;
    if (index < 0 || static_cast<size_t>(index) >= numbers.size())
        return cudaErrorInvalidDevice;
    *number_out = numbers[static_cast<size_t>(index)];
    return cudaSuccess;
}

struct Name {
    cudaError_t code;
    const char *name;
    const char *text;
};
#define NAME(code, text)                                                                           \
    {                                                                                              \
        code, #code, text                                                                          \
    }
const Name names[] = {
    NAME(cudaSuccess, "no error"),
    NAME(cudaErrorInvalidValue, "invalid argument"),
    NAME(cudaErrorMemoryAllocation, "out of memory"),
    NAME(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy"),
    NAME(cudaErrorInsufficientDriver,
        "CUDA driver version is insufficient for CUDA runtime version"),
    NAME(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    NAME(cudaErrorInvalidDevice, "invalid device ordinal"),
    NAME(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    NAME(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    NAME(cudaErrorNotReady, "device not ready"),
    NAME(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    NAME(cudaErrorLaunchTimeout, "the launch timed out and was terminated"),
    NAME(cudaErrorLaunchFailure, "unspecified launch failure"),
    NAME(cudaErrorHostMemoryAlreadyRegistered,
        "part or all of the requested memory range is already mapped"),
    NAME(cudaErrorHostMemoryNotRegistered,
        "pointer does not correspond to a registered memory region"),
    NAME(cudaErrorNotPermitted, "operation not permitted"),
    NAME(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    NAME(cudaErrorStreamCaptureInvalidated,
        "operation failed due to a previous error during capture"),
    NAME(cudaErrorStreamCaptureMerge,
        "operation would result in a merge of separate capture sequences"),
    NAME(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    NAME(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    NAME(
        cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    NAME(cudaErrorStreamCaptureImplicit,
        "operation would make the legacy stream depend on a capturing blocking stream"),
    NAME(cudaErrorCapturedEvent,
        "operation not permitted on an event last recorded in a capturing stream"),
    NAME(cudaErrorStreamCaptureWrongThread,
        "attempt to terminate a thread-local capture sequence from another thread"),
    NAME(cudaErrorUnknown, "unknown error"),
};
#undef NAME

const Name *find_name(cudaError_t code)
{
    for (const Name &name : names)
        if (name.code == code)
            return &name;
    return nullptr;
}

/* What gives something back still does after the device has failed. */
bool gives_back(const char *function)
{
    return strstr(function, "Free") || strstr(function, "Destroy") || strstr(function, "Unreg");
}

} /* namespace */

cudaError_t enter(const char *function)
{
    if (in_host_function) {
        mistake("%s called by a host function on a stream", function);
        return cudaErrorNotPermitted;
    }
    bool memory = strstr(function, "lloc") != nullptr;
    if (int code = fault(function, memory ? cudaErrorMemoryAllocation : cudaErrorUnknown))
        return static_cast<cudaError_t>(code);
    return gives_back(function) ? cudaSuccess : sticky;
}

cudaError_t leave(cudaError_t status)
{
    if (sticky)
        status = sticky;
    if (status && status != cudaErrorNotReady)
        last_error = status;
    return status;
}

void device_reset()
{
    sticky = last_error = cudaSuccess;
    in_host_function = false;
    device = 0;
}

int current_device()
{
    return device;
}

} /* namespace fake */

using namespace fake;

cudaError_t cudaGetDeviceCount(int *count_out)
{
    FAKE_ENTER();
    std::vector<int> numbers;
    cudaError_t status = visible_devices(&numbers);
    if (status != cudaErrorInsufficientDriver) /* without a driver it is not written */
        *count_out = static_cast<int>(numbers.size());
    return leave(status);
}

cudaError_t cudaSetDevice(int index)
{
    FAKE_ENTER();
    int number;
    cudaError_t status = find_device(index, &number);
    if (!status)
        device = index;
    return leave(status);
}

cudaError_t cudaGetDevice(int *index_out)
{
    FAKE_ENTER();
    *index_out = device;
    return leave(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties_out, int index)
{
    FAKE_ENTER();
    int number;
    if (cudaError_t status = find_device(index, &number))
        return leave(status);
    *properties_out = cudaDeviceProp{};
    snprintf(properties_out->name, sizeof properties_out->name, "Fake GPU");
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    uint64_t hash = 1469598103934665603U; /* FNV-1a of the host's name */
    for (const char *c = host; *c != '\0'; c++)
        hash = (hash ^ static_cast<unsigned char>(*c)) * 1099511628211U;
    memcpy(properties_out->uuid.bytes, &hash, sizeof hash);
    memcpy(properties_out->uuid.bytes + sizeof hash, &number, sizeof number);
    properties_out->totalGlobalMem = size_t{8} << 30;
    properties_out->major = 9;
    properties_out->multiProcessorCount = 4;
    properties_out->sharedMemPerBlock = 48 << 10;
    properties_out->sharedMemPerBlockOptin = 227 << 10;
    properties_out->warpSize = 32;
    properties_out->maxThreadsPerBlock = 1024;
    properties_out->pciBusID = number + 1;
    return leave(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value_out, cudaDeviceAttr attribute, int index)
{
    FAKE_ENTER();
    int number;
    if (cudaError_t status = find_device(index, &number))
        return leave(status);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *value_out = 9;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value_out = 4;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value_out = 227 << 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value_out = 48 << 10;
        break;
    case cudaDevAttrMaxThreadsPerBlock:
        *value_out = 1024;
        break;
    default:
        *value_out = 0;
    }
    return leave(cudaSuccess);
}

cudaError_t cudaDeviceGetPCIBusId(char *id_out, int length, int index)
{
    FAKE_ENTER();
    int number;
    if (cudaError_t status = find_device(index, &number))
        return leave(status);
    snprintf(id_out, static_cast<size_t>(length), "0000:%02x:00.0", number + 1);
    return leave(cudaSuccess);
}

cudaError_t cudaDeviceCanAccessPeer(int *can_out, int index, int peer)
{
    FAKE_ENTER();
    int number;
    cudaError_t status = find_device(index, &number);
    if (!status)
        status = find_device(peer, &number);
    *can_out = !status && index != peer;
    return leave(status);
}

cudaError_t cudaDriverGetVersion(int *version_out)
{
    FAKE_ENTER();
    const char *text = getenv("DTRAIN_FAKE_DEVICES");
    *version_out = text && strcmp(text, "nodriver") == 0 ? 0 : VERSION;
    return leave(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version_out)
{
    FAKE_ENTER();
    *version_out = VERSION;
    return leave(cudaSuccess);
}

cudaError_t cudaDeviceReset(void)
{
    FAKE_ENTER();
    cudaError_t status = drain();
    device_reset();
    return leave(status);
}

cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int)
{
    FAKE_ENTER();
    return leave(cudaSuccess);
}

cudaError_t cudaGetLastError(void)
{
    std::lock_guard<std::recursive_mutex> guard(lock());
    cudaError_t status = last_error;
    last_error = sticky;
    return status;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorName(cudaError_t code)
{
    const Name *name = find_name(code);
    return name ? name->name : "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code)
{
    const Name *name = find_name(code);
    return name ? name->text : "unrecognized error code";
}
