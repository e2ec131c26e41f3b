/* What products are made of: float32 as it is, or rounded to TF32 or bfloat16 for a GPU's tensor
 * cores. Sums are float32 in all of them. */
#ifndef DTRAIN_PRECISION_H
#define DTRAIN_PRECISION_H

enum dtr_precision { DTR_FP32, DTR_TF32, DTR_BF16 };

/* "fp32", "tf32", "bf16" */
static inline const char *dtr_precision_name(enum dtr_precision precision)
{
    return precision == DTR_FP32 ? "fp32" : precision == DTR_TF32 ? "tf32" : "bf16";
}

#endif
