/*
 * page_directory.h
 *	  The page directory: which page is in which slot of remote memory, in which version. (PHASH and LRU_RBP of the
 *	  LegoBase paper.)
 *
 * There is one entry for each slot, so an entry's index is its slot's number, and an entry that is linked into the hash
 * table says: this slot holds this page. A page that is pushed again gets another slot; the entry of the old version is
 * unlinked at that moment and its slot becomes free when nobody uses it any more. So what a linked entry says about its
 * page never changes, except that a push under way becomes complete.
 *
 * States of an entry, and who changes them (docs/locking.md has the arguments):
 *
 *	  free		in its slab's list of free slots (slab_table.h)
 *	  reserved	taken from the list, or from a victim, by one backend that is about to push a page; not linked
 *	  in flight linked; the page is on its way: readers copy it from the comm buffer
 *	  remote	linked; the page is in the slot: readers read it from the memory node
 *	  unlinked	no longer found; pinned by readers or by the push under way until they are done
 *
 *	  free -> reserved -> in flight -> remote -> (victim: reserved) | (unlinked -> free)
 *	  free -> remote	the agent, before anybody else uses the directory: page_reload.h
 *
 * Links are changed with the partition's lock held exclusively, and followed with it held in shared mode. The reference
 * count (one for being linked, one for a push under way, one for each pin) is atomic; who brings it to zero frees the slot.
 */
#ifndef LEGOBASE_PAGE_DIRECTORY_H
#define LEGOBASE_PAGE_DIRECTORY_H

#include "port/atomics.h"
#include "storage/block.h"
#include "storage/lwlock.h"

#include "lb_page.h"

#define DIRECTORY_PARTITIONS 128
#define DIRECTORY_LOCKS "legobase_directory"

#define INVALID_ENTRY UINT32_MAX
#define INVALID_COMM_BUFFER UINT32_MAX

/* How recently used: what the clock counts down. A first read is admitted in the middle of the order. */
#define USAGE_FIRST_READ 1
#define USAGE_WRITTEN 2
#define USAGE_MAX 3

typedef struct PageDirectoryEntry
{
	lb_page_tag tag;
	uint32 next;            /* in the hash chain, or in the slab's list of free slots */
	uint64 version;         /* of the page; higher is newer */
	uint64 checksum;        /* lb_page_checksum of the page */
	pg_atomic_uint32 state; /* reference count, usage, flags; page_directory.c */
	uint32 comm_buffer;     /* while in flight; means something else in a reloaded entry */
} PageDirectoryEntry;

/* A pinned page, as PageDirectoryPin found it. */
typedef struct PagePin
{
	uint32 entry;
	uint32 comm_buffer; /* retained; INVALID_COMM_BUFFER when the page is in its slot */
	uint64 version;
	uint64 checksum;
	bool dirty; /* the file has something older: never read it instead (rule R4) */
} PagePin;

/* What a page's changes looked like when a read began; see PageDirectoryStamp. */
typedef struct PageStamp
{
	uint32 partition;
	uint32 everything;
} PageStamp;

extern Size PageDirectoryShmemSize(void);
extern void PageDirectoryShmemInit(void);

/* The entry with this index; for placement, the agent and the views. */
extern PageDirectoryEntry *PageDirectoryEntryAt(uint32 entry);

/*
 * Find a page and pin it, so that its slot keeps holding it. If it is in flight its comm buffer is retained as well.
 * count_use raises its usage. Shared lock. False if the page is not in remote memory.
 */
extern bool PageDirectoryPin(const lb_page_tag *tag, bool count_use, PagePin *pin);

/* Give the pin (and the comm buffer) back. */
extern void PageDirectoryUnpin(const PagePin *pin);

/*
 * Is the page remote in exactly this version, in exactly this entry? Shared lock; no pin. For copies read ahead.
 */
extern bool PageDirectoryStillHolds(const lb_page_tag *tag, uint32 entry, uint64 version);

/*
 * Find a page without pinning it, for a reader ahead of time. found->comm_buffer, which is not retained, only tells whether
 * the page is in flight. Shared lock.
 */
extern bool PageDirectoryPeek(const lb_page_tag *tag, PagePin *found);

/*
 * Take the stamp before reading a page from storage. PageDirectoryLink refuses a page whose stamp is no longer true: what
 * was read may be older than what was written, truncated or dropped since. (pg_prewarm reads without buffer locks.)
 */
extern PageStamp PageDirectoryStamp(const lb_page_tag *tag);

/*
 * Forget a page, before it is written or after it was found damaged. Exclusive lock. Counts as a change for stamps.
 */
extern void PageDirectoryForget(const lb_page_tag *tag);

/* Forget a page only if it is still this entry in this version. For damaged copies. */
extern void PageDirectoryForgetVersion(const lb_page_tag *tag, uint32 entry, uint64 version);

/*
 * Link a reserved entry: the page with this checksum is now in flight in this comm buffer. Replaces an older version.
 * stamp: of a page that was read; null for one that was written. Returns the version, or 0 when it was refused; then the
 * entry is free again. Refused is a read page whose stamp is no longer true, or that is linked already (that copy is as
 * good), and any page if the slab is being given up; the old version of a written page is forgotten all the same.
 */
extern uint64 PageDirectoryLink(uint32 entry, const lb_page_tag *tag, uint64 checksum,
								uint32 comm_buffer, const PageStamp *stamp, uint32 usage);

/*
 * The same for a page that is written back: it becomes dirty. Refused, with nothing changed, if the slab is being given up or the old
 * version is dirty on another node; then the entry is free again.
 */
