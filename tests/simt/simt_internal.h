/*
 * What simt.cpp, simt_warp.cpp and simt_tensor_core.cpp share: the threads of the running block.
 */
#ifndef DTRAIN_TESTS_SIMT_SIMT_INTERNAL_H
#define DTRAIN_TESTS_SIMT_SIMT_INTERNAL_H

#include "fiber.h"
#include "simt.h"
#include <vector>

enum { DTR_SIMT_THREADS = 1024, DTR_SIMT_LANES = 32 };

/* Copies of a thread that have not arrived, oldest first. */
struct dtr_simt_copy {
    void *shared;
    const void *global;
    int bytes, source_bytes;
    unsigned group;
};

enum dtr_simt_state { DTR_SIMT_READY, DTR_SIMT_IN_WARP, DTR_SIMT_IN_BLOCK, DTR_SIMT_EXITED };

struct dtr_simt_thread {
    struct dtr_fiber fiber;
    uint3 index;
    unsigned number; /* in the block */
    enum dtr_simt_state state;
    int line; /* where it waits */

    /* What it brings to an operation of its warp, and gets. */
    uint64_t value, result;
    int source;
    float *c;
    const uint32_t *a, *b;

    std::vector<struct dtr_simt_copy> copies;
    unsigned group;
};

/* An operation that some lanes of its mask have reached. */
struct dtr_simt_meeting {
    const struct dtr_simt_operation *operation;
    unsigned mask, arrived;
    int line;
    void *order; /* TSan's */
};

struct dtr_simt_warp {
    struct dtr_simt_thread *lanes; /* its first thread */
    unsigned count;                /* of threads; 32 but in the last warp */

    unsigned char ready[DTR_SIMT_LANES]; /* lanes that can run, a ring */
    unsigned ready_first, ready_count;
    unsigned blocked, exited; /* lanes at __syncthreads(), lanes at their end */

    struct dtr_simt_meeting open[DTR_SIMT_LANES];
    unsigned open_count, meetings;
    char order[64];
};

/* Something that the lanes of a warp do together: the last of them to come does it for all. */
struct dtr_simt_operation {
    const char *name;
    void (*complete)(struct dtr_simt_warp *warp, unsigned mask);
    bool orders_memory;
};

extern struct dtr_simt_thread *dtr_simt_current;

/* Waits until all lanes of `mask` have come to the same operation, which is then done. */
void dtr_simt_meet(const struct dtr_simt_operation *operation, unsigned mask, int line);

/* The warp of a thread of the running block. */
struct dtr_simt_warp *dtr_simt_warp_of(const struct dtr_simt_thread *thread);

/* Ends the process if some lanes of the warp wait for this one, which now does something else. */
void dtr_simt_check_left(
    struct dtr_simt_warp *warp, const struct dtr_simt_thread *thread, const char *doing);

/* Lanes of `mask` can run again, in the schedule's order. */
void dtr_simt_wake(struct dtr_simt_warp *warp, unsigned mask);

/* Lets others run until this thread is ready. */
void dtr_simt_yield(void);

/* Whether all of this is the block's shared memory. */
bool dtr_simt_is_shared(const void *address, size_t bytes);

/* Ends the process: the kernel, the block, the current thread, and this. */
[[noreturn]] void dtr_simt_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
