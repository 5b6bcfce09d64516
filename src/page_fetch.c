/*
 * page_fetch.c
 *	  Reading a page from remote memory.
 *
 * While the entry is pinned nothing here may raise ERROR: the pin would stay for ever. So interrupts are served, and files
 * opened or compared, only before the pin or after it.
 *
 * A dirty page is read from remote memory or not at all (rule R4): while its node does not answer we wait, and if its copy is
 * damaged the server has to recover it from WAL.
 */
#include "postgres.h"

#include "access/xlogdefs.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/ipc.h"

#include "buffer_agent.h"
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
#include "write_back.h"

/*
 * A node whose reads cost more than so many storage reads is not asked, but for probes: one in so many reads, so that a passing
 * slowness is soon over, or if it is slower by far, one a second of the whole server.
 */
#define SLOW_FACTOR 3
#define FAR_TOO_SLOW_FACTOR 12
#define PROBE_ONE_IN 32

typedef enum FetchResult
{
	FETCHED_NOTHING, /* the page is not in remote memory */
	FETCHED_COMM_BUFFER,
	FETCHED_REMOTE,
	FETCHED_KERNEL_CACHE, /* the file's page, and cheaper */
	NOT_FETCHED,          /* the copy is good, but not available now, or dearer than storage */
	FETCHED_DAMAGED       /* the copy is not what it should be */
} FetchResult;

/*
 * The pin that this process holds. Nothing between pin and unpin raises an error; but the SIGTERM handler of some
 * background workers raises FATAL wherever it happens to be, and a pin that stays keeps a slot for ever.
 */
static PagePin held;
static bool holding = false;

static void
release_held(int code, Datum arg)
{
	if (holding)
		PageDirectoryUnpin(&held);
	holding = false;
}

static bool
pin_page(const lb_page_tag *tag)
{
	static bool registered = false;

	/* Not before_shmem_exit: we may be in the middle of somebody's PG_ENSURE_ERROR_CLEANUP, which counts on its order. */
	if (!registered && CritSectionCount == 0)
	{
		on_shmem_exit(release_held, (Datum) 0);
		registered = true;
	}
	holding = PageDirectoryPin(tag, true, &held);
	return holding;
}

static bool
storage_is_cheaper(int node)
{
	static uint32 reads = 0;
	uint32 node_cost = NodeTableReadCost(node);
	uint32 storage_cost = Max(NodeTableStorageCost(), COLD_READ_NS);

	if (node_cost / SLOW_FACTOR <= storage_cost)
		return false;
	if (node_cost / FAR_TOO_SLOW_FACTOR <= storage_cost)
		return reads++ % PROBE_ONE_IN != 0;
	return !NodeTableMayProbe(node);
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
	return true;
}

/* Is what was read the page that the directory means? If not, look a second time. */
static FetchResult
verify(const PagePin *pin, int node, const lb_slot_ref *slot, char *buffer, uint64 deadline)
{
	uint64 began;

	if (lb_page_checksum(buffer) == pin->checksum && !LB_FAULT("read.damaged"))
		return FETCHED_REMOTE;
	StatsCount(STAT_CHECKSUM_FAILURES, 1);
	if (!NodeClientRead(node, slot, buffer, deadline, &began))
		return NOT_FETCHED;
	return lb_page_checksum(buffer) == pin->checksum ? FETCHED_REMOTE : FETCHED_DAMAGED;
}

/* Of a node beyond this host: is there a cheaper place to read the page from? */
static FetchResult
try_cheaper(SMgrRelation reln, const lb_page_tag *tag, int node, char *buffer)
{
	if (debug_compare || kernel_cache_reads != KERNEL_CACHE_READS_AUTO)
		return FETCHED_REMOTE;
	if (try_kernel_cache(reln, tag, buffer))
		return FETCHED_KERNEL_CACHE;
	return storage_is_cheaper(node) ? NOT_FETCHED : FETCHED_REMOTE;
}

