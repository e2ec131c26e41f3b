/* dtrain info --devices: what there is to compute on. */
#include "commands.h"
#include "dtrain/cpu.h"
#include "dtrain/log.h"
#include "dtrain/plugin.h"

#include <string.h>
#include <unistd.h>

static void print_device(const struct dtr_device_list *list, int number)
{
    const struct dtr_device *device = &list->devices[number];
    const char *before = ", peer access to devices ";
    dtr_print("Device %d: %s, %.1f GiB, compute capability %d.%d\n    %s at %s", number,
        device->name, (double)device->memory_bytes / 0x1p30, device->major, device->minor,
        device->uuid, device->bus);
    for (int other = 0; other < list->count; other++) {
        if (device->peers >> other & 1) {
            dtr_print("%s%d", before, other);
            before = ", ";
        }
    }
    dtr_print("\n");
}

static void print_versions(const struct dtr_device_list *list)
{
    dtr_print("CUDA: runtime %s, driver %s, NCCL %s\n", list->runtime,
        list->driver[0] != '\0' ? list->driver : "none", list->nccl);
}

/* What a training on this host would use without being told. */
static void print_choice(const struct dtr_device_list *list)
{
    if (list->count == 0)
        dtr_print("--backend auto: the CPU\n");
    else
        dtr_print("--backend auto: GPUs, %s, on up to %d rank%s of this host; --comm auto: NCCL\n",
            list->devices[0].major >= 8 ? "tf32" : "fp32", list->count,
            list->count == 1 ? "" : "s");
}

int dtr_command_devices(void)
{
    const struct dtr_plugin *plugin;
    struct dtr_device_list list = {0};
    struct dtr_error error = DTR_ERROR_NONE;
    dtr_print(
        "CPU: %ld cores, %s\n", sysconf(_SC_NPROCESSORS_ONLN), dtr_isa_name(dtr_isa_detect()));
    if (dtr_plugin_load(&plugin, &error) == DTR_OK) {
        plugin->list(&list, &error);
        print_versions(&list);
    }
    for (int i = 0; i < list.count; i++)
        print_device(&list, i);
    if (error.status != DTR_OK)
        dtr_print("GPU: %s\n", error.message);
    print_choice(&list);
    return DTR_OK;
}
