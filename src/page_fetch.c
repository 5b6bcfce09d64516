/*
 * page_fetch.c
 *	  Reading a page from remote memory.
 *
 * While the entry is pinned nothing here may raise ERROR: the pin would stay for ever. So interrupts are served, and files
 * opened or compared, only before the pin or after it.
 */
#include "postgres.h"

#include "access/xlogdefs.h"
#include "miscadmin.h"
#include "storage/bufpage.h"

#include "comm_buffer.h"
#include "compat.h"
#include "kernel_cache.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "node_client.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_fetch.h"
#include "read_ahead.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"

/* A node whose reads cost more than this many storage reads is not asked, but for a probe now and then. */
#define STORAGE_COST_FACTOR 2

typedef enum FetchResult
{
	FETCHED_COMM_BUFFER,
	FETCHED_REMOTE,
	FETCHED_KERNEL_CACHE, /* the file's page, and cheaper */
	NOT_FETCHED,
	FETCH_INTERRUPTED
} FetchResult;

static bool
storage_is_cheaper(int node)
{
	uint32 node_cost = NodeTableReadCost(node);
	uint32 storage_cost = NodeTableStorageCost();

	return node_cost > 0 && storage_cost > 0 && node_cost / STORAGE_COST_FACTOR > storage_cost &&
		   !NodeTableMayProbe(node);
}

static bool
try_kernel_cache(SMgrRelation reln, const lb_page_tag *tag, char *buffer)
{
	uint64 start = lb_now_ns();
	uint64 elapsed;

	if (!KernelCacheRead(reln, (ForkNumber) tag->fork, tag->block, buffer))
		return false;
	elapsed = lb_now_ns() - start;
	StatsCount(STAT_STORAGE_READS, 1);
	StatsCount(STAT_KERNEL_CACHE_READS, 1);
	StatsReadTime(TIER_STORAGE, elapsed);
	NodeTableNoteKernelCacheRead(elapsed);
	return true;
}

/* Is what was read the page that the directory means? If not, look a second time; then give the copy up. */
static FetchResult
verify(const lb_page_tag *tag, const PagePin *pin, int node, const lb_slot_ref *slot, char *buffer)
{
	NodeReadResult again;
	uint64 elapsed;

	if (lb_page_checksum(buffer) == pin->checksum && !LB_FAULT("read.damaged"))
		return FETCHED_REMOTE;

	StatsCount(STAT_CHECKSUM_FAILURES, 1);
	again = NodeClientRead(node, slot, buffer, &elapsed);
	if (again == NODE_READ_INTERRUPTED)
		return FETCH_INTERRUPTED;
	if (again == NODE_READ_DONE && lb_page_checksum(buffer) == pin->checksum)
		return FETCHED_REMOTE;
	if (again == NODE_READ_DONE)
	{
		PageDirectoryForgetVersion(tag, pin->entry, pin->version);
		ereport(LOG, (errmsg("legobase: damaged page in memory node \"%s\": relation %u/%u/%u, "
							 "fork %u, block %u",
							 NodeTableUri(node), tag->tablespace, tag->database, tag->relation,
							 tag->fork, tag->block),
					  errdetail("Its checksum is not the one it was sent with. The page is read "
								"from storage instead, and not used from there again."),
					  errhint("If this is repeated, check the memory of that host.")));
	}
	return NOT_FETCHED;
}

