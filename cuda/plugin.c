#include "plugin.h"

#include "replica.h"

static const struct dtr_plugin plugin = {
    .version = DTRAIN_VERSION, .list = dtr_cuda_list, .compile = dtr_cuda_replica_compile};

__attribute__((visibility("default"))) const struct dtr_plugin *dtr_plugin(void)
{
    return &plugin;
}
