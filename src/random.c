#include "dtrain/random.h"

#include "dtrain/math.h"

#include <stdbool.h>

/* Ten rounds on `blocks` counters side by side, word w of them in c[w][0 .. blocks-1]. With many
 * blocks the loops become vector code, more than twice as fast. */
static inline void philox_rounds(
    int blocks, const uint32_t key[2], uint32_t c[4][DTR_RANDOM_BLOCKS])
{
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < blocks; i++) {
            uint64_t product0 = (uint64_t)0xD2511F53u * c[0][i];
            uint64_t product1 = (uint64_t)0xCD9E8D57u * c[2][i];
            c[0][i] = (uint32_t)(product1 >> 32) ^ c[1][i] ^ k0;
            c[1][i] = (uint32_t)product1;
            c[2][i] = (uint32_t)(product0 >> 32) ^ c[3][i] ^ k1;
            c[3][i] = (uint32_t)product0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

void dtr_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t block_out[4])
{
    uint32_t c[4][DTR_RANDOM_BLOCKS];
    for (int word = 0; word < 4; word++)
        c[word][0] = counter[word];
    philox_rounds(1, key, c);
    for (int word = 0; word < 4; word++)
        block_out[word] = c[word][0];
}

void dtr_random_words(struct dtr_random *random, uint32_t words_out[DTR_RANDOM_WORDS])
{
    uint32_t c[4][DTR_RANDOM_BLOCKS];
    for (int i = 0; i < DTR_RANDOM_BLOCKS; i++) {
        c[0][i] = random->counter[0]++;
        for (int word = 1; word < 4; word++)
            c[word][i] = random->counter[word];
    }
    philox_rounds(DTR_RANDOM_BLOCKS, random->key, c);
    for (int i = 0; i < DTR_RANDOM_BLOCKS; i++) {
        for (int word = 0; word < 4; word++)
            words_out[4 * i + word] = c[word][i];
    }
    random->used = 4;
}

struct dtr_random dtr_random_at(
    uint64_t seed, enum dtr_random_purpose purpose, uint32_t stream, uint32_t epoch, uint64_t index)
{
    return (struct dtr_random){
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
        .counter = {0, (uint32_t)index, epoch,
            (uint32_t)purpose << 24 | (stream & 0xFF) << 16 | (uint32_t)(index >> 32 & 0xFFFF)},
        .used = 4,
    };
}

uint32_t dtr_random_u32(struct dtr_random *random)
{
    if (random->used == 4) {
        dtr_philox(random->key, random->counter, random->block);
        random->counter[0]++;
        random->used = 0;
    }
    return random->block[random->used++];
}

double dtr_random_uniform(struct dtr_random *random)
{
    return (double)dtr_random_u32(random) * 0x1p-32;
}

/* Rates next to 1 would leave no word at all; the last one then, so that the threshold fits. */
uint32_t dtr_random_threshold(double rate)
{
    double bound = rate * 0x1p32;
    if (bound > UINT32_MAX)
        return UINT32_MAX;
    uint32_t threshold = (uint32_t)bound;
    return threshold < bound ? threshold + 1 : threshold;
}

/* Lemire: "Fast random integer generation in an interval", ACM TOMACS 29, 2019. */
uint32_t dtr_random_below(struct dtr_random *random, uint32_t bound)
{
    uint64_t product = (uint64_t)dtr_random_u32(random) * bound;
    if ((uint32_t)product < bound) {
        uint32_t threshold = -bound % bound;
        while ((uint32_t)product < threshold)
            product = (uint64_t)dtr_random_u32(random) * bound;
    }
    return (uint32_t)(product >> 32);
}

static inline double polynomial(double x, int degree, const double coefficients[])
{
    double sum = coefficients[degree];
    for (int i = degree - 1; i >= 0; i--)
        sum = sum * x + coefficients[i];
    return sum;
}

/* The inverse of the normal distribution function between -2 and 2: Acklam's rational
 * approximation, relative error below 1.15e-9 (far below float's). */
static const double tail = 0.02425; /* probabilities nearer to 0 or 1 have a formula of their own */

static inline double center_quantile(double p)
{
    static const double top[] = {2.506628277459239e+00, -3.066479806614716e+01,
        1.383577518672690e+02, -2.759285104469687e+02, 2.209460984245205e+02,
        -3.969683028665376e+01};
    static const double bottom[] = {1.0, -1.328068155288572e+01, 6.680131188771972e+01,
        -1.556989798598866e+02, 1.615858368580409e+02, -5.447609879822406e+01};
    double q = p - 0.5, r = q * q;
    return q * polynomial(r, 5, top) / polynomial(r, 5, bottom);
}

static double tail_quantile(double p)
{
    static const double top[] = {2.938163982698783e+00, 4.374664141464968e+00,
        -2.549732539343734e+00, -2.400758277161838e+00, -3.223964580411365e-01,
        -7.784894002430293e-03};
    static const double bottom[] = {1.0, 3.754408661907416e+00, 2.445134137142996e+00,
        3.224671290700398e-01, 7.784695709041462e-03};
    double q = __builtin_sqrt(-2 * dtr_log(p < 0.5 ? p : 1 - p));
    double x = polynomial(q, 5, top) / polynomial(q, 4, bottom);
    return p < 0.5 ? x : -x;
}

/* Uniform between the distribution function's values at -2 and 2. */
static inline double truncated_probability(uint32_t word)
{
    const double below = 0.022750131948179195;
    return below + (1 - 2 * below) * ((double)word + 0.5) * 0x1p-32;
}

static bool is_tail(double p)
{
    return p < tail || p > 1 - tail;
}

double dtr_random_truncated_normal(struct dtr_random *random)
{
    double p = truncated_probability(dtr_random_u32(random));
    return is_tail(p) ? tail_quantile(p) : center_quantile(p);
}

void dtr_random_truncated_normals(struct dtr_random *random, double values_out[DTR_RANDOM_WORDS])
{
    uint32_t words[DTR_RANDOM_WORDS];
    double p[DTR_RANDOM_WORDS];
    dtr_random_words(random, words);
    for (int i = 0; i < DTR_RANDOM_WORDS; i++) {
        p[i] = truncated_probability(words[i]);
        values_out[i] = center_quantile(p[i]);
    }
    for (int i = 0; i < DTR_RANDOM_WORDS; i++) {
        if (is_tail(p[i])) /* three in a thousand */
            values_out[i] = tail_quantile(p[i]);
    }
}
