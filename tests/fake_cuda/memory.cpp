/*
 * Device and pinned memory: both are the CPU's, but every address is known, so that a copy knows
 * what it is given. New memory is poisoned, has guards on both sides, and stays in quarantine for a
 * while after it was freed, so that nobody else gets its address.
 */
#include "internal.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace fake
{
namespace
{

constexpr size_t GUARD = 256, QUARANTINE = size_t{256} << 20;
constexpr unsigned char GUARD_BYTE = 0xa5, POISON = 0xff;

enum class Kind { device, pinned, registered };

struct Block {
    size_t size;
    Kind kind;
    bool freed;
};

std::map<uintptr_t, Block> &blocks()
{
    static auto *only = new std::map<uintptr_t, Block>;
    return *only;
}

std::deque<uintptr_t> quarantine;
size_t quarantined, allocated, pinned;

unsigned char *bytes_at(uintptr_t address)
{
    return reinterpret_cast<unsigned char *>(address);
}

void release(uintptr_t address, size_t size)
{
    ASAN_UNPOISON_MEMORY_REGION(bytes_at(address), size);
    free(bytes_at(address) - GUARD);
}

/* The last block that begins at or before the address and reaches it. */
std::map<uintptr_t, Block>::iterator find(uintptr_t address)
{
    auto next = blocks().upper_bound(address);
    if (next == blocks().begin())
        return blocks().end();
    --next;
    uintptr_t end = next->first + next->second.size;
    /* One past the end belongs to it as well: what runs over shall not pass for other memory. */
    return address <= end && next->second.size > 0 ? next : blocks().end();
}

cudaError_t allocate(void **address_out, size_t size, Kind kind)
{
    if (!address_out)
        return cudaErrorInvalidValue;
    if (cudaError_t status = forbidden_in_capture())
        return status;
    *address_out = nullptr;
    if (size == 0)
        return cudaSuccess;
    size_t whole = (size + 2 * GUARD + GUARD - 1) / GUARD * GUARD;
    auto *memory = static_cast<unsigned char *>(aligned_alloc(GUARD, whole));
    if (!memory)
        return cudaErrorMemoryAllocation;
    memset(memory, GUARD_BYTE, GUARD);
    memset(memory + GUARD, POISON, size);
    memset(memory + GUARD + size, GUARD_BYTE, GUARD);
    *address_out = memory + GUARD;
    blocks()[reinterpret_cast<uintptr_t>(memory + GUARD)] = {size, kind, false};
    (kind == Kind::device ? allocated : pinned) += size;
    alive(1);
    return cudaSuccess;
}

bool guards_intact(const unsigned char *memory, size_t size)
{
    for (size_t i = 0; i < GUARD; i++)
        if (memory[size + i] != GUARD_BYTE || *(memory - 1 - i) != GUARD_BYTE)
            return false;
    return true;
}

cudaError_t deallocate(void *address, Kind kind, const char *function)
{
    if (!address)
        return cudaSuccess;
    auto found = blocks().find(reinterpret_cast<uintptr_t>(address));
    if (found == blocks().end() || found->second.freed || found->second.kind != kind) {
        bool twice = found != blocks().end() && found->second.freed;
        mistake("%s(%p): %s", function, address, twice ? "freed before" : "not allocated so");
        return cudaErrorInvalidValue;
    }
    if (cudaError_t status = forbidden_in_capture())
        return status;
    cudaError_t status = drain();
    size_t size = found->second.size;
    if (!guards_intact(bytes_at(found->first), size))
        mistake("%s(%p): written outside its %zu bytes", function, address, size);
    found->second.freed = true;
    memset(address, POISON, size);
    ASAN_POISON_MEMORY_REGION(address, size);
    (kind == Kind::device ? allocated : pinned) -= size;
    alive(-1);
    quarantine.push_back(found->first);
    quarantined += size;
    while (quarantined > QUARANTINE) {
        auto oldest = blocks().find(quarantine.front());
        quarantine.pop_front();
        quarantined -= oldest->second.size;
        release(oldest->first, oldest->second.size);
        blocks().erase(oldest);
    }
    return status;
}

/* Whether both sides are what the direction says; cudaMemcpyDefault finds it out. */
cudaError_t check_copy(
    const void *dst, const void *src, size_t size, cudaMemcpyKind kind, bool *pageable_out)
{
    bool dst_fits, src_fits;
    Where to = where_is(dst, size, &dst_fits), from = where_is(src, size, &src_fits);
    if (to == Where::freed || from == Where::freed || !dst_fits || !src_fits) {
        mistake("copy of %zu bytes from %p to %p: %s", size, src, dst,
            !dst_fits || !src_fits ? "outside of an allocation" : "freed memory");
        return cudaErrorInvalidValue;
    }
    bool to_device = to == Where::device, from_device = from == Where::device;
    *pageable_out = to == Where::pageable || from == Where::pageable;
    bool right = kind == cudaMemcpyDefault ||
                 (kind == cudaMemcpyHostToDevice && to_device && !from_device) ||
                 (kind == cudaMemcpyDeviceToHost && !to_device && from_device) ||
                 (kind == cudaMemcpyDeviceToDevice && to_device && from_device) ||
                 (kind == cudaMemcpyHostToHost && !to_device && !from_device);
    if (!right)
        mistake("copy of %zu bytes from %p to %p: wrong direction", size, src, dst);
    return right ? cudaSuccess : cudaErrorInvalidMemcpyDirection;
}

/* When the copy runs: a graph may be launched after its memory was freed. */
void copy(void *dst, const void *src, size_t size)
{
    bool fits;
    if (where_is(dst, size, &fits) == Where::freed || where_is(src, size, &fits) == Where::freed) {
        mistake("copy from %p to %p runs after the memory was freed", src, dst);
        sticky = cudaErrorIllegalAddress;
        return;
    }
    memmove(dst, src, size);
}

cudaError_t copy_async(
    void *dst, const void *src, size_t size, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (size == 0)
        return cudaSuccess;
    bool pageable;
    if (cudaError_t status = check_copy(dst, src, size, kind, &pageable))
        return status;
    CUstream_st *queue = stream_of(stream);
    if (!queue)
        return cudaErrorInvalidResourceHandle;
    if (!pageable)
        return enqueue(stream, [=] { copy(dst, src, size); });
    if (queue->capture) {
        queue->capture->invalid = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    if (is_device(dst, size)) { /* staged: the program may change src at once */
        auto staged = std::make_shared<std::vector<unsigned char>>(size);
        memcpy(staged->data(), src, size);
        return enqueue(stream, [=] { copy(dst, staged->data(), size); });
    }
    cudaError_t status = enqueue(stream, [=] { copy(dst, src, size); });
    return status ? status : synchronize_stream(stream);
}

} /* namespace */

Where where_is(const void *address, size_t bytes, bool *fits_out)
{
    *fits_out = address != nullptr;
    auto found = find(reinterpret_cast<uintptr_t>(address));
    if (found == blocks().end())
        return Where::pageable;
    const Block &block = found->second;
    *fits_out = reinterpret_cast<uintptr_t>(address) + bytes <= found->first + block.size;
    if (block.freed)
        return Where::freed;
    if (block.kind == Kind::registered && !*fits_out) { /* host memory may go on after it */
        *fits_out = true;
        return Where::pageable;
    }
    return block.kind == Kind::device ? Where::device : Where::pinned;
}

bool is_device(const void *address, size_t bytes)
{
    bool fits;
    return where_is(address, bytes, &fits) == Where::device && fits;
}

void memory_reset()
{
    for (auto &entry : blocks())
        if (entry.second.kind != Kind::registered)
            release(entry.first, entry.second.size);
    blocks().clear();
    quarantine.clear();
    quarantined = allocated = pinned = 0;
}

} /* namespace fake */

using namespace fake;

int64_t dtr_fake_allocated(void)
{
    return static_cast<int64_t>(allocated);
}

int64_t dtr_fake_pinned(void)
{
    return static_cast<int64_t>(pinned);
}

cudaError_t cudaMalloc(void **address_out, size_t size)
{
    FAKE_ENTER();
    return leave(allocate(address_out, size, Kind::device));
}

cudaError_t cudaFree(void *address)
{
    FAKE_ENTER();
    return leave(deallocate(address, Kind::device, __func__));
}

cudaError_t cudaMallocHost(void **address_out, size_t size)
{
    FAKE_ENTER();
    return leave(allocate(address_out, size, Kind::pinned));
}

cudaError_t cudaHostAlloc(void **address_out, size_t size, unsigned)
{
    FAKE_ENTER();
    return leave(allocate(address_out, size, Kind::pinned));
}

cudaError_t cudaFreeHost(void *address)
{
    FAKE_ENTER();
    return leave(deallocate(address, Kind::pinned, __func__));
}

cudaError_t cudaHostRegister(void *address, size_t size, unsigned)
{
    FAKE_ENTER();
    if (!address || size == 0)
        return leave(cudaErrorInvalidValue);
    if (cudaError_t status = forbidden_in_capture())
        return leave(status);
    if (blocks().count(reinterpret_cast<uintptr_t>(address)))
        return leave(cudaErrorHostMemoryAlreadyRegistered);
    blocks()[reinterpret_cast<uintptr_t>(address)] = {size, Kind::registered, false};
    alive(1);
    return leave(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *address)
{
    FAKE_ENTER();
    auto found = blocks().find(reinterpret_cast<uintptr_t>(address));
    if (found == blocks().end() || found->second.kind != Kind::registered)
        return leave(cudaErrorHostMemoryNotRegistered);
    cudaError_t status = drain();
    blocks().erase(found);
    alive(-1);
    return leave(status);
}

cudaError_t cudaHostGetDevicePointer(void **device_out, void *host, unsigned)
{
    FAKE_ENTER();
    bool fits;
    if (where_is(host, 1, &fits) != Where::pinned)
        return leave(cudaErrorInvalidValue);
    *device_out = host;
    return leave(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_out, size_t *total_out)
{
    FAKE_ENTER();
    *total_out = size_t{8} << 30;
    *free_out = *total_out - allocated;
    return leave(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(
    void *dst, const void *src, size_t size, cudaMemcpyKind kind, cudaStream_t stream)
{
    FAKE_ENTER();
    return leave(copy_async(dst, src, size, kind, stream));
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t size, cudaMemcpyKind kind)
{
    FAKE_ENTER();
    if (cudaError_t status = forbidden_in_capture())
        return leave(status);
    cudaError_t status = copy_async(dst, src, size, kind, nullptr);
    return leave(status ? status : synchronize_stream(nullptr));
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t size, cudaStream_t stream)
{
    FAKE_ENTER();
    if (!is_device(dst, size)) {
        mistake("cudaMemsetAsync(%p, %zu bytes): not device memory", dst, size);
        return leave(cudaErrorInvalidValue);
    }
    return leave(enqueue(stream, [=] {
        if (is_device(dst, size))
            memset(dst, value, size);
        else
            sticky = cudaErrorIllegalAddress;
    }));
}
