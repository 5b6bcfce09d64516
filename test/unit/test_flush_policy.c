/*
 * test_flush_policy.c
 *	  When the memory node flushes, and how fast.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "flush_pace.h"
#include "flush_policy.h"

#define SECOND UINT64_C(1000000000)

static const flush_policy_options options = {FLUSH_POLICY_DIRTY_PERCENT, FLUSH_POLICY_AGE_S};

/* 100,000 pages are granted, so the ratio's limit is 50,000. */
static flush_figures
figures(uint64_t dirty)
{
	return (flush_figures){.dirty_pages = dirty, .granted_pages = 100000, .oldest_age_ms = 1000};
}

static void
expect(flush_policy *policy, const flush_figures *now, flush_kind kind)
{
	assert_int_equal(flush_policy_decide(policy, &options, now).kind, kind);
}

static void
nothing_dirty(void **state)
{
	flush_policy policy = {0};
	flush_figures now = figures(0);

	(void) state;
	now.requested = true;
	expect(&policy, &now, FLUSH_NOTHING);
	now = (flush_figures){0};
	expect(&policy, &now, FLUSH_NOTHING);
}

static void
requested(void **state)
{
	flush_policy policy = {0};
	flush_figures now = figures(1);

	(void) state;
	expect(&policy, &now, FLUSH_NOTHING);
	now.requested = true;
	expect(&policy, &now, FLUSH_EVERYTHING);
	now.requested = false;
	expect(&policy, &now, FLUSH_NOTHING);
}

/* It begins at the limit and goes on until three quarters of it. */
static void
ratio_with_hysteresis(void **state)
{
	flush_policy policy = {0};
	const struct
	{
		uint64_t dirty;
		flush_kind kind;
	} steps[] = {
		{49999, FLUSH_NOTHING},    {50000, FLUSH_EVERYTHING}, {49999, FLUSH_EVERYTHING},
		{37501, FLUSH_EVERYTHING}, {37500, FLUSH_NOTHING},    {49999, FLUSH_NOTHING},
		{90000, FLUSH_EVERYTHING}, {0, FLUSH_NOTHING},        {40000, FLUSH_NOTHING},
	};

	(void) state;
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
	{
		flush_figures now = figures(steps[i].dirty);

		expect(&policy, &now, steps[i].kind);
	}
}

static void
ratio_extremes(void **state)
{
	flush_policy_options always = {.dirty_percent = 0, .age_s = FLUSH_POLICY_AGE_S};
	flush_policy_options full = {.dirty_percent = 100, .age_s = FLUSH_POLICY_AGE_S};
	flush_policy policy = {0};
	flush_figures now = figures(1);

	(void) state;
	assert_int_equal(flush_policy_decide(&policy, &always, &now).kind, FLUSH_EVERYTHING);
	now = figures(99999);
	policy = (flush_policy){0};
	assert_int_equal(flush_policy_decide(&policy, &full, &now).kind, FLUSH_NOTHING);
	now.dirty_pages++;
	assert_int_equal(flush_policy_decide(&policy, &full, &now).kind, FLUSH_EVERYTHING);
	/* nothing is granted any more, and something is still dirty */
	now = (flush_figures){.dirty_pages = 1};
	policy = (flush_policy){0};
	assert_int_equal(flush_policy_decide(&policy, &options, &now).kind, FLUSH_EVERYTHING);
}

/* It begins at the age and goes on until nothing is older than half of it. */
static void
age_with_hysteresis(void **state)
{
	flush_policy policy = {0};
	flush_figures now = figures(10);
	flush_decision decision;

	(void) state;
	now.oldest_age_ms = 299999;
	expect(&policy, &now, FLUSH_NOTHING);
	now.oldest_age_ms = 300000;
	decision = flush_policy_decide(&policy, &options, &now);
	assert_int_equal(decision.kind, FLUSH_AGED);
	assert_int_equal(decision.older_than_ms, 150000);
	now.oldest_age_ms = 150000;
	expect(&policy, &now, FLUSH_AGED);
	now.oldest_age_ms = 149999;
	expect(&policy, &now, FLUSH_NOTHING);
	now.oldest_age_ms = 299999;
	expect(&policy, &now, FLUSH_NOTHING);
}

