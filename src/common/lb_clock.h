/*
 * lb_clock.h
 *	  Time, from the monotonic clock only: a jump of the wall clock must change nothing.
 */
#ifndef LB_CLOCK_H
#define LB_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds since an arbitrary point. */
static inline uint64_t
lb_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * UINT64_C(1000000000) + (uint64_t) now.tv_nsec;
}

/* Milliseconds left until the deadline (nanoseconds of lb_now_ns), rounded up, 0 when it has passed. */
static inline int
lb_ms_until(uint64_t deadline_ns)
{
	uint64_t now = lb_now_ns();

	return now >= deadline_ns ? 0 : (int) ((deadline_ns - now + 999999) / 1000000);
}

#endif /* LB_CLOCK_H */
