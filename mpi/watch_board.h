/*
 * The board on which watches of a host leave their signs, in memory that the ranks share. Where
 * none can be had, each rank has a board of its own. Private to mpi/.
 */
#ifndef DTRAIN_MPI_WATCH_BOARD_H
#define DTRAIN_MPI_WATCH_BOARD_H

#include "watch.h"
#include "window.h"

struct watch_board {
    struct window window;
    struct watch_sign mine;
    double moved_s, looked_s; /* when this rank's pulse last did, by dtr_clock_s() */
    double limit_s;
    double since_s; /* nobody is blamed for what was before */
};

/* Collective. As window_create(). */
bool watch_board_create(struct dtr_world *world, double limit_s, struct watch_board *board_out,
    struct dtr_error *error);
void watch_board_free(struct watch_board *board);

/* Leaves this rank's sign. */
void watch_board_write(struct watch_board *board, double now_s);

/* What all signs say, and whether this rank is the first of those that are still heard: whoever is
 * to judge before it has had its time and WATCH_PATIENCE_S more. */
struct watch_word watch_board_read(
    const struct watch_board *board, double now_s, bool *is_first_out);

#endif
