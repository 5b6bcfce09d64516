/*
 * page_push.c
 *	  Sending pages to remote memory.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/ipc.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "page_push.h"
#include "placement.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"

/* Take a comm buffer and copy the page there; a drop is counted if there is none. */
static uint32
copy_to_comm_buffer(const char *page)
{
	uint32 comm_buffer = CommBufferTake();

	if (comm_buffer == INVALID_COMM_BUFFER)
		StatsCount(STAT_DROPPED_PUSHES, 1);
	else
		memcpy(CommBufferPage(comm_buffer), page, BLCKSZ);
	return comm_buffer;
}

/* The page is in the comm buffer: give it a slot, link it, queue it. False if it was dropped. */
static bool
push(const lb_page_tag *tag, uint32 comm_buffer, const PageStamp *stamp, uint32 usage)
{
	uint64 start = lb_now_ns();
	uint64 checksum = lb_page_checksum(CommBufferPage(comm_buffer));
	uint32 entry = PlacementTakeSlot();

	if (entry == INVALID_ENTRY ||
		PageDirectoryLink(entry, tag, checksum, comm_buffer, stamp, usage) == 0)
	{
		CommBufferRelease(comm_buffer);
		StatsCount(STAT_DROPPED_PUSHES, 1);
		return false;
	}
	(void) LB_FAULT("push.linked");
	CommBufferQueue(comm_buffer, entry);
	StatsCount(STAT_COMM_BUFFER_WRITES, 1);
	StatsWriteTime(TIER_COMM_BUFFER, lb_now_ns() - start);
	return true;
}

/* A page that storage damaged must not be kept: the file may be repaired, and the copy would stay. */
static bool
worth_pushing(const lb_page_tag *tag, const char *page)
{
	if (PageIsNew((Page) page))
		return false;
	return !DataChecksumsEnabled() || PageIsVerifiedExtended((Page) page, tag->block, 0);
}

void
PagePushRead(const lb_page_tag *tag, const char *page, const PageStamp *stamp)
{
	uint32 comm_buffer;

	if (SlabTableActivePages() == 0 || !worth_pushing(tag, page))
		return;
	comm_buffer = copy_to_comm_buffer(page);
	if (comm_buffer != INVALID_COMM_BUFFER)
		(void) push(tag, comm_buffer, stamp, USAGE_FIRST_READ);
}

uint32
PagePushPrepare(const char *page)
{
	if (SlabTableActivePages() == 0 || PageIsNew((Page) page))
		return INVALID_COMM_BUFFER;
	return copy_to_comm_buffer(page);
}

void
PagePushWritten(const lb_page_tag *tag, uint32 comm_buffer)
{
	/* Dropped or not, whatever was read from the file while it was written must not stay. */
	if (!push(tag, comm_buffer, NULL, USAGE_WRITTEN))
		PageDirectoryForget(tag);
}

void
PagePushAbandon(uint32 comm_buffer)
{
	CommBufferRelease(comm_buffer);
}

/*
 * Dirty pages are not given up for others. Were the pool full of them, reads would find no room for what they bring; the
 * nodes flush long before that (half of the pool, unless told otherwise), but storage may be slow.
 */
static bool
too_many_dirty(void)
{
	return PageDirectoryDirty() > SlabTableActivePages() / 4 * 3;
}

/* The backpressure of write-back: wait for a comm buffer. */
static uint32
wait_for_comm_buffer(uint64 deadline)
{
	uint32 comm_buffer;

	while ((comm_buffer = CommBufferTake()) == INVALID_COMM_BUFFER)
	{
		if (lb_now_ns() > deadline)
			break;
		BufferAgentAssist(1);
	}
	return comm_buffer;
}

/*
 * A page that is being linked, and not queued yet. Some background workers' SIGTERM handler raises FATAL wherever it happens to be: then
 * the push is queued at the exit if the page was linked, or it would be dirty for ever.
 */
static uint32 unqueued_buffer = INVALID_COMM_BUFFER;
static uint32 unqueued_entry;

static void
queue_dirty(uint32 comm_buffer, uint32 entry)
{
	unqueued_buffer = INVALID_COMM_BUFFER;
	CommBufferQueue(comm_buffer, entry);
}

static void
queue_unqueued(int code, Datum arg)
{
	if (unqueued_buffer != INVALID_COMM_BUFFER && PageDirectoryIsDirty(unqueued_entry) &&
		PageDirectoryEntryAt(unqueued_entry)->comm_buffer == unqueued_buffer)
		queue_dirty(unqueued_buffer, unqueued_entry);
}

static void
note_unqueued(uint32 comm_buffer, uint32 entry)
{
	static bool registered = false;

	if (!registered && CritSectionCount == 0)
	{
		on_shmem_exit(queue_unqueued, (Datum) 0);
		registered = true;
	}
	unqueued_entry = entry;
	unqueued_buffer = comm_buffer;
}

/* A slot for the page, linked. Only a page whose dirty version binds it to one node waits for room there. */
static uint32
link_dirty(const lb_page_tag *tag, uint64 checksum, uint32 comm_buffer, uint64 deadline)
{
	for (;;)
	{
		int node = PageDirectoryDirtyNode(tag);
		uint32 entry = PlacementTakeSlotDirty(node);

		if (entry != INVALID_ENTRY)
		{
			note_unqueued(comm_buffer, entry);
			if (PageDirectoryLinkDirty(entry, tag, checksum, comm_buffer, USAGE_WRITTEN) != 0)
				return entry;
			unqueued_buffer = INVALID_COMM_BUFFER;
		}
		if (node < 0 || lb_now_ns() > deadline)
			return INVALID_ENTRY;
		BufferAgentAssist(1);
	}
}

bool
PagePushDirty(const lb_page_tag *tag, const char *page)
{
	uint64 start = lb_now_ns();
	uint64 deadline = start + (uint64) node_timeout_ms * UINT64_C(1000000);
	uint32 comm_buffer;
	uint32 entry;

	if (too_many_dirty() && PageDirectoryDirtyNode(tag) < 0)
		return false;
	comm_buffer = wait_for_comm_buffer(deadline);
	if (comm_buffer == INVALID_COMM_BUFFER)
		return false;
	memcpy(CommBufferPage(comm_buffer), page, BLCKSZ);
	entry = link_dirty(tag, lb_page_checksum(CommBufferPage(comm_buffer)), comm_buffer, deadline);
	if (entry == INVALID_ENTRY)
	{
		CommBufferRelease(comm_buffer);
		return false;
	}
	(void) LB_FAULT("writeback.linked");
	queue_dirty(comm_buffer, entry);
	StatsCount(STAT_COMM_BUFFER_WRITES, 1);
	StatsCount(STAT_WRITTEN_BACK, 1);
	StatsWriteTime(TIER_COMM_BUFFER, lb_now_ns() - start);
	(void) LB_FAULT("writeback.queued");
	return true;
}
