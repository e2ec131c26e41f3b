/*
 * A rank that hangs, or is slow: linked into a dtrain of its own, with the functions below in place
 * of the program's (--wrap). DTRAIN_TEST_HANG is "RANK:FUNCTION:N": that rank's N-th call of the
 * function never ends, or with "RANK:FUNCTION:slow", each takes 0.3 s longer.
 */
#include "checkpoint/store.h"
#include "cpu/network.h"
#include "dtrain/optimizer.h"
#include "dtrain/pulse.h"
#include "dtrain/synthetic.h"
#include "dtrain/tree.h"
#include "dtrain/world.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void call(const char *function)
{
    enum { SLOW_US = 300000 };
    static atomic_int calls;
    const char *which = getenv("DTRAIN_TEST_HANG");
    char name[64] = "", number[16] = "";
    int rank;
    if (which == NULL || sscanf(which, "%d:%63[^:]:%15s", &rank, name, number) != 3 ||
        rank != dtr_launcher_rank() || strcmp(name, function) != 0)
        return;
    if (strcmp(number, "slow") == 0)
        usleep(SLOW_US);
    else if (atomic_fetch_add(&calls, 1) + 1 == atoi(number))
        for (;;)
            pause();
}

/* WRAP(result, name, (declaration), (arguments)) */
#define WRAP(result, name, declaration, arguments)                                                 \
    result __real_##name declaration;                                                              \
    result __wrap_##name declaration;                                                              \
    result __wrap_##name declaration                                                               \
    {                                                                                              \
        call(#name);                                                                               \
        return __real_##name arguments;                                                            \
    }
#define WRAP_VOID(name, declaration, arguments)                                                    \
    void __real_##name declaration;                                                                \
    void __wrap_##name declaration;                                                                \
    void __wrap_##name declaration                                                                 \
    {                                                                                              \
        call(#name);                                                                               \
        __real_##name arguments;                                                                   \
    }

WRAP(uint8_t, dtr_synthetic_digit, (uint64_t seed, uint32_t split, int64_t index, uint8_t *pixels),
    (seed, split, index, pixels))
WRAP(const struct dtr_batch *, dtr_loader_step, (struct dtr_loader * loader, int64_t step),
    (loader, step))
WRAP_VOID(network_forward, (struct network * network, const struct dtr_batch *batch, uint64_t seed),
    (network, batch, seed))
WRAP_VOID(
    network_backward, (struct network * network, const struct dtr_batch *batch), (network, batch))
WRAP(const float *, network_infer,
    (struct network * network, int64_t lane, const uint8_t *images, int64_t count),
    (network, lane, images, count))
WRAP_VOID(dtr_sgd_update_shared,
    (int64_t count, float rate, float mu, float decay, const float *gradient, float *momentum,
        float *weights),
    (count, rate, mu, decay, gradient, momentum, weights))
WRAP(const char *, store_file,
    (const struct store *store, const char *name, const void *bytes, size_t size),
    (store, name, bytes, size))

/* Kernels add by it too: the exchange's calls alone count. */
void __real_dtr_tree_chunk_begin(struct dtr_tree_chunk *chunk, int64_t shards, int64_t first);
void __wrap_dtr_tree_chunk_begin(struct dtr_tree_chunk *chunk, int64_t shards, int64_t first);
void __wrap_dtr_tree_chunk_begin(struct dtr_tree_chunk *chunk, int64_t shards, int64_t first)
{
    if (dtr_pulse_read().within != DTR_WITHIN_NOTHING)
        call("dtr_tree_chunk_begin");
    __real_dtr_tree_chunk_begin(chunk, shards, first);
}
