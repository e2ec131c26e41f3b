#include "dtrain/math.h"

#include <stdint.h>
#include <string.h>

static const double ln2_high = 0x1.62e42fee00000p-1; /* the upper 33 bits of ln 2 */
static const double ln2_low = 0x1.a39ef35793c76p-33; /* ln 2 - ln2_high */

/* 2^e for -1022 <= e <= 1023. */
static double power_of_two(int e)
{
    uint64_t bits = (uint64_t)(e + 1023) << 52;
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static const double inverse_factorial[] = {1, 1, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720,
    1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600,
    1.0 / 6227020800};

/* x = k ln 2 + r with |r| <= ln 2 / 2; Taylor's series of e^r to r^13, error below 1e-17. */
double dtr_exp(double x)
{
    if (!(x == x))
        return x;
    if (x > 709.7)
        return __builtin_inf();
    if (x < -745.2)
        return 0;
    int k = (int)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    double r = (x - k * ln2_high) - k * ln2_low;
    double sum = inverse_factorial[13];
    for (int i = 12; i >= 0; i--)
        sum = inverse_factorial[i] + sum * r;
    /* In two steps, so that subnormal results and k = 1024 need no case of their own. */
    return sum * power_of_two(k / 2) * power_of_two(k - k / 2);
}

/* x = 2^k m with m in (sqrt(1/2), sqrt(2)]; log m = 2 atanh((m - 1) / (m + 1)) as a series. */
double dtr_log(double x)
{
    if (!(x > 0))
        return x == 0 ? -__builtin_inf() : __builtin_nan("");
    if (x > 0x1.fffffffffffffp1023)
        return x;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int k = (int)(bits >> 52) - 1023;
    bits = (bits & 0xFFFFFFFFFFFFFu) | (uint64_t)1023 << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m /= 2;
        k++;
    }
    double s = (m - 1) / (m + 1), square = s * s, sum = 0;
    for (int i = 21; i >= 1; i -= 2)
        sum = sum * square + 1.0 / i;
    return k * ln2_high + (2 * s * sum + k * ln2_low);
}
