#include "schedule.h"

#include "dtrain/memory.h"

static const struct part NOTHING = {.depth = -1};

/* Floor of first + count * i / n, at a multiple of the alignment from `first`. */
static int64_t cut(struct span span, int64_t i, int64_t n)
{
    if (i == n)
        return span.first + span.count;
    return span.first + span.count * i / n / DTR_ALIGN_FLOATS * DTR_ALIGN_FLOATS;
}

struct span schedule_column(struct span bucket, int64_t column, int64_t columns)
{
    int64_t first = cut(bucket, column, columns);
    return (struct span){first, cut(bucket, column + 1, columns) - first};
}

struct span schedule_part(struct span column, struct part part)
{
    if (part.depth < 0)
        return (struct span){column.first, 0};
    for (int k = 0; k < part.depth; k++)
        column = schedule_column(column, part.path >> k & 1, 2);
    return column;
}

static struct part half(struct part part, bool upper)
{
    return (struct part){part.depth + 1, part.path | (uint32_t)upper << part.depth};
}

/* The open nodes of the shards of places [first, end). */
static struct dtr_tree open_nodes(int64_t first, int64_t end, int64_t shards, int64_t ranks)
{
    struct dtr_tree tree = dtr_tree_begin(shards, dtr_shard_run_of(shards, first, ranks).first);
    for (int64_t place = first; place < end; place++) {
        struct dtr_tree next = dtr_tree_of(dtr_shard_run_of(shards, place, ranks));
        dtr_tree_append(&tree, &next);
    }
    return tree;
}

/* The groups after folding: unit u consists of one group, or of two of which the first works. */
struct units {
    const int64_t *starts;
    int64_t groups, count; /* count is the largest power of two that is at most groups */
    int64_t shards;
};

static int64_t first_group(const struct units *units, int64_t unit)
{
    int64_t folded = units->groups - units->count;
    return unit < folded ? 2 * unit : unit + folded;
}

static struct dtr_tree open_of_units(const struct units *units, int64_t first, int64_t count)
{
    int64_t begin = units->starts[first_group(units, first)];
    int64_t end = units->starts[first_group(units, first + count)];
    return open_nodes(begin, end, units->shards, units->starts[units->groups]);
}

static struct dtr_tree open_of_group(const struct units *units, int64_t group)
{
    return open_nodes(units->starts[group], units->starts[group + 1], units->shards,
        units->starts[units->groups]);
}

/* Two groups that fold: the second gives all away and gets the parameters at the end. */
static void fold(const struct units *units, int64_t group, struct schedule *schedule)
{
    bool gives = group % 2 == 1;
    int64_t other = gives ? group - 1 : group + 1;
    struct part whole = {0, 0};
    schedule->sums[schedule->sum_count++] = (struct swap){
        .peer = units->starts[other] + schedule->column,
        .send = gives ? whole : NOTHING,
        .receive = gives ? NOTHING : whole,
        .mine = schedule->open,
        .theirs = open_of_group(units, other),
        .peer_first = gives,
    };
    schedule->share = gives ? NOTHING : whole;
}

/* Recursive halving, from the nearest unit to the farthest. */
static void halve(const struct units *units, int64_t unit, struct schedule *schedule)
{
    for (int64_t width = 1; width < units->count; width *= 2) {
        int64_t mine = unit / width * width, theirs = mine ^ width;
        bool upper = mine > theirs;
        struct part keep = half(schedule->share, upper), give = half(schedule->share, !upper);
        schedule->sums[schedule->sum_count++] = (struct swap){
            .peer = units->starts[first_group(units, unit ^ width)] + schedule->column,
            .send = give,
            .receive = keep,
            .mine = open_of_units(units, mine, width),
            .theirs = open_of_units(units, theirs, width),
            .peer_first = upper,
        };
        schedule->share = keep;
    }
}

/* The way back: each swap returns, updated, what it was given. */
static void go_back(struct schedule *schedule)
{
    for (int k = schedule->sum_count - 1; k >= 0; k--) {
        const struct swap *swap = &schedule->sums[k];
        schedule->weights[schedule->weight_count++] = (struct swap){
            .peer = swap->peer,
            .send = swap->receive,
            .receive = swap->send,
        };
    }
}

void schedule_make(const int64_t *starts, int64_t groups, int64_t shards, int64_t place,
    struct schedule *schedule_out)
{
    struct units units = {.starts = starts, .groups = groups, .count = 1, .shards = shards};
    while (units.count * 2 <= groups)
        units.count *= 2;
    int64_t group = 0, columns = starts[1] - starts[0];
    for (int64_t g = 0; g < groups; g++) {
        int64_t size = starts[g + 1] - starts[g];
        columns = size < columns ? size : columns;
        group = place >= starts[g] ? g : group;
    }
    int64_t index = place - starts[group];
    *schedule_out = (struct schedule){
        .groups = groups,
        .column = index < columns ? index : -1,
        .columns = columns,
        .first_place = starts[group],
        .group_size = starts[group + 1] - starts[group],
        .open = open_of_group(&units, group),
        .share = NOTHING,
    };
    if (schedule_out->column < 0)
        return;
    int64_t folded = groups - units.count;
    schedule_out->share = (struct part){0, 0};
    if (group < 2 * folded)
        fold(&units, group, schedule_out);
    if (schedule_out->share.depth >= 0)
        halve(&units, group < 2 * folded ? group / 2 : group - folded, schedule_out);
    go_back(schedule_out);
}
