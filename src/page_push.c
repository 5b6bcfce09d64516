/*
 * page_push.c
 *	  Sending pages to remote memory.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "storage/bufpage.h"

#include "comm_buffer.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "page_push.h"
#include "placement.h"
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
