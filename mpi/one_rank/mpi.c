#include "mpi.h"

#include <stdio.h>
#include <string.h>

/* Functions have the standard's parameters; few of them matter to a rank that is alone. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

int MPI_Init_thread(int *argc, char ***argv, int wanted, int *provided_out)
{
    *provided_out = wanted;
    return MPI_SUCCESS;
}

int MPI_Finalize(void)
{
    return MPI_SUCCESS;
}

/* There are no others to end; the caller ends itself. */
int MPI_Abort(MPI_Comm comm, int status)
{
    return MPI_SUCCESS;
}

static void set_text(const char *text, int most, char *text_out, int *length_out)
{
    *length_out = snprintf(text_out, (size_t)most, "%s", text);
}

int MPI_Get_library_version(char *text_out, int *length_out)
{
    set_text("no MPI", MPI_MAX_LIBRARY_VERSION_STRING, text_out, length_out);
    return MPI_SUCCESS;
}

int MPI_Error_string(int code, char *text_out, int *length_out)
{
    const char *text = code == MPI_SUCCESS ? "no error" : "there is no other rank";
    set_text(text, MPI_MAX_ERROR_STRING, text_out, length_out);
    return MPI_SUCCESS;
}

/* Communicators: the same rank in all of them. */

int MPI_Comm_rank(MPI_Comm comm, int *rank_out)
{
    *rank_out = 0;
    return MPI_SUCCESS;
}

int MPI_Comm_size(MPI_Comm comm, int *size_out)
{
    *size_out = 1;
    return MPI_SUCCESS;
}

int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *comm_out)
{
    *comm_out = comm;
    return MPI_SUCCESS;
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *comm_out)
{
    *comm_out = color == MPI_UNDEFINED ? (MPI_Comm)MPI_COMM_NULL : comm;
    return MPI_SUCCESS;
}

int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *comm_out)
{
    return MPI_Comm_dup(comm, comm_out);
}

int MPI_Comm_free(MPI_Comm *comm)
{
    *comm = MPI_COMM_NULL;
    return MPI_SUCCESS;
}

int MPI_Comm_set_errhandler(MPI_Comm comm, MPI_Errhandler handler)
{
    return MPI_SUCCESS; /* errors are returned */
}

int MPI_Type_contiguous(int count, MPI_Datatype type, MPI_Datatype *type_out)
{
    *type_out = count * type;
    return MPI_SUCCESS;
}

int MPI_Type_commit(MPI_Datatype *type)
{
    return MPI_SUCCESS;
}

int MPI_Type_free(MPI_Datatype *type)
{
    return MPI_SUCCESS;
}

int MPI_Op_create(MPI_User_function *function, int commutes, MPI_Op *op_out)
{
    *op_out = MPI_SUM; /* of one contribution; no operation is ever carried out */
    return MPI_SUCCESS;
}

int MPI_Op_free(MPI_Op *op)
{
    return MPI_SUCCESS;
}

/* Collectives. */

int MPI_Barrier(MPI_Comm comm)
{
    return MPI_SUCCESS;
}

int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm)
{
    return root == 0 ? MPI_SUCCESS : MPI_ERR_RANK;
}

int MPI_Allreduce(
    const void *mine, void *all_out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm)
{
    if (mine != MPI_IN_PLACE)
        memcpy(all_out, mine, (size_t)count * (size_t)type);
    return MPI_SUCCESS;
}

int MPI_Iallreduce(const void *mine, void *all_out, int count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Request *request_out)
{
    *request_out = MPI_REQUEST_NULL;
    return MPI_Allreduce(mine, all_out, count, type, op, comm);
}

int MPI_Allgather(const void *mine, int count, MPI_Datatype type, void *all_out, int all_count,
    MPI_Datatype all_type, MPI_Comm comm)
{
    return MPI_Allreduce(mine, all_out, count, type, MPI_SUM, comm);
}

/* Requests: none is ever under way. */

int MPI_Wait(MPI_Request *request, MPI_Status *status_out)
{
    return MPI_SUCCESS;
}

int MPI_Test(MPI_Request *request, int *done_out, MPI_Status *status_out)
{
    *done_out = 1;
    return MPI_SUCCESS;
}

int MPI_Testsome(
    int count, MPI_Request *requests, int *done_out, int *which_out, MPI_Status *statuses_out)
{
    *done_out = MPI_UNDEFINED;
    return MPI_SUCCESS;
}

/* Messages: there is nobody at the other end. */

int MPI_Send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm)
{
    return MPI_ERR_RANK;
}

int MPI_Isend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
    MPI_Request *request_out)
{
    return MPI_ERR_RANK;
}

int MPI_Recv(void *data_out, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
    MPI_Status *status_out)
{
    return MPI_ERR_RANK;
}

int MPI_Irecv(void *data_out, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
    MPI_Request *request_out)
{
    return MPI_ERR_RANK;
}

int MPI_Sendrecv(const void *data, int count, MPI_Datatype type, int to, int tag, void *data_out,
    int count_out, MPI_Datatype type_out, int from, int tag_out, MPI_Comm comm,
    MPI_Status *status_out)
{
    return MPI_ERR_RANK;
}

int MPI_Get_count(const MPI_Status *status, MPI_Datatype type, int *count_out)
{
    return MPI_ERR_RANK;
}

int MPI_Iprobe(int from, int tag, MPI_Comm comm, int *there_out, MPI_Status *status_out)
{
    *there_out = 0;
    return MPI_ERR_RANK;
}
