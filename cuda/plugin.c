#include "plugin.h"

#include "collective.h"
#include "replica.h"

static const struct dtr_plugin plugin = {.version = DTRAIN_VERSION,
    .list = dtr_cuda_list,
    .collective_name = dtr_cuda_collective_name,
    .collective_open = dtr_cuda_collective_open,
    .collective_close = dtr_cuda_collective_close,
    .compile = dtr_cuda_replica_compile};

__attribute__((visibility("default"))) const struct dtr_plugin *dtr_plugin(void)
{
    return &plugin;
}
