/* Instruction sets that kernels are made for. Results are rounded by them: equal bits are promised
 * for equal ones alone. Local. */
#ifndef DTRAIN_CPU_H
#define DTRAIN_CPU_H

#include "dtrain/status.h"

/* Each includes those before it. */
enum dtr_isa { DTR_ISA_BASELINE, DTR_ISA_AVX2, DTR_ISA_AVX512, DTR_ISA_COUNT };

/* The largest that this CPU and this program have. */
enum dtr_isa dtr_isa_detect(void);

/* "baseline", "avx2", "avx512": as in --isa. */
const char *dtr_isa_name(enum dtr_isa isa);

/* The one that was named (an option's value: enum dtr_isa + 1; 0: none was), or else the largest.
 * DTR_LAUNCH when this CPU does not have it. */
enum dtr_status dtr_isa_choose(int named, enum dtr_isa *isa_out, struct dtr_error *error);

#endif
