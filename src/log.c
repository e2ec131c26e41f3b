#include "dtrain/log.h"

#include <stdarg.h>
#include <stdio.h>

static int log_rank;

void dtr_log_set_rank(int rank)
{
    log_rank = rank;
}

void dtr_print(const char *format, ...)
{
    if (log_rank != 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    fflush(stdout);
}

/* One write per line, so that lines of several ranks do not mix. */
__attribute__((format(printf, 2, 0))) static void complain(
    const char *prefix, const char *format, va_list arguments)
{
    char line[1024];
    int length = snprintf(line, sizeof line, "dtrain: %s", prefix);
    vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
    fprintf(stderr, "%s\n", line);
}

void dtr_warn(const char *format, ...)
{
    if (log_rank != 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    complain("warning: ", format, arguments);
    va_end(arguments);
}

void dtr_complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    complain("", format, arguments);
    va_end(arguments);
}
