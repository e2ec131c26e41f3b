/*
 * Where text goes: reports on standard output from rank 0 alone, everything else on standard error.
 * All functions are local. The rank set here is the program's only mutable global.
 */
#ifndef DTRAIN_LOG_H
#define DTRAIN_LOG_H

/* Ranks other than 0 print nothing but warnings and errors from now on. Before the first call the
 * process counts as rank 0. */
void dtr_log_set_rank(int rank);

/* Standard output, rank 0 only; flushed, so that a log file can be followed. */
__attribute__((format(printf, 1, 2))) void dtr_print(const char *format, ...);

/* "dtrain: warning: ..." on standard error, rank 0 only. */
__attribute__((format(printf, 1, 2))) void dtr_warn(const char *format, ...);

/* "dtrain: ..." on standard error, from any rank. A newline is added. */
__attribute__((format(printf, 1, 2))) void dtr_complain(const char *format, ...);

#endif
