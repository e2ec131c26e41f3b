/*
 * Softmax cross-entropy. Sums, exp and log are in double and do not depend on the C library.
 */
#include "dtrain/kernel.h"
#include "dtrain/math.h"

#include <string.h>

/* The first of the largest logits; -1, nobody's label, when one is NaN. */
static int64_t predicted_class(int64_t classes, const float *logits)
{
    int64_t best = 0;
    for (int64_t c = 0; c < classes; c++) {
        if (logits[c] != logits[c])
            return -1;
        if (logits[c] > logits[best])
            best = c;
    }
    return best;
}

/* The loss of one sample, and its row of the gradient. Logits are shifted by the largest, so exp
 * never overflows and its sum is at least 1. The row keeps the exponentials as floats in between:
 * the largest is exactly 1, so nothing cancels where one-hot is subtracted from a sure softmax. */
static double sample_loss(int64_t classes, const float *logits, int64_t largest, int64_t label,
    double weight, float *diff)
{
    double sum = 0;
    for (int64_t c = 0; c < classes; c++) {
        double exponential = dtr_exp((double)logits[c] - (double)logits[largest]);
        diff[c] = (float)exponential;
        sum += exponential;
    }
    for (int64_t c = 0; c < classes; c++)
        diff[c] = (float)(((double)diff[c] / sum - (c == label)) * weight);
    return dtr_log(sum) - ((double)logits[label] - (double)logits[largest]);
}

struct dtr_head_result dtr_softmax_head(int64_t n, int64_t classes, const float *logits,
    const uint8_t *labels, const int64_t *samples, float weight, float *diff_out)
{
    struct dtr_head_result result = {0, 0};
    for (int64_t i = 0; i < n; i++, logits += classes, diff_out += classes) {
        if (samples[i] < 0) {
            memset(diff_out, 0, (size_t)classes * sizeof *diff_out);
            continue;
        }
        int64_t predicted = predicted_class(classes, logits);
        /* With a NaN any shift does: the sum becomes NaN and with it loss and gradient. */
        int64_t largest = predicted < 0 ? 0 : predicted;
        result.loss += sample_loss(classes, logits, largest, labels[i], (double)weight, diff_out);
        result.errors += predicted != labels[i];
    }
    return result;
}

int64_t dtr_count_errors(int64_t count, int64_t classes, const float *logits, const uint8_t *labels)
{
    int64_t errors = 0;
    for (int64_t i = 0; i < count; i++)
        errors += predicted_class(classes, logits + i * classes) != labels[i];
    return errors;
}
