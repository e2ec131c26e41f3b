#include "dtrain/world.h"

#include "comm.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "dtrain/pulse.h"
#include "dtrain/signals.h"
#include "launch.h"

#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const bool dtr_world_has_mpi = MPI_VERSION > 0;

void dtr_comm_check(struct dtr_world *world, int code, const char *call)
{
    if (code == MPI_SUCCESS)
        return;
    char reason[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    struct dtr_error error;
    MPI_Error_string(code, reason, &length);
    dtr_error_set(&error, DTR_FAILED, "%s failed: %s", call, reason);
    dtr_world_abort(world, "communication", -1, &error);
}

void dtr_comm_end(enum dtr_status status)
{
    MPI_Abort(MPI_COMM_WORLD, (int)status);
    dtr_comm_exit(status);
}

void dtr_comm_exit(enum dtr_status status)
{
    _exit((int)status);
}

static void *end_later(void *status)
{
    enum { PATIENCE_S = 5 };
    sleep(PATIENCE_S);
    dtr_comm_exit((enum dtr_status)(intptr_t)status);
}

void dtr_comm_end_soon(enum dtr_status status)
{
    pthread_t thread;
    dtr_signals_create_thread(&thread, end_later, (void *)(intptr_t)status);
}

/* Calls of the MPI library that wait for the other ranks. */

static void allreduce(
    struct dtr_world *world, void *values, int count, MPI_Datatype type, MPI_Op operation)
{
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world,
        MPI_Allreduce(MPI_IN_PLACE, values, count, type, operation, world->comm->all),
        "MPI_Allreduce");
    dtr_pulse_leave();
}

static void broadcast(struct dtr_world *world, void *data, int bytes, int from)
{
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world, MPI_Bcast(data, bytes, MPI_BYTE, from, world->comm->all), "MPI_Bcast");
    dtr_pulse_leave();
}

bool dtr_comm_all(struct dtr_world *world, bool yes)
{
    int all = yes;
    allreduce(world, &all, 1, MPI_INT, MPI_MIN);
    return all != 0;
}

/* "Open MPI v4.1.4, package: ..." up to the first comma or line end. */
static void name_library(struct dtr_world *world)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    text[strcspn(text, ",\n\r")] = '\0';
    for (char *tab = strchr(text, '\t'); tab != NULL; tab = strchr(tab, '\t'))
        *tab = ' ';
    snprintf(world->library, sizeof world->library, "%s", text);
}

/* A core that k ranks of the node may run on counts 1/k for each. */
static void share_cores(struct dtr_world *world)
{
    enum { CORES = CPU_SETSIZE };
    cpu_set_t mine;
    int users[CORES] = {0};
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0)
        CPU_SET(0, &mine);
    for (size_t core = 0; core < CORES; core++)
        users[core] = CPU_ISSET(core, &mine) ? 1 : 0;
    dtr_comm_check(world,
        MPI_Allreduce(MPI_IN_PLACE, users, CORES, MPI_INT, MPI_SUM, world->comm->node),
        "MPI_Allreduce");
    for (size_t core = 0; core < CORES; core++) {
        if (CPU_ISSET(core, &mine))
            world->cores += 1.0 / users[core];
    }
}

/* right = left + right, in the order of the ranks: for MPI, which may group as it likes. */
static void sum_controls(void *left, void *right, int *count, MPI_Datatype *type)
{
    const struct dtr_control *lefts = left;
    struct dtr_control *rights = right;
    (void)type;
    for (int i = 0; i < *count; i++) {
        struct dtr_control sum = lefts[i];
        dtr_tree_scalar_append(&sum.loss, &rights[i].loss);
        sum.errors += rights[i].errors;
        sum.stop = sum.stop > rights[i].stop ? sum.stop : rights[i].stop;
        rights[i] = sum;
    }
}

static void prepare_control(struct dtr_world *world)
{
    struct dtr_comm *comm = world->comm;
    dtr_comm_check(world, MPI_Comm_dup(comm->data, &comm->control), "MPI_Comm_dup");
    MPI_Type_contiguous((int)sizeof(struct dtr_control), MPI_BYTE, &comm->control_type);
    MPI_Type_commit(&comm->control_type);
    MPI_Op_create(sum_controls, false, &comm->control_sum);
}

