/*
 * The checksum of HDF5's filter fletcher32, many times as fast as HDF5 computes it. Private to
 * src/checkpoint/. Local.
 */
#ifndef DTRAIN_CHECKPOINT_FLETCHER32_H
#define DTRAIN_CHECKPOINT_FLETCHER32_H

#include <stddef.h>
#include <stdint.h>

/* Of `count` bytes, an even number. */
uint32_t fletcher32(const void *bytes, size_t count);

#endif
