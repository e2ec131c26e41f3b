/*
 * The world: the ranks of a job, and the small messages by which they decide together (the control
 * plane, always MPI). Everything but dtr_world_abort() and the plain data is collective: all ranks
 * must call it, in the same order.
 *
 * A rank that fails keeps taking part until the phase's verdict is agreed: a tidy local return is
 * what hangs a job.
 */
#ifndef DTRAIN_WORLD_H
#define DTRAIN_WORLD_H

#include "dtrain/status.h"
#include "dtrain/tree.h"

#include <stdbool.h>
#include <stdint.h>

struct dtr_world {
    int rank, size;
    int place; /* in the order in which ranks of a host are neighbours: by the host's lowest rank,
                  then by rank. Shards are dealt out in this order. */
    int node_rank, node_size; /* among the ranks that share this host's memory */
    int nodes;
    char host[64];
    char library[96]; /* "Open MPI v4.1.4", "no MPI" */
    double cores;     /* this rank's fair share of the cores in its affinity mask: a core that k
                         ranks of the node may use counts 1/k */
    struct dtr_comm *comm; /* the MPI handles, private to mpi/ */
};

/* Whether there is an MPI library; without one (-Dmpi=disabled) a job has one rank. */
extern const bool dtr_world_has_mpi;

/* The rank that the launcher's environment gives this process before MPI is up; 0 if unknown. In
 * the main thread: MPI changes the environment when it starts and ends. */
int dtr_launcher_rank(void);

/* Starts MPI. DTR_LAUNCH with the likely fix when MPI's size is 1, or there is no MPI, although the
 * innermost launcher started more processes: each would believe to be rank 0 of 1; or when MPI
 * cannot start. Then MPI is not up, and every process sees the error. */
enum dtr_status dtr_world_start(
    int *argc, char ***argv, struct dtr_world **world_out, struct dtr_error *error);

/* Ends MPI and frees the world. */
void dtr_world_finish(struct dtr_world *world);

/* The verdict on a phase. DTR_OK if no rank has an error; else every rank gets the lowest failing
 * rank's status, and its message is printed once, with rank and host where there is more than one
 * rank. */
enum dtr_status dtr_world_agree(struct dtr_world *world, const struct dtr_error *error);

/* An error inside a step: prints rank, host, step and phase, ends all processes. Local. */
_Noreturn void dtr_world_abort(
    struct dtr_world *world, const char *phase, int64_t step, const struct dtr_error *error);

/* Rank 0's bytes for everyone. */
void dtr_world_broadcast(struct dtr_world *world, void *data, int64_t bytes);

/* What a step decides on: a sum over ranks, the loss in the order of the shard tree. */
struct dtr_control {
    struct dtr_tree_scalar loss; /* sum over samples; of this rank's run of shards, then of all */
    int64_t errors;              /* misclassified samples */
    int64_t stop; /* why to end after this step, 0 for no reason; the largest counts */
};

/* Starts to sum while this rank goes on, and waits for the result; one at a time. */
void dtr_world_start_control(struct dtr_world *world, const struct dtr_control *mine);
void dtr_world_finish_control(struct dtr_world *world, struct dtr_control *all_out);

/* Every rank's bytes for everyone, in the order of ranks: all_out has room for size * bytes. */
void dtr_world_gather(struct dtr_world *world, const void *mine, int64_t bytes, void *all_out);

/* Sum modulo 2^64. */
uint64_t dtr_world_sum_u64(struct dtr_world *world, uint64_t value);

/* The smallest. */
uint64_t dtr_world_min_u64(struct dtr_world *world, uint64_t value);

/* Whether all ranks have the same value. */
bool dtr_world_same(struct dtr_world *world, uint64_t value);

/* Whether this rank's value is not that of the majority (where there is none, rank 0's), which is
 * *usual_out. */
bool dtr_world_differs(struct dtr_world *world, uint64_t value, uint64_t *usual_out);

/* Ranks that differ get a DTR_FAILED that names `what` and both values; dtr_world_agree() is due
 * then. */
enum dtr_status dtr_world_compare(
    struct dtr_world *world, uint64_t value, const char *what, struct dtr_error *error);

/* Between a host's first rank and another one of the host, which name each other by node_rank: a
 * message of at most 2^31 - 1 bytes, which may be 0. The receiver has room for `room` bytes, and is
 * told how many came. These two call, the others do not. */
void dtr_world_send(struct dtr_world *world, int node_rank, const void *data, int64_t bytes);
int64_t dtr_world_receive(struct dtr_world *world, int node_rank, void *data_out, int64_t room);

void dtr_world_barrier(struct dtr_world *world);

#endif