static void find_place(struct dtr_world *world)
{
    struct dtr_comm *comm = world->comm;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm->all);
    MPI_Comm_set_errhandler(comm->all, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm->all, &world->rank);
    MPI_Comm_size(comm->all, &world->size);
    dtr_comm_check(world,
        MPI_Comm_split_type(
            comm->all, MPI_COMM_TYPE_SHARED, world->rank, MPI_INFO_NULL, &comm->node),
        "MPI_Comm_split_type");
    MPI_Comm_rank(comm->node, &world->node_rank);
    MPI_Comm_size(comm->node, &world->node_size);
    int leader = world->node_rank == 0;
    dtr_comm_check(world, MPI_Allreduce(&leader, &world->nodes, 1, MPI_INT, MPI_SUM, comm->all),
        "MPI_Allreduce");
    leader = world->rank;
    dtr_comm_check(world, MPI_Bcast(&leader, 1, MPI_INT, 0, comm->node), "MPI_Bcast");
    dtr_comm_check(world, MPI_Comm_split(comm->all, 0, leader, &comm->data), "MPI_Comm_split");
    MPI_Comm_rank(comm->data, &world->place);
    prepare_control(world);
    share_cores(world);
}

enum dtr_status dtr_world_start(
    int *argc, char ***argv, struct dtr_world **world_out, struct dtr_error *error)
{
    struct {
        struct dtr_world world; /* first: freeing it frees both */
        struct dtr_comm comm;
    } *memory = dtr_alloc(1, sizeof *memory, "the world", error);
    int threading, size;
    *world_out = NULL;
    if (memory == NULL)
        return error->status;
    struct dtr_world *world = &memory->world;
    world->comm = &memory->comm;
    gethostname(world->host, sizeof world->host - 1);
    name_library(world);
    if (dtr_launch_check_start(world->library, error) != DTR_OK) {
        free(world);
        return error->status;
    }
    dtr_launch_alone();
    MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &threading);
    world->comm->threads = threading == MPI_THREAD_MULTIPLE;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (dtr_launch_check(size, world->library, error) != DTR_OK) {
        MPI_Finalize();
        free(world);
        return error->status;
    }
    find_place(world);
    *world_out = world;
    return DTR_OK;
}

void dtr_world_finish(struct dtr_world *world)
{
    MPI_Op_free(&world->comm->control_sum);
    MPI_Type_free(&world->comm->control_type);
    MPI_Comm_free(&world->comm->control);
    MPI_Comm_free(&world->comm->node);
    MPI_Comm_free(&world->comm->data);
    MPI_Comm_free(&world->comm->all);
    MPI_Finalize();
    free(world);
}

/* What the lowest failing rank tells everyone. */
struct verdict {
    struct dtr_error error;
    char host[64];
};

enum dtr_status dtr_world_agree(struct dtr_world *world, const struct dtr_error *error)
{
    int failing = error->status == DTR_OK ? INT_MAX : world->rank;
    allreduce(world, &failing, 1, MPI_INT, MPI_MIN);
    if (failing == INT_MAX)
        return DTR_OK;

    struct verdict verdict = {.error = *error};
    memcpy(verdict.host, world->host, sizeof verdict.host);
    broadcast(world, &verdict, sizeof verdict, failing);
    if (world->rank == 0 && world->size == 1)
        dtr_complain("%s", verdict.error.message);
    else if (world->rank == 0)
        dtr_complain("rank %d on %s: %s", failing, verdict.host, verdict.error.message);
    return verdict.error.status;
}

void dtr_world_abort(
    struct dtr_world *world, const char *phase, int64_t step, const struct dtr_error *error)
{
    char when[40] = "";
    if (step >= 0)
        snprintf(when, sizeof when, ", step %lld", (long long)step);
    dtr_complain("rank %d on %s%s, %s: %s", world->rank, world->host, when, phase, error->message);
    dtr_comm_end(error->status);
}

void dtr_world_broadcast(struct dtr_world *world, void *data, int64_t bytes)
{
    enum { PIECE = 1 << 30 }; /* MPI counts are int */
    for (int64_t done = 0; done < bytes; done += PIECE) {
        int count = (int)(bytes - done < PIECE ? bytes - done : PIECE);
        broadcast(world, (char *)data + done, count, 0);
    }
}

