/*
 * stats.h
 *	  Cumulative statistics, exact and shared by all processes of the server.
 *
 * Counters are kept in several stripes, so that processes on different cores rarely write to the same cache line; a
 * process always adds to the same one. Reading adds the stripes up.
 */
#ifndef LEGOBASE_STATS_H
#define LEGOBASE_STATS_H

#include "datatype/timestamp.h"

#include "lb_histogram.h"

typedef enum StatCounter
{
	STAT_COMM_BUFFER_HITS,
	STAT_REMOTE_HITS,
	STAT_STORAGE_READS,
	STAT_KERNEL_CACHE_READS, /* those storage reads that were chosen because the kernel had the page */
	STAT_READ_AHEAD_PAGES,   /* asked for ahead of time */
	STAT_READ_AHEAD_HITS,    /* remote hits that were read ahead */
	STAT_COMM_BUFFER_WRITES, /* pages queued for pushing */
	STAT_PUSHED_PAGES,       /* published by a memory node */
	STAT_STORAGE_WRITES,
	STAT_DROPPED_PUSHES, /* no comm buffer, no slot, refused, or lost with its node */
	STAT_EVICTED_PAGES,  /* from remote memory, to make room */
	STAT_CHECKSUM_FAILURES,
	STAT_COMPARE_MISMATCHES,
	STAT_COMPARED_PAGES,
	STAT_READ_TIMEOUTS,
	STAT_WRITTEN_BACK, /* handed to remote memory instead of being written to the file */
	STAT_FENCES,       /* memory nodes were asked to keep their hands off some pages */
	STAT_COUNTERS
} StatCounter;

/* The tiers of legobase_stat_io and legobase_latency */
typedef enum StatTier
{
	TIER_COMM_BUFFER,
	TIER_REMOTE,
	TIER_STORAGE,
	TIERS
} StatTier;

extern Size StatsShmemSize(void);
extern void StatsShmemInit(void);

extern void StatsCount(StatCounter counter, uint64 n);

/* One page was read from, or written to, a tier. Adds to the times; reads also to the tier's histogram. */
extern void StatsReadTime(StatTier tier, uint64 elapsed_ns);
extern void StatsWriteTime(StatTier tier, uint64 elapsed_ns);

extern uint64 StatsGet(StatCounter counter);
extern uint64 StatsGetReadTime(StatTier tier); /* nanoseconds */
extern uint64 StatsGetWriteTime(StatTier tier);
extern void StatsGetHistogram(StatTier tier, uint64 counts[LB_HISTOGRAM_BUCKETS]);

/* Set everything to zero, nodes included, and remember when. */
extern void StatsReset(void);
extern TimestampTz StatsResetTime(void);

#endif /* LEGOBASE_STATS_H */
