/*
 * redo_skip.c
 *	  Redo that skips records whose pages are in remote memory in a state that has them already.
 *
 * docs/recovery.md, section 6, has the rule and why it is right. What it needs of a record is that it changes nothing but the pages it
 * registers. Read for PostgreSQL 15, redo function by redo function:
 *
 *	  xlog		FPI, FPI_FOR_HINT: restore images, nothing else. All others: not pages.
 *	  heap		insert, delete, update, hot_update, confirm, lock, inplace: the pages, the free space map (a hint), and they clear bits of the
 *				visibility map, which they don't register: we do that for them (below). truncate: has no pages.
 *	  heap2		prune, vacuum, freeze_page, multi_insert, lock_updated: as heap. visible: registers both the heap page and the map's; without
 *				checksums it leaves the heap page's LSN alone, so it is skipped only if a later change has raised that; that
 *				page has the all-visible flag too. rewrite (writes a file for logical decoding), new_cid: have no pages.
 *	  btree, hash, gin, gist, spgist, brin
 *				all pages are registered: meta, bitmap, revmap pages, children whose split was finished, siblings. What changes a page that
 *				was just restored (gist's follow_right, hash's bucket flags) is in its final state too. Some hash records register
 *				a bucket page only to lock it, and do not set its LSN: those are skipped less often than they could be. btree's and
 *				gist's reuse_page, gist's assign_lsn: have no pages.
 *	  generic	all pages are registered.
 *	  sequence	never skipped. nextval() raises the value in the page without WAL, up to what it has logged ahead. Redo of the record goes
 *				ahead to there, whatever the page's LSN is. The remote copy may be older than values that were given to clients
 *				since, so to stay with it would give them again.
 *
 * Redo functions do more in a standby (conflicts with queries, cleanup locks), where nothing is skipped, and for init forks (they
 * are written to their files at once), for which nothing is skipped either. A redo function that finds its page up to date makes sure that the
 * file exists; a reloaded page's does. A page can be initialised by redo only if the record says so (XLogReadBufferForRedoExtended checks
 * both ways), or else it is restored from an image, so what a record takes back to an older state can be told from its header. That holds for
 * all resource managers, of extensions too, which is one reason to wrap them all; the other is to count.
 *
 * A record with an image for wal_consistency_checking may be skipped as well: PostgreSQL then compares it with the remote page, or finds
 * that this one is newer.
 */
#include "postgres.h"

#include "access/generic_xlog.h"
#include "access/heapam_xlog.h"
#include "access/rmgr.h"
#include "access/visibilitymap.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/shmem.h"
#include "storage/smgr.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "lb_clock.h"
#include "legobase.h"
#include "page_reload.h"
#include "pool_gate.h"
#include "redo_compare.h"
#include "redo_skip.h"
#include "settings.h"

#define NS_PER_US 1000
#define BYTES_PER_MB (1024.0 * 1024.0)

static RedoFigures *figures;

/* The startup process alone has these. */
static RedoMode mode; /* REDO_PLAIN also if something speaks against the setting: */
static const char *plain_because;
static ReloadFigures reloaded;
static uint64 began_ns;
static bool begun = false;
static void (*redo_functions[RM_MAX_ID + 1])(XLogReaderState *record);

static void (*next_startup)(void);
static void (*next_cleanup)(void);

Size
RedoSkipShmemSize(void)
{
	return MAXALIGN(sizeof(RedoFigures));
}

void
RedoSkipShmemInit(void)
{
	bool found;

	figures = ShmemInitStruct("legobase redo", sizeof(RedoFigures), &found);
	if (!found)
		memset(figures, 0, sizeof(RedoFigures));
}

bool
RedoSkipBegun(void)
{
	return begun;
}

void
RedoSkipGetFigures(RedoFigures *copy)
{
	*copy = *figures;
	if (copy->running)
		copy->elapsed_us = Max(GetCurrentTimestamp() - copy->started, 0);
}

