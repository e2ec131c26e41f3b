/*
 * The scheduler: makes fibers of a block's threads and decides which of them runs. A warp runs
 * until none of its lanes can, then the next warp does, so that a warp gets ahead of others as far
 * as barriers let it. In random schedules warps also take turns at random.
 */
#include "simt_internal.h"

#include <mutex>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WARPS = DTR_SIMT_THREADS / DTR_SIMT_LANES };
enum { SHARED_BYTES_MAX = 227 * 1024, GUARD_BYTES = 4096, EXIT_STATUS = 99 };
enum { FORWARD, REVERSE, RANDOM };

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
struct dtr_simt_thread *dtr_simt_current;

static struct dtr_simt_thread threads[DTR_SIMT_THREADS];
static unsigned thread_count; /* of the block */
static unsigned threads_made; /* those with a fiber */
static struct dtr_fiber host; /* what called dtr_simt_run() */
static std::mutex one_launch; /* at a time */

static struct dtr_simt_warp warps[WARPS];
static unsigned warp_count, running_warp;
static unsigned blocked, exited; /* threads at __syncthreads(), and at their end */
static unsigned barriers;        /* that blocks have passed */
static int barrier_line;         /* of the one that threads wait at */

static const char *kernel_name = "";
static void (*kernel_body)(const void *);
static const void *kernel_argument;

static unsigned char *shared_memory; /* ends at a guard */
static size_t shared_size;

static bool schedule_set;
static int schedule;
static uint64_t schedule_seed, random_state, launches;

/* What TSan knows to be ordered: launches, and the threads of a block at a barrier. Two barriers
 * take turns, as a thread may reach the next while others have not left this one. */
static char launch_order, end_order, barrier_order[2];

