#include "watch_board.h"

#include "dtrain/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A rank's part of the board. Written by one, read by many: the version is odd meanwhile. */
struct entry {
    atomic_uint version;
    struct watch_sign sign;
    double moved_s, heard_s; /* dtr_clock_s() is the same for all of a host */
};

static struct entry *entry_of(const struct watch_board *board, int index)
{
    return board->window.segments[index].memory;
}

bool watch_board_create(
    struct dtr_world *world, double limit_s, struct watch_board *board_out, struct dtr_error *error)
{
    double now_s = dtr_clock_s();
    *board_out = (struct watch_board){.mine = {.rank = world->rank, .process = (int)getpid()},
        .moved_s = now_s,
        .looked_s = now_s,
        .since_s = now_s,
        .limit_s = limit_s};
    snprintf(board_out->mine.host, sizeof board_out->mine.host, "%s", world->host);
    if (!window_create(world, 0, sizeof(struct entry), 0, &board_out->window, error))
        return false;
    watch_board_write(board_out, now_s);
    return true;
}

void watch_board_free(struct watch_board *board)
{
    window_free(&board->window);
}

void watch_board_write(struct watch_board *board, double now_s)
{
    struct entry *entry = entry_of(board, board->window.index);
    struct dtr_pulse before = board->mine.pulse, pulse = dtr_pulse_read();
    if (pulse.beats != before.beats)
        board->moved_s = now_s;
    if (pulse.looks != before.looks || pulse.within == DTR_WAITS_FOR_OTHERS)
        board->looked_s = now_s;
    board->mine.pulse = pulse;
    board->mine.waiting = pulse.within >= DTR_WAITS_FOR_BUCKET &&
                          now_s - board->looked_s < board->limit_s / 2;

    atomic_fetch_add(&entry->version, 1);
    entry->sign = board->mine;
    entry->moved_s = board->moved_s;
    entry->heard_s = now_s;
    atomic_fetch_add(&entry->version, 1);
}

/* A sign that lasts is read whole; one that is always just being written is no worry. */
static struct entry read_entry(const struct watch_board *board, int index)
{
    enum { TRIES = 100 };
    struct entry *entry = entry_of(board, index), copy = {0};
    for (int i = 0; i < TRIES; i++) {
        unsigned version = atomic_load(&entry->version);
        copy.sign = entry->sign;
        copy.moved_s = entry->moved_s;
        copy.heard_s = entry->heard_s;
        atomic_thread_fence(memory_order_seq_cst);
        if (version % 2 == 0 && version == atomic_load(&entry->version))
            break;
    }
    return copy;
}

struct watch_word watch_board_read(
    const struct watch_board *board, double now_s, bool *is_first_out)
{
    struct watch_word word = watch_nobody();
    *is_first_out = true;
    for (int i = 0; i < board->window.size; i++) {
        struct entry entry = read_entry(board, i);
        entry.sign.quiet_s = now_s - watch_max(entry.moved_s, board->since_s);
        entry.sign.silent_s = now_s - watch_max(entry.heard_s, board->since_s);
        if (i < board->window.index && entry.sign.silent_s < board->limit_s + WATCH_PATIENCE_S)
            *is_first_out = false;
        watch_add(&word, &entry.sign, board->limit_s);
        if (i == 0)
            word.leader = entry.sign;
    }
    return word;
}