static FetchResult
fetch_from_slot(SMgrRelation reln, const lb_page_tag *tag, const PagePin *pin, char *buffer)
{
	lb_slot_ref slot;
	int node = SlabTableSlot(pin->entry, &slot);
	bool far = NodeClientIsFar(node);
	uint64 start = lb_now_ns();
	uint64 deadline = NodeClientDeadline(start);
	uint64 began = 0;
	uint64 now;
	bool read_ahead;
	FetchResult result;

	if (NodeTableState(node) != NODE_UP)
		return NOT_FETCHED;
	read_ahead = far && ReadAheadTake(tag, pin, buffer, deadline);
	if (far && !read_ahead && !pin->dirty)
	{
		result = try_cheaper(reln, tag, node, buffer);
		if (result != FETCHED_REMOTE)
			return result;
	}
	(void) LB_FAULT("read.before");
	if (!read_ahead && !NodeClientRead(node, &slot, buffer, deadline, &began))
		return NOT_FETCHED;
	result = verify(pin, node, &slot, buffer, deadline);
	if (result != FETCHED_REMOTE)
		return result;

	if (read_ahead)
		StatsCount(STAT_READ_AHEAD_HITS, 1);
	now = lb_now_ns();
	StatsReadTime(TIER_REMOTE, now - start);
	NodeTableCountReads(node, 1, read_ahead ? 0 : now - began);
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
		return FETCHED_DAMAGED;
	}
	StatsReadTime(TIER_COMM_BUFFER, lb_now_ns() - start);
	return FETCHED_COMM_BUFFER;
}

/* Logging serves interrupts, and reads must not; see remote_truncate(). */
static void
report_damaged(const lb_page_tag *tag, const PagePin *pin)
{
	PageDirectoryForgetVersion(tag, pin->entry, pin->version);
	HOLD_INTERRUPTS();
	ereport(LOG,
			(errmsg("legobase: damaged page in remote memory: relation %u/%u/%u, fork %u, block %u",
					tag->tablespace, tag->database, tag->relation, tag->fork, tag->block),
			 errdetail("Its checksum is not the one it was sent with. The page is read from "
					   "storage instead."),
			 errhint("If this is repeated, check the memory of the hosts of the memory nodes.")));
	RESUME_INTERRUPTS();
}

/*
 * legobase.debug_compare: is the page the one in the file? If they differ, and the directory still stands by its version, a
 * stale page was about to be served. The file's page is used then. (While another process writes the page they may
 * differ rightly, but then the directory has forgotten the version.)
 */
static bool
same_as_file(SMgrRelation reln, const lb_page_tag *tag, const PagePin *pin, char *buffer)
{
	static PGAlignedBlock file_page;

	mdread(reln, (ForkNumber) tag->fork, tag->block, file_page.data);
	StatsCount(STAT_COMPARED_PAGES, 1);
	if (memcmp(file_page.data, buffer, BLCKSZ) == 0 ||
		!PageDirectoryStillHolds(tag, pin->entry, pin->version))
		return true;

	StatsCount(STAT_COMPARE_MISMATCHES, 1);
	PageDirectoryForgetVersion(tag, pin->entry, pin->version);
	HOLD_INTERRUPTS();
	ereport(WARNING,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("legobase: remote copy differs from file: relation %u/%u/%u, fork %u, block %u",
					tag->tablespace, tag->database, tag->relation, tag->fork, tag->block),
			 errdetail("Remote page: version " UINT64_FORMAT ", LSN %X/%X. File: LSN %X/%X.",
					   pin->version, LSN_FORMAT_ARGS(PageGetLSN(buffer)),
					   LSN_FORMAT_ARGS(PageGetLSN(file_page.data)))));
	RESUME_INTERRUPTS();
	return false;
}

/*
 * The agent finds out whether the node is lost, and that is a PANIC then; a fence command may take its time before. This is only the
 * limit of one page's read.
 */
#define DIRTY_WAIT_TIMEOUTS 20
#define DIRTY_WAIT_MS 30000

