/*
 * Where signals are handled: nowhere but in the main thread, on a stack of its own.
 *
 * dnnl_sgemm() of oneDNN (seen in 2.6 and 3.7, with AVX2 and AVX-512) keeps values farther below
 * the stack pointer than the ABI leaves alone. The frame of a signal on the same stack overwrites
 * them, and sooner or later the heap is corrupt. So a thread that computes must never handle a
 * signal on its stack.
 */
#ifndef DTRAIN_SIGNALS_H
#define DTRAIN_SIGNALS_H

#include <pthread.h>

/* pthread_create() of a thread that gets no signals: those to the process are left to others. */
int dtr_signals_create_thread(pthread_t *thread_out, void *(*run)(void *context), void *context);

/* Has a signal handled, each time or once, on a stack that handlers alone use. In the main thread,
 * which is the only one that has it. */
enum dtr_signals_times { DTR_SIGNALS_ALWAYS, DTR_SIGNALS_ONCE };
void dtr_signals_handle(int number, void (*handler)(int number), enum dtr_signals_times times);

#endif
