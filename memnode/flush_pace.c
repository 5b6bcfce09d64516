/*
 * flush_pace.c
 *	  The rate of flushing.
 */
#include <string.h>

#include "flush_pace.h"

#define SECOND_NS UINT64_C(1000000000)

/* How far the low mark goes towards the newest average: one part in so many of the difference. */
#define FOLLOW_DOWN 4
#define FOLLOW_UP 16
#define FOLLOW_UP_BUSY 128

void
flush_pace_init(flush_pace *pace)
{
	memset(pace, 0, sizeof(*pace));
	pace->rate = FLUSH_PACE_START;
}

/* Reads have become slow while we wrote. */
static bool
we_disturb(const flush_pace *pace, uint32_t read_us)
{
	uint64_t quiet_us = pace->quiet_us;

	if (!pace->wrote || quiet_us == 0)
		return false;
	if (quiet_us < FLUSH_PACE_QUIET_MIN)
		quiet_us = FLUSH_PACE_QUIET_MIN;
	return read_us > 2 * quiet_us;
}

/* The first average counts even if we wrote meanwhile: it is corrected as soon as we pause or slow down. */
static void
learn_quiet(flush_pace *pace, uint32_t read_us)
{
	uint32_t parts = pace->wrote ? FOLLOW_UP_BUSY : FOLLOW_UP;

	if (pace->quiet_us == 0)
		pace->quiet_us = read_us;
	else if (read_us < pace->quiet_us)
		pace->quiet_us -= (pace->quiet_us - read_us + FOLLOW_DOWN - 1) / FOLLOW_DOWN;
	else
		pace->quiet_us += (read_us - pace->quiet_us + parts - 1) / parts;
}

/* A rate far above what was achieved would have to be halved many times before anybody noticed. */
static void
slow_down(flush_pace *pace)
{
	uint64_t achieved = pace->busy_ns > 0 ? pace->pages * SECOND_NS / pace->busy_ns : pace->rate;

	if (achieved < pace->rate)
		pace->rate = (uint32_t) achieved;
	pace->rate /= 2;
	if (pace->rate < FLUSH_PACE_FLOOR)
		pace->rate = FLUSH_PACE_FLOOR;
}

static void
speed_up(flush_pace *pace)
{
	pace->rate += FLUSH_PACE_RISE;
	if (pace->rate > FLUSH_PACE_MAX)
		pace->rate = FLUSH_PACE_MAX;
}

void
flush_pace_load(flush_pace *pace, uint32_t reads, uint32_t read_us, uint64_t now_ns)
{
	bool enough = reads >= FLUSH_PACE_READS_MIN;

	if (enough && we_disturb(pace, read_us))
		pace->disturbed = true;
	if (enough)
		learn_quiet(pace, read_us);
	pace->reported = true;
	pace->reported_ns = now_ns;
	if (pace->under_way && pace->busy_ns == 0)
		return;
	if (pace->disturbed)
		slow_down(pace);
	else
		speed_up(pace);
	pace->disturbed = false;
	pace->pages = 0;
	pace->busy_ns = 0;
	pace->wrote = pace->under_way;
}

void
flush_pace_begin(flush_pace *pace, uint64_t now_ns)
{
	pace->under_way = true;
	pace->wrote = true;
	pace->round_began_ns = now_ns;
}

void
flush_pace_end(flush_pace *pace, uint32_t pages, uint64_t now_ns)
{
	pace->under_way = false;
	pace->pages += pages;
	pace->busy_ns += now_ns - pace->round_began_ns;
	pace->round_pages = pages;
}

/* Is the compute node silent, so that there are no reads to be careful of? */
static bool
is_silent(const flush_pace *pace, uint64_t now_ns)
{
	return !pace->reported || now_ns - pace->reported_ns >= FLUSH_PACE_SILENCE_NS;
}

uint64_t
flush_pace_wait_ns(const flush_pace *pace, bool requested, uint64_t now_ns)
{
	uint64_t rate = pace->rate;
	uint64_t due_ns;

	if (rate >= FLUSH_PACE_MAX || (requested && is_silent(pace, now_ns)))
		return 0;
	if (requested && rate < FLUSH_PACE_FLOOR_REQUESTED)
		rate = FLUSH_PACE_FLOOR_REQUESTED;
	due_ns = pace->round_began_ns + pace->round_pages * SECOND_NS / rate;
	return due_ns > now_ns ? due_ns - now_ns : 0;
}
