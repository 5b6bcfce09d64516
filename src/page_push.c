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

/*
 * The comm buffer that this process has, and the entry that it is being linked in. Some background workers' SIGTERM handler raises FATAL wherever
 * it happens to be: then the push is queued at the exit if the page was linked, or the page would be in flight (and dirty) for ever; otherwise
 * the buffer is given back, or CommBufferMayHoldOlder would say for ever that there may be a push.
 */
static uint32 held_buffer = INVALID_COMM_BUFFER;
static uint32 held_entry = INVALID_ENTRY;

/* It is not ours to end any more from here on, rather than a moment after somebody else has it. */
static uint32
let_go_of_held(void)
{
	uint32 comm_buffer = held_buffer;

	held_buffer = INVALID_COMM_BUFFER;
	held_entry = INVALID_ENTRY;
	return comm_buffer;
}

static void
queue_held(uint32 entry)
{
	CommBufferQueue(let_go_of_held(), entry);
}

static void
release_held(void)
{
	CommBufferRelease(let_go_of_held());
}

static void
end_held(int code, Datum arg)
{
	if (held_buffer == INVALID_COMM_BUFFER)
		return;
	if (held_entry != INVALID_ENTRY && PageDirectoryIsPushOf(held_entry, held_buffer))
		queue_held(held_entry);
	else
		release_held();
}

/* INVALID_COMM_BUFFER if there is none. */
static uint32
take_comm_buffer(void)
{
	static bool registered = false;

	if (!registered && CritSectionCount == 0)
	{
		on_shmem_exit(end_held, (Datum) 0);
		registered = true;
	}
	Assert(held_buffer == INVALID_COMM_BUFFER);
	held_buffer = CommBufferTake();
	return held_buffer;
}

/* Take a comm buffer and copy the page there; a drop is counted if there is none. */
static uint32
copy_to_comm_buffer(const char *page)
{
	uint32 comm_buffer = take_comm_buffer();

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

	held_entry = entry;
	if (entry == INVALID_ENTRY ||
		PageDirectoryLink(entry, tag, checksum, comm_buffer, stamp, usage) == 0)
	{
		release_held();
		StatsCount(STAT_DROPPED_PUSHES, 1);
		return false;
	}
	(void) LB_FAULT("push.linked");
	queue_held(entry);
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
	Assert(comm_buffer == held_buffer);
	release_held();
}

/*
 * Dirty pages are not given up for others. Were the pool full of them, reads would find no room for what they bring; the
 * nodes flush long before that (half of the pool, unless told otherwise), but storage may be slow.
 */
bool
PagePushTooManyDirty(void)
{
	return PageDirectoryDirty() > SlabTableActivePages() / 4 * 3;
}

/* The backpressure of write-back: wait for a comm buffer. */
static uint32
wait_for_comm_buffer(uint64 deadline)
{
	uint32 comm_buffer;

	while ((comm_buffer = take_comm_buffer()) == INVALID_COMM_BUFFER)
	{
		if (lb_now_ns() > deadline)
			break;
		BufferAgentAssist(1);
	}
	return comm_buffer;
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
			held_entry = entry;
			if (PageDirectoryLinkDirty(entry, tag, checksum, comm_buffer, USAGE_WRITTEN) != 0)
				return entry;
			held_entry = INVALID_ENTRY;
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

	if (PagePushTooManyDirty() && PageDirectoryDirtyNode(tag) < 0)
		return false;
	comm_buffer = wait_for_comm_buffer(deadline);
	if (comm_buffer == INVALID_COMM_BUFFER)
		return false;
	memcpy(CommBufferPage(comm_buffer), page, BLCKSZ);
	entry = link_dirty(tag, lb_page_checksum(CommBufferPage(comm_buffer)), comm_buffer, deadline);
	if (entry == INVALID_ENTRY)
	{
		release_held();
		return false;
	}
	(void) LB_FAULT("writeback.linked");
	queue_held(entry);
	StatsCount(STAT_COMM_BUFFER_WRITES, 1);
	StatsCount(STAT_WRITTEN_BACK, 1);
	StatsWriteTime(TIER_COMM_BUFFER, lb_now_ns() - start);
	(void) LB_FAULT("writeback.queued");
	return true;
}
