/*
 * tap.c
 *	  Test results in the form that prove(1) reads.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tap.h"

static int count;
static int failed;

static bool
result(bool passed, const char *name, va_list args)
{
	printf("%s %d - ", passed ? "ok" : "not ok", ++count);
	vprintf(name, args);
	printf("\n");
	fflush(stdout);
	if (!passed)
		failed++;
	return passed;
}

bool
ok(bool passed, const char *name, ...)
{
	va_list args;

	va_start(args, name);
	result(passed, name, args);
	va_end(args);
	return passed;
}

bool
is_number(uint64_t got, uint64_t expected, const char *name, ...)
{
	va_list args;

	va_start(args, name);
	result(got == expected, name, args);
	va_end(args);
	if (got != expected)
		note("got %" PRIu64 ", expected %" PRIu64, got, expected);
	return got == expected;
}

void
note(const char *format, ...)
{
	va_list args;

	printf("# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
}

void
bail_out(const char *format, ...)
{
	va_list args;

	printf("Bail out!  ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	exit(1);
}

int
done_testing(void)
{
	printf("1..%d\n", count);
	return failed == 0 ? 0 : 1;
}
