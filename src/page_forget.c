/*
 * page_forget.c
 *	  Forgetting many pages at once: of relations, of databases, of slabs.
 */
#include "postgres.h"

#include "page_directory_internal.h"

static bool
selected(const PageSelection *selection, const lb_page_tag *tag)
{
	const lb_page_tag *from = &selection->from;

	if (selection->by_tablespace && tag->tablespace != from->tablespace)
		return false;
	if (selection->by_database && tag->database != from->database)
		return false;
	if (selection->by_relation && tag->relation != from->relation)
		return false;
	if (selection->by_fork &&
		(tag->fork != from->fork || tag->block < from->block || tag->block >= selection->end))
		return false;
	return true;
}

/* Is it one of those that stay because they are dirty? The partition's lock must be held. */
static inline bool
stays(const PageSelection *selection, uint32 entry)
{
	return selection->clean_only && (pg_atomic_read_u32(&page_entries[entry].state) & DIRTY);
}

/* Forget one entry if it is linked, and selected. */
static bool
forget_entry(uint32 number, const PageSelection *selection)
{
	PageDirectoryEntry *entry = &page_entries[number];
	lb_page_tag tag;
	Bucket bucket;
	bool forgotten = false;

	if ((pg_atomic_read_u32(&entry->state) & LINKED) == 0)
		return false;
	tag = entry->tag;
	if (!selected(selection, &tag))
		return false;
	bucket = bucket_of(&tag);
	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	if (find_in(&bucket, &tag) == number && !stays(selection, number))
	{
		count_change(&bucket);
		page_unlink_entry(&bucket, number);
		forgotten = true;
	}
	LWLockRelease(bucket.lock);
	return forgotten;
}

/* Look up each block of the selected range. */
static uint64
forget_blocks(const PageSelection *selection)
{
	lb_page_tag tag = selection->from;
	uint64 forgotten = 0;

	for (; tag.block < selection->end; tag.block++)
	{
		Bucket bucket = bucket_of(&tag);
		uint32 entry;

		LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
		entry = find_in(&bucket, &tag);
		if (entry != INVALID_ENTRY && !stays(selection, entry))
		{
			page_unlink_entry(&bucket, entry);
			forgotten++;
		}
		LWLockRelease(bucket.lock);
	}
	return forgotten;
}

bool
PageDirectoryMayHoldFork(const lb_page_tag *tag)
{
	return pg_atomic_read_u32(relation_counter(tag)) != 0;
}

uint64
PageDirectoryForgetSelected(const PageSelection *selection)
{
	uint64 forgotten = 0;
	bool exact = selection->by_tablespace && selection->by_database && selection->by_relation &&
				 selection->by_fork;

	/* Reads of such pages that are under way must not be linked afterwards. */
	pg_atomic_fetch_add_u32(&page_directory->everything, 1);

	if (exact && !PageDirectoryMayHoldFork(&selection->from))
		return 0;

	/* A look-up costs about as much as looking at eight entries one after the other. */
	if (exact && selection->end != InvalidBlockNumber &&
		(uint64) (selection->end - selection->from.block) * 8 < page_directory->entries)
		return forget_blocks(selection);

	for (uint32 i = 0; i < page_directory->entries; i++)
		forgotten += forget_entry(i, selection);
	return forgotten;
}

uint64
PageDirectoryForgetRange(uint32 from, uint32 to)
{
	PageSelection all_clean = {.clean_only = true};
	uint64 forgotten = 0;

	for (uint32 i = from; i < to; i++)
		forgotten += forget_entry(i, &all_clean);
	return forgotten;
}
