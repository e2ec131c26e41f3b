/* See fiber.h. */
#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* With -DDTR_FIBER_UCONTEXT the other way can be tested here. */
#if defined(__x86_64__) && !defined(DTR_FIBER_UCONTEXT)
#define OWN_SWITCH 1
#else
#define OWN_SWITCH 0
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
extern "C" void *__tsan_create_fiber(unsigned flags);
extern "C" void *__tsan_get_current_fiber(void);
extern "C" void __tsan_switch_to_fiber(void *fiber, unsigned flags);
enum { NO_SYNC = 1 }; /* a change of fibers orders nothing */
#endif

/* Enough for a kernel's frames; a sanitizer's are larger. Only touched pages take memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { GUARD_BYTES = 4096, STACK_BYTES = 512 * 1024 };
#else
enum { GUARD_BYTES = 4096, STACK_BYTES = 128 * 1024 };
#endif

#if OWN_SWITCH
/* Keeps what a called function must keep on this stack, then does the same backwards on the other.
 * The rounding modes are everybody's. */
extern "C" void dtr_fiber_swap(void **save, void *load);
__asm__(".text\n"
        ".type dtr_fiber_swap, @function\n"
        ".globl dtr_fiber_swap\n"
        ".hidden dtr_fiber_swap\n"
        "dtr_fiber_swap:\n"
        "    push %rbp\n"
        "    push %rbx\n"
        "    push %r12\n"
        "    push %r13\n"
        "    push %r14\n"
        "    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n"
        "    pop %r14\n"
        "    pop %r13\n"
        "    pop %r12\n"
        "    pop %rbx\n"
        "    pop %rbp\n"
        "    ret\n"
        ".size dtr_fiber_swap, . - dtr_fiber_swap\n");
#endif

#ifdef __SANITIZE_ADDRESS__
static struct dtr_fiber *switched_from, *switched_to;

/* Run first on the stack that was switched to. Where from tells the host thread's stack, too. */
static void finish_switch(void)
{
    __sanitizer_finish_switch_fiber(
        switched_to->fake_stack, &switched_from->stack, &switched_from->stack_size);
}
#endif

static void (*entry_function)(void);

DTR_SIMT_HIDDEN static void enter(void)
{
#ifdef __SANITIZE_ADDRESS__
    finish_switch();
#endif
    entry_function();
    abort();
}

DTR_SIMT_HIDDEN void dtr_fiber_create(struct dtr_fiber *fiber, unsigned number, void (*entry)(void))
{
    size_t shift = number * 320 % 4096;
    char *stack = (char *)mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, GUARD_BYTES, PROT_NONE) != 0) {
        perror("simt: no memory for a fiber's stack");
        abort();
    }
    entry_function = entry;
    fiber->stack = stack + GUARD_BYTES;
    fiber->stack_size = STACK_BYTES;
#if OWN_SWITCH
    void **top = (void **)(stack + GUARD_BYTES + STACK_BYTES - 64 - shift);
    *--top = NULL; /* where enter() would return to */
    *--top = (void *)enter;
    for (int i = 0; i < 6; i++)
        *--top = NULL;
    fiber->stack_pointer = top;
#else
    (void)shift;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = stack + GUARD_BYTES;
    fiber->context.uc_stack.ss_size = STACK_BYTES;
    fiber->context.uc_link = NULL;
    makecontext(&fiber->context, enter, 0);
#endif
#ifdef __SANITIZE_THREAD__
    fiber->tsan = __tsan_create_fiber(0);
#endif
}

DTR_SIMT_HIDDEN void dtr_fiber_adopt(struct dtr_fiber *fiber)
{
#ifdef __SANITIZE_THREAD__
    fiber->tsan = __tsan_get_current_fiber();
#else
    (void)fiber;
#endif
}

DTR_SIMT_HIDDEN void dtr_fiber_switch(struct dtr_fiber *from, struct dtr_fiber *to)
{
#ifdef __SANITIZE_THREAD__
    __tsan_switch_to_fiber(to->tsan, NO_SYNC);
#endif
#ifdef __SANITIZE_ADDRESS__
    switched_from = from;
    switched_to = to;
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_size);
#endif
#if OWN_SWITCH
    dtr_fiber_swap(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef __SANITIZE_ADDRESS__
    finish_switch();
#endif
}
