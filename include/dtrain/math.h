/*
 * exp and log whose bits do not depend on the C library: glibc picks variants by CPU at run time.
 * Only IEEE basic operations, no contraction. Within 1e-15 (relative; for log near 1 absolute) of
 * the true value, as a test shows against libm.
 */
#ifndef DTRAIN_MATH_H
#define DTRAIN_MATH_H

/* x in [-745, 709]; below it 0, above it infinity; NaN stays NaN. */
double dtr_exp(double x);

/* x > 0 and normal; 0 gives -infinity, negative and NaN give NaN. */
double dtr_log(double x);

#endif
