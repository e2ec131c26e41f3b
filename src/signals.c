#include "dtrain/signals.h"

#include <signal.h>
#include <stdalign.h>

int dtr_signals_create_thread(pthread_t *thread_out, void *(*run)(void *context), void *context)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(thread_out, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

void dtr_signals_handle(int number, void (*handler)(int number), enum dtr_signals_times times)
{
    enum { STACK_BYTES = 64 << 10 }; /* the frame alone has 11 KB where there are AMX registers */
    static alignas(64) char memory[STACK_BYTES];
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK};
    if (times == DTR_SIGNALS_ONCE)
        action.sa_flags |= (int)SA_RESETHAND;
    sigemptyset(&action.sa_mask);
    sigaltstack(&(stack_t){.ss_sp = memory, .ss_size = sizeof memory}, NULL);
    sigaction(number, &action, NULL);
}
