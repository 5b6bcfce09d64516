/*
 * tap.h
 *	  Test results in the form that prove(1) reads.
 */
#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stdint.h>

/* One result. Returns it. */
extern bool ok(bool passed, const char *name, ...) __attribute__((format(printf, 2, 3)));

/* The same, showing both numbers on failure. */
extern bool is_number(uint64_t got, uint64_t expected, const char *name, ...)
	__attribute__((format(printf, 3, 4)));

/* A line that is no result: what was measured, or why something is not tested. */
extern void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Nothing more makes sense. */
extern void bail_out(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* The plan; the exit code of the test program. */
extern int done_testing(void);

#endif /* TAP_H */
