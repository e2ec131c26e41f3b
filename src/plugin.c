#include "dtrain/plugin.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Relative to the program: where it was built, and where Meson installs it. */
static const char *const places[] = {
    "libdtrain_cuda.so", "cuda/libdtrain_cuda.so", "../" DTRAIN_PLUGIN_FOLDER "/libdtrain_cuda.so"};

static bool find(char path_out[PATH_MAX])
{
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0)
        return false;
    program[length] = '\0';
    const char *folder = dirname(program);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        int written = snprintf(path_out, PATH_MAX, "%s/%s", folder, places[i]);
        if (written < PATH_MAX && access(path_out, R_OK) == 0)
            return true;
    }
    return false;
}

enum dtr_status dtr_plugin_load(const struct dtr_plugin **plugin_out, struct dtr_error *error)
{
    char found[PATH_MAX];
    const char *path = getenv("DTRAIN_PLUGIN");
    if (path == NULL || path[0] == '\0') {
        path = found;
        if (!find(found))
            return dtr_error_set(error, DTR_LAUNCH,
                "this dtrain has no GPU plugin (libdtrain_cuda.so): it was built without CUDA; "
                "build it anew where nvcc is (meson setup --wipe build/release -Dgpu=enabled), or "
                "name the plugin in $DTRAIN_PLUGIN");
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    dtr_plugin_entry *entry = NULL;
    if (library != NULL)
        *(void **)&entry = dlsym(library, DTR_PLUGIN_SYMBOL);
    if (entry == NULL)
        return dtr_error_set(error, DTR_LAUNCH, "the GPU plugin cannot be loaded: %s", dlerror());
    const struct dtr_plugin *plugin = entry();
    if (strcmp(plugin->version, DTRAIN_VERSION) != 0)
        return dtr_error_set(error, DTR_LAUNCH,
            "the GPU plugin %s is of dtrain %s, this is %s; install them together", path,
            plugin->version, DTRAIN_VERSION);
    *plugin_out = plugin;
    return DTR_OK;
}
