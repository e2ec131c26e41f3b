#include "placement.h"

#include "dtrain/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RANKS_SHOWN = 16 };

const char *dtr_cores_text(const cpu_set_t *cores, char text_out[DTR_CORES_TEXT])
{
    enum { LONGEST = 16 }; /* ",1000-1001,..." */
    int length = 0;
    text_out[0] = '\0';
    for (int first = 0; first < CPU_SETSIZE; first++) {
        if (!CPU_ISSET((size_t)first, cores))
            continue;
        int last = first;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET((size_t)last + 1, cores))
            last++;
        const char *comma = length > 0 ? "," : "";
        if (length > DTR_CORES_TEXT - LONGEST) {
            snprintf(text_out + length, (size_t)(DTR_CORES_TEXT - length), ",...");
            return text_out;
        }
        if (last > first)
            length += snprintf(text_out + length, (size_t)(DTR_CORES_TEXT - length), "%s%d-%d",
                comma, first, last);
        else
            length += snprintf(
                text_out + length, (size_t)(DTR_CORES_TEXT - length), "%s%d", comma, first);
        first = last;
    }
    return text_out;
}

/* Two ranks that were bound to some of the same cores; ranks that were not bound at all have all of
 * their host's in common, which is no fault as long as there are enough. */
static bool find_overlap(const struct dtr_place *places, int count, int *a_out, int *b_out)
{
    for (int a = 0; a < count; a++) {
        for (int b = a + 1; b < count; b++) {
            cpu_set_t common;
            CPU_AND(&common, &places[a].cores, &places[b].cores);
            if (CPU_COUNT(&common) > 0 && !CPU_EQUAL(&places[a].cores, &places[b].cores)) {
                *a_out = a;
                *b_out = b;
                return true;
            }
        }
    }
    return false;
}

void dtr_placement_complaint(
    const struct dtr_place *places, int count, char *text_out, int64_t text_bytes)
{
    char list[DTR_CORES_TEXT];
    cpu_set_t all;
    int threads = 0, a, b, single = 0;
    CPU_ZERO(&all);
    for (int i = 0; i < count; i++) {
        CPU_OR(&all, &all, &places[i].cores);
        threads += places[i].threads;
        single += CPU_COUNT(&places[i].cores) == 1;
    }
    int cores = CPU_COUNT(&all);
    text_out[0] = '\0';
    if (find_overlap(places, count, &a, &b)) {
        cpu_set_t common;
        CPU_AND(&common, &places[a].cores, &places[b].cores);
        snprintf(text_out, (size_t)text_bytes,
            "ranks on %s are bound to common cores (%s), where they wait for each other",
            places->host, dtr_cores_text(&common, list));
    } else if (threads > cores) {
        snprintf(text_out, (size_t)text_bytes,
            "%d threads share %d core%s of %s (%s); start fewer ranks or threads, or with mpirun "
            "--bind-to none or srun -c",
            threads, cores, cores == 1 ? "" : "s", places->host, dtr_cores_text(&all, list));
    } else if (single == count && places->online > cores && getenv("SLURM_JOB_ID") == NULL) {
        snprintf(text_out, (size_t)text_bytes,
            "each rank on %s is bound to one core, and %d of its %d cores stay idle; mpirun "
            "--bind-to none lets them compute",
            places->host, places->online - cores, places->online);
    }
}

static int by_host(const void *left, const void *right)
{
    const struct dtr_place *a = left, *b = right;
    int hosts = strcmp(a->host, b->host);
    return hosts != 0 ? hosts : a->rank - b->rank;
}

static int same_host(const struct dtr_place *places, int count)
{
    int same = 1;
    while (same < count && strcmp(places[same].host, places->host) == 0)
        same++;
    return same;
}

static void print_ranks(const struct dtr_place *places, int count)
{
    char cores[DTR_CORES_TEXT];
    for (int i = 0; i < count; i++)
        dtr_print("    rank %-5d %-16s %d thread%s on cores %s\n", places[i].rank, places[i].host,
            places[i].threads, places[i].threads == 1 ? "" : "s",
            dtr_cores_text(&places[i].cores, cores));
}

static void print_host(const struct dtr_place *places, int count)
{
    char text[DTR_CORES_TEXT];
    cpu_set_t all;
    int threads = 0;
    CPU_ZERO(&all);
    for (int i = 0; i < count; i++) {
        CPU_OR(&all, &all, &places[i].cores);
        threads += places[i].threads;
    }
    dtr_print("    %-16s %d ranks, %d threads on cores %s\n", places->host, count, threads,
        dtr_cores_text(&all, text));
}

static void print_all(struct dtr_place *places, int count, bool list)
{
    char complaint[300];
    qsort(places, (size_t)count, sizeof *places, by_host);
    for (int first = 0, ranks; first < count; first += ranks) {
        ranks = same_host(places + first, count - first);
        if (list && count > RANKS_SHOWN)
            print_host(places + first, ranks);
        else if (list && count > 1)
            print_ranks(places + first, ranks);
        dtr_placement_complaint(places + first, ranks, complaint, sizeof complaint);
        if (complaint[0] != '\0')
            dtr_print("Note: %s\n", complaint);
    }
}

void dtr_placement_print(struct dtr_world *world, int64_t threads, bool list)
{
    struct dtr_place mine = {
        .rank = world->rank, .threads = (int)threads, .online = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    struct dtr_place *places = calloc((size_t)world->size, sizeof *places);
    memcpy(mine.host, world->host, sizeof mine.host);
    if (sched_getaffinity(0, sizeof mine.cores, &mine.cores) != 0)
        CPU_SET(0, &mine.cores);
    bool all = dtr_world_min_u64(world, places != NULL) != 0;
    if (all)
        dtr_world_gather(world, &mine, sizeof mine, places);
    if (all && world->rank == 0)
        print_all(places, world->size, list);
    free(places);
}
