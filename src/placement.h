/*
 * Where the ranks of a job run: hosts, cores, threads. Gathered once, for the plan, and for
 * notes on what costs most time on clusters: ranks that were bound to the same cores.
 */
#ifndef DTRAIN_PLACEMENT_H
#define DTRAIN_PLACEMENT_H

#include "dtrain/world.h"

#include <sched.h>

struct dtr_place {
    char host[64];
    int rank;
    cpu_set_t cores; /* that the rank may use */
    int online;      /* cores of its host */
    int threads;
};

/* Warns; with `list` also prints where the ranks are, if there are several: a line for each, or
 * where there are many for each host. Collective. */
void dtr_placement_print(struct dtr_world *world, int64_t threads, bool list);

enum { DTR_CORES_TEXT = 64 };

/* "0-3,8", cut off where it is too long. Returns text_out. */
const char *dtr_cores_text(const cpu_set_t *cores, char text_out[DTR_CORES_TEXT]);

/* What is wrong with how a host's ranks are bound, or "". */
void dtr_placement_complaint(
    const struct dtr_place *places, int count, char *text_out, int64_t text_bytes);

#endif