extern uint64 PageDirectoryLinkDirty(uint32 entry, const lb_page_tag *tag, uint64 checksum,
									 uint32 comm_buffer, uint32 usage);

/*
 * The push of an entry has ended; called once for each linked entry, by the agent. published: the page is in its slot.
 * Otherwise it is forgotten, if it is still linked. The caller releases the comm buffer afterwards.
 */
extern void PageDirectoryPushEnded(uint32 entry, bool published);

/* Reserve an entry that was just taken from a list of free slots; put back a reserved one that was not linked. */
extern void PageDirectoryReserve(uint32 entry);
extern void PageDirectoryUnreserve(uint32 entry);

/*
 * Make a free slot out of a page that is in its slot, unpinned and of usage 0: for the clock. still_wanted is asked with
 * no lock held (is the page in shared_buffers?), and may be null. Returns true with the entry reserved. A usage above 0 is
 * counted down by one.
 */
extern bool PageDirectoryTryEvict(uint32 entry, bool (*still_wanted)(const lb_page_tag *tag));

/*
 * Dirty pages: their newest version is in remote memory, or on its way there, and not in the file. docs/write_back.md has the
 * rules. Forgetting such a page loses it, unless a fence goes with it: callers of the functions that forget see to that.
 */

/* The node that has the page's dirty version, or will have it; -1 if the page is not dirty or not remote. Shared lock. */
extern int PageDirectoryDirtyNode(const lb_page_tag *tag);

/* Agent: this version of the page is durable in its file. See docs/write_back.md, section 5, for what a newer one gains. */
extern void PageDirectoryClean(const lb_page_tag *tag, uint64 version);

/* Dirty pages: all, those of a node. Momentary figures. */
extern uint32 PageDirectoryDirty(void);
extern uint32 PageDirectoryDirtyOfNode(int node);

/* False: surely no page of this relation (any fork) is dirty. */
extern bool PageDirectoryMayHoldDirty(const lb_page_tag *tag);

/*
 * The generations of a checkpoint. OlderDirty: entries of the older generation that are dirty. Flip, when that is 0: the present generation
 * becomes the older one. Only the checkpointer flips.
 */
extern uint32 PageDirectoryOlderDirty(void);
extern void PageDirectoryFlip(void);

/* The version that the next page will get: every version linked so far is below it. */
extern uint64 PageDirectoryNextVersion(void);

/* Agent: is the entry, whose push is under way, still linked? And is it dirty? */
extern bool PageDirectoryIsLinked(uint32 entry);
extern bool PageDirectoryIsDirty(uint32 entry);

/*
 * Is a push from this comm buffer under way in the entry, linked still or not? For who holds the comm buffer, and does not know how far linking
 * came.
 */
extern bool PageDirectoryIsPushOf(uint32 entry, uint32 comm_buffer);

/* Which pages are meant. Unused fields hold whatever: the flags say what is compared. */
typedef struct PageSelection
{
	bool by_tablespace;
	bool by_database;
	bool by_relation;
	bool by_fork;
	bool
		clean_only; /* dirty ones stay; without it, they are lost but for a fence: see PageFenceBegin */
	lb_page_tag from; /* block: the first one meant, with by_fork */
	BlockNumber
		end; /* with by_fork: the first one not meant, InvalidBlockNumber if there is no end */
} PageSelection;

/*
 * Forget all selected pages; returns how many. On return none of them is linked, provided that nobody can push one of them
 * meanwhile (their buffers are gone, their relation is locked). Looks up each block where that is less work than
 * looking at every entry. Never fails, never allocates: may be called in a critical section.
 */
extern uint64 PageDirectoryForgetSelected(const PageSelection *selection);

/* Forget all clean pages in entries [from, to): a slab that is being given up. Dirty ones stay until they are clean. */
extern uint64 PageDirectoryForgetRange(uint32 from, uint32 to);

/* For the view: a consistent copy of one entry. False if it is not linked. */
typedef struct PageDirectoryRow
{
	lb_page_tag tag;
	uint64 version;
	uint32 usage;
	uint32 pins;
	bool in_flight;
	bool dirty;
} PageDirectoryRow;

extern bool PageDirectoryGetRow(uint32 entry, PageDirectoryRow *row);

/* False: surely no page of this fork of this relation is linked (the tag's block is not looked at). */
extern bool PageDirectoryMayHoldFork(const lb_page_tag *tag);

/* Linked entries. */
extern uint32 PageDirectoryUsed(void);

/* No references: it is in its slab's list of free slots, or may be put there. */
extern bool PageDirectoryIsUnused(uint32 entry);

/*
 * Agent, for telling memory nodes which slots hold nothing of worth any more: may the entry's slot have something there that is not
 * linked? Then true, once; the node is to empty the slot if it has *this version or an older one*. Readers that have the entry pinned
 * are not disturbed: only the slot's identity goes. The RELEASE must go out on the node's connection before any further PUSH
 * does.
 *
 * When all entries of a node's slabs (active or draining) were asked, and the RELEASEs sent, no frame that was sent before can leave a page
 * in a slot there that had been unlinked before.
 */
extern bool PageDirectoryTakeRelease(uint32 entry, uint64 *version);

/* Agent: the connection to the node of entries [from, to) broke, so RELEASEs may not have arrived: they are to be taken again. */
extern void PageDirectoryReleaseAgain(uint32 from, uint32 to);

#endif /* LEGOBASE_PAGE_DIRECTORY_H */
