/* The watch of a rank: see keep_watch(). */
#include "dtrain/watchdog.h"

#include "comm.h"
#include "dtrain/clock.h"
#include "dtrain/log.h"
#include "dtrain/memory.h"
#include "sleeper.h"
#include "watch_board.h"
#include "watch_link.h"

#include <stdlib.h>

struct dtr_watchdog {
    struct dtr_world *world;
    double limit_s, tick_s;
    struct watch_board board;
    struct watch_link link;
    double looked_s; /* when the watch last looked */
    struct sleeper sleeper;
};

/* Twenty looks within the limit, at most a second apart. */
static double tick_of(double limit_s)
{
    return watch_min(limit_s / 20, 1);
}

_Noreturn static void end_job(struct dtr_watchdog *watchdog, const struct watch_word *word)
{
    dtr_comm_end_soon(DTR_HUNG); /* also if nobody takes what is printed */
    watch_print(word, watchdog->limit_s);
    dtr_comm_end(DTR_HUNG);
}

/* All ranks, as far as rank 0 hears of them. */
static void judge_all(struct dtr_watchdog *watchdog, struct watch_word word, double now_s)
{
    const struct watch_link *link = &watchdog->link;
    for (int i = 0; i < link->peers; i++)
        watch_merge(&word, &link->peer[i].said,
            now_s - watch_max(link->peer[i].heard_s, watchdog->board.since_s), watchdog->limit_s);
    if (watch_hangs(&word, watchdog->limit_s))
        end_job(watchdog, &word);
}

/* Whether rank 0 is there to judge; the others do not all ask at the same time. */
static void judge_rank_0(struct dtr_watchdog *watchdog, double now_s)
{
    enum { QUEUE_MOST = 20 };
    const struct watch_link *link = &watchdog->link;
    double heard_s = watch_max(link->peer[0].heard_s, watchdog->board.since_s);
    double patience_s = WATCH_PATIENCE_S + 0.25 * watch_min(link->index, QUEUE_MOST);
    struct watch_word word = watch_nobody();
    if (now_s - heard_s < watchdog->limit_s + patience_s)
        return;
    watch_merge(&word, &link->peer[0].said, now_s - heard_s, watchdog->limit_s);
    end_job(watchdog, &word);
}

static void look(struct dtr_watchdog *watchdog)
{
    double now_s = dtr_clock_s();
    bool first, linked = watchdog->link.comm != MPI_COMM_NULL;
    /* This process was stopped, and so may have been the others. */
    if (now_s - watchdog->looked_s > 1 + 5 * watchdog->tick_s)
        watchdog->board.since_s = now_s;
    watchdog->looked_s = now_s;
    watch_board_write(&watchdog->board, now_s);
    struct watch_word word = watch_board_read(&watchdog->board, now_s, &first);
    if (linked)
        watch_link_exchange(&watchdog->link, &word, now_s);
    if (watchdog->world->rank == 0)
        judge_all(watchdog, word, now_s);
    else if (first && linked)
        judge_rank_0(watchdog, now_s);
    else if (first && word.ranks[WATCH_SILENT] + word.ranks[WATCH_STUCK] > 0)
        end_job(watchdog, &word);
}

static void *keep_watch(void *context)
{
    struct dtr_watchdog *watchdog = context;
    while (sleeper_sleep(&watchdog->sleeper, watchdog->tick_s))
        look(watchdog);
    return NULL;
}

enum dtr_status dtr_watchdog_start(struct dtr_world *world, int64_t limit_s,
    struct dtr_watchdog **watchdog_out, struct dtr_error *error)
{
    bool first;
    *watchdog_out = NULL;
    limit_s = (int64_t)dtr_world_min_u64(world, (uint64_t)limit_s);
    if (limit_s == 0)
        return DTR_OK;
    struct dtr_watchdog *watchdog = dtr_alloc(1, sizeof *watchdog, "the watchdog", error);
    if (watchdog == NULL) /* the other ranks are on their way into collective calls */
        dtr_world_abort(world, "set-up", -1, error);
    watchdog->world = world;
    watchdog->limit_s = (double)limit_s;
    watchdog->tick_s = tick_of(watchdog->limit_s);
    if (!watch_board_create(world, watchdog->limit_s, &watchdog->board, error))
        return DTR_FAILED;
    dtr_world_barrier(world); /* all signs are there */
    struct watch_word word = watch_board_read(&watchdog->board, dtr_clock_s(), &first);
    bool leads = watchdog->board.window.index == 0;
    if (!watch_link_create(world, leads, &word, &watchdog->link, error))
        return DTR_FAILED;
    if (!world->comm->threads && world->nodes > 1)
        dtr_warn("the watchdog of a host sees no other host: this MPI library has no "
                 "MPI_THREAD_MULTIPLE");
    watchdog->looked_s = dtr_clock_s();
    if (sleeper_start(&watchdog->sleeper, keep_watch, watchdog, "the watchdog", error) == DTR_OK)
        *watchdog_out = watchdog;
    return error->status;
}

void dtr_watchdog_stop(struct dtr_watchdog *watchdog)
{
    if (watchdog == NULL)
        return;
    dtr_world_barrier(watchdog->world);
    sleeper_stop(&watchdog->sleeper);
    watch_link_free(&watchdog->link);
    watch_board_free(&watchdog->board);
    free(watchdog);
}
