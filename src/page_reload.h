/*
 * page_reload.h
 *	  The page directory's part in coming back to a pool that a former life of the server has left (docs/recovery.md).
 *
 * All but the redo bound is for the agent, while the gate is closed: nobody else uses the directory then, but for views.
 */
#ifndef LEGOBASE_PAGE_RELOAD_H
#define LEGOBASE_PAGE_RELOAD_H

#include "postgres.h"

#include "access/xlogdefs.h"

#include "page_directory.h"

typedef struct PageReload
{
	lb_page_tag tag;
	uint64 version;
	uint64 checksum;
	XLogRecPtr lsn; /* in the page's header; 0: none */
	bool dirty;
	bool
		durable; /* the node has written and synced it once; if it is dirty too, the file may have been written by others since */
} PageReload;

/* LSNs are kept relative to this: the redo point of pg_control. Before the first PageDirectoryReload. */
extern void PageDirectorySetRedoBase(XLogRecPtr redo);

/*
 * Link a page to the entry of the slot that has it, in a slab that was added for it (SlabTableAdd; its free list is made anew by
 * SlabTableRebuildFree afterwards, and useless until then). Each entry at most once: a node that lists a slot twice
 * (PageDirectoryIsLinked, or it was returned here) is not to be believed. If another entry has the page, the higher version stays, of equal ones
 * either. Returns the entry that lost, which is not linked (its node still holds something there: PageDirectoryTakeRelease), or
 * INVALID_ENTRY. Raises the next version above this one.
 */
extern uint32 PageDirectoryReload(uint32 entry, const PageReload *page);

/*
 * A linked, reloaded entry as it was given to PageDirectoryReload, but for its LSN: if that was above the redo base, a lower bound that is
 * above it as well; else 0. False if it is not linked. For the check of the files, before the gate is opened.
 */
extern bool PageDirectoryGetReloaded(uint32 entry, PageReload *page);

/* Discard it after all, before SlabTableRebuildFree: unlink, without a fence, dirty or not. Its node still holds it, as above. */
extern void PageDirectoryDiscardReloaded(uint32 entry);

/* An agent died while reloading: no page is linked, no slab is used. Versions go on from where they were. */
extern void PageDirectoryReset(void);

/*
 * Startup process: up to which LSN is the remote copy of this page known to be? A lower bound; false if nothing is known, it is not above
 * the base, or the page was not dirty when it was reloaded. Shared lock.
 */
extern bool PageDirectoryRedoBound(const lb_page_tag *tag, XLogRecPtr *lsn);

/* Startup process: redo has taken this page back to an older state; its bound is not known any more. */
extern void PageDirectoryForgetRedoBound(const lb_page_tag *tag);

#endif /* LEGOBASE_PAGE_RELOAD_H */
