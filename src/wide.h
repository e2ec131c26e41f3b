/*
 * For functions that go over arrays element by element, outside src/cpu/fused/: compiled for wider
 * vectors too, of which the dynamic linker takes the widest that the CPU has, whatever --isa says.
 * Products and sums are never contracted in this program, so the bits are the same.
 */
#ifndef DTRAIN_WIDE_H
#define DTRAIN_WIDE_H

#include <stdint.h> /* tells which C library this is */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__OPTIMIZE__) && !defined(__clang__) &&   \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

#endif