DTR_SIMT_HIDDEN void dtr_simt_die(const char *format, ...)
{
    char cause[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(cause, sizeof(cause), format, arguments);
    va_end(arguments);
    fflush(stdout);
    if (dtr_simt_current != NULL)
        fprintf(stderr, "simt: %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", kernel_name,
            blockIdx.x, blockIdx.y, blockIdx.z, dtr_simt_current->index.x,
            dtr_simt_current->index.y, dtr_simt_current->index.z, cause);
    else
        fprintf(stderr, "simt: %s: %s\n", kernel_name, cause);
    fflush(stderr);
    _exit(EXIT_STATUS);
}

void dtr_simt_set_schedule(const char *name)
{
    std::lock_guard<std::mutex> lock(one_launch);
    char *end;

    if (name == NULL)
        name = getenv("DTRAIN_SIMT_SCHEDULE");
    if (name == NULL || *name == '\0')
        name = "forward";
    schedule_set = true;
    launches = 0;
    if (strcmp(name, "forward") == 0) {
        schedule = FORWARD;
    } else if (strcmp(name, "reverse") == 0) {
        schedule = REVERSE;
    } else {
        schedule = RANDOM;
        schedule_seed = strtoull(name, &end, 10);
        if (*end != '\0')
            dtr_simt_die("schedule \"%s\" is none of forward, reverse, a number", name);
    }
}

/* splitmix64 */
DTR_SIMT_HIDDEN static uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

DTR_SIMT_HIDDEN struct dtr_simt_warp *dtr_simt_warp_of(const struct dtr_simt_thread *thread)
{
    return &warps[thread->number / DTR_SIMT_LANES];
}

/* At random: any first lane, then every 1st, 3rd ... 31st, which comes to all of them. */
DTR_SIMT_HIDDEN void dtr_simt_wake(struct dtr_simt_warp *warp, unsigned mask)
{
    unsigned lane = 0, step = 1;

    if (schedule == REVERSE) {
        lane = step = DTR_SIMT_LANES - 1;
    } else if (schedule == RANDOM) {
        unsigned random = (unsigned)(next_random() >> 32);
        lane = random % DTR_SIMT_LANES;
        step = random / DTR_SIMT_LANES % DTR_SIMT_LANES | 1;
    }
    for (int i = 0; i < DTR_SIMT_LANES; i++, lane = (lane + step) % DTR_SIMT_LANES) {
        if ((mask >> lane & 1) == 0)
            continue;
        warp->lanes[lane].state = DTR_SIMT_READY;
        warp->ready[(warp->ready_first + warp->ready_count++) % DTR_SIMT_LANES] = (unsigned char)
            lane;
    }
}

/* The thread that runs next; NULL: no thread can run. */
DTR_SIMT_HIDDEN static struct dtr_simt_thread *next_thread(void)
{
    unsigned skipped = 0;

    if (schedule == RANDOM && next_random() % 16 == 0)
        running_warp = (unsigned)(next_random() % warp_count);
    while (warps[running_warp].ready_count == 0) {
        if (++skipped > warp_count)
            return NULL;
        if (schedule == REVERSE)
            running_warp = (running_warp + warp_count - 1) % warp_count;
        else
            running_warp = (running_warp + 1) % warp_count;
    }
    struct dtr_simt_warp *warp = &warps[running_warp];
    unsigned lane = warp->ready[warp->ready_first];
    warp->ready_first = (warp->ready_first + 1) % DTR_SIMT_LANES;
    warp->ready_count--;
    return &warp->lanes[lane];
}

DTR_SIMT_HIDDEN static void become(struct dtr_simt_thread *thread)
{
    dtr_simt_current = thread;
    threadIdx = thread->index;
}

DTR_SIMT_HIDDEN void dtr_simt_yield(void)
{
    struct dtr_simt_thread *self = dtr_simt_current, *next = next_thread();

    if (next == NULL)
        dtr_simt_die("deadlock: no thread can go on, this one waits at line %d", self->line);
    become(next);
    if (next != self)
        dtr_fiber_switch(&self->fiber, &next->fiber);
}

/* All threads of the block start, or go on after a barrier. */
DTR_SIMT_HIDDEN static void wake_block(void)
{
    running_warp = schedule == FORWARD   ? 0
                   : schedule == REVERSE ? warp_count - 1
                                         : (unsigned)(next_random() % warp_count);
    for (unsigned i = 0; i < warp_count; i++) {
        warps[i].blocked = 0;
        dtr_simt_wake(&warps[i], 0xffffffffu >> (DTR_SIMT_LANES - warps[i].count));
    }
}

DTR_SIMT_HIDDEN void __syncthreads(int line)
{
    struct dtr_simt_thread *self = dtr_simt_current;
    struct dtr_simt_warp *warp = dtr_simt_warp_of(self);
    void *order = &barrier_order[barriers % 2];

    dtr_simt_check_left(warp, self, "waits at __syncthreads()");
    if (exited > 0)
        dtr_simt_die("__syncthreads() at line %d is reached by some threads only: %u have exited",
            line, exited);
    if (blocked > 0 && barrier_line != line)
        dtr_simt_die("different barriers: __syncthreads() at line %d, others wait at line %d", line,
            barrier_line);
    DTR_SIMT_RELEASE(order);
    self->state = DTR_SIMT_IN_BLOCK;
    self->line = barrier_line = line;
    warp->blocked |= 1u << self->number % DTR_SIMT_LANES;
    if (++blocked == thread_count) {
        blocked = 0;
        barriers++;
        wake_block();
    }
    dtr_simt_yield();
    DTR_SIMT_ACQUIRE(order);
}

DTR_SIMT_HIDDEN static void exit_thread(struct dtr_simt_thread *self)
{
    struct dtr_simt_warp *warp = dtr_simt_warp_of(self);

    dtr_simt_check_left(warp, self, "exits");
    if (blocked > 0)
        dtr_simt_die("__syncthreads() at line %d is reached by some threads only: this one exits",
            barrier_line);
    self->state = DTR_SIMT_EXITED;
    warp->exited |= 1u << self->number % DTR_SIMT_LANES;
    if (++exited == thread_count) {
        dtr_simt_current = NULL;
        dtr_fiber_switch(&self->fiber, &host);
    } else {
        dtr_simt_yield();
    }
}

/* A fiber is a thread of the same number in block after block, which TSan does not see as ordered:
 * blocks that work on the same memory race. */
DTR_SIMT_HIDDEN static void run_thread(void)
{
    struct dtr_simt_thread *self = dtr_simt_current;

    for (;;) {
        DTR_SIMT_ACQUIRE(&launch_order);
        kernel_body(kernel_argument);
        self->copies.clear();
        DTR_SIMT_RELEASE(&end_order);
        exit_thread(self);
    }
}

DTR_SIMT_HIDDEN void *dtr_simt_shared(void)
{
    return shared_memory;
}

DTR_SIMT_HIDDEN bool dtr_simt_is_shared(const void *address, size_t bytes)
{
    uintptr_t first = (uintptr_t)address, start = (uintptr_t)shared_memory;

    return first >= start && first + bytes <= start + shared_size;
}

/* Fills memory without a trace: neither the compiler nor TSan may see a memset(). */
DTR_SIMT_HIDDEN static void poison(unsigned char *memory, size_t bytes)
{
    volatile uint64_t *words = (volatile uint64_t *)memory;

    for (size_t i = 0; i < bytes / sizeof(*words); i++)
        words[i] = UINT64_MAX;
}

/* Room for shared memory, with a page after its end that nobody may touch. */
DTR_SIMT_HIDDEN static void place_shared(size_t bytes)
{
    static unsigned char *room;
    enum { ROOM_BYTES = (SHARED_BYTES_MAX + GUARD_BYTES - 1) / GUARD_BYTES * GUARD_BYTES };

    if (room == NULL) {
        room = (unsigned char *)mmap(NULL, ROOM_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (room == MAP_FAILED || mprotect(room + ROOM_BYTES, GUARD_BYTES, PROT_NONE) != 0)
            dtr_simt_die("no memory for shared memory");
    }
#ifdef __SANITIZE_THREAD__
    /* Forget who used it: the block before is not ordered with this one, but has another. */
    mmap(room, ROOM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
    shared_size = (bytes + 15) / 16 * 16; /* aligned as on a device */
    shared_memory = room + ROOM_BYTES - shared_size;
    poison(shared_memory, shared_size);
}

static uint64_t volume(dim3 size)
{
    return (uint64_t)size.x * size.y * size.z;
}

void dtr_simt_check(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
    kernel_name = kernel;
    if (volume(block) == 0 || volume(block) > DTR_SIMT_THREADS || block.z > 64)
        dtr_simt_die("bad block size (%u, %u, %u): a block has 1 to %d threads", block.x, block.y,
            block.z, DTR_SIMT_THREADS);
    if (volume(grid) == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
        dtr_simt_die("bad grid size (%u, %u, %u)", grid.x, grid.y, grid.z);
    if (shared_bytes > SHARED_BYTES_MAX)
        dtr_simt_die(
            "%zu bytes of shared memory, a block can have %d", shared_bytes, SHARED_BYTES_MAX);
}

/* One-dimensional, x first, as CUDA numbers threads and blocks. */
DTR_SIMT_HIDDEN static uint3 place_in(dim3 size, uint64_t number)
{
    return make_uint3((unsigned)(number % size.x), (unsigned)(number / size.x % size.y),
        (unsigned)(number / size.x / size.y));
}

/* The threads and warps of every block of a launch. */
DTR_SIMT_HIDDEN static void prepare_launch(dim3 grid, dim3 block)
{
    gridDim = grid;
    blockDim = block;
    thread_count = (unsigned)volume(block);
    warp_count = (thread_count + DTR_SIMT_LANES - 1) / DTR_SIMT_LANES;
    for (unsigned i = 0; i < thread_count; i++) {
        threads[i].number = i;
        threads[i].index = place_in(block, i);
    }
    for (; threads_made < thread_count; threads_made++)
        dtr_fiber_create(&threads[threads_made].fiber, threads_made, run_thread);
    for (unsigned i = 0; i < warp_count; i++) {
        warps[i].lanes = &threads[i * DTR_SIMT_LANES];
        warps[i].count = DTR_SIMT_LANES;
    }
    warps[warp_count - 1].count = thread_count - (warp_count - 1) * DTR_SIMT_LANES;
    random_state = schedule_seed ^ launches++ * 0xd1342543de82ef95u;
}

DTR_SIMT_HIDDEN static void run_block(uint64_t number, size_t shared_bytes)
{
    blockIdx = place_in(gridDim, number);
    place_shared(shared_bytes);
    blocked = exited = 0;
    for (unsigned i = 0; i < warp_count; i++)
        warps[i].exited = 0;
    wake_block();
    DTR_SIMT_RELEASE(&launch_order);
    become(next_thread());
    dtr_fiber_switch(&host, &dtr_simt_current->fiber);
}

/* Blocks too run in another order; at random: any first one, then every step-th. */
DTR_SIMT_HIDDEN static void run_blocks(size_t shared_bytes)
{
    uint64_t count = volume(gridDim), number = 0, step = 1;

    if (schedule == REVERSE) {
        number = step = count - 1;
    } else if (schedule == RANDOM) {
        uint64_t a, b, rest;
        number = next_random() % count;
        do { /* a step without a common divisor comes to every block */
            step = next_random() % count;
            for (a = count, b = step; b != 0; a = b, b = rest)
                rest = a % b;
        } while (a != 1);
    }
    for (uint64_t i = 0; i < count; i++) {
        run_block(number, shared_bytes);
        number = (number + step) % count;
    }
}

DTR_SIMT_HIDDEN void dtr_simt_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
    void (*body)(const void *), const void *argument)
{
    if (!schedule_set)
        dtr_simt_set_schedule(NULL);

    std::lock_guard<std::mutex> lock(one_launch);
    kernel_name = kernel;
    kernel_body = body;
    kernel_argument = argument;
    dtr_fiber_adopt(&host);
    prepare_launch(grid, block);
    run_blocks(shared_bytes);
    DTR_SIMT_ACQUIRE(&end_order);
}