static uint64
dirty_wait_limit(void)
{
	return lb_now_ns() +
		   settings_dirty_wait_ms(DIRTY_WAIT_TIMEOUTS * node_timeout_ms + DIRTY_WAIT_MS) *
			   UINT64_C(1000000);
}

static void
fail_dirty_read(const lb_page_tag *tag, const PagePin *pin)
{
	lb_slot_ref slot;

	ereport(
		ERROR,
		(errcode(ERRCODE_CONNECTION_FAILURE),
		 errmsg("legobase: could not read block %u of relation %u/%u/%u, fork %u, from memory "
				"node \"%s\"",
				tag->block, tag->tablespace, tag->database, tag->relation, tag->fork,
				NodeTableUri(SlabTableSlot(pin->entry, &slot))),
		 errdetail("The page's newest version is only there, and the node does not answer."),
		 errhint("If the node is lost, the server will restart and recover the page from WAL.")));
}

/* The newest version of a page can't be had any more: redo has to make it again. */
static void
panic_damaged(const lb_page_tag *tag, const PagePin *pin)
{
	char reason[300];
	lb_slot_ref slot;

	snprintf(
		reason, sizeof(reason),
		"damaged page in remote memory at node \"%.120s\": relation %u/%u/%u, fork %u, block %u",
		NodeTableUri(SlabTableSlot(pin->entry, &slot)), tag->tablespace, tag->database,
		tag->relation, tag->fork, tag->block);
	WriteBackPanic(reason);
}

/* One attempt. *pin says what was found, unless it is PAGE_NOT_REMOTE. */
static FetchResult
fetch_once(SMgrRelation reln, const lb_page_tag *tag, char *buffer, PagePin *pin)
{
	FetchResult result;

	if (!pin_page(tag))
		return FETCHED_NOTHING;
	*pin = held;
	NodeClientBePatient(pin->dirty);
	if (pin->comm_buffer != INVALID_COMM_BUFFER)
		result = fetch_from_comm_buffer(pin, buffer);
	else
		result = fetch_from_slot(reln, tag, pin, buffer);
	NodeClientBePatient(false);
	holding = false;
	PageDirectoryUnpin(pin);
	return result;
}

PageFetchResult
PageFetch(SMgrRelation reln, const lb_page_tag *tag, char *buffer)
{
	uint64 limit = 0;
	PagePin pin;
	FetchResult result;

	if (kernel_cache_reads == KERNEL_CACHE_READS_AUTO && NodeClientAnyFar())
		KernelCachePrepare(reln, (ForkNumber) tag->fork, tag->block);
	while ((result = fetch_once(reln, tag, buffer, &pin)) == NOT_FETCHED && pin.dirty)
	{
		if (limit == 0)
			limit = dirty_wait_limit();
		/* An ERROR of the startup process is the end of the server: it waits for what the agent finds out. */
		if (lb_now_ns() > limit && !AmStartupProcess())
			fail_dirty_read(tag, &pin);
		BufferAgentAssist(1);
	}

	switch (result)
	{
		case FETCHED_NOTHING:
			return PAGE_NOT_REMOTE;
		case FETCHED_KERNEL_CACHE:
			return PAGE_FETCHED;
		case NOT_FETCHED:
			return PAGE_LEFT_ALONE;
		case FETCHED_DAMAGED:
			/* If it was flushed meanwhile, the file has it. */
			if (pin.dirty && PageDirectoryDirtyNode(tag) >= 0)
				panic_damaged(tag, &pin);
			report_damaged(tag, &pin);
			return PAGE_NOT_REMOTE;
		case FETCHED_COMM_BUFFER:
		case FETCHED_REMOTE:
			break;
	}
	if (debug_compare && !pin.dirty && !same_as_file(reln, tag, &pin, buffer))
		return PAGE_NOT_REMOTE;

	StatsCount(result == FETCHED_COMM_BUFFER ? STAT_COMM_BUFFER_HITS : STAT_REMOTE_HITS, 1);
	if (result == FETCHED_REMOTE && NodeClientAnyFar())
		ReadAheadContinue(reln, tag);
	return PAGE_FETCHED;
}