static bool
touches_only_its_pages(XLogReaderState *record)
{
	uint8 info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	switch (XLogRecGetRmid(record))
	{
		case RM_XLOG_ID:
			return info == XLOG_FPI || info == XLOG_FPI_FOR_HINT;
		case RM_HEAP_ID:
			return (info & XLOG_HEAP_OPMASK) != XLOG_HEAP_TRUNCATE;
		case RM_HEAP2_ID:
			return (info & XLOG_HEAP_OPMASK) != XLOG_HEAP2_REWRITE &&
				   (info & XLOG_HEAP_OPMASK) != XLOG_HEAP2_NEW_CID;
		case RM_BTREE_ID:
		case RM_HASH_ID:
		case RM_GIN_ID:
		case RM_GIST_ID:
		case RM_SPGIST_ID:
		case RM_BRIN_ID:
		case RM_GENERIC_ID:
			return true;
		default:
			return false;
	}
}

static bool
page_has(const RelFileNode *rnode, ForkNumber fork, BlockNumber block, XLogRecPtr lsn)
{
	lb_page_tag tag = redo_page_tag(rnode, fork, block);
	XLogRecPtr bound;

	return PageDirectoryRedoBound(&tag, &bound) && bound >= lsn;
}

/* All pages that the record touches have it already. A record without pages has something else to do. */
static bool
pages_have(XLogReaderState *record)
{
	bool any = false;

	for (int id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		const DecodedBkpBlock *block = XLogRecGetBlock(record, id);

		if (!block->in_use)
			continue;
		if (block->forknum == INIT_FORKNUM ||
			!page_has(&block->rnode, block->forknum, block->blkno, record->EndRecPtr))
			return false;
		any = true;
	}
	return any;
}

/*
 * The visibility map's page with the bits of a heap page: HEAPBLK_TO_MAPBLOCK, which is private to visibilitymap.c. Part of the format on
 * disk.
 */
#define MAP_BYTES (BLCKSZ - MAXALIGN(SizeOfPageHeaderData))
#define HEAP_BLOCKS_PER_MAP_PAGE (MAP_BYTES * (BITS_PER_BYTE / BITS_PER_HEAPBLOCK))

/*
 * Clear bits of the visibility map for a heap page that the record registers. Setting a bit is a record with the map's page, and sets its LSN;
 * clearing is not, and does not. But it happens before the record that it belongs to gets its LSN: if the map's page has a
 * higher one, its bits were cleared.
 */
static void
clear_map(XLogReaderState *record, int block_id, uint8 bits)
{
	const DecodedBkpBlock *heap = XLogRecGetBlock(record, block_id);
	Relation relation;
	Buffer map = InvalidBuffer;

	if (page_has(&heap->rnode, VISIBILITYMAP_FORKNUM, heap->blkno / HEAP_BLOCKS_PER_MAP_PAGE,
				 record->EndRecPtr))
		return;
	relation = CreateFakeRelcacheEntry(heap->rnode);
	visibilitymap_pin(relation, heap->blkno, &map);
	visibilitymap_clear(relation, heap->blkno, map, bits);
	ReleaseBuffer(map);
	FreeFakeRelcacheEntry(relation);
}

static void
clear_map_after_update(XLogReaderState *record, uint8 flags)
{
	if (flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED)
		clear_map(record, XLogRecHasBlockRef(record, 1) ? 1 : 0, VISIBILITYMAP_VALID_BITS);
	if (flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)
		clear_map(record, 0, VISIBILITYMAP_VALID_BITS);
}

