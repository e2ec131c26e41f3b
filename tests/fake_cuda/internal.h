/*
 * What the files of the fake CUDA share: how a call begins and ends, memory as the checks see it,
 * and how work gets on a stream.
 */
#ifndef DTRAIN_FAKE_INTERNAL_H
#define DTRAIN_FAKE_INTERNAL_H

#include "fake_cuda.h"

#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fake
{

/* One lock around every call: the fake has one thread at a time. */
std::recursive_mutex &lock();

/* faults.cpp: counts the call; the code it shall fail with, or 0. */
int fault(const char *function, int fallback);
void async_fault(); /* before each work that runs */
void mistake(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What exists, for leaks: +1 and -1. */
void alive(int change);

/* device.cpp. Once work has failed, every call does until the device is reset. */
extern cudaError_t sticky;
extern bool in_host_function;
/* Counts a runtime call; what it shall return at once, or cudaSuccess. */
cudaError_t enter(const char *function);
cudaError_t leave(cudaError_t status); /* remembers the last error */
void device_reset();
int current_device();

/* memory.cpp */
enum class Where { pageable, pinned, device, freed };
/* Of `bytes` at the address. Not inside one allocation: *fits_out = false. */
Where where_is(const void *address, size_t bytes, bool *fits_out);
bool is_device(const void *address, size_t bytes);
void memory_reset();

/* streams.cpp: a flag is raised when its work is done; until then it knows what it waits for. */
struct Work;
struct Flag {
    bool done = false;
    std::vector<std::shared_ptr<Flag>> after;
    std::vector<Work *> before; /* work that waits for it */
};
using FlagPointer = std::shared_ptr<Flag>;

/* Orders work beyond streams: of a communicator's operations each follows the last. Such work is
 * collective: it blocks until all ranks take part, and runs only for those who need it. */
struct Capture;
struct Order {
    FlagPointer last;
    std::weak_ptr<Capture> capture;
    int node;
};
using OrderPointer = std::shared_ptr<Order>;

/* Puts work on a stream, or into its graph. */
cudaError_t enqueue(cudaStream_t stream, std::function<void()> run, OrderPointer order = nullptr);
/* Work on no stream that runs after flag->after, and raises the flag. */
void submit(std::function<void()> run, const FlagPointer &flag, bool collective);
cudaError_t drain(); /* runs everything */
cudaError_t synchronize_stream(cudaStream_t stream);
void streams_reset();

/* graphs.cpp */
struct Node {
    std::function<void()> run;
    std::vector<int> after;
    OrderPointer order;
};
using Nodes = std::vector<Node>;

struct Capture {
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    cudaStream_t origin;
    bool invalid = false;
    std::shared_ptr<Nodes> nodes = std::make_shared<Nodes>();
};
using CapturePointer = std::shared_ptr<Capture>;

/* For calls that are not allowed during a capture, which they invalidate. */
cudaError_t forbidden_in_capture();
bool capturing();
void capture_node(CUstream_st *stream, std::function<void()> run, OrderPointer order);

} /* namespace fake */

/* The beginning of each runtime function. */
#define FAKE_ENTER()                                                                               \
    std::lock_guard<std::recursive_mutex> guard(fake::lock());                                     \
    if (cudaError_t fault = fake::enter(__func__))                                                 \
    return fake::leave(fault)

struct CUstream_st {
    bool blocking;                        /* waits for the legacy stream and the other way round */
    fake::FlagPointer last;               /* work, or NULL */
    std::vector<fake::FlagPointer> waits; /* of the next work */
    fake::CapturePointer capture;         /* NULL: none */
    std::vector<int> frontier;            /* nodes that the next one follows */
};

struct CUevent_st {
    bool timing;
    bool recorded = false;
    std::shared_ptr<int64_t> time_ns;
    fake::FlagPointer done;
    fake::CapturePointer capture; /* recorded in this one */
    std::vector<int> nodes;
};

namespace fake
{
/* The stream of a handle, NULL where there is none. */
CUstream_st *stream_of(cudaStream_t stream);
bool is_legacy(cudaStream_t stream);
std::vector<CUstream_st *> all_streams();
} /* namespace fake */

#endif
