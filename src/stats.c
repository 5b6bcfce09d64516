/*
 * stats.c
 *	  Cumulative statistics, exact and shared by all processes of the server.
 */
#include "postgres.h"

#include "port/atomics.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "node_table.h"
#include "stats.h"

/*
 * Enough that on a machine with a few cores two running backends seldom share a stripe; each costs 3 kB, and all the
 * extension's shared memory is to stay within 1 % of the remote pool.
 */
#define STRIPES 8

typedef struct StatStripe
{
	pg_atomic_uint64 counters[STAT_COUNTERS];
	pg_atomic_uint64 read_ns[TIERS];
	pg_atomic_uint64 write_ns[TIERS];
	pg_atomic_uint64 read_histogram[TIERS][LB_HISTOGRAM_BUCKETS];
} StatStripe;

/* Stripes begin on cache lines of their own. */
#define STRIPE_SIZE TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(StatStripe))

typedef struct StatsShared
{
	pg_atomic_uint64 reset_time; /* a TimestampTz */
} StatsShared;

#define STRIPES_OFFSET TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(StatsShared))

static StatsShared *shared;

static inline StatStripe *
stripe_at(int stripe)
{
	return (StatStripe *) ((char *) shared + STRIPES_OFFSET + stripe * STRIPE_SIZE);
}

/* The postmaster, and others early in their life, have no PGPROC: they share stripe 0 with those who have. */
static inline StatStripe *
my_stripe(void)
{
	return stripe_at(MyProc == NULL ? 0 : MyProc->pgprocno % STRIPES);
}

Size
StatsShmemSize(void)
{
	return STRIPES_OFFSET + STRIPES * STRIPE_SIZE;
}

void
StatsShmemInit(void)
{
	bool found;

	shared = ShmemInitStruct("legobase statistics", StatsShmemSize(), &found);
	if (found)
		return;

	pg_atomic_init_u64(&shared->reset_time, (uint64) GetCurrentTimestamp());
	for (int i = 0; i < STRIPES; i++)
	{
		StatStripe *stripe = stripe_at(i);

		for (int counter = 0; counter < STAT_COUNTERS; counter++)
			pg_atomic_init_u64(&stripe->counters[counter], 0);
		for (int tier = 0; tier < TIERS; tier++)
		{
			pg_atomic_init_u64(&stripe->read_ns[tier], 0);
			pg_atomic_init_u64(&stripe->write_ns[tier], 0);
			for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
				pg_atomic_init_u64(&stripe->read_histogram[tier][bucket], 0);
		}
	}
}

void
StatsCount(StatCounter counter, uint64 n)
{
	pg_atomic_fetch_add_u64(&my_stripe()->counters[counter], n);
}

void
StatsReadTime(StatTier tier, uint64 elapsed_ns)
{
	StatStripe *stripe = my_stripe();

	pg_atomic_fetch_add_u64(&stripe->read_ns[tier], elapsed_ns);
	pg_atomic_fetch_add_u64(&stripe->read_histogram[tier][lb_histogram_bucket(elapsed_ns)], 1);
}

void
StatsWriteTime(StatTier tier, uint64 elapsed_ns)
{
	pg_atomic_fetch_add_u64(&my_stripe()->write_ns[tier], elapsed_ns);
}

uint64
StatsGet(StatCounter counter)
{
	uint64 sum = 0;

	for (int i = 0; i < STRIPES; i++)
		sum += pg_atomic_read_u64(&stripe_at(i)->counters[counter]);
	return sum;
}

uint64
StatsGetReadTime(StatTier tier)
{
	uint64 sum = 0;

	for (int i = 0; i < STRIPES; i++)
		sum += pg_atomic_read_u64(&stripe_at(i)->read_ns[tier]);
	return sum;
}

uint64
StatsGetWriteTime(StatTier tier)
{
	uint64 sum = 0;

	for (int i = 0; i < STRIPES; i++)
		sum += pg_atomic_read_u64(&stripe_at(i)->write_ns[tier]);
	return sum;
}

void
StatsGetHistogram(StatTier tier, uint64 counts[LB_HISTOGRAM_BUCKETS])
{
	memset(counts, 0, sizeof(uint64) * LB_HISTOGRAM_BUCKETS);
	for (int i = 0; i < STRIPES; i++)
	{
		StatStripe *stripe = stripe_at(i);

		for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
			counts[bucket] += pg_atomic_read_u64(&stripe->read_histogram[tier][bucket]);
	}
}

/*
 * Each figure goes to zero at one moment, but not all at the same one: what is counted meanwhile may be in one figure and
 * not in another.
 */
void
StatsReset(void)
{
	for (int i = 0; i < STRIPES; i++)
	{
		StatStripe *stripe = stripe_at(i);

		for (int counter = 0; counter < STAT_COUNTERS; counter++)
			pg_atomic_write_u64(&stripe->counters[counter], 0);
		for (int tier = 0; tier < TIERS; tier++)
		{
			pg_atomic_write_u64(&stripe->read_ns[tier], 0);
			pg_atomic_write_u64(&stripe->write_ns[tier], 0);
			for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
				pg_atomic_write_u64(&stripe->read_histogram[tier][bucket], 0);
		}
	}
	NodeTableResetStats();
	pg_atomic_write_u64(&shared->reset_time, (uint64) GetCurrentTimestamp());
}

TimestampTz
StatsResetTime(void)
{
	return (TimestampTz) pg_atomic_read_u64(&shared->reset_time);
}
