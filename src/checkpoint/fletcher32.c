/*
 * Fletcher's checksum: of 16-bit words, their sum, and the sum of the sums after each word, which
 * is to say the words times their distance from the end; both modulo 65535.
 *
 * HDF5 takes the words as big-endian. To swap the bytes of a word is to multiply it by 256, as
 * 65536 is 1 here, so sums of words as they lie in memory are swapped at the end.
 */
#include "fletcher32.h"

#include <string.h>

/* Words that are summed side by side, so that the compiler uses vectors; and how often, so that 32
 * bits hold the sums of sums. */
enum { LANES = 32, MAX_ROWS = 256 };

/* As HDF5 writes it: only the sum of no words but zeros is 0, any other is 1 to 65535. */
static uint64_t residue(uint64_t sum)
{
    return sum == 0 ? 0 : 1 + (sum - 1) % 65535;
}

/* Goes on from the sums of all words before. */
static void add_rows(const char *bytes, size_t rows, uint64_t *sum, uint64_t *sum_of_sums)
{
    uint32_t lane[LANES] = {0}, sums_of_lane[LANES] = {0};
    for (size_t row = 0; row < rows; row++) {
        uint16_t words[LANES];
        memcpy(words, bytes + row * sizeof words, sizeof words);
        for (int i = 0; i < LANES; i++) {
            lane[i] += words[i];
            sums_of_lane[i] += lane[i];
        }
    }
    *sum_of_sums += *sum * LANES * rows;
    for (uint64_t i = 0; i < LANES; i++) {
        *sum += lane[i];
        *sum_of_sums += LANES * (uint64_t)sums_of_lane[i] - i * lane[i];
    }
    *sum = residue(*sum);
    *sum_of_sums = residue(*sum_of_sums);
}

uint32_t fletcher32(const void *bytes, size_t count)
{
    enum { ROW_BYTES = LANES * sizeof(uint16_t), MAX_BYTES = MAX_ROWS * ROW_BYTES };
    const char *next = bytes, *end = next + count;
    uint64_t sum = 0, sum_of_sums = 0;
    while (end - next >= ROW_BYTES) {
        ptrdiff_t rows = (end - next < MAX_BYTES ? end - next : MAX_BYTES) / ROW_BYTES;
        add_rows(next, (size_t)rows, &sum, &sum_of_sums);
        next += rows * ROW_BYTES;
    }
    for (; next < end; next += sizeof(uint16_t)) {
        uint16_t word;
        memcpy(&word, next, sizeof word);
        sum += word;
        sum_of_sums += sum;
    }
    return (uint32_t)(residue(256 * sum_of_sums) << 16 | residue(256 * sum));
}
