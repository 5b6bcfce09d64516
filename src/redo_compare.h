/*
 * redo_compare.h
 *	  legobase.redo = compare: redo everything, and look whether the remote copies of pages, by which records would be skipped, are what redo
 *	  comes to (docs/recovery.md, section 6).
 *
 * For the startup process, in crash recovery. Memory is limited to COMPARE_MEMORY; what does not fit is not compared, and counted.
 */
#ifndef LEGOBASE_REDO_COMPARE_H
#define LEGOBASE_REDO_COMPARE_H

#include "postgres.h"

#include "access/xlogreader.h"
#include "access/xlogrecord.h"

#include "lb_page.h"
#include "redo_skip.h"

#define COMPARE_MEMORY (64 * 1024 * 1024)

static inline lb_page_tag
redo_page_tag(const RelFileNode *rnode, ForkNumber fork, BlockNumber block)
{
	lb_page_tag tag = {.tablespace = rnode->spcNode,
					   .database = rnode->dbNode,
					   .relation = rnode->relNode,
					   .fork = (uint32) fork,
					   .block = block};

	return tag;
}

/* Will redo of the record restore or initialise this page, whatever state it is in? */
static inline bool
redo_makes_anew(const DecodedBkpBlock *block)
{
	return block->apply_image || (block->flags & BKPBLOCK_WILL_INIT);
}

/* What it finds is counted in figures: compared, different, not_compared. */
extern void RedoCompareBegin(RedoFigures *figures);

/*
 * Around the redo of each record. Before: copies the remote pages that the record takes back to an older state, if it might be skipped
 * otherwise. After: compares those that have come to the state of their copies.
 */
extern void RedoCompareBefore(XLogReaderState *record, bool might_be_skipped);
extern void RedoCompareAfter(XLogReaderState *record);

/* What has not been compared will not be. */
extern void RedoCompareEnd(void);

#endif /* LEGOBASE_REDO_COMPARE_H */
