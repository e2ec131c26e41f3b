#include "dtrain/world.h"

#include "comm.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "launch.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static void find_place(struct dtr_world *world)
{
    struct dtr_comm *comm = world->comm;
    MPI_Comm_dup(MPI_COMM_WORLD, &comm->all);
    MPI_Comm_set_errhandler(comm->all, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm->all, &world->rank);
    MPI_Comm_size(comm->all, &world->size);
    dtr_comm_check(world, MPI_Comm_dup(comm->all, &comm->data), "MPI_Comm_dup");
    dtr_comm_check(world,
        MPI_Comm_split_type(
            comm->all, MPI_COMM_TYPE_SHARED, world->rank, MPI_INFO_NULL, &comm->node),
        "MPI_Comm_split_type");
    MPI_Comm_rank(comm->node, &world->node_rank);
    MPI_Comm_size(comm->node, &world->node_size);
    int leader = world->node_rank == 0;
    dtr_comm_check(world, MPI_Allreduce(&leader, &world->nodes, 1, MPI_INT, MPI_SUM, comm->all),
        "MPI_Allreduce");
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
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &threading);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    name_library(world);
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
    MPI_Comm all = world->comm->all;
    int failing = error->status == DTR_OK ? INT_MAX : world->rank;
    dtr_comm_check(
        world, MPI_Allreduce(MPI_IN_PLACE, &failing, 1, MPI_INT, MPI_MIN, all), "MPI_Allreduce");
    if (failing == INT_MAX)
        return DTR_OK;

    struct verdict verdict = {.error = *error};
    memcpy(verdict.host, world->host, sizeof verdict.host);
    dtr_comm_check(world, MPI_Bcast(&verdict, sizeof verdict, MPI_BYTE, failing, all), "MPI_Bcast");
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
    MPI_Abort(MPI_COMM_WORLD, (int)error->status);
    _exit((int)error->status);
}

void dtr_world_broadcast(struct dtr_world *world, void *data, int64_t bytes)
{
    enum { PIECE = 1 << 30 }; /* MPI counts are int */
    for (int64_t done = 0; done < bytes; done += PIECE) {
        int count = (int)(bytes - done < PIECE ? bytes - done : PIECE);
        dtr_comm_check(world, MPI_Bcast((char *)data + done, count, MPI_BYTE, 0, world->comm->all),
            "MPI_Bcast");
    }
}

void dtr_world_sum_control(struct dtr_world *world, struct dtr_control *control)
{
    /* Counts are exact in a double up to 2^53. */
    double sums[3] = {control->loss, (double)control->errors, (double)control->count};
    dtr_comm_check(world,
        MPI_Allreduce(MPI_IN_PLACE, sums, 3, MPI_DOUBLE, MPI_SUM, world->comm->all),
        "MPI_Allreduce");
    control->loss = sums[0];
    control->errors = (int64_t)sums[1];
    control->count = (int64_t)sums[2];
}

uint64_t dtr_world_sum_u64(struct dtr_world *world, uint64_t value)
{
    dtr_comm_check(world,
        MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_UINT64_T, MPI_SUM, world->comm->all),
        "MPI_Allreduce");
    return value;
}

void dtr_world_barrier(struct dtr_world *world)
{
    dtr_comm_check(world, MPI_Barrier(world->comm->all), "MPI_Barrier");
}
