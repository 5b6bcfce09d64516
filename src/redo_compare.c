/*
 * redo_compare.c
 *	  legobase.redo = compare: redo everything, and compare the remote copies of pages with what redo comes to.
 *
 * As long as redo has not taken a page back to an older state, by a full image or by initialising it, the page that redo works on is the remote
 * copy itself: there is nothing to compare. When a record does that, the remote copy is read and kept first: redo may push the page
 * again, and then the copy is gone. When redo has come to the copy's LSN, both have had the same changes. They may
 * differ in what is not in WAL: that is masked as wal_consistency_checking does, by the resource manager of the record. Those of RM_XLOG
 * (images) have no mask: then the one of the last other record of the page is used; if there was none, the page can't be compared.
 *
 * A page of the visibility map is another matter. Bits are cleared without raising its LSN, so the copy may have fewer than redo has at
 * that LSN. It must not have more.
 */
#include "postgres.h"

#include "access/rmgr.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "lb_clock.h"
#include "node_client.h"
#include "page_directory.h"
#include "page_reload.h"
#include "redo_compare.h"
#include "slab_table.h"

#define COPIES_MAX (COMPARE_MEMORY / BLCKSZ)
#define MAP_OFFSET MAXALIGN(SizeOfPageHeaderData)

typedef struct RemoteCopy
{
	lb_page_tag tag; /* the key */
	RmgrId manager;  /* of the last record with a mask for this page; RM_XLOG_ID: none yet */
	char *page;
} RemoteCopy;

static RedoFigures *figures;
static MemoryContext memory;
static HTAB *copies;

