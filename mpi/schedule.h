/*
 * Which rank exchanges what with whom: the tree exchange of one bucket, as seen by one rank. Pure
 * and local, so that tests can play it for any number of ranks. Private to mpi/.
 *
 * Ranks, by their place, stand in groups of neighbours that share memory. A bucket is cut into as
 * many *columns* as the smallest group has ranks; rank j of each group does column j, further ranks
 * none. In a column the groups hold partial sums of neighbouring runs of shards: where their number
 * is not a power of two, the first groups fold in pairs; then in round k neighbours of 2^k groups
 * swap halves and add what they keep to what they get. What is left of the column at the end is the
 * rank's share: complete sums, whose parameters it updates. The updated parameters take the same
 * way back.
 */
#ifndef DTRAIN_MPI_SCHEDULE_H
#define DTRAIN_MPI_SCHEDULE_H

#include "dtrain/tree.h"

#include <stdbool.h>
#include <stdint.h>

enum { SCHEDULE_ROUNDS = 32 };

/* Elements [first, first + count) of the slab. */
struct span {
    int64_t first, count;
};

/* A part of a column: halved `depth` times; bit k of `path` tells that the upper half was taken in
 * round k. depth -1 is nothing. */
struct part {
    int depth;
    uint32_t path;
};

/* One exchange with a peer; each direction may be empty. */
struct swap {
    int64_t peer; /* the other rank's place */
    struct part send, receive;
    /* Of partial sums: what is sent and received holds these open nodes; the peer's shards come
     * before (peer_first) or after this side's. */
    struct dtr_tree mine, theirs;
    bool peer_first;
};

struct schedule {
    int64_t groups, column, columns; /* column -1: this rank has none */
    int64_t first_place, group_size; /* of this rank's group */
    struct dtr_tree open;            /* of the group's shards, all that follows starts from them */
    int sum_count, weight_count;
    struct swap sums[SCHEDULE_ROUNDS];    /* of partial sums, in this order */
    struct part share;                    /* then the update of this part (depth -1: of nothing) */
    struct swap weights[SCHEDULE_ROUNDS]; /* then of parameters [weight_count] */
};

/* Group g has the places [starts[g], starts[g + 1]); starts[groups] is the number of ranks. */
void schedule_make(const int64_t *starts, int64_t groups, int64_t shards, int64_t place,
    struct schedule *schedule_out);

/* Column `column` of `columns` of a span. Columns and parts begin at multiples of
 * DTR_ALIGN_FLOATS from the span's first element. */
struct span schedule_column(struct span bucket, int64_t column, int64_t columns);
struct span schedule_part(struct span column, struct part part);

#endif
