/*
 * Ranks for the fake NCCL (tests/fake_cuda/): its sums go through MPI, on a communicator of their
 * own. Part of the emulated plugin; a program that does not use MPI has one rank.
 */
#include "../fake_cuda/fake_cuda.h"

#include <mpi.h>
#include <nccl.h>

static MPI_Comm comm;

static MPI_Datatype type_of(int type)
{
    return type == ncclFloat ? MPI_FLOAT : type == ncclDouble ? MPI_DOUBLE : MPI_INT64_T;
}

static int allreduce(void *context, void *buffer, int64_t count, int type, int operation)
{
    (void)context;
    return MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, type_of(type),
        operation == ncclMax ? MPI_MAX : MPI_SUM, comm);
}

static int broadcast(void *context, void *buffer, int64_t bytes, int root)
{
    (void)context;
    return MPI_Bcast(buffer, (int)bytes, MPI_BYTE, root, comm);
}

static int allgather(void *context, const void *mine, int64_t bytes, void *all)
{
    (void)context;
    return MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, comm);
}

/* When all ranks load the plugin. */
__attribute__((constructor)) static void join(void)
{
    static struct dtr_fake_exchange exchange = {
        .allreduce = allreduce, .broadcast = broadcast, .allgather = allgather};
    int initialized = 0;
    MPI_Initialized(&initialized);
    if (!initialized)
        return;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm);
    MPI_Comm_rank(comm, &exchange.rank);
    MPI_Comm_size(comm, &exchange.size);
    dtr_fake_exchange_set(&exchange);
}
