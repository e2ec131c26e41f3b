/*
 * Counts calls, lets chosen ones fail, and collects the program's mistakes.
 */
#include "internal.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <unistd.h>

namespace fake
{
namespace
{

struct State {
    std::map<std::string, int64_t> calls;
    std::string function; /* that shall fail; empty: none */
    int64_t number = 0;
    int code = 0; /* 0: the function's usual one */
    int64_t mistakes = 0;
    int64_t alive = 0;
    std::string last;
};

void parse(State *state, const char *text)
{
    state->function.clear();
    state->code = 0;
    std::string fault = text ? text : "";
    size_t colon = fault.find(':');
    if (colon == std::string::npos)
        return;
    state->function = fault.substr(0, colon);
    char *end = nullptr;
    state->number = strtoll(fault.c_str() + colon + 1, &end, 10);
    if (*end == ':')
        state->code = static_cast<int>(strtol(end + 1, &end, 10));
    if (state->number < 1 || *end != '\0') {
        fprintf(stderr, "fake cuda: DTRAIN_FAKE_FAULT is not function:N[:code]: %s\n", text);
        exit(2);
    }
}

void at_exit();

/* Lives until the process ends: destructors of the program may still call us. */
State &state()
{
    static State *only = [] {
        State *made = new State;
        parse(made, getenv("DTRAIN_FAKE_FAULT"));
        atexit(at_exit);
        return made;
    }();
    return *only;
}

void at_exit()
{
    if (const char *path = getenv("DTRAIN_FAKE_COUNTS")) {
        if (FILE *file = fopen(path, "w")) {
            for (const auto &entry : state().calls)
                fprintf(
                    file, "%s %lld\n", entry.first.c_str(), static_cast<long long>(entry.second));
            fclose(file);
        }
    }
    const char *strict = getenv("DTRAIN_FAKE_STRICT");
    if (!strict || *strict == '\0' || (state().mistakes == 0 && state().alive == 0))
        return;
    fprintf(stderr, "fake cuda: %lld mistakes, %lld objects leaked\n",
        static_cast<long long>(state().mistakes), static_cast<long long>(state().alive));
    fflush(nullptr);
    _exit(DTR_FAKE_EXIT);
}

bool counts_to_fault(const char *function)
{
    int64_t calls = ++state().calls[function];
    return state().function == function && calls == state().number;
}

} /* namespace */

std::recursive_mutex &lock()
{
    static std::recursive_mutex *only = new std::recursive_mutex;
    return *only;
}

int fault(const char *function, int fallback)
{
    std::string name = function;
    size_t suffix = name.rfind("_v2"); /* what the headers' macros add */
    if (suffix != std::string::npos && suffix + 3 == name.size())
        name.erase(suffix);
    if (!counts_to_fault(name.c_str()))
        return 0;
    return state().code ? state().code : fallback;
}

void async_fault()
{
    if (counts_to_fault("async"))
        sticky = state().code ? static_cast<cudaError_t>(state().code) : cudaErrorIllegalAddress;
}

void mistake(const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "fake cuda: %s\n", text);
    state().last = text;
    state().mistakes++;
}

void alive(int change)
{
    state().alive += change;
}

} /* namespace fake */

using namespace fake;

void dtr_fake_fault(const char *fault)
{
    std::lock_guard<std::recursive_mutex> guard(lock());
    state().calls.clear();
    parse(&state(), fault);
}

int64_t dtr_fake_calls(const char *function)
{
    std::lock_guard<std::recursive_mutex> guard(lock());
    auto found = state().calls.find(function);
    return found == state().calls.end() ? 0 : found->second;
}

int64_t dtr_fake_mistakes(void)
{
    return state().mistakes;
}

const char *dtr_fake_last_mistake(void)
{
    return state().last.c_str();
}

int64_t dtr_fake_leaks(void)
{
    return state().alive;
}

void dtr_fake_reset(void)
{
    std::lock_guard<std::recursive_mutex> guard(lock());
    streams_reset();
    memory_reset();
    device_reset();
    state().mistakes = state().alive = 0;
    state().last.clear();
    state().calls.clear();
}
