/*
 * Capture and graphs. A stream that captures collects nodes; a stream that waits for an event of
 * the capture joins it. What is launched runs node by node as its dependencies allow, after the
 * launch before it of the same graph, and may mix with other streams' work.
 */
#include "internal.h"

#include <algorithm>
#include <set>

struct CUgraph_st {
    std::shared_ptr<fake::Nodes> nodes;
};

struct CUgraphExec_st {
    std::shared_ptr<fake::Nodes> nodes;
    fake::FlagPointer last; /* launch */
};

namespace fake
{
namespace
{

std::vector<CapturePointer> captures;
std::set<CUgraph_st *> graphs;
std::set<CUgraphExec_st *> execs;

/* Whether the origin stream, which ends the capture, has waited for everything. */
bool joined(const Nodes &nodes, const std::vector<int> &frontier)
{
    std::vector<bool> reached(nodes.size());
    std::vector<int> todo = frontier;
    while (!todo.empty()) {
        size_t node = static_cast<size_t>(todo.back());
        todo.pop_back();
        if (reached[node])
            continue;
        reached[node] = true;
        todo.insert(todo.end(), nodes[node].after.begin(), nodes[node].after.end());
    }
    return std::find(reached.begin(), reached.end(), false) == reached.end();
}

cudaError_t end_capture(CUstream_st *stream, cudaGraph_t *graph_out)
{
    *graph_out = nullptr;
    CapturePointer capture = stream->capture;
    if (!capture)
        return cudaErrorIllegalState;
    if (capture->origin != stream) {
        capture->invalid = true;
        return cudaErrorStreamCaptureUnmatched;
    }
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id())
        return cudaErrorStreamCaptureWrongThread;
    cudaError_t status = capture->invalid ? cudaErrorStreamCaptureInvalidated
                         : joined(*capture->nodes, stream->frontier)
                             ? cudaSuccess
                             : cudaErrorStreamCaptureUnjoined;
    for (CUstream_st *other : all_streams()) {
        if (other->capture != capture)
            continue;
        other->capture = nullptr;
        other->frontier.clear();
    }
    capture->origin = nullptr;
    captures.erase(std::find(captures.begin(), captures.end(), capture));
    if (status)
        return status;
    *graph_out = new CUgraph_st{capture->nodes};
    graphs.insert(*graph_out);
    alive(1);
    return cudaSuccess;
}

cudaError_t launch(CUgraphExec_st *exec, CUstream_st *stream)
{
    if (stream->capture) { /* graphs in graphs: not here */
        stream->capture->invalid = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    auto follow = [&](const FlagPointer &before) {
        if (before && !before->done)
            stream->waits.push_back(before);
    };
    follow(exec->last);
    for (const Node &node : *exec->nodes)
        if (node.order)
            follow(node.order->last);
    if (cudaError_t status = enqueue(stream, nullptr))
        return status;
    std::vector<FlagPointer> flags;
    for (const Node &node : *exec->nodes) {
        auto flag = std::make_shared<Flag>();
        flag->after.push_back(stream->last);
        for (int before : node.after)
            flag->after.push_back(flags[static_cast<size_t>(before)]);
        submit(node.run, flag, node.order != nullptr);
        flags.push_back(flag);
    }
    for (const FlagPointer &flag : flags)
        follow(flag);
    if (cudaError_t status = enqueue(stream, nullptr))
        return status;
    exec->last = stream->last;
    for (const Node &node : *exec->nodes)
        if (node.order)
            node.order->last = stream->last;
    return cudaSuccess;
}

} /* namespace */

bool capturing()
{
    return !captures.empty();
}

cudaError_t forbidden_in_capture()
{
    bool found = false;
    for (const CapturePointer &capture : captures) {
        if (capture->mode == cudaStreamCaptureModeRelaxed ||
            (capture->mode == cudaStreamCaptureModeThreadLocal &&
                capture->thread != std::this_thread::get_id()))
            continue;
        capture->invalid = found = true;
    }
    return found ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

void capture_node(CUstream_st *stream, std::function<void()> run, OrderPointer order)
{
    Capture &capture = *stream->capture;
    int number = static_cast<int>(capture.nodes->size());
    std::vector<int> after = stream->frontier;
    if (order) {
        if (order->capture.lock() == stream->capture)
            after.push_back(order->node);
        order->capture = stream->capture;
        order->node = number;
    }
    capture.nodes->push_back({std::move(run), std::move(after), std::move(order)});
    stream->frontier = {number};
}

} /* namespace fake */

using namespace fake;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    FAKE_ENTER();
    if (is_legacy(stream))
        return leave(cudaErrorStreamCaptureUnsupported);
    if (!stream_of(stream))
        return leave(cudaErrorInvalidResourceHandle);
    if (stream->capture)
        return leave(cudaErrorIllegalState);
    stream->capture = std::make_shared<Capture>();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->capture->origin = stream;
    captures.push_back(stream->capture);
    return leave(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph_out)
{
    FAKE_ENTER();
    CUstream_st *ended = stream_of(stream);
    return leave(ended ? end_capture(ended, graph_out) : cudaErrorInvalidResourceHandle);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status_out)
{
    FAKE_ENTER();
    CUstream_st *asked = stream_of(stream);
    if (!asked)
        return leave(cudaErrorInvalidResourceHandle);
    *status_out = !asked->capture           ? cudaStreamCaptureStatusNone
                  : asked->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                            : cudaStreamCaptureStatusActive;
    return leave(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec_out, cudaGraph_t graph, unsigned long long)
{
    FAKE_ENTER();
    if (!graphs.count(graph))
        return leave(cudaErrorInvalidValue);
    *exec_out = new CUgraphExec_st{graph->nodes, nullptr};
    execs.insert(*exec_out);
    alive(1);
    return leave(cudaSuccess);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    FAKE_ENTER();
    bool valid = execs.count(exec) && stream_of(stream);
    return leave(valid ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    FAKE_ENTER();
    CUstream_st *launched = stream_of(stream);
    if (!execs.count(exec) || !launched)
        return leave(cudaErrorInvalidValue);
    return leave(launch(exec, launched));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    FAKE_ENTER();
    if (!graphs.erase(graph))
        return leave(cudaErrorInvalidValue);
    delete graph;
    alive(-1);
    return leave(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    FAKE_ENTER();
    if (!execs.erase(exec))
        return leave(cudaErrorInvalidValue);
    delete exec; /* launches that are on the way go on */
    alive(-1);
    return leave(cudaSuccess);
}
