/*
 * NCCL: collective operations through the program's callbacks. Before each operation the ranks
 * compare what they are about to do: in another order the real one hangs or mixes up data. So does
 * destroying a communicator while a graph with its operations lives: here both are mistakes.
 */
#include "internal.h"

#include <algorithm>
#include <cstring>
#include <nccl.h>

struct ncclComm {
    int size, rank, device, polls; /* polls: still in progress */
    ncclResult_t failed;
    fake::OrderPointer order;
};

namespace
{

using namespace fake;

const dtr_fake_exchange *exchange;
std::vector<std::function<cudaError_t()>> group;
int group_depth;
constexpr int POLLS = 3;

#define NCCL_ENTER()                                                                               \
    std::lock_guard<std::recursive_mutex> guard(lock());                                           \
    if (int code = fault(__func__, ncclSystemError))                                               \
    return static_cast<ncclResult_t>(code)

size_t size_of(ncclDataType_t type)
{
    return type == ncclFloat ? 4 : type == ncclDouble || type == ncclInt64 ? 8 : 0;
}

template <typename T> void divide(void *buffer, size_t count, int size)
{
    for (size_t i = 0; i < count; i++)
        static_cast<T *>(buffer)[i] /= static_cast<T>(size);
}

bool reduce(const ncclComm &comm, void *buffer, size_t count, ncclDataType_t type, ncclRedOp_t op)
{
    if (!exchange)
        return true;
    if (exchange->allreduce(exchange->context, buffer, static_cast<int64_t>(count), type,
            op == ncclAvg ? ncclSum : op))
        return false;
    if (op == ncclAvg && type == ncclFloat)
        divide<float>(buffer, count, comm.size);
    else if (op == ncclAvg && type == ncclDouble)
        divide<double>(buffer, count, comm.size);
    else if (op == ncclAvg)
        divide<int64_t>(buffer, count, comm.size);
    return true;
}

/* Whether all ranks come with the same operation. */
bool same_everywhere(int64_t signature)
{
    int64_t both[2] = {signature, -signature};
    return !exchange || (exchange->allreduce(exchange->context, both, 2, ncclInt64, ncclMax) == 0 &&
                            both[0] == -both[1]);
}

ncclResult_t start(
    ncclComm *comm, cudaStream_t stream, int64_t signature, bool valid, std::function<bool()> run)
{
    if (!comm || !valid)
        return ncclInvalidArgument;
    if (comm->polls > 0)
        return ncclInvalidUsage;
    auto work = [=] {
        if (!same_everywhere(signature)) {
            mistake("ranks come with different NCCL operations, or in another order");
            comm->failed = ncclInvalidUsage;
        } else if (!run()) {
            comm->failed = ncclRemoteError;
        }
    };
    auto put = [=] { return enqueue(stream, work, comm->order); };
    if (group_depth == 0)
        return put() ? ncclUnhandledCudaError : ncclSuccess;
    group.push_back(put);
    return ncclSuccess;
}

int64_t sign(int kind, size_t count, int type, int detail)
{
    return static_cast<int64_t>(count) * 4096 + kind * 1024 + type * 64 + detail;
}

bool fits(const void *address, size_t count, ncclDataType_t type)
{
    return size_of(type) > 0 && (count == 0 || is_device(address, count * size_of(type)));
}

bool known(ncclRedOp_t op)
{
    return op == ncclSum || op == ncclAvg || op == ncclMax;
}

ncclResult_t destroy(ncclComm *comm, bool aborted)
{
    if (!comm)
        return ncclInvalidArgument;
    if (!aborted)
        drain();
    /* Work that waits holds it as well, but none is left now. */
    if (!aborted && comm->order.use_count() > 1)
        mistake("communicator destroyed before the graphs with its operations");
    delete comm;
    alive(-1);
    return ncclSuccess;
}

} /* namespace */

void dtr_fake_exchange_set(const struct dtr_fake_exchange *set)
{
    exchange = set;
}

