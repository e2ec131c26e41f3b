/*
 * A faulty network: preloaded into one program, it flips a bit of the message that a rank sends as
 * its n-th. DTRAIN_TEST_FLIP is "RANK:N". Counts MPI_Isend alone, which carries the exchange.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_the_one(MPI_Comm comm)
{
    static int rank = -2, number, sent;
    const char *which = getenv("DTRAIN_TEST_FLIP");
    int mine;
    if (rank == -2 && (which == NULL || sscanf(which, "%d:%d", &rank, &number) != 2))
        rank = -1;
    MPI_Comm_rank(comm, &mine);
    return mine == rank && ++sent == number;
}

int MPI_Isend(const void *buffer, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
    MPI_Request *request)
{
    if (is_the_one(comm)) {
        int size;
        MPI_Type_size(type, &size);
        unsigned char *copy = malloc((size_t)count * (size_t)size); /* lives as long as the send */
        memcpy(copy, buffer, (size_t)count * (size_t)size);
        copy[2] ^= 0x40; /* a float's, large enough to matter */
        buffer = copy;
    }
    return PMPI_Isend(buffer, count, type, to, tag, comm, request);
}
