/*
 * MPI for a job of one rank, where there is no MPI library (-Dmpi=disabled): what mpi/ calls of the
 * standard, and no more. A collective over one rank has its own contribution for a result, so
 * everything is complete when it is started, and any thread may call at any time. There is nobody
 * to send to: point-to-point calls have no valid rank to name, and say so.
 *
 * A datatype is its size in bytes.
 */
#ifndef DTRAIN_MPI_ONE_RANK_H
#define DTRAIN_MPI_ONE_RANK_H

#include <stddef.h>
#include <stdint.h>

#define MPI_VERSION 0 /* of the standard: this is none */

typedef int MPI_Comm, MPI_Datatype, MPI_Op, MPI_Request, MPI_Info, MPI_Errhandler;
typedef struct {
    int MPI_TAG;
} MPI_Status;
typedef void MPI_User_function(void *left, void *right, int *count, MPI_Datatype *type);

enum { MPI_SUCCESS, MPI_ERR_RANK };
enum { MPI_COMM_NULL, MPI_COMM_WORLD };
enum { MPI_REQUEST_NULL, MPI_INFO_NULL, MPI_ERRORS_RETURN };
enum { MPI_SUM, MPI_MIN };
enum { MPI_COMM_TYPE_SHARED, MPI_THREAD_MULTIPLE, MPI_ANY_TAG = -1, MPI_UNDEFINED = -2 };
enum { MPI_MAX_ERROR_STRING = 64, MPI_MAX_LIBRARY_VERSION_STRING = 64 };
enum {
    MPI_BYTE = 1,
    MPI_CHAR = sizeof(char),
    MPI_INT = sizeof(int),
    MPI_FLOAT = sizeof(float),
    MPI_UINT64_T = sizeof(uint64_t)
};
#define MPI_IN_PLACE ((const void *)-1)
#define MPI_STATUS_IGNORE ((MPI_Status *)NULL)
#define MPI_STATUSES_IGNORE ((MPI_Status *)NULL)

/* The program's own: libraries that it loads may use an MPI library. */
#pragma GCC visibility push(hidden)

int MPI_Init_thread(int *argc, char ***argv, int wanted, int *provided_out);
int MPI_Finalize(void);
int MPI_Abort(MPI_Comm comm, int status);
int MPI_Get_library_version(char *text_out, int *length_out);
int MPI_Error_string(int code, char *text_out, int *length_out);

int MPI_Comm_rank(MPI_Comm comm, int *rank_out);
int MPI_Comm_size(MPI_Comm comm, int *size_out);
int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *comm_out);
int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *comm_out);
int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *comm_out);
int MPI_Comm_free(MPI_Comm *comm);
int MPI_Comm_set_errhandler(MPI_Comm comm, MPI_Errhandler handler);

int MPI_Type_contiguous(int count, MPI_Datatype type, MPI_Datatype *type_out);
int MPI_Type_commit(MPI_Datatype *type);
int MPI_Type_free(MPI_Datatype *type);
int MPI_Op_create(MPI_User_function *function, int commutes, MPI_Op *op_out);
int MPI_Op_free(MPI_Op *op);

int MPI_Barrier(MPI_Comm comm);
int MPI_Bcast(void *data, int count, MPI_Datatype type, int root, MPI_Comm comm);
int MPI_Allreduce(
    const void *mine, void *all_out, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm);
int MPI_Iallreduce(const void *mine, void *all_out, int count, MPI_Datatype type, MPI_Op op,
    MPI_Comm comm, MPI_Request *request_out);
int MPI_Allgather(const void *mine, int count, MPI_Datatype type, void *all_out, int all_count,
    MPI_Datatype all_type, MPI_Comm comm);

int MPI_Wait(MPI_Request *request, MPI_Status *status_out);
int MPI_Test(MPI_Request *request, int *done_out, MPI_Status *status_out);
int MPI_Testsome(
    int count, MPI_Request *requests, int *done_out, int *which_out, MPI_Status *statuses_out);

/* All these fail: MPI_ERR_RANK. */
int MPI_Send(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm);
int MPI_Isend(const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
    MPI_Request *request_out);
int MPI_Recv(void *data_out, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
    MPI_Status *status_out);
int MPI_Irecv(void *data_out, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
    MPI_Request *request_out);
int MPI_Sendrecv(const void *data, int count, MPI_Datatype type, int to, int tag, void *data_out,
    int count_out, MPI_Datatype type_out, int from, int tag_out, MPI_Comm comm,
    MPI_Status *status_out);
int MPI_Iprobe(int from, int tag, MPI_Comm comm, int *there_out, MPI_Status *status_out);
int MPI_Get_count(const MPI_Status *status, MPI_Datatype type, int *count_out);

#pragma GCC visibility pop

#endif
