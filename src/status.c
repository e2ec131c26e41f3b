#include "dtrain/status.h"

#include <stdarg.h>
#include <stdio.h>

enum dtr_status dtr_error_set(
    struct dtr_error *error, enum dtr_status status, const char *format, ...)
{
    /* Through a buffer of its own: an argument may be the message that is being replaced. */
    char message[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    error->status = status;
    snprintf(error->message, sizeof error->message, "%s", message);
    return status;
}
