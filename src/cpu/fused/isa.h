/*
 * These files are compiled once per instruction set, with DTR_ISA defined as its name: baseline,
 * avx2, avx512. Whatever they share with each other or with the program is called ISA(name), so
 * that the copies can live in one program. Private to src/cpu/fused/.
 */
#ifndef DTRAIN_CPU_FUSED_ISA_H
#define DTRAIN_CPU_FUSED_ISA_H

#define ISA_PASTE(name, isa) name##_##isa
#define ISA_EXPAND(name, isa) ISA_PASTE(name, isa)
#define ISA(name) ISA_EXPAND(name, DTR_ISA)

#endif
