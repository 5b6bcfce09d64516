/*
 * page_dirty.c
 *	  Dirty pages of the page directory: those whose newest version is in remote memory and not in their files.
 *
 * docs/write_back.md has the rules. An entry's DIRTY and GENERATION flags change with its partition's lock held exclusively. Every
 * dirty entry is counted for its node, its generation and its relation; a version that replaces another is counted
 * first, so that none of the sums passes through zero while the page stays dirty.
 */
#include "postgres.h"

#include "storage/shmem.h"

#include "page_directory_internal.h"
#include "settings.h"

/* By a hash of the relation: one that has no dirty page, the common case, needs no fence when it is truncated or dropped. */
#define RELATION_DIRTY_COUNTERS 1024

typedef struct PageDirty
{
	pg_atomic_uint32 all;
	pg_atomic_uint32 nodes[MAX_NODES];
	pg_atomic_uint32 generations[2]; /* by parity */
	pg_atomic_uint32 present;        /* the parity of the present generation */
	pg_atomic_uint64 flip_version;   /* the first version that the last flip did not concern */
	pg_atomic_uint32 relations[RELATION_DIRTY_COUNTERS];
} PageDirty;

static PageDirty *dirty;

Size
page_dirty_shmem_size(void)
{
	return CACHELINEALIGN(sizeof(PageDirty));
}

void
page_dirty_shmem_init(void)
{
	bool found;

	dirty = ShmemInitStruct("legobase dirty pages", sizeof(PageDirty), &found);
	if (!found)
		page_dirty_clear();
}

void
page_dirty_clear(void)
{
	pg_atomic_init_u32(&dirty->all, 0);
	for (int i = 0; i < MAX_NODES; i++)
		pg_atomic_init_u32(&dirty->nodes[i], 0);
	pg_atomic_init_u32(&dirty->generations[0], 0);
	pg_atomic_init_u32(&dirty->generations[1], 0);
	pg_atomic_init_u32(&dirty->present, 0);
	pg_atomic_init_u64(&dirty->flip_version, 0);
	for (int i = 0; i < RELATION_DIRTY_COUNTERS; i++)
		pg_atomic_init_u32(&dirty->relations[i], 0);
}

static pg_atomic_uint32 *
relation_dirty_counter(const lb_page_tag *tag)
{
	uint32 hash = (tag->relation * 31 + tag->database) * UINT32_C(0x9e3779b1);

	return &dirty->relations[(hash >> 8) % RELATION_DIRTY_COUNTERS];
}

static int
node_of(uint32 entry)
{
	lb_slot_ref slot;

	return SlabTableSlot(entry, &slot);
}

static inline uint32
generation_of(uint32 state)
{
	return (state & GENERATION) ? 1 : 0;
}

/* The flags are the caller's to set: the entry is not linked yet. */
static void
count_dirty(uint32 entry, const lb_page_tag *tag, uint32 generation)
{
	pg_atomic_fetch_add_u32(&dirty->all, 1);
	pg_atomic_fetch_add_u32(&dirty->nodes[node_of(entry)], 1);
	pg_atomic_fetch_add_u32(&dirty->generations[generation], 1);
	pg_atomic_fetch_add_u32(relation_dirty_counter(tag), 1);
}

uint32
page_count_dirty(uint32 entry, const lb_page_tag *tag)
{
	uint32 generation = pg_atomic_read_u32(&dirty->present);

	count_dirty(entry, tag, generation);
	return DIRTY | (generation ? GENERATION : 0);
}

void
page_mark_clean(uint32 entry)
{
	PageDirectoryEntry *marked = &page_entries[entry];
	uint32 state = pg_atomic_fetch_and_u32(&marked->state, ~(DIRTY | GENERATION));

	if (!(state & DIRTY))
		return;
	pg_atomic_fetch_sub_u32(relation_dirty_counter(&marked->tag), 1);
	pg_atomic_fetch_sub_u32(&dirty->generations[generation_of(state)], 1);
	pg_atomic_fetch_sub_u32(&dirty->nodes[node_of(entry)], 1);
	pg_atomic_fetch_sub_u32(&dirty->all, 1);
}

