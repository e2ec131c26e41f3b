/*
 * exp and log whose bits do not depend on the C library: glibc picks variants by CPU at run time.
 * Only IEEE basic operations, no contraction. Relative error at most 1e-15, as a test shows against
 * libm; results of exp below 2^-1022 within one step of 2^-1074.
 */
#ifndef DTRAIN_MATH_H
#define DTRAIN_MATH_H

/* x in [-745, 709]; below it 0, above it infinity; NaN stays NaN. */
double dtr_exp(double x);

/* x > 0 and normal; 0 gives -infinity, negative and NaN give NaN. */
double dtr_log(double x);

#endif
