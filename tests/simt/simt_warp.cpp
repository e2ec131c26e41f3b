/*
 * What the lanes of a warp do together: barriers, shuffles, votes. A lane brings what it has and
 * waits; the last one to come does the operation for all of them, so that a lane changes fibers
 * once per operation. Lanes that disagree about what they do end the process.
 */
#include "simt_internal.h"

DTR_SIMT_HIDDEN static unsigned lane_of(const struct dtr_simt_thread *thread)
{
    return thread->number % DTR_SIMT_LANES;
}

DTR_SIMT_HIDDEN void dtr_simt_check_left(
    struct dtr_simt_warp *warp, const struct dtr_simt_thread *thread, const char *doing)
{
    for (unsigned i = 0; i < warp->open_count; i++) {
        const struct dtr_simt_meeting *meeting = &warp->open[i];
        if ((meeting->mask >> lane_of(thread) & 1) != 0)
            dtr_simt_die("lane %u %s, but %s at line %d waits for it (mask %#x)", lane_of(thread),
                doing, meeting->operation->name, meeting->line, meeting->mask);
    }
}

/* The meeting that this lane is to join, a new one if it is the first to come. */
DTR_SIMT_HIDDEN static struct dtr_simt_meeting *join_meeting(
    struct dtr_simt_warp *warp, const struct dtr_simt_operation *operation, unsigned mask, int line)
{
    unsigned missing = mask & (warp->blocked | warp->exited);

    for (unsigned i = 0; i < warp->open_count; i++) {
        struct dtr_simt_meeting *meeting = &warp->open[i];
        if (meeting->operation == operation && meeting->mask == mask && meeting->line == line)
            return meeting;
    }
    if (missing != 0)
        dtr_simt_die("%s at line %d waits for lane %d, which %s", operation->name, line,
            __builtin_ctz(missing),
            (missing & warp->exited) != 0 ? "has exited" : "waits at __syncthreads()");
    struct dtr_simt_meeting *meeting = &warp->open[warp->open_count++];
    meeting->operation = operation;
    meeting->mask = mask;
    meeting->arrived = 0;
    meeting->line = line;
    meeting->order = &warp->order[warp->meetings++ % sizeof(warp->order)];
    return meeting;
}

/* Lanes may wait in different meetings, but not for each other. */
DTR_SIMT_HIDDEN static void check_meetings(
    const struct dtr_simt_warp *warp, const struct dtr_simt_meeting *joined)
{
    for (unsigned i = 0; i < warp->open_count; i++) {
        const struct dtr_simt_meeting *other = &warp->open[i];
        if (other == joined || (other->mask & joined->arrived) == 0 ||
            (joined->mask & other->arrived) == 0)
            continue;
        dtr_simt_die("lanes of a warp diverge: %s at line %d with mask %#x, others wait in %s at "
                     "line %d with mask %#x",
            joined->operation->name, joined->line, joined->mask, other->operation->name,
            other->line, other->mask);
    }
}

DTR_SIMT_HIDDEN void dtr_simt_meet(
    const struct dtr_simt_operation *operation, unsigned mask, int line)
{
    struct dtr_simt_thread *self = dtr_simt_current;
    struct dtr_simt_warp *warp = dtr_simt_warp_of(self);
    unsigned lane = lane_of(self);

    if ((mask >> lane & 1) == 0)
        dtr_simt_die(
            "%s at line %d: lane %u is not in its mask %#x", operation->name, line, lane, mask);
    if (warp->count < DTR_SIMT_LANES && mask >> warp->count != 0)
        dtr_simt_die("%s at line %d: mask %#x has lanes that the block has not", operation->name,
            line, mask);
    struct dtr_simt_meeting *meeting = join_meeting(warp, operation, mask, line);
    void *order = meeting->order;
    bool orders_memory = operation->orders_memory;
    if (orders_memory)
        DTR_SIMT_RELEASE(order);
    self->state = DTR_SIMT_IN_WARP;
    self->line = line;
    meeting->arrived |= 1u << lane;
    check_meetings(warp, meeting);
    if (meeting->arrived == mask) {
        *meeting = warp->open[--warp->open_count];
        if (operation->complete != NULL)
            operation->complete(warp, mask);
        dtr_simt_wake(warp, mask);
    }
    dtr_simt_yield();
    if (orders_memory)
        DTR_SIMT_ACQUIRE(order);
}

DTR_SIMT_HIDDEN void __syncwarp(unsigned mask, int line)
{
    static const struct dtr_simt_operation operation = {"__syncwarp()", NULL, true};

    dtr_simt_meet(&operation, mask, line);
}

/* As on a device, only the values move: nothing else is ordered by a shuffle or a vote. */
DTR_SIMT_HIDDEN static void complete_shuffle(struct dtr_simt_warp *warp, unsigned mask)
{
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        struct dtr_simt_thread *thread = &warp->lanes[__builtin_ctz(rest)];
        unsigned source = thread->source < 0 ? lane_of(thread) : (unsigned)thread->source;
        if ((mask >> source & 1) == 0) {
            dtr_simt_current = thread;
            dtr_simt_die("shuffle at line %d reads lane %u, outside its mask %#x", thread->line,
                source, mask);
        }
        thread->result = warp->lanes[source].value;
    }
}

DTR_SIMT_HIDDEN uint64_t dtr_simt_shuffle(unsigned mask, uint64_t bits, int source, int line)
{
    static const struct dtr_simt_operation operation = {"shuffle", complete_shuffle, false};
    struct dtr_simt_thread *self = dtr_simt_current;

    self->value = bits;
    self->source = source;
    dtr_simt_meet(&operation, mask, line);
    return self->result;
}

DTR_SIMT_HIDDEN static void complete_vote(struct dtr_simt_warp *warp, unsigned mask)
{
    uint64_t votes = 0;

    for (unsigned rest = mask; rest != 0; rest &= rest - 1)
        votes |= warp->lanes[__builtin_ctz(rest)].value << __builtin_ctz(rest);
    for (unsigned rest = mask; rest != 0; rest &= rest - 1)
        warp->lanes[__builtin_ctz(rest)].result = votes;
}

DTR_SIMT_HIDDEN unsigned __ballot_sync(unsigned mask, int predicate, int line)
{
    static const struct dtr_simt_operation operation = {"vote", complete_vote, false};
    struct dtr_simt_thread *self = dtr_simt_current;

    self->value = predicate != 0;
    dtr_simt_meet(&operation, mask, line);
    return (unsigned)self->result;
}
