/*
 * test_histogram.c
 *	  Latency histograms: bucket bounds and percentiles.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "lb_histogram.h"

static void
test_bounds(void **state)
{
	(void) state;
	assert_int_equal(lb_histogram_bucket(0), 0);
	assert_int_equal(lb_histogram_bucket(64), 0);
	assert_int_equal(lb_histogram_bucket(65), 1);
	assert_int_equal(lb_histogram_bucket(UINT64_MAX), LB_HISTOGRAM_BUCKETS - 1);
	assert_int_equal(lb_histogram_upper_ns(0), 64);
	assert_int_equal(lb_histogram_upper_ns(1), 80);
	assert_int_equal(lb_histogram_upper_ns(4), 128);
	assert_true(lb_histogram_upper_ns(LB_HISTOGRAM_BUCKETS - 1) == UINT64_MAX);
	/* The last bucket with an upper bound ends near 13 s, whatever is longer goes to the one after it. */
	assert_true(lb_histogram_upper_ns(LB_HISTOGRAM_BUCKETS - 2) > UINT64_C(12000000000));

	for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS - 1; bucket++)
	{
		uint64_t upper = lb_histogram_upper_ns(bucket);

		assert_int_equal(lb_histogram_bucket(upper), bucket);
		assert_int_equal(lb_histogram_bucket(upper + 1), bucket + 1);
		assert_true(upper < lb_histogram_upper_ns(bucket + 1));
		if (bucket > 0)
			assert_true(upper * 4 <= lb_histogram_upper_ns(bucket - 1) * 5);
	}
}

static void
assert_within(double value, double expected, double share)
{
	if (value < expected * (1 - share) || value > expected * (1 + share))
		fail_msg("%f is not within %f of %f", value, share, expected);
}

static void
test_percentiles(void **state)
{
	uint64_t counts[LB_HISTOGRAM_BUCKETS] = {0};

	(void) state;
	assert_true(lb_histogram_percentile(counts, 50) == 0);

	/* 1 to 100,000 ns, evenly. */
	for (uint64_t ns = 1; ns <= 100000; ns++)
		counts[lb_histogram_bucket(ns)]++;
	for (int percentile = 1; percentile < 100; percentile++)
		assert_within(lb_histogram_percentile(counts, percentile), 1000.0 * percentile, 0.1);
	assert_true(lb_histogram_percentile(counts, 0) >= 0);
}

static void
test_one_sample(void **state)
{
	uint64_t counts[LB_HISTOGRAM_BUCKETS] = {0};

	(void) state;
	counts[lb_histogram_bucket(5000)] = 1;
	assert_within(lb_histogram_percentile(counts, 50), 5000, 0.13);
	assert_within(lb_histogram_percentile(counts, 99), 5000, 0.13);

	/* Beyond the range: at least the lower bound is told. */
	counts[lb_histogram_bucket(5000)] = 0;
	counts[lb_histogram_bucket(UINT64_C(60000000000))] = 1;
	assert_true(lb_histogram_percentile(counts, 99) ==
				(double) lb_histogram_upper_ns(LB_HISTOGRAM_BUCKETS - 2));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_percentiles),
		cmocka_unit_test(test_one_sample),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
