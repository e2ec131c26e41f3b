/*
 * Fibers: stacks that one host thread changes between. On x86-64 the change is a dozen instructions
 * of our own; elsewhere it is ucontext, which makes system calls. Sanitizers are told of it.
 */
#ifndef DTRAIN_TESTS_SIMT_FIBER_H
#define DTRAIN_TESTS_SIMT_FIBER_H

#include <stddef.h>
#include <ucontext.h>

/* Scheduling is not part of what a kernel does: TSan must not see it. */
#define DTR_SIMT_HIDDEN __attribute__((no_sanitize("thread")))

struct dtr_fiber {
    void *stack_pointer; /* of one that does not run, where the change is our own */
    ucontext_t context;
    const void *stack; /* ASan's and TSan's notes */
    size_t stack_size;
    void *fake_stack;
    void *tsan;
};

/* A fiber with a stack, which runs `entry` when first switched to; it must never return. `number`
 * shifts the stack a little, or all would share the same few lines of the cache. */
void dtr_fiber_create(struct dtr_fiber *fiber, unsigned number, void (*entry)(void));

/* The calling thread as a fiber, to come back to. */
void dtr_fiber_adopt(struct dtr_fiber *fiber);

/* Goes on with `to`, until somebody goes on with `from`. */
void dtr_fiber_switch(struct dtr_fiber *from, struct dtr_fiber *to);

/* To TSan: what was done before a release of an address is before what follows an acquire. */
#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_acquire(void *address);
extern "C" void __tsan_release(void *address);
#define DTR_SIMT_ACQUIRE(address) __tsan_acquire(address)
#define DTR_SIMT_RELEASE(address) __tsan_release(address)
#else
#define DTR_SIMT_ACQUIRE(address) ((void)(address))
#define DTR_SIMT_RELEASE(address) ((void)(address))
#endif

#endif