uint64
PageDirectoryLinkDirty(uint32 entry, const lb_page_tag *tag, uint64 checksum, uint32 comm_buffer,
					   uint32 usage)
{
	Bucket bucket = bucket_of(tag);
	uint64 version = 0;
	uint32 old;
	uint32 old_state = 0;
	uint32 generation = pg_atomic_read_u32(&dirty->present);

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	old = find_in(&bucket, tag);
	if (old != INVALID_ENTRY)
		old_state = pg_atomic_read_u32(&page_entries[old].state);
	if (SlabTableStateOfEntry(entry) == SLAB_ACTIVE &&
		(!(old_state & DIRTY) || node_of(old) == node_of(entry)))
	{
		/* The file has neither this version nor the one it replaces: a checkpoint that waits for that one waits for this. */
		if (old_state & DIRTY)
			generation = generation_of(old_state);
		count_change(&bucket);
		count_dirty(entry, tag, generation);
		if (old != INVALID_ENTRY)
		{
			usage = Max(usage, USAGE(old_state));
			page_unlink_entry(&bucket, old);
		}
		version = page_link_entry(&bucket, entry, tag, checksum, comm_buffer, usage,
								  DIRTY | (generation ? GENERATION : 0));
	}
	LWLockRelease(bucket.lock);
	if (version == 0)
		PageDirectoryUnreserve(entry);
	return version;
}

int
PageDirectoryDirtyNode(const lb_page_tag *tag)
{
	Bucket bucket = bucket_of(tag);
	uint32 entry;
	int node = -1;

	if (!PageDirectoryMayHoldDirty(tag))
		return -1;
	LWLockAcquire(bucket.lock, LW_SHARED);
	entry = find_in(&bucket, tag);
	if (entry != INVALID_ENTRY && (pg_atomic_read_u32(&page_entries[entry].state) & DIRTY))
		node = node_of(entry);
	LWLockRelease(bucket.lock);
	return node;
}

/*
 * A newer version is linked, of the older generation, and this one, which the flip did not concern, is durable: then all that was
 * there at the flip is durable, and the checkpoint need not wait for the newer one.
 */
static void
release_from_checkpoint(uint32 entry, uint32 state, uint64 version)
{
	uint32 present = pg_atomic_read_u32(&dirty->present);

	pg_read_barrier(); /* the flip version that goes with it, or a later one */
	if (generation_of(state) == present || version < pg_atomic_read_u64(&dirty->flip_version))
		return;
	pg_atomic_fetch_add_u32(&dirty->generations[present], 1);
	if (present)
		pg_atomic_fetch_or_u32(&page_entries[entry].state, GENERATION);
	else
		pg_atomic_fetch_and_u32(&page_entries[entry].state, ~GENERATION);
	pg_atomic_fetch_sub_u32(&dirty->generations[1 - present], 1);
}

void
PageDirectoryClean(const lb_page_tag *tag, uint64 version)
{
	Bucket bucket = bucket_of(tag);
	uint32 entry;

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	entry = find_in(&bucket, tag);
	if (entry != INVALID_ENTRY)
	{
		uint32 state = pg_atomic_read_u32(&page_entries[entry].state);

		if ((state & DIRTY) && page_entries[entry].version == version)
			page_mark_clean(entry);
		else if ((state & DIRTY) && page_entries[entry].version > version)
			release_from_checkpoint(entry, state, version);
	}
	LWLockRelease(bucket.lock);
}

uint32
PageDirectoryDirty(void)
{
	return pg_atomic_read_u32(&dirty->all);
}

uint32
PageDirectoryDirtyOfNode(int node)
{
	return pg_atomic_read_u32(&dirty->nodes[node]);
}

bool
PageDirectoryMayHoldDirty(const lb_page_tag *tag)
{
	return pg_atomic_read_u32(relation_dirty_counter(tag)) != 0;
}

uint32
PageDirectoryOlderDirty(void)
{
	return pg_atomic_read_u32(&dirty->generations[1 - pg_atomic_read_u32(&dirty->present)]);
}

void
PageDirectoryFlip(void)
{
	/* In this order: whoever links a version below it may still take the generation that becomes the older one. */
	pg_atomic_write_u64(&dirty->flip_version, PageDirectoryNextVersion());
	pg_memory_barrier();
	pg_atomic_write_u32(&dirty->present, 1 - pg_atomic_read_u32(&dirty->present));
	pg_memory_barrier();
}

bool
PageDirectoryIsLinked(uint32 entry)
{
	return (pg_atomic_read_u32(&page_entries[entry].state) & LINKED) != 0;
}

bool
PageDirectoryIsDirty(uint32 entry)
{
	return (pg_atomic_read_u32(&page_entries[entry].state) & DIRTY) != 0;
}