static FetchResult
fetch_from_slot(SMgrRelation reln, const lb_page_tag *tag, const PagePin *pin, char *buffer)
{
	lb_slot_ref slot;
	int node = SlabTableSlot(pin->entry, &slot);
	bool far = NodeClientReadAheadHelps(node);
	NodeReadResult result = NODE_READ_DONE;
	uint64 start = lb_now_ns();
	uint64 elapsed = 0;
	bool read_ahead;

	if (NodeTableState(node) != NODE_UP)
		return NOT_FETCHED;

	read_ahead = far && ReadAheadTake(tag, pin, buffer);
	if (!read_ahead)
	{
		if (far && kernel_cache_reads == KERNEL_CACHE_READS_AUTO && !debug_compare &&
			try_kernel_cache(reln, tag, buffer))
			return FETCHED_KERNEL_CACHE;
		if (far && kernel_cache_reads == KERNEL_CACHE_READS_AUTO && !debug_compare &&
			storage_is_cheaper(node))
			return NOT_FETCHED;
		(void) LB_FAULT("read.before");
		result = NodeClientRead(node, &slot, buffer, &elapsed);
	}
	if (result == NODE_READ_INTERRUPTED)
		return FETCH_INTERRUPTED;
	if (result != NODE_READ_DONE || verify(tag, pin, node, &slot, buffer) != FETCHED_REMOTE)
		return NOT_FETCHED;

	if (read_ahead)
		StatsCount(STAT_READ_AHEAD_HITS, 1);
	StatsReadTime(TIER_REMOTE, lb_now_ns() - start);
	NodeTableCountReads(node, 1, elapsed);
	return FETCHED_REMOTE;
}

static FetchResult
fetch_from_comm_buffer(const PagePin *pin, char *buffer)
{
	uint64 start = lb_now_ns();

	memcpy(buffer, CommBufferPage(pin->comm_buffer), BLCKSZ);
	if (lb_page_checksum(buffer) != pin->checksum)
	{
		StatsCount(STAT_CHECKSUM_FAILURES, 1);
		return NOT_FETCHED;
	}
	StatsReadTime(TIER_COMM_BUFFER, lb_now_ns() - start);
	return FETCHED_COMM_BUFFER;
}

/*
 * legobase.debug_compare: is the page the one in the file? If they differ, and the directory still stands by its version, a
 * stale page was about to be served. The file's page is used then. (While another process writes the page they may
 * differ rightly, but then the directory has forgotten the version.)
 */
static bool
same_as_file(SMgrRelation reln, const lb_page_tag *tag, const PagePin *pin, const char *buffer)
{
	static PGAlignedBlock file_page;

	mdread(reln, (ForkNumber) tag->fork, tag->block, file_page.data);
	StatsCount(STAT_COMPARED_PAGES, 1);
	if (memcmp(file_page.data, buffer, BLCKSZ) == 0 ||
		!PageDirectoryStillHolds(tag, pin->entry, pin->version))
		return true;

	StatsCount(STAT_COMPARE_MISMATCHES, 1);
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("legobase: remote copy differs from file: relation %u/%u/%u, fork %u, block %u",
					tag->tablespace, tag->database, tag->relation, tag->fork, tag->block),
			 errdetail("Remote page: version " UINT64_FORMAT ", LSN %X/%X. File: LSN %X/%X.",
					   pin->version, LSN_FORMAT_ARGS(PageGetLSN(unconstify(char *, buffer))),
					   LSN_FORMAT_ARGS(PageGetLSN(file_page.data)))));
	PageDirectoryForgetVersion(tag, pin->entry, pin->version);
	return false;
}

bool
PageFetch(SMgrRelation reln, const lb_page_tag *tag, char *buffer)
{
	PagePin pin;
	FetchResult result;

	NodeClientUnmapReturned();
	if (kernel_cache_reads == KERNEL_CACHE_READS_AUTO)
		KernelCachePrepare(reln, (ForkNumber) tag->fork, tag->block);
	if (!PageDirectoryPin(tag, true, &pin))
		return false;
	if (pin.comm_buffer != INVALID_COMM_BUFFER)
		result = fetch_from_comm_buffer(&pin, buffer);
	else
		result = fetch_from_slot(reln, tag, &pin, buffer);
	PageDirectoryUnpin(&pin);

	if (result == FETCH_INTERRUPTED)
		CHECK_FOR_INTERRUPTS();
	if (result == FETCHED_KERNEL_CACHE)
		return true;
	if (result != FETCHED_COMM_BUFFER && result != FETCHED_REMOTE)
		return false;
	if (debug_compare && !same_as_file(reln, tag, &pin, buffer))
		return false;

	StatsCount(result == FETCHED_COMM_BUFFER ? STAT_COMM_BUFFER_HITS : STAT_REMOTE_HITS, 1);
	if (result == FETCHED_REMOTE)
		ReadAheadContinue(reln, tag);
	return true;
}