/* What redo of a heap or heap2 record does to the visibility map. */
static void
redo_map(XLogReaderState *record)
{
	const char *data = XLogRecGetData(record);
	uint8 operation = XLogRecGetInfo(record) & XLOG_HEAP_OPMASK;
	bool cleared = false;
	uint8 bits = VISIBILITYMAP_VALID_BITS;

	if (XLogRecGetRmid(record) == RM_HEAP_ID)
	{
		switch (operation)
		{
			case XLOG_HEAP_INSERT:
				cleared = ((const xl_heap_insert *) data)->flags & XLH_INSERT_ALL_VISIBLE_CLEARED;
				break;
			case XLOG_HEAP_DELETE:
				cleared = ((const xl_heap_delete *) data)->flags & XLH_DELETE_ALL_VISIBLE_CLEARED;
				break;
			case XLOG_HEAP_UPDATE:
			case XLOG_HEAP_HOT_UPDATE:
				clear_map_after_update(record, ((const xl_heap_update *) data)->flags);
				break;
			case XLOG_HEAP_LOCK:
				cleared = ((const xl_heap_lock *) data)->flags & XLH_LOCK_ALL_FROZEN_CLEARED;
				bits = VISIBILITYMAP_ALL_FROZEN;
				break;
		}
	}
	else if (operation == XLOG_HEAP2_MULTI_INSERT)
		cleared = ((const xl_heap_multi_insert *) data)->flags & XLH_INSERT_ALL_VISIBLE_CLEARED;
	else if (operation == XLOG_HEAP2_LOCK_UPDATED)
	{
		cleared = ((const xl_heap_lock_updated *) data)->flags & XLH_LOCK_ALL_FROZEN_CLEARED;
		bits = VISIBILITYMAP_ALL_FROZEN;
	}
	if (cleared)
		clear_map(record, 0, bits);
}

/* The record is about to be redone: which pages does it take back to an older state? */
static void
forget_bounds(XLogReaderState *record)
{
	for (int id = 0; id <= XLogRecMaxBlockId(record); id++)
	{
		const DecodedBkpBlock *block = XLogRecGetBlock(record, id);

		if (block->in_use && redo_makes_anew(block))
		{
			lb_page_tag tag = redo_page_tag(&block->rnode, block->forknum, block->blkno);

			PageDirectoryForgetRedoBound(&tag);
		}
	}
}

/* Returns whether the record was skipped. */
static bool
redo_or_skip(XLogReaderState *record)
{
	RmgrId manager = XLogRecGetRmid(record);

	if (mode == REDO_SKIP && touches_only_its_pages(record) && pages_have(record))
	{
		if (manager == RM_HEAP_ID || manager == RM_HEAP2_ID)
			redo_map(record);
		return true;
	}

	if (mode == REDO_COMPARE)
		RedoCompareBefore(record, touches_only_its_pages(record));
	if (mode != REDO_PLAIN)
		forget_bounds(record);
	redo_functions[manager](record);
	if (mode == REDO_COMPARE)
		RedoCompareAfter(record);
	return false;
}

/* Takes the place of every resource manager's rm_redo. */
static void
legobase_redo(XLogReaderState *record)
{
	uint64 bytes = record->EndRecPtr - record->ReadRecPtr;

	if (figures->records == 0)
		figures->start = record->ReadRecPtr;
	if (redo_or_skip(record))
	{
		figures->skipped++;
		figures->bytes_skipped += bytes;
	}
	figures->records++;
	figures->bytes += bytes;
	figures->end = record->EndRecPtr;
}

/* Why must everything be redone, whatever legobase.redo says? Null: it need not. */
static const char *
reason_for_plain(void)
{
	if (ArchiveRecoveryRequested || InArchiveRecovery)
		return "Archive recovery and standbys redo everything.";
	if (redo_mode == REDO_PLAIN)
		return "legobase.redo is \"plain\".";
	if (reloaded.nodes == 0)
		return "No memory node was asked for pages of the server's former life.";
	if (reloaded.nodes_kept == 0)
		return "No memory node had pages of the server's former life that could be kept.";
	if (reloaded.pages_kept == 0)
		return "No page in the memory nodes could be kept.";
	return NULL;
}

