/*
 * page_directory_internal.h
 *	  The page directory's inside, for page_directory.c, page_dirty.c, page_forget.c and page_reload.c only.
 */
#ifndef LEGOBASE_PAGE_DIRECTORY_INTERNAL_H
#define LEGOBASE_PAGE_DIRECTORY_INTERNAL_H

#include "access/xlogdefs.h"

#include "page_directory.h"
#include "slab_table.h"

/*
 * An entry's state: references in the low bits, then how recently it was used, then flags. One word, so that a reader can
 * pin an entry and count its use with one compare-and-swap.
 */
#define REF_ONE UINT32_C(1)
#define REF_MASK UINT32_C(0x000fffff)
#define USAGE_ONE UINT32_C(0x00100000)
#define USAGE_MASK UINT32_C(0x00300000)
#define LINKED UINT32_C(0x00400000)     /* found through the hash table */
#define IN_FLIGHT UINT32_C(0x00800000)  /* the push has not ended */
#define NODE_HOLDS UINT32_C(0x01000000) /* the memory node may hold something in the slot */
#define DIRTY UINT32_C(0x02000000)      /* the file has something older; only while linked */
#define GENERATION UINT32_C(0x04000000) /* of a dirty page: the parity of its generation */
#define LSN_KNOWN \
	UINT32_C(0x08000000)             /* reloaded: comm_buffer says up to where; see page_reload.c */
#define DURABLE UINT32_C(0x10000000) /* reloaded: the file surely has it */

#define REFS(state) ((state) &REF_MASK)
#define USAGE(state) (((state) &USAGE_MASK) / USAGE_ONE)

typedef struct PageDirectory
{
	uint32 entries;
	uint32 buckets; /* a power of two, at least DIRECTORY_PARTITIONS */
	pg_atomic_uint32 used;
	pg_atomic_uint64 next_version;
	pg_atomic_uint32 everything; /* changes of many pages at once; see PageStamp */
	pg_atomic_uint32 changes[DIRECTORY_PARTITIONS];
	uint32 relation_counters; /* a power of two */
	XLogRecPtr redo_base;     /* LSNs of reloaded pages are kept relative to this */
} PageDirectory;

extern PageDirectory *page_directory;
extern uint32 *page_bucket_heads;
extern pg_atomic_uint32 *page_relation_counters;
extern PageDirectoryEntry *page_entries;
extern LWLockPadded *page_locks;

/* Where a page's chain is. */
typedef struct Bucket
{
	uint32 *head;
	uint32 partition;
	LWLock *lock;
} Bucket;

static inline Bucket
bucket_of(const lb_page_tag *tag)
{
	uint32 number = (uint32) lb_page_tag_hash(tag) & (page_directory->buckets - 1);
	Bucket bucket;

	bucket.head = &page_bucket_heads[number];
	bucket.partition = number % DIRECTORY_PARTITIONS;
	bucket.lock = &page_locks[bucket.partition].lock;
	return bucket;
}

static inline pg_atomic_uint32 *
relation_counter(const lb_page_tag *tag)
{
	uint32 hash = (tag->relation * 31 + tag->fork) * UINT32_C(0x9e3779b1) ^ tag->database;

	return &page_relation_counters[(hash >> 8) & (page_directory->relation_counters - 1)];
}

/* The partition's lock must be held. */
static inline uint32
find_in(const Bucket *bucket, const lb_page_tag *tag)
{
	uint32 at = *bucket->head;

	while (at != INVALID_ENTRY && !lb_page_tag_equal(&page_entries[at].tag, tag))
		at = page_entries[at].next;
	return at;
}

static inline void
count_change(const Bucket *bucket)
{
	pg_atomic_fetch_add_u32(&page_directory->changes[bucket->partition], 1);
}

/* Let references go, and flags with them; the last one frees the slot. */
static inline void
drop(uint32 entry, uint32 refs_and_flags)
{
	uint32 before = pg_atomic_fetch_sub_u32(&page_entries[entry].state, refs_and_flags);

	Assert(REFS(before) >= REFS(refs_and_flags));
	if (REFS(before) == REFS(refs_and_flags))
		SlabTablePutFree(entry);
}

/* Put a described entry into its chain, which makes it linked but for its flags. The partition's lock must be held exclusively. */
extern void page_put_in(const Bucket *bucket, uint32 entry);

/* Take a linked entry out of its chain; its flags and the link's reference are the caller's. The lock as above. */
extern void page_take_out(const Bucket *bucket, uint32 entry);

/* Take a linked entry out of the directory, dirty or not. The partition's lock must be held exclusively. */
extern void page_unlink_entry(const Bucket *bucket, uint32 entry);

/* No entry is linked or in use, no page counted. */
extern void page_clear_all(void);

/*
 * Describe a reserved entry, and put it into its chain, with a new version, which is returned. flags: DIRTY and its generation, or
 * 0. The reservation's reference becomes the link's; one more is the push's. The partition's lock must be held exclusively.
 */
extern uint64 page_link_entry(const Bucket *bucket, uint32 entry, const lb_page_tag *tag,
							  uint64 checksum, uint32 comm_buffer, uint32 usage, uint32 flags);

/* page_dirty.c. The entry is linked, its partition's lock held exclusively; nothing happens if it is not dirty. */
extern void page_mark_clean(uint32 entry);

/* Count an entry that is about to be linked as dirty in the present generation; returns the flags that say so. */
extern uint32 page_count_dirty(uint32 entry, const lb_page_tag *tag);

extern Size page_dirty_shmem_size(void);
extern void page_dirty_shmem_init(void);
extern void page_dirty_clear(void);

/* page_reload.c: what is known of a reloaded entry is not known any more. The partition's lock must be held exclusively. */
extern void page_forget_reloaded(uint32 entry);

#endif /* LEGOBASE_PAGE_DIRECTORY_INTERNAL_H */