void dtr_world_gather(struct dtr_world *world, const void *mine, int64_t bytes, void *all_out)
{
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world,
        MPI_Allgather(mine, (int)bytes, MPI_BYTE, all_out, (int)bytes, MPI_BYTE, world->comm->all),
        "MPI_Allgather");
    dtr_pulse_leave();
}

void dtr_world_send(struct dtr_world *world, int node_rank, const void *data, int64_t bytes)
{
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(
        world, MPI_Send(data, (int)bytes, MPI_BYTE, node_rank, 0, world->comm->node), "MPI_Send");
    dtr_pulse_leave();
}

int64_t dtr_world_receive(struct dtr_world *world, int node_rank, void *data_out, int64_t room)
{
    MPI_Status status;
    int bytes = 0;
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world,
        MPI_Recv(data_out, (int)room, MPI_BYTE, node_rank, 0, world->comm->node, &status),
        "MPI_Recv");
    dtr_comm_check(world, MPI_Get_count(&status, MPI_BYTE, &bytes), "MPI_Get_count");
    dtr_pulse_leave();
    return bytes;
}

void dtr_world_start_control(struct dtr_world *world, const struct dtr_control *mine)
{
    struct dtr_comm *comm = world->comm;
    comm->control_mine = *mine;
    dtr_comm_check(world,
        MPI_Iallreduce(&comm->control_mine, &comm->control_all, 1, comm->control_type,
            comm->control_sum, comm->control, &comm->control_request),
        "MPI_Iallreduce");
}

void dtr_world_finish_control(struct dtr_world *world, struct dtr_control *all_out)
{
    struct dtr_comm *comm = world->comm;
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world, MPI_Wait(&comm->control_request, MPI_STATUS_IGNORE), "MPI_Wait");
    dtr_pulse_leave();
    *all_out = comm->control_all;
}

uint64_t dtr_world_sum_u64(struct dtr_world *world, uint64_t value)
{
    allreduce(world, &value, 1, MPI_UINT64_T, MPI_SUM);
    return value;
}

uint64_t dtr_world_min_u64(struct dtr_world *world, uint64_t value)
{
    allreduce(world, &value, 1, MPI_UINT64_T, MPI_MIN);
    return value;
}

bool dtr_world_same(struct dtr_world *world, uint64_t value)
{
    uint64_t extremes[2] = {value, ~value}; /* the smallest, and the largest's complement */
    allreduce(world, extremes, 2, MPI_UINT64_T, MPI_MIN);
    return extremes[0] == ~extremes[1];
}

/* The value that more than half of the ranks have, else rank 0's. */
static uint64_t majority(const uint64_t *values, int count)
{
    uint64_t candidate = values[0];
    int lead = 0, votes = 0;
    for (int i = 0; i < count; i++) { /* Boyer and Moore: a majority outlives pairwise strikes */
        if (lead == 0)
            candidate = values[i];
        lead += values[i] == candidate ? 1 : -1;
    }
    for (int i = 0; i < count; i++)
        votes += values[i] == candidate;
    return 2 * votes > count ? candidate : values[0];
}

bool dtr_world_differs(struct dtr_world *world, uint64_t value, uint64_t *usual_out)
{
    *usual_out = value;
    if (dtr_world_same(world, value))
        return false;
    uint64_t *values = malloc((size_t)world->size * sizeof *values);
    if (values == NULL) {
        struct dtr_error error;
        dtr_error_set(&error, DTR_FAILED, "ranks differ; no memory to say whose fault it is");
        dtr_world_abort(world, "comparison", -1, &error);
    }
    dtr_world_gather(world, &value, sizeof value, values);
    *usual_out = majority(values, world->size);
    free(values);
    return value != *usual_out;
}

enum dtr_status dtr_world_compare(
    struct dtr_world *world, uint64_t value, const char *what, struct dtr_error *error)
{
    uint64_t usual;
    if (!dtr_world_differs(world, value, &usual))
        return DTR_OK;
    return dtr_error_set(error, DTR_FAILED,
        "its %s differ from those of the other ranks (hash %016" PRIx64 ", theirs %016" PRIx64
        "): faulty memory, or hosts that do not compute alike",
        what, value, usual);
}

void dtr_world_barrier(struct dtr_world *world)
{
    dtr_pulse_enter(DTR_WAITS_FOR_OTHERS, 0);
    dtr_comm_check(world, MPI_Barrier(world->comm->all), "MPI_Barrier");
    dtr_pulse_leave();
}
