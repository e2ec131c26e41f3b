/* What the CPU can do. Local. */
#ifndef DTRAIN_CPU_H
#define DTRAIN_CPU_H

/* The widest vector instructions: "AVX-512", "AVX2", "AVX", "SSE2", "NEON" or "generic". Kernels
 * round by them: equal bits are promised for equal ones alone. */
const char *dtr_instruction_set(void);

#endif
