/* Our own kernels: layers that are fused with the next one. Private to src/cpu/. */
#ifndef DTRAIN_CPU_FUSED_H
#define DTRAIN_CPU_FUSED_H

#include "dtrain/cpu.h"
#include "dtrain/kernel.h"

/* The table for a kind of layer on an instruction set; NULL: there is none. */
const struct dtr_kernel *fused_kernel(enum dtr_layer_kind kind, enum dtr_isa isa);

#endif