void
RedoCompareBegin(RedoFigures *to_count_in)
{
	HASHCTL control = {.keysize = sizeof(lb_page_tag), .entrysize = sizeof(RemoteCopy)};

	figures = to_count_in;
	memory =
		AllocSetContextCreate(TopMemoryContext, "legobase redo compare", ALLOCSET_DEFAULT_SIZES);
	control.hcxt = memory;
	copies = hash_create("legobase remote copies", 1024, &control,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * The remote copy, only if it is the one that was reloaded: its bound was known before, and is still known while it is pinned. Nothing in here
 * raises an error, so the pin does not stay.
 */
static bool
read_remote(const lb_page_tag *tag, char *page)
{
	PagePin pin;
	XLogRecPtr bound;
	lb_slot_ref slot;
	uint64 began;
	bool good = false;

	if (!PageDirectoryPin(tag, false, &pin))
		return false;
	if (pin.comm_buffer == INVALID_COMM_BUFFER && PageDirectoryRedoBound(tag, &bound))
	{
		int node = SlabTableSlot(pin.entry, &slot);

		NodeClientBePatient(true);
		good = NodeClientRead(node, &slot, page, NodeClientDeadline(lb_now_ns()), &began) &&
			   lb_page_checksum(page) == pin.checksum;
		NodeClientBePatient(false);
	}
	PageDirectoryUnpin(&pin);
	return good;
}

static void
forget_copy(RemoteCopy *copy)
{
	pfree(copy->page);
	hash_search(copies, &copy->tag, HASH_REMOVE, NULL);
}

static void
keep_copy(const lb_page_tag *tag)
{
	RemoteCopy *copy;
	char *page;

	if (hash_get_num_entries(copies) >= COPIES_MAX)
	{
		figures->not_compared++;
		return;
	}
	page = MemoryContextAlloc(memory, BLCKSZ);
	if (!read_remote(tag, page))
	{
		pfree(page);
		figures->not_compared++;
		return;
	}
	copy = hash_search(copies, tag, HASH_ENTER, NULL);
	copy->manager = RM_XLOG_ID;
	copy->page = page;
}

/* The free space map is a hint; init forks are never skipped. */
static bool
is_compared(const DecodedBkpBlock *block)
{
	return block->in_use &&
		   (block->forknum == MAIN_FORKNUM || block->forknum == VISIBILITYMAP_FORKNUM);
}

void
RedoCompareBefore(XLogReaderState *record, bool might_be_skipped)
{
	for (int id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		const DecodedBkpBlock *block = XLogRecGetBlock(record, id);
		RemoteCopy *copy;
		lb_page_tag tag;
		XLogRecPtr bound;

		if (!is_compared(block) || !redo_makes_anew(block))
			continue;
		tag = redo_page_tag(&block->rnode, block->forknum, block->blkno);
		copy = hash_search(copies, &tag, HASH_FIND, NULL);
		if (!might_be_skipped)
		{
			/* It would be redone, and from then on the remote copy would not count. */
			if (copy)
				forget_copy(copy);
		}
		else if (!copy && PageDirectoryRedoBound(&tag, &bound) && bound >= record->EndRecPtr)
			keep_copy(&tag);
	}
}

static bool
read_redone(const DecodedBkpBlock *block, char *page)
{
	Buffer buffer = XLogReadBufferExtended(block->rnode, block->forknum, block->blkno,
										   RBM_NORMAL_NO_LOG, InvalidBuffer);

	if (!BufferIsValid(buffer))
		return false;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(page, BufferGetPage(buffer), BLCKSZ);
	UnlockReleaseBuffer(buffer);
	return true;
}

/* The first byte that differs, or BLCKSZ. */
static int
first_difference(const RemoteCopy *copy, char *redone, BlockNumber block)
{
	bool map = copy->tag.fork == VISIBILITYMAP_FORKNUM;
	int at;

	/* The masks expect pages that were initialised. */
	if (!map && !PageIsNew(redone))
	{
		RmgrTable[copy->manager].rm_mask(redone, block);
		RmgrTable[copy->manager].rm_mask(copy->page, block);
	}
	for (at = map ? MAP_OFFSET : 0; at < BLCKSZ; at++)
	{
		if (map ? (copy->page[at] & ~redone[at]) != 0 : copy->page[at] != redone[at])
			break;
	}
	return at;
}

static void
report_difference(const RemoteCopy *copy, XLogRecPtr lsn, const char *what)
{
	figures->different++;
	ereport(
		WARNING,
		(errcode(ERRCODE_DATA_CORRUPTED),
		 errmsg("legobase: redo has not come to what the remote copy is: relation %u/%u/%u, fork "
				"%u, block %u",
				copy->tag.tablespace, copy->tag.database, copy->tag.relation, copy->tag.fork,
				copy->tag.block),
		 errdetail("At LSN %X/%X, resource manager \"%s\": %s.", LSN_FORMAT_ARGS(lsn),
				   RmgrTable[copy->manager].rm_name, what)));
}

/* Redo has come to the copy's LSN. */
static void
compare(const RemoteCopy *copy, const DecodedBkpBlock *block, XLogRecPtr lsn)
{
	static PGAlignedBlock redone;
	char what[64];
	int at;

	if (copy->manager == RM_XLOG_ID && block->forknum != VISIBILITYMAP_FORKNUM)
	{
		figures->not_compared++;
		return;
	}
	figures->compared++;
	if (!read_redone(block, redone.data))
	{
		report_difference(copy, lsn, "the page does not exist");
		return;
	}
	at = first_difference(copy, redone.data, block->blkno);
	if (at < BLCKSZ)
	{
		snprintf(what, sizeof(what), "the first difference is at byte %d", at);
		report_difference(copy, lsn, what);
	}
}

void
RedoCompareAfter(XLogReaderState *record)
{
	RmgrId manager = XLogRecGetRmid(record);

	if (hash_get_num_entries(copies) == 0)
		return;
	for (int id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		const DecodedBkpBlock *block = XLogRecGetBlock(record, id);
		RemoteCopy *copy;
		lb_page_tag tag;
		XLogRecPtr lsn;

		if (!is_compared(block))
			continue;
		tag = redo_page_tag(&block->rnode, block->forknum, block->blkno);
		copy = hash_search(copies, &tag, HASH_FIND, NULL);
		if (!copy)
			continue;
		if (RmgrTable[manager].rm_mask)
			copy->manager = manager;
		lsn = PageGetLSN(copy->page);
		if (lsn > record->EndRecPtr)
			continue;
		if (lsn == record->EndRecPtr)
			compare(copy, block, lsn);
		else
			figures->not_compared++;
		forget_copy(copy);
	}
}

void
RedoCompareEnd(void)
{
	figures->not_compared += hash_get_num_entries(copies);
	copies = NULL;
	MemoryContextDelete(memory);
}
