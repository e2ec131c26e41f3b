/*
 * Streams, events, and who runs next. Work waits for flags: that of the work before it on its
 * stream, those of events, those of the legacy stream. Of what waits for nothing any more the
 * scheduler takes one at random, but only while somebody synchronizes or queries.
 *
 * Collective work blocks until all ranks are there. It runs only for those who wait for it, else a
 * rank could block in an exchange that another one begins only after hearing from this one.
 */
#include "internal.h"

#include <chrono>
#include <cstdlib>
#include <set>

namespace fake
{

struct Work {
    std::function<void()> run;
    FlagPointer flag;
    size_t waits_for;
    bool collective;
};

namespace
{

std::set<CUstream_st *> streams;
std::set<CUevent_st *> events;
CUstream_st legacy{};
std::set<std::shared_ptr<Work>> pending; /* owns what has not run */
std::vector<Work *> ready;
uint64_t random_state;
bool seeded;

uint64_t random_below(uint64_t n)
{
    if (!seeded) {
        const char *seed = getenv("DTRAIN_FAKE_SEED");
        dtr_fake_seed(seed ? strtoull(seed, nullptr, 10) : 1);
    }
    random_state = random_state * 6364136223846793005U + 1442695040888963407U;
    return (random_state >> 33) % n;
}

void collect(const FlagPointer &flag, std::set<Flag *> *found)
{
    std::vector<Flag *> todo{flag.get()};
    while (!todo.empty()) {
        Flag *next = todo.back();
        todo.pop_back();
        if (next->done || !found->insert(next).second)
            continue;
        for (const FlagPointer &before : next->after)
            todo.push_back(before.get());
    }
}

/* Runs one piece of work, on the way to `target` (NULL: to everything). False: there is none. */
bool step(const FlagPointer &target)
{
    std::vector<size_t> may;
    std::set<Flag *> needed;
    for (size_t i = 0; i < ready.size(); i++) {
        if (ready[i]->collective && target) {
            if (needed.empty())
                collect(target, &needed);
            if (!needed.count(ready[i]->flag.get()))
                continue;
        }
        may.push_back(i);
    }
    if (may.empty())
        return false;
    size_t chosen = may[random_below(may.size())];
    Work *work = ready[chosen];
    ready.erase(ready.begin() + static_cast<ptrdiff_t>(chosen));
    async_fault();
    if (!sticky && work->run)
        work->run();
    Flag *flag = work->flag.get();
    flag->done = true;
    flag->after.clear();
    for (Work *next : flag->before)
        if (--next->waits_for == 0)
            ready.push_back(next);
    flag->before.clear();
    for (auto owner = pending.begin(); owner != pending.end(); ++owner) {
        if (owner->get() == work) {
            pending.erase(owner);
            break;
        }
    }
    return true;
}

cudaError_t wait_for(const FlagPointer &target)
{
    while (target && !target->done && !sticky) {
        if (!step(target)) {
            mistake("waiting for work that never becomes ready");
            sticky = cudaErrorLaunchTimeout;
        }
    }
    return sticky;
}

cudaError_t query(const FlagPointer &target)
{
    if (target && !target->done)
        step(target);
    if (sticky)
        return sticky;
    return !target || target->done ? cudaSuccess : cudaErrorNotReady;
}

int64_t now_ns()
{
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

cudaError_t create_stream(cudaStream_t *stream_out, unsigned flags)
{
    if (!stream_out || flags > cudaStreamNonBlocking)
        return cudaErrorInvalidValue;
    *stream_out = new CUstream_st{};
    (*stream_out)->blocking = flags != cudaStreamNonBlocking;
    streams.insert(*stream_out);
    alive(1);
    return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t *event_out, unsigned flags)
{
    if (!event_out)
        return cudaErrorInvalidValue;
    *event_out = new CUevent_st{};
    (*event_out)->timing = !(flags & cudaEventDisableTiming);
    events.insert(*event_out);
    alive(1);
    return cudaSuccess;
}

/* Stream calls that ask about its work, which a stream that captures has not. */
cudaError_t check_not_capturing(CUstream_st *stream)
{
    if (!stream)
        return cudaErrorInvalidResourceHandle;
    if (stream == &legacy && capturing())
        return forbidden_in_capture() ? cudaErrorStreamCaptureImplicit : cudaSuccess;
    if (!stream->capture)
        return cudaSuccess;
    stream->capture->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t record(CUevent_st *event, CUstream_st *stream)
{
    if (stream->capture) {
        if (stream->capture->invalid)
            return cudaErrorStreamCaptureInvalidated;
        event->capture = stream->capture;
        event->nodes = stream->frontier;
    } else {
        auto time_ns = std::make_shared<int64_t>(0);
        if (cudaError_t status = enqueue(stream, [=] { *time_ns = now_ns(); }))
            return status;
        event->capture = nullptr;
        event->done = stream->last;
        event->time_ns = time_ns;
    }
    event->recorded = true;
    return cudaSuccess;
}

cudaError_t wait_event(CUstream_st *stream, CUevent_st *event)
{
    if (!event->recorded)
        return cudaSuccess;
    if (!event->capture) {
        if (stream->capture) { /* a graph cannot depend on what is outside of it */
            stream->capture->invalid = true;
            return cudaErrorStreamCaptureIsolation;
        }
        if (!event->done->done)
            stream->waits.push_back(event->done);
        return cudaSuccess;
    }
    if (!event->capture->origin) /* the capture is over */
        return cudaErrorCapturedEvent;
    if (stream == &legacy) {
        event->capture->invalid = true;
        return cudaErrorStreamCaptureImplicit;
    }
    if (stream->capture && stream->capture != event->capture) {
        stream->capture->invalid = event->capture->invalid = true;
        return cudaErrorStreamCaptureMerge;
    }
    if (event->capture->invalid)
        return cudaErrorStreamCaptureInvalidated;
    stream->capture = event->capture;
    stream->frontier.insert(stream->frontier.end(), event->nodes.begin(), event->nodes.end());
    return cudaSuccess;
}

} /* namespace */

bool is_legacy(cudaStream_t stream)
{
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

CUstream_st *stream_of(cudaStream_t stream)
{
    if (is_legacy(stream) || stream == &legacy)
        return &legacy;
    return streams.count(stream) ? stream : nullptr;
}

std::vector<CUstream_st *> all_streams()
{
    return {streams.begin(), streams.end()};
}

void submit(std::function<void()> run, const FlagPointer &flag, bool collective)
{
    auto work = std::make_shared<Work>(Work{std::move(run), flag, 0, collective});
    for (const FlagPointer &before : flag->after) {
        if (before->done)
            continue;
        before->before.push_back(work.get());
        work->waits_for++;
    }
    if (work->waits_for == 0)
        ready.push_back(work.get());
    pending.insert(std::move(work));
}

cudaError_t enqueue(cudaStream_t handle, std::function<void()> run, OrderPointer order)
{
    CUstream_st *stream = stream_of(handle);
    if (!stream)
        return cudaErrorInvalidResourceHandle;
    if (stream->capture) {
        if (stream->capture->invalid)
            return cudaErrorStreamCaptureInvalidated;
        capture_node(stream, std::move(run), std::move(order));
        return cudaSuccess;
    }
    if (cudaError_t status = check_not_capturing(stream))
        return status;
    auto flag = std::make_shared<Flag>();
    flag->after.swap(stream->waits);
    auto follow = [&](const FlagPointer &before) {
        if (before && !before->done)
            flag->after.push_back(before);
    };
    follow(stream->last);
    if (stream == &legacy) {
        for (CUstream_st *other : streams)
            if (other->blocking)
                follow(other->last);
    } else if (stream->blocking) {
        follow(legacy.last);
    }
    if (order) {
        follow(order->last);
        order->last = flag;
    }
    stream->last = flag;
    submit(std::move(run), flag, order != nullptr);
    return cudaSuccess;
}

cudaError_t drain()
{
    while (!sticky && step(nullptr))
        continue;
    return sticky;
}

cudaError_t synchronize_stream(cudaStream_t stream)
{
    if (stream_of(stream) == &legacy) /* what blocking streams have is before it */
        if (cudaError_t status = enqueue(stream, nullptr))
            return status;
    return wait_for(stream_of(stream)->last);
}

void streams_reset()
{
    for (const auto &work : pending)
        work->flag->after.clear();
    pending.clear();
    ready.clear();
    for (CUstream_st *stream : streams)
        delete stream;
    streams.clear();
    for (CUevent_st *event : events)
        delete event;
    events.clear();
    legacy = CUstream_st{};
}

} /* namespace fake */

using namespace fake;

void dtr_fake_seed(uint64_t seed)
{
    random_state = (seed + 1) * 0x9e3779b97f4a7c15U;
    seeded = true;
}

cudaError_t dtr_simt_enqueue(cudaStream_t stream, std::function<void()> work)
{
    std::lock_guard<std::recursive_mutex> guard(lock());
    cudaError_t status = enter("kernel");
    leave(status ? status : enqueue(stream, std::move(work)));
    return cudaGetLastError();
}

cudaError_t cudaStreamCreate(cudaStream_t *stream_out)
{
    FAKE_ENTER();
    return leave(create_stream(stream_out, cudaStreamDefault));
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream_out, unsigned flags)
{
    FAKE_ENTER();
    return leave(create_stream(stream_out, flags));
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream_out, unsigned flags, int)
{
    FAKE_ENTER();
    return leave(create_stream(stream_out, flags));
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    FAKE_ENTER();
    if (!streams.count(stream)) {
        mistake("cudaStreamDestroy(%p): no stream", static_cast<void *>(stream));
        return leave(cudaErrorInvalidResourceHandle);
    }
    if (stream->capture)
        stream->capture->invalid = true;
    streams.erase(stream);
    delete stream; /* its work goes on */
    alive(-1);
    return leave(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    FAKE_ENTER();
    cudaError_t status = check_not_capturing(stream_of(stream));
    return leave(status ? status : synchronize_stream(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    FAKE_ENTER();
    CUstream_st *asked = stream_of(stream);
    cudaError_t status = check_not_capturing(asked);
    return leave(status ? status : query(asked->last));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    FAKE_ENTER();
    CUstream_st *waiting = stream_of(stream);
    if (!waiting || !events.count(event))
        return leave(cudaErrorInvalidResourceHandle);
    return leave(wait_event(waiting, event));
}

cudaError_t cudaEventCreate(cudaEvent_t *event_out)
{
    FAKE_ENTER();
    return leave(create_event(event_out, cudaEventDefault));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event_out, unsigned flags)
{
    FAKE_ENTER();
    return leave(create_event(event_out, flags));
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    FAKE_ENTER();
    if (!events.erase(event)) {
        mistake("cudaEventDestroy(%p): no event", static_cast<void *>(event));
        return leave(cudaErrorInvalidResourceHandle);
    }
    delete event;
    alive(-1);
    return leave(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    FAKE_ENTER();
    CUstream_st *recorded = stream_of(stream);
    if (!recorded || !events.count(event))
        return leave(cudaErrorInvalidResourceHandle);
    return leave(record(event, recorded));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    FAKE_ENTER();
    if (!events.count(event))
        return leave(cudaErrorInvalidResourceHandle);
    return leave(event->capture ? cudaErrorCapturedEvent : query(event->done));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    FAKE_ENTER();
    if (!events.count(event))
        return leave(cudaErrorInvalidResourceHandle);
    return leave(event->capture ? cudaErrorCapturedEvent : wait_for(event->done));
}

cudaError_t cudaEventElapsedTime(float *ms_out, cudaEvent_t start, cudaEvent_t end)
{
    FAKE_ENTER();
    for (CUevent_st *event : {start, end})
        if (!events.count(event) || !event->timing || !event->done || event->capture)
            return leave(cudaErrorInvalidResourceHandle);
    if (!start->done->done || !end->done->done)
        return leave(cudaErrorNotReady);
    *ms_out = static_cast<float>(*end->time_ns - *start->time_ns) * 1e-6F;
    return leave(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    FAKE_ENTER();
    return leave(enqueue(stream, [=] {
        in_host_function = true;
        function(data);
        in_host_function = false;
    }));
}

cudaError_t cudaDeviceSynchronize(void)
{
    FAKE_ENTER();
    if (cudaError_t status = forbidden_in_capture())
        return leave(status);
    return leave(drain());
}