static void
imbalance(void **state)
{
	flush_policy policy = {0};
	flush_figures now = figures(30000);
	flush_decision decision;

	(void) state;
	now.largest_file = (lb_page_tag){1663, 5, 16384, 0, 131072};
	now.largest_file_pages = 15000;
	expect(&policy, &now, FLUSH_NOTHING);
	now.largest_file_pages = 15001;
	decision = flush_policy_decide(&policy, &options, &now);
	assert_int_equal(decision.kind, FLUSH_FILE);
	assert_true(lb_page_tag_equal(&decision.file, &now.largest_file));

	/* too little is dirty at all */
	now.dirty_pages = 25000;
	expect(&policy, &now, FLUSH_NOTHING);
	now.dirty_pages = 25001;
	expect(&policy, &now, FLUSH_FILE);

	/* a file that is too small for a pass of its own */
	now = (flush_figures){.dirty_pages = 1100, .granted_pages = 4000, .largest_file_pages = 1023};
	expect(&policy, &now, FLUSH_NOTHING);
	now.largest_file_pages = 1024;
	expect(&policy, &now, FLUSH_FILE);

	/* others come first */
	now.oldest_age_ms = 300000;
	expect(&policy, &now, FLUSH_AGED);
	now.dirty_pages = 2000;
	expect(&policy, &now, FLUSH_EVERYTHING);
}

/* A second of flushing at the pace's own rate, and then a report. */
static void
flush_for_a_second(flush_pace *pace, uint64_t *now, uint32_t read_us)
{
	flush_pace_begin(pace, *now);
	*now += SECOND;
	flush_pace_end(pace, pace->rate, *now);
	flush_pace_load(pace, 1000, read_us, *now);
}

static void
begin_with_quiet(flush_pace *pace, uint64_t *now, uint32_t read_us)
{
	*now = 10 * SECOND;
	flush_pace_init(pace);
	flush_pace_load(pace, 1000, read_us, *now);
}

static void
rises_while_nobody_is_disturbed(void **state)
{
	flush_pace pace;
	uint64_t now;
	uint32_t before;

	(void) state;
	begin_with_quiet(&pace, &now, 400);
	before = pace.rate;
	flush_for_a_second(&pace, &now, 790);
	assert_int_equal(pace.rate, before + FLUSH_PACE_RISE);

	/* slow reads that are few, or that nobody makes, say nothing */
	flush_pace_begin(&pace, now);
	flush_pace_end(&pace, 1000, now + SECOND);
	flush_pace_load(&pace, FLUSH_PACE_READS_MIN - 1, 100000, now + SECOND);
	flush_pace_load(&pace, 0, 0, now + 2 * SECOND);
	assert_int_equal(pace.rate, before + 3 * FLUSH_PACE_RISE);

	/* slow reads while we write nothing are not our doing */
	flush_pace_load(&pace, 1000, 100000, now + 3 * SECOND);
	assert_int_equal(pace.rate, before + 4 * FLUSH_PACE_RISE);
	for (int i = 0; i < 300; i++)
		flush_pace_load(&pace, 0, 0, now + 4 * SECOND);
	assert_int_equal(pace.rate, FLUSH_PACE_MAX);
	assert_int_equal(flush_pace_wait_ns(&pace, false, now), 0);
}

static void
halves_when_reads_are_slow(void **state)
{
	flush_pace pace;
	uint64_t now;
	uint32_t before;

	(void) state;
	begin_with_quiet(&pace, &now, 400);
	before = pace.rate;
	flush_for_a_second(&pace, &now, 900);
	assert_int_equal(pace.rate, before / 2);
	for (int i = 0; i < 10; i++)
		flush_for_a_second(&pace, &now, 5000);
	assert_int_equal(pace.rate, FLUSH_PACE_FLOOR);

	/* and back, by steps */
	flush_for_a_second(&pace, &now, 400);
	assert_int_equal(pace.rate, FLUSH_PACE_FLOOR + FLUSH_PACE_RISE);
}

/* The allowed rate was never reached: what was achieved is what has to be halved. */
static void
halves_what_was_achieved(void **state)
{
	flush_pace pace;
	uint64_t now;

	(void) state;
	begin_with_quiet(&pace, &now, 400);
	flush_pace_begin(&pace, now);
	flush_pace_end(&pace, 4000, now + SECOND);
	flush_pace_load(&pace, 1000, 900, now + SECOND);
	assert_int_equal(pace.rate, 2000);
}