ncclResult_t ncclGetVersion(int *version_out)
{
    NCCL_ENTER();
    *version_out = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id_out)
{
    NCCL_ENTER();
    memset(id_out, 1, sizeof *id_out);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(
    ncclComm_t *comm_out, int size, ncclUniqueId, int rank, ncclConfig_t *config)
{
    NCCL_ENTER();
    if (size != (exchange ? exchange->size : 1) || rank != (exchange ? exchange->rank : 0))
        return ncclInvalidArgument;
    bool blocking = !config || config->blocking != 0;
    *comm_out = new ncclComm{
        size, rank, current_device(), blocking ? 0 : POLLS, ncclSuccess, std::make_shared<Order>()};
    alive(1);
    return blocking ? ncclSuccess : ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error_out)
{
    NCCL_ENTER();
    *error_out = comm->failed ? comm->failed : comm->polls > 0 ? ncclInProgress : ncclSuccess;
    if (comm->polls > 0)
        comm->polls--;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    NCCL_ENTER();
    return comm ? ncclSuccess : ncclInvalidArgument;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    NCCL_ENTER();
    return destroy(comm, false);
}

ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    NCCL_ENTER();
    return destroy(comm, true);
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count_out)
{
    NCCL_ENTER();
    *count_out = comm->size;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank_out)
{
    NCCL_ENTER();
    *rank_out = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device_out)
{
    NCCL_ENTER();
    *device_out = comm->device;
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *src, void *dst, size_t count, ncclDataType_t type,
    ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    NCCL_ENTER();
    bool valid = known(op) && fits(src, count, type) && fits(dst, count, type);
    return start(comm, stream, sign(0, count, type, op), valid, [=] {
        memmove(dst, src, count * size_of(type));
        return reduce(*comm, dst, count, type, op);
    });
}

ncclResult_t ncclBroadcast(const void *src, void *dst, size_t count, ncclDataType_t type, int root,
    ncclComm_t comm, cudaStream_t stream)
{
    NCCL_ENTER();
    bool valid = comm && fits(dst, count, type) && (comm->rank != root || fits(src, count, type));
    return start(comm, stream, sign(1, count, type, root % 64), valid, [=] {
        size_t bytes = count * size_of(type);
        if (comm->rank == root)
            memmove(dst, src, bytes);
        return !exchange ||
               exchange->broadcast(exchange->context, dst, static_cast<int64_t>(bytes), root) == 0;
    });
}

ncclResult_t ncclReduceScatter(const void *src, void *dst, size_t count, ncclDataType_t type,
    ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    NCCL_ENTER();
    size_t all = comm ? count * static_cast<size_t>(comm->size) : 0;
    bool valid = known(op) && fits(src, all, type) && fits(dst, count, type);
    return start(comm, stream, sign(2, count, type, op), valid, [=] {
        size_t bytes = count * size_of(type);
        std::vector<double> sums((all * size_of(type) + 7) / 8); /* aligned for all types */
        memcpy(sums.data(), src, all * size_of(type));
        bool done = reduce(*comm, sums.data(), all, type, op);
        memcpy(dst, reinterpret_cast<char *>(sums.data()) + static_cast<size_t>(comm->rank) * bytes,
            bytes);
        return done;
    });
}

ncclResult_t ncclAllGather(const void *src, void *dst, size_t count, ncclDataType_t type,
    ncclComm_t comm, cudaStream_t stream)
{
    NCCL_ENTER();
    size_t all = comm ? count * static_cast<size_t>(comm->size) : 0;
    bool valid = fits(src, count, type) && fits(dst, all, type);
    return start(comm, stream, sign(3, count, type, 0), valid, [=] {
        auto *bytes = static_cast<const char *>(src);
        std::vector<char> mine(bytes, bytes + count * size_of(type)); /* dst may contain it */
        if (exchange)
            return exchange->allgather(
                       exchange->context, mine.data(), static_cast<int64_t>(mine.size()), dst) == 0;
        memcpy(dst, mine.data(), mine.size());
        return true;
    });
}

ncclResult_t ncclGroupStart(void)
{
    NCCL_ENTER();
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    NCCL_ENTER();
    if (group_depth == 0)
        return ncclInvalidUsage;
    if (--group_depth > 0)
        return ncclSuccess;
    bool failed = false;
    for (const auto &put : group)
        failed = put() || failed;
    group.clear();
    return failed ? ncclUnhandledCudaError : ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    const char *const texts[] = {"no error", "unhandled cuda error", "unhandled system error",
        "internal error", "invalid argument", "invalid usage",
        "remote process exited or there was a network error", "NCCL operation in progress"};
    return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t)
{
    return dtr_fake_last_mistake();
}
