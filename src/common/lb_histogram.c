/*
 * lb_histogram.c
 *	  Latency histograms: each doubling from 64 ns on is cut into four buckets of equal width.
 */
#include "lb_histogram.h"

#define FIRST_UPPER_NS 64 /* bucket 0 holds all up to this */
#define FIRST_EXPONENT 6  /* 2^6 = 64 */

int
lb_histogram_bucket(uint64_t ns)
{
	uint64_t value;
	int exponent;
	int bucket;

	if (ns <= FIRST_UPPER_NS)
		return 0;

	/* Upper bounds are inclusive, so a duration belongs where the one a nanosecond shorter would begin. */
	value = ns - 1;
	exponent = 63 - __builtin_clzll(value);
	bucket = 1 + 4 * (exponent - FIRST_EXPONENT) + (int) ((value >> (exponent - 2)) & 3);
	return bucket < LB_HISTOGRAM_BUCKETS ? bucket : LB_HISTOGRAM_BUCKETS - 1;
}

uint64_t
lb_histogram_upper_ns(int bucket)
{
	int doubling;
	int quarter;

	if (bucket <= 0)
		return FIRST_UPPER_NS;
	if (bucket >= LB_HISTOGRAM_BUCKETS - 1)
		return UINT64_MAX;
	doubling = (bucket - 1) / 4;
	quarter = (bucket - 1) % 4;
	return ((uint64_t) FIRST_UPPER_NS << doubling) / 4 * (uint64_t) (5 + quarter);
}

double
lb_histogram_percentile(const uint64_t *counts, double percentile)
{
	uint64_t total = 0;
	uint64_t below = 0;
	double rank;

	for (int i = 0; i < LB_HISTOGRAM_BUCKETS; i++)
		total += counts[i];
	if (total == 0)
		return 0;

	rank = percentile / 100.0 * (double) total;
	for (int i = 0; i < LB_HISTOGRAM_BUCKETS; i++)
	{
		double lower = i == 0 ? 0 : (double) lb_histogram_upper_ns(i - 1);
		double upper;

		if (counts[i] == 0)
			continue;
		/* Of the last bucket only the lower bound is known. */
		upper = i == LB_HISTOGRAM_BUCKETS - 1 ? lower : (double) lb_histogram_upper_ns(i);
		if (rank <= (double) (below + counts[i]) || below + counts[i] == total)
		{
			double share = (rank - (double) below) / (double) counts[i];

			if (share < 0)
				share = 0;
			if (share > 1)
				share = 1;
			return lower + (upper - lower) * share;
		}
		below += counts[i];
	}
	return 0;
}