static void
wrap_all(void)
{
	for (int id = 0; id <= RM_MAX_ID; id++)
	{
		if (!RmgrIdExists(id))
			continue;
		redo_functions[id] = RmgrTable[id].rm_redo;
		RmgrTable[id].rm_redo = legobase_redo;
	}
}

/*
 * Redo starts: rm_startup of the B-tree's resource manager, for which there is one to wrap. By now all extensions have added their own resource
 * managers, and ddl_hooks.c has wrapped what it needs.
 */
static void
redo_starts(void)
{
	next_startup();
	if (!legobase_in_use() || !AmStartupProcess())
		return;

	begun = true;
	PoolGateWait();
	smgrcloseall(); /* the agent may have extended files whose length is remembered from before */
	PoolGateGetFigures(&reloaded);
	plain_because = reason_for_plain();
	mode = plain_because ? REDO_PLAIN : redo_mode;
	if (mode == REDO_COMPARE)
		RedoCompareBegin(figures);
	figures->started = GetCurrentTimestamp();
	figures->running = true;
	began_ns = lb_now_ns();
	wrap_all();
}

static void
report_end(void)
{
	const char *detail = "Redo went from %X/%X to %X/%X. " UINT64_FORMAT
						 " pages were kept at %u of %u memory nodes, which took %.3f s; "
						 "tier 1 had come to %X/%X.";
	double mb = figures->bytes / BYTES_PER_MB;
	double seconds = figures->elapsed_us / 1e6;

	if (mode == REDO_PLAIN)
	{
		ereport(LOG, (errmsg("legobase: plain redo of " UINT64_FORMAT
							 " records, %.1f MB of WAL, took %.3f s",
							 figures->records, mb, seconds),
					  errdetail_internal("%s", plain_because)));
		return;
	}
	if (mode == REDO_SKIP)
		ereport(LOG,
				(errmsg("legobase: redo skipped " UINT64_FORMAT " of " UINT64_FORMAT
						" records, %.1f of %.1f MB of WAL, and took %.3f s",
						figures->skipped, figures->records, figures->bytes_skipped / BYTES_PER_MB,
						mb, seconds),
				 errdetail(detail, LSN_FORMAT_ARGS(figures->start), LSN_FORMAT_ARGS(figures->end),
						   reloaded.pages_kept, reloaded.nodes_kept, reloaded.nodes,
						   reloaded.elapsed_us / 1e6, LSN_FORMAT_ARGS(reloaded.tier1))));
	else
		ereport(LOG,
				(errmsg("legobase: redo of " UINT64_FORMAT
						" records, %.1f MB of WAL, took %.3f s; of " UINT64_FORMAT
						" pages compared with their remote copies, " UINT64_FORMAT
						" are different, " UINT64_FORMAT " could not be compared",
						figures->records, mb, seconds, figures->compared, figures->different,
						figures->not_compared),
				 errdetail(detail, LSN_FORMAT_ARGS(figures->start), LSN_FORMAT_ARGS(figures->end),
						   reloaded.pages_kept, reloaded.nodes_kept, reloaded.nodes,
						   reloaded.elapsed_us / 1e6, LSN_FORMAT_ARGS(reloaded.tier1))));
}

/* Redo has ended: the B-tree's rm_cleanup. */
static void
redo_ends(void)
{
	next_cleanup();
	if (!legobase_in_use() || !figures->running)
		return;

	if (mode == REDO_COMPARE)
		RedoCompareEnd();
	figures->elapsed_us = (lb_now_ns() - began_ns) / NS_PER_US;
	figures->finished = true;
	figures->running = false;
	report_end();
}

void
RedoSkipInstall(void)
{
	next_startup = RmgrTable[RM_BTREE_ID].rm_startup;
	next_cleanup = RmgrTable[RM_BTREE_ID].rm_cleanup;
	RmgrTable[RM_BTREE_ID].rm_startup = redo_starts;
	RmgrTable[RM_BTREE_ID].rm_cleanup = redo_ends;
}
