/*
 * Randomness without state: every number is a function of (seed, purpose, stream, epoch, index), so
 * it is the same on any rank, in any thread, at any time, and nothing needs saving.
 *
 * Philox4x32-10: Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11.
 */
#ifndef DTRAIN_RANDOM_H
#define DTRAIN_RANDOM_H

#include <stdint.h>

enum dtr_random_purpose {
    DTR_RANDOM_INIT = 1,      /* stream: 0, index: tensor << 32 | block of elements */
    DTR_RANDOM_SHUFFLE = 2,   /* stream: 0, index: shard */
    DTR_RANDOM_DROPOUT = 3,   /* stream: layer, index: sample */
    DTR_RANDOM_SYNTHETIC = 4, /* stream: split, index: sample */
};

/* A sequence of numbers; copy it freely. */
struct dtr_random {
    uint32_t key[2];
    uint32_t counter[4]; /* [0] counts blocks of four words */
    uint32_t block[4];
    int used; /* words of block that have been taken; 4 at the start of the next */
};

/* stream < 256, index < 2^48. */
struct dtr_random dtr_random_at(uint64_t seed, enum dtr_random_purpose purpose, uint32_t stream,
    uint32_t epoch, uint64_t index);

/* The next 32 random bits. */
uint32_t dtr_random_u32(struct dtr_random *random);

/* Many at a time: the next whole blocks of the sequence, what is left of the current one skipped.
 */
enum { DTR_RANDOM_BLOCKS = 32, DTR_RANDOM_WORDS = 4 * DTR_RANDOM_BLOCKS };
void dtr_random_words(struct dtr_random *random, uint32_t words_out[DTR_RANDOM_WORDS]);

/* Uniform in [0, 1), 32 bits fine. */
double dtr_random_uniform(struct dtr_random *random);

/* The smallest word that is not among a share `rate` of all words: dropout keeps those at or above
 * it. rate < 1. */
uint32_t dtr_random_threshold(double rate);

/* Uniform in 0 .. bound-1 without bias; bound >= 1. */
uint32_t dtr_random_below(struct dtr_random *random, uint32_t bound);

/* Normal with mean 0 and standard deviation 1, redrawn beyond two of them (TensorFlow's
 * truncated_normal), by inversion of the distribution function. */
double dtr_random_truncated_normal(struct dtr_random *random);

/* Many at a time, of the words that dtr_random_words() gives; the same values, five times as fast.
 */
void dtr_random_truncated_normals(struct dtr_random *random, double values_out[DTR_RANDOM_WORDS]);

/* The block function itself, for known-answer tests. */
void dtr_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t block_out[4]);

#endif
