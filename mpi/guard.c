#include "dtrain/guard.h"

#include "comm.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "sleeper.h"

#include <stdlib.h>
#include <unistd.h>

struct dtr_guard {
    const char *what;
    double limit_s;
    int rank; /* asked before: starting and ending, MPI changes the environment */
    struct sleeper sleeper;
};

/* One who speaks is enough: the launcher ends the others then. */
static double turn_s(int rank)
{
    enum { TURNS = 20 };
    return 0.1 * (rank < TURNS ? rank : TURNS);
}

static void *stand_guard(void *context)
{
    struct dtr_guard *guard = context;
    char host[64] = "";
    if (!sleeper_sleep(&guard->sleeper, guard->limit_s + turn_s(guard->rank)))
        return NULL;
    gethostname(host, sizeof host - 1);
    dtr_complain("rank %d on %s has waited %.0f s for %s: another rank hangs, or could not start; "
                 "look at the hosts of this job (--watchdog sets how long)",
        guard->rank, host, guard->limit_s, guard->what);
    dtr_comm_exit(DTR_HUNG);
}

struct dtr_guard *dtr_guard_start(double limit_s, const char *what)
{
    struct dtr_error error = DTR_ERROR_NONE;
    struct dtr_guard *guard = limit_s > 0 ? dtr_alloc(1, sizeof *guard, what, &error) : NULL;
    if (guard == NULL)
        return NULL;
    guard->what = what;
    guard->limit_s = limit_s;
    guard->rank = dtr_launcher_rank();
    if (sleeper_start(&guard->sleeper, stand_guard, guard, what, &error) == DTR_OK)
        return guard;
    free(guard);
    return NULL;
}

void dtr_guard_stop(struct dtr_guard *guard)
{
    if (guard == NULL)
        return;
    sleeper_stop(&guard->sleeper);
    free(guard);
}
