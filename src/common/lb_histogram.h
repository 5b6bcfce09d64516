/*
 * lb_histogram.h
 *	  Latency histograms with logarithmic buckets: four per doubling, from 64 ns to about 13 s, so that a percentile is
 *	  right within about 10 %. Plain arithmetic; whoever shares a histogram between processes adds with atomics.
 */
#ifndef LB_HISTOGRAM_H
#define LB_HISTOGRAM_H

#include <stdint.h>

#define LB_HISTOGRAM_BUCKETS 112

/* The bucket for a duration: 0 for all up to 64 ns, the last for all beyond the range. */
extern int lb_histogram_bucket(uint64_t ns);

/* The inclusive upper bound of a bucket in nanoseconds (the last one's is UINT64_MAX). */
extern uint64_t lb_histogram_upper_ns(int bucket);

/* The percentile (0 to 100) of counts[LB_HISTOGRAM_BUCKETS], interpolated, in nanoseconds; 0 without samples. */
extern double lb_histogram_percentile(const uint64_t *counts, double percentile);

#endif /* LB_HISTOGRAM_H */