/* A round that takes longer than the time between reports: it counts when it has ended, once. */
static void
long_round(void **state)
{
	flush_pace pace;
	uint64_t now;
	uint32_t before;

	(void) state;
	begin_with_quiet(&pace, &now, 400);
	before = pace.rate;
	flush_pace_begin(&pace, now);
	flush_pace_load(&pace, 1000, 900, now + SECOND);
	flush_pace_load(&pace, 1000, 900, now + 2 * SECOND);
	assert_int_equal(pace.rate, before);
	flush_pace_end(&pace, 12000, now + 3 * SECOND);
	flush_pace_load(&pace, 1000, 400, now + 3 * SECOND);
	assert_int_equal(pace.rate, 2000);
}

static void
cache_hits_are_no_measure(void **state)
{
	flush_pace pace;
	uint64_t now;
	uint32_t before;

	(void) state;
	begin_with_quiet(&pace, &now, 5);
	before = pace.rate;
	flush_for_a_second(&pace, &now, 2 * FLUSH_PACE_QUIET_MIN);
	assert_true(pace.rate > before);
	before = pace.rate;
	flush_for_a_second(&pace, &now, 2 * FLUSH_PACE_QUIET_MIN + 1);
	assert_true(pace.rate < before);
}

/* Storage becomes slower for good: it is believed soon when we are quiet, and late, but in the end, when we are not. */
static void
low_mark_moves(void **state)
{
	flush_pace pace;
	uint64_t now;
	int seconds = 0;

	(void) state;
	begin_with_quiet(&pace, &now, 200);
	for (; pace.quiet_us < 500; seconds++)
		flush_pace_load(&pace, 100, 1000, now += SECOND);
	assert_in_range(seconds, 4, 20);

	begin_with_quiet(&pace, &now, 200);
	for (seconds = 0; pace.quiet_us < 500; seconds++)
		flush_for_a_second(&pace, &now, 1000);
	assert_in_range(seconds, 40, 200);

	for (seconds = 0; pace.quiet_us > 250; seconds++)
		flush_pace_load(&pace, 100, 200, now += SECOND);
	assert_in_range(seconds, 2, 10);
}

static void
waiting(void **state)
{
	flush_pace pace;
	uint64_t now;

	(void) state;
	begin_with_quiet(&pace, &now, 400);
	assert_int_equal(flush_pace_wait_ns(&pace, false, now), 0);
	pace.rate = 1000;
	flush_pace_begin(&pace, now);
	flush_pace_end(&pace, 2000, now + SECOND / 2);
	/* 2000 pages take two seconds from the beginning of the round */
	assert_int_equal(flush_pace_wait_ns(&pace, false, now + SECOND / 2), SECOND * 3 / 2);
	assert_int_equal(flush_pace_wait_ns(&pace, false, now + SECOND), SECOND);
	assert_int_equal(flush_pace_wait_ns(&pace, false, now + 2 * SECOND), 0);
	assert_int_equal(flush_pace_wait_ns(&pace, false, now + 20 * SECOND), 0);

	/* a checkpoint has a higher floor, and does not wait for a compute node that says nothing */
	assert_int_equal(flush_pace_wait_ns(&pace, true, now),
					 2000 * SECOND / FLUSH_PACE_FLOOR_REQUESTED);
	pace.rate = 2 * FLUSH_PACE_FLOOR_REQUESTED;
	assert_int_equal(flush_pace_wait_ns(&pace, true, now),
					 2000 * SECOND / FLUSH_PACE_FLOOR_REQUESTED / 2);
	flush_pace_begin(&pace, now + 5 * SECOND);
	flush_pace_end(&pace, 1000000, now + 5 * SECOND);
	assert_int_equal(flush_pace_wait_ns(&pace, true, now + 5 * SECOND), 0);
	assert_true(flush_pace_wait_ns(&pace, false, now + 5 * SECOND) > SECOND);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_dirty),
		cmocka_unit_test(requested),
		cmocka_unit_test(ratio_with_hysteresis),
		cmocka_unit_test(ratio_extremes),
		cmocka_unit_test(age_with_hysteresis),
		cmocka_unit_test(imbalance),
		cmocka_unit_test(rises_while_nobody_is_disturbed),
		cmocka_unit_test(halves_when_reads_are_slow),
		cmocka_unit_test(halves_what_was_achieved),
		cmocka_unit_test(long_round),
		cmocka_unit_test(cache_hits_are_no_measure),
		cmocka_unit_test(low_mark_moves),
		cmocka_unit_test(waiting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
