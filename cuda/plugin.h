/* The functions of the plugin's table (dtrain/plugin.h). */
#ifndef DTRAIN_CUDA_PLUGIN_H
#define DTRAIN_CUDA_PLUGIN_H

#include "dtrain/plugin.h"

enum dtr_status dtr_cuda_list(struct dtr_device_list *list_out, struct dtr_error *error);

#endif
