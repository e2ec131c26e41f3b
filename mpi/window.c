#include "window.h"

#include "comm.h"
#include "dtrain/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; before, it fails */
#endif

/* Where a rank's segment is, for the others. */
struct offer {
    int64_t process, file; /* file -1: there is none */
    int64_t bytes;
    uint64_t device, inode;
};

/* Maps a file where huge pages can be, at a multiple of their size. MAP_FAILED on failure. */
static void *map_file(int file, int64_t bytes)
{
    enum { HUGE_PAGE_BYTES = 2 << 20 };
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = ((size_t)bytes + page - 1) / page * page;
    char *room = mmap(NULL, size + HUGE_PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    size_t before = (size_t)(-(uintptr_t)room % HUGE_PAGE_BYTES);
    void *memory = mmap(
        room + before, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    munmap(room + before + size, HUGE_PAGE_BYTES - before);
    if (before > 0)
        munmap(room, before);
    if (memory == MAP_FAILED)
        munmap(room + before, size);
    return memory;
}

/* Only a wish: TLB misses are fewer where the system makes huge pages of a file's, at once or by
 * and by. */
static void wish_huge_pages(int file, int64_t bytes)
{
    void *memory = map_file(file, bytes);
    if (memory == MAP_FAILED)
        return;
    madvise(memory, (size_t)bytes, MADV_HUGEPAGE);
    madvise(memory, (size_t)bytes, MADV_COLLAPSE);
    munmap(memory, (size_t)bytes);
}

/* Pages are allocated now: later there would be no way to tell that there are none. */
static struct offer make_file(int64_t bytes)
{
    struct stat status;
    int file = memfd_create("dtrain-window", MFD_CLOEXEC);
    if (file >= 0 && (posix_fallocate(file, 0, (off_t)bytes) != 0 || fstat(file, &status) != 0)) {
        close(file);
        file = -1;
    }
    if (file < 0)
        return (struct offer){.file = -1};
    wish_huge_pages(file, bytes);
    return (struct offer){getpid(), file, bytes, status.st_dev, status.st_ino};
}

/* In another container a process's number may be somebody else's: the inode tells. */
static bool is_offered(const struct offer *offer, int file)
{
    struct stat status;
    return fstat(file, &status) == 0 && status.st_dev == offer->device &&
           status.st_ino == offer->inode;
}

static bool map(const struct offer *offer, struct segment *segment)
{
    char path[64];
    snprintf(
        path, sizeof path, "/proc/%lld/fd/%lld", (long long)offer->process, (long long)offer->file);
    int file = offer->file < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return false;
    void *memory = MAP_FAILED;
    if (is_offered(offer, file))
        memory = map_file(file, offer->bytes);
    close(file);
    if (memory == MAP_FAILED)
        return false;
    *segment = (struct segment){memory, offer->bytes};
    return true;
}

/* Whether this rank has a segment and sees all others'. `offers` has room for the group's. */
static bool share(struct dtr_world *world, MPI_Comm group, int64_t bytes, struct offer *offers,
    struct window *window)
{
    struct offer mine = make_file(bytes);
    bool all = true;
    dtr_comm_check(world,
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, offers, sizeof mine, MPI_BYTE, group),
        "MPI_Allgather");
    for (int i = 0; i < window->size && all; i++)
        all = map(&offers[i], &window->segments[i]);
    dtr_comm_check(world, MPI_Barrier(group), "MPI_Barrier"); /* all have opened this one */
    if (mine.file >= 0)
        close((int)mine.file);
    return all;
}

static void forget(struct window *window)
{
    for (int i = 0; i < window->size; i++) {
        if (window->segments[i].memory != NULL)
            munmap(window->segments[i].memory, (size_t)window->segments[i].bytes);
        window->segments[i].memory = NULL;
    }
}

/* This rank as a group of its own. */
static void stay_alone(struct window *window, int64_t bytes, struct dtr_error *error)
{
    window->size = 1;
    window->index = 0;
    window->segments[0] = (struct segment){
        dtr_alloc(bytes, 1, "parameters and gradients", error), bytes};
}

static void fill_window(struct dtr_world *world, MPI_Comm group, int64_t bytes, int64_t first_bytes,
    struct offer *offers, struct window *window, struct dtr_error *error)
{
    bool shared = true;
    if (window->size > 1)
        shared = share(
            world, group, bytes + (window->index == 0 ? first_bytes : 0), offers, window);
    window->failed = !dtr_comm_all(world, shared);
    if (window->failed)
        forget(window);
    if (window->failed || window->size == 1)
        stay_alone(window, bytes + first_bytes, error);
}

bool window_create(struct dtr_world *world, int64_t most, int64_t bytes, int64_t first_bytes,
    struct window *window_out, struct dtr_error *error)
{
    MPI_Comm group;
    int color = most > 0 ? (int)(world->node_rank / most) : 0;
    *window_out = (struct window){0};
    dtr_comm_check(world, MPI_Comm_split(world->comm->node, color, world->node_rank, &group),
        "MPI_Comm_split");
    MPI_Comm_size(group, &window_out->size);
    MPI_Comm_rank(group, &window_out->index);
    window_out->segments = dtr_alloc(
        window_out->size, sizeof *window_out->segments, "a window", error);
    struct offer *offers = dtr_alloc(window_out->size, sizeof *offers, "a window", error);
    bool done = dtr_comm_all(world, window_out->segments != NULL && offers != NULL);
    if (done)
        fill_window(world, group, bytes, first_bytes, offers, window_out, error);
    done = done && dtr_comm_all(world, window_out->segments[0].memory != NULL);
    free(offers);
    MPI_Comm_free(&group);
    return done;
}

void window_free(struct window *window)
{
    if (window->segments != NULL && window->size == 1)
        free(window->segments[0].memory);
    else if (window->segments != NULL)
        forget(window);
    free(window->segments);
}
