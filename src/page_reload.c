/*
 * page_reload.c
 *	  The page directory's part in coming back to a pool that a former life of the server has left.
 *
 * The LSN of a reloaded page that is above the redo base is kept in the entry's comm_buffer, which is unused unless the page is in
 * flight: its distance from the base in units of eight bytes, rounded down and saturated. What is above the base by less than a unit is
 * kept as 0 units, and read as the base plus one. LSN_KNOWN says that it is there.
 */
#include "postgres.h"

#include "comm_buffer.h"
#include "page_directory_internal.h"
#include "page_reload.h"

#define LSN_UNIT 8
#define LSN_UNITS_MAX (PG_UINT32_MAX - 1)

StaticAssertDecl(LSN_UNITS_MAX != INVALID_COMM_BUFFER, "a distance is told from no comm buffer");

void
PageDirectorySetRedoBase(XLogRecPtr redo)
{
	page_directory->redo_base = redo;
}

/* The bound that is kept in an entry; 0 if there is none. */
static XLogRecPtr
known_lsn(uint32 entry)
{
	if (!(pg_atomic_read_u32(&page_entries[entry].state) & LSN_KNOWN))
		return InvalidXLogRecPtr;
	return page_directory->redo_base +
		   Max((uint64) page_entries[entry].comm_buffer * LSN_UNIT, UINT64_C(1));
}

void
page_forget_reloaded(uint32 entry)
{
	PageDirectoryEntry *reloaded = &page_entries[entry];
	uint32 state = pg_atomic_read_u32(&reloaded->state);

	if (!(state & (LSN_KNOWN | DURABLE)))
		return;
	pg_atomic_fetch_and_u32(&reloaded->state, ~(LSN_KNOWN | DURABLE));
	reloaded->comm_buffer = INVALID_COMM_BUFFER;
}

static void
raise_next_version(uint64 version)
{
	if (pg_atomic_read_u64(&page_directory->next_version) <= version)
		pg_atomic_write_u64(&page_directory->next_version, version + 1);
}

/* Its slab's free list is made anew afterwards, so the entry is not put there. */
static void
unlink_reloaded(const Bucket *bucket, uint32 entry)
{
	page_mark_clean(entry);
	page_take_out(bucket, entry);
	pg_atomic_write_u32(&page_entries[entry].state, NODE_HOLDS);
}

/*
 * The partition's lock must be held exclusively. The state comes last: views look at it first. Only a dirty page has a bound: it will
 * be written before the next checkpoint ends. Of any other the file may have something older, by a sync that failed or a life of the server that did not
 * know of this page, and only redo makes it write the page again.
 */
static void
link_reloaded(const Bucket *bucket, uint32 entry, const PageReload *page)
{
	PageDirectoryEntry *reloaded = &page_entries[entry];
	uint32 state = REF_ONE | LINKED | NODE_HOLDS;

	if (page->dirty)
		state |= page_count_dirty(entry, &page->tag) | USAGE_WRITTEN * USAGE_ONE;
	else
		state |= USAGE_FIRST_READ * USAGE_ONE;
	if (page->durable)
		state |= DURABLE;
	if (page->lsn > page_directory->redo_base && page->dirty)
	{
		state |= LSN_KNOWN;
		reloaded->comm_buffer =
			(uint32) Min((page->lsn - page_directory->redo_base) / LSN_UNIT, LSN_UNITS_MAX);
	}
	page_put_in(bucket, entry);
	pg_atomic_write_u32(&reloaded->state, state);
}

uint32
PageDirectoryReload(uint32 entry, const PageReload *page)
{
	PageDirectoryEntry *reloaded = &page_entries[entry];
	Bucket bucket = bucket_of(&page->tag);
	uint32 loser;

	Assert(pg_atomic_read_u32(&reloaded->state) == 0);
	raise_next_version(page->version);
	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	loser = find_in(&bucket, &page->tag);
	reloaded->tag = page->tag;
	reloaded->version = page->version;
	reloaded->checksum = page->checksum;
	if (loser != INVALID_ENTRY && page_entries[loser].version >= page->version)
	{
		pg_atomic_write_u32(&reloaded->state, NODE_HOLDS);
		loser = entry;
	}
	else
	{
		if (loser != INVALID_ENTRY)
			unlink_reloaded(&bucket, loser);
		link_reloaded(&bucket, entry, page);
	}
	LWLockRelease(bucket.lock);
	return loser;
}

bool
PageDirectoryGetReloaded(uint32 entry, PageReload *page)
{
	PageDirectoryEntry *reloaded = &page_entries[entry];
	uint32 state = pg_atomic_read_u32(&reloaded->state);

	if (!(state & LINKED))
		return false;
	page->tag = reloaded->tag;
	page->version = reloaded->version;
	page->checksum = reloaded->checksum;
	page->lsn = known_lsn(entry);
	page->dirty = (state & DIRTY) != 0;
	page->durable = (state & DURABLE) != 0;
	return true;
}

void
PageDirectoryDiscardReloaded(uint32 entry)
{
	Bucket bucket;

	if (!PageDirectoryIsLinked(entry))
		return;
	bucket = bucket_of(&page_entries[entry].tag);
	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	unlink_reloaded(&bucket, entry);
	LWLockRelease(bucket.lock);
}

void
PageDirectoryReset(void)
{
	/* Views may be following chains: those are emptied under their locks, before the entries that they lead to. */
	for (uint32 partition = 0; partition < DIRECTORY_PARTITIONS; partition++)
	{
		LWLockAcquire(&page_locks[partition].lock, LW_EXCLUSIVE);
		for (uint32 i = partition; i < page_directory->buckets; i += DIRECTORY_PARTITIONS)
			page_bucket_heads[i] = INVALID_ENTRY;
		LWLockRelease(&page_locks[partition].lock);
	}
	page_clear_all();
	page_dirty_clear();
	SlabTableReset();
}

bool
PageDirectoryRedoBound(const lb_page_tag *tag, XLogRecPtr *lsn)
{
	Bucket bucket = bucket_of(tag);
	uint32 entry;

	LWLockAcquire(bucket.lock, LW_SHARED);
	entry = find_in(&bucket, tag);
	*lsn = entry == INVALID_ENTRY ? InvalidXLogRecPtr : known_lsn(entry);
	LWLockRelease(bucket.lock);
	return !XLogRecPtrIsInvalid(*lsn);
}

void
PageDirectoryForgetRedoBound(const lb_page_tag *tag)
{
	Bucket bucket = bucket_of(tag);
	uint32 entry;

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	entry = find_in(&bucket, tag);
	if (entry != INVALID_ENTRY)
		page_forget_reloaded(entry);
	LWLockRelease(bucket.lock);
}
