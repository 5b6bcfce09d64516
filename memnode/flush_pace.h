/*
 * flush_pace.h
 *	  How fast the memory node flushes, so that the server's own reads from the same storage don't suffer. Pure: the caller
 *	  tells the time.
 *
 * A rate in pages a second, controlled as TCP controls its window (additive increase, multiplicative decrease). The
 * compute node reports each second how long its reads from storage took (STORAGE_LOAD). Reads that take more than twice as
 * long as when it is quiet, in a second in which we wrote, halve the rate, beginning at what was really achieved; if that is
 * not known because one round fills the whole second, when it has ended. Any other second raises it by FLUSH_PACE_RISE. "Quiet" is a slowly moving low mark of the averages: it follows downwards
 * quickly, upwards slowly, and slowest of all in seconds in which we wrote, so that it does not learn the load that we make
 * ourselves, but does find out in the end that storage has become slower for other reasons.
 *
 * The rate never falls below a floor, so that flushing always ends; that of a requested flush is higher, because a checkpoint
 * waits for it, with WAL piling up meanwhile. And a requested flush is not held back at all when the compute node has not reported
 * for FLUSH_PACE_SILENCE_NS: as at shutdown and before redo ends, nobody is reading then, and the checkpoint is downtime.
 */
#ifndef MEMNODE_FLUSH_PACE_H
#define MEMNODE_FLUSH_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* Pages a second; a page is 8 kB. */
#define FLUSH_PACE_START 16384          /* 128 MB/s */
#define FLUSH_PACE_RISE 2048            /* 16 MB/s, each second */
#define FLUSH_PACE_MAX 524288           /* 4 GB/s, not held back from there on */
#define FLUSH_PACE_FLOOR 256            /* 2 MB/s */
#define FLUSH_PACE_FLOOR_REQUESTED 8192 /* 64 MB/s */

#define FLUSH_PACE_READS_MIN 8 /* reads in a second, for their average to mean anything */
#define FLUSH_PACE_QUIET_MIN \
	100 /* microseconds; less is the kernel's cache, whose ups and downs are not ours */
#define FLUSH_PACE_SILENCE_NS UINT64_C(3000000000)

typedef struct flush_pace
{
	uint32_t rate;     /* pages a second */
	uint32_t quiet_us; /* the low mark of the averages; 0: none known */
	bool reported;
	uint64_t reported_ns; /* when the last report came */

	/* since the last report */
	uint64_t pages;
	uint64_t busy_ns; /* in which rounds were under way, counted when they end */
	bool wrote;       /* a round was under way at any time */
	bool
		disturbed; /* reads were slow meanwhile; kept until a round ends, which shows what was achieved */

	/* the round under way, or the last one */
	bool under_way;
	uint32_t round_pages;
	uint64_t round_began_ns;
} flush_pace;

extern void flush_pace_init(flush_pace *pace);

/* The compute node's report: reads from storage since its last one, and what they took on average. */
extern void flush_pace_load(flush_pace *pace, uint32_t reads, uint32_t read_us, uint64_t now_ns);

/* A round begins; it has ended, and so many pages were written to storage. */
extern void flush_pace_begin(flush_pace *pace, uint64_t now_ns);
extern void flush_pace_end(flush_pace *pace, uint32_t pages, uint64_t now_ns);

/* Between rounds: how long to wait from now until the next round may begin. requested: a FLUSH is not yet satisfied. */
extern uint64_t flush_pace_wait_ns(const flush_pace *pace, bool requested, uint64_t now_ns);

#endif /* MEMNODE_FLUSH_PACE_H */
