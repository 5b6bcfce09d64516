/*
 * page_directory.c
 *	  The page directory: which page is in which slot of remote memory, in which version.
 *
 * A chained hash table with fixed entries, cut into partitions with a lock each. See page_directory.h for the states of an
 * entry, and docs/locking.md for the reasons why they are safe.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"
#include "storage/block.h"
#include "storage/shmem.h"

#include "comm_buffer.h"
#include "page_directory_internal.h"
#include "settings.h"

/*
 * Linked pages, counted by a hash of their relation fork: a drop of something that has none in remote memory, the common
 * case, need not look at the directory at all.
 */
#define RELATION_COUNTERS_MIN 1024
#define RELATION_COUNTERS_MAX 65536

StaticAssertDecl(sizeof(PageDirectoryEntry) == 48, "the directory is sized for 48 bytes an entry");
StaticAssertDecl(LB_PAGE_SIZE == BLCKSZ,
				 "legobase serves servers with the default block size only");

PageDirectory *page_directory;
uint32 *page_bucket_heads;
pg_atomic_uint32 *page_relation_counters;
PageDirectoryEntry *page_entries;
LWLockPadded *page_locks;

/* Between two thirds and four thirds of the entries */
static uint32
bucket_count(uint32 n)
{
	return Max(pg_nextpower2_32(Max(n / 3 * 2, 1)), DIRECTORY_PARTITIONS);
}

static Size
header_size(void)
{
	return CACHELINEALIGN(sizeof(PageDirectory));
}

static Size
buckets_size(uint32 n)
{
	return CACHELINEALIGN(mul_size(sizeof(uint32), bucket_count(n)));
}

/* One for every 16 entries */
static uint32
relation_counter_count(uint32 n)
{
	return Min(Max(pg_nextpower2_32(Max(n / 16, 1)), RELATION_COUNTERS_MIN), RELATION_COUNTERS_MAX);
}

static Size
relation_counters_size(uint32 n)
{
	return CACHELINEALIGN(mul_size(sizeof(pg_atomic_uint32), relation_counter_count(n)));
}

Size
PageDirectoryShmemSize(void)
{
	uint32 n = settings_max_pages();
	Size size = add_size(header_size(), add_size(buckets_size(n), relation_counters_size(n)));

	return add_size(add_size(size, page_dirty_shmem_size()),
					mul_size(sizeof(PageDirectoryEntry), n));
}

void
PageDirectoryShmemInit(void)
{
	uint32 n = settings_max_pages();
	bool found;
	char *memory;

	page_dirty_shmem_init();
	memory = ShmemInitStruct("legobase page directory",
							 PageDirectoryShmemSize() - page_dirty_shmem_size(), &found);
	page_directory = (PageDirectory *) memory;
	memory += header_size();
	page_bucket_heads = (uint32 *) memory;
	memory += buckets_size(n);
	page_relation_counters = (pg_atomic_uint32 *) memory;
	memory += relation_counters_size(n);
	page_entries = (PageDirectoryEntry *) memory;
	page_locks = GetNamedLWLockTranche(DIRECTORY_LOCKS);
	if (found)
		return;

	page_directory->entries = n;
	page_directory->buckets = bucket_count(n);
	page_directory->redo_base = InvalidXLogRecPtr;
	pg_atomic_init_u64(&page_directory->next_version, 1);
	pg_atomic_init_u32(&page_directory->everything, 0);
	for (int i = 0; i < DIRECTORY_PARTITIONS; i++)
		pg_atomic_init_u32(&page_directory->changes[i], 0);
	page_directory->relation_counters = relation_counter_count(n);
	page_clear_all();
}

void
page_clear_all(void)
{
	pg_atomic_init_u32(&page_directory->used, 0);
	for (uint32 i = 0; i < page_directory->relation_counters; i++)
		pg_atomic_init_u32(&page_relation_counters[i], 0);
	memset(page_bucket_heads, 0xff, sizeof(uint32) * page_directory->buckets);
	for (uint32 i = 0; i < page_directory->entries; i++)
	{
		memset(&page_entries[i], 0, sizeof(PageDirectoryEntry));
		pg_atomic_init_u32(&page_entries[i].state, 0);
		page_entries[i].next = INVALID_ENTRY;
		page_entries[i].comm_buffer = INVALID_COMM_BUFFER;
	}
}

PageDirectoryEntry *
PageDirectoryEntryAt(uint32 entry)
{
	return &page_entries[entry];
}

uint64
PageDirectoryNextVersion(void)
{
	return pg_atomic_read_u64(&page_directory->next_version);
}

uint32
PageDirectoryUsed(void)
{
	return pg_atomic_read_u32(&page_directory->used);
}

void
page_put_in(const Bucket *bucket, uint32 entry)
{
	page_entries[entry].next = *bucket->head;
	*bucket->head = entry;
	pg_atomic_fetch_add_u32(relation_counter(&page_entries[entry].tag), 1);
	pg_atomic_fetch_add_u32(&page_directory->used, 1);
}

void
page_take_out(const Bucket *bucket, uint32 entry)
{
	uint32 *link = bucket->head;

	while (*link != entry)
		link = &page_entries[*link].next;
	*link = page_entries[entry].next;
	pg_atomic_fetch_sub_u32(relation_counter(&page_entries[entry].tag), 1);
	pg_atomic_fetch_sub_u32(&page_directory->used, 1);
	page_forget_reloaded(entry);
}

void
page_unlink_entry(const Bucket *bucket, uint32 entry)
{
	page_mark_clean(entry);
	page_take_out(bucket, entry);
	drop(entry, LINKED | REF_ONE);
}

bool
PageDirectoryPin(const lb_page_tag *tag, bool count_use, PagePin *pin)
{
	Bucket bucket = bucket_of(tag);
	PageDirectoryEntry *entry;
	uint32 state;
	uint32 wanted;

	LWLockAcquire(bucket.lock, LW_SHARED);
	pin->entry = find_in(&bucket, tag);
	if (pin->entry == INVALID_ENTRY)
	{
		LWLockRelease(bucket.lock);
		return false;
	}

	entry = &page_entries[pin->entry];
	state = pg_atomic_read_u32(&entry->state);
	do
	{
		wanted = state + REF_ONE;
		if (count_use && USAGE(state) < USAGE_MAX)
			wanted += USAGE_ONE;
	} while (!pg_atomic_compare_exchange_u32(&entry->state, &state, wanted));

	pin->version = entry->version;
	pin->checksum = entry->checksum;
	pin->comm_buffer = INVALID_COMM_BUFFER;
	pin->dirty = (state & DIRTY) != 0;
	if (state & IN_FLIGHT)
	{
		/* The push's own reference keeps the buffer until PushEnded, which needs the lock exclusively. */
		pin->comm_buffer = entry->comm_buffer;
		CommBufferRetain(pin->comm_buffer);
	}
	LWLockRelease(bucket.lock);
	return true;
}

void
PageDirectoryUnpin(const PagePin *pin)
{
	if (pin->comm_buffer != INVALID_COMM_BUFFER)
		CommBufferRelease(pin->comm_buffer);
	drop(pin->entry, REF_ONE);
}

bool
PageDirectoryStillHolds(const lb_page_tag *tag, uint32 entry, uint64 version)
{
	Bucket bucket = bucket_of(tag);
	bool holds;

	LWLockAcquire(bucket.lock, LW_SHARED);
	holds = find_in(&bucket, tag) == entry && page_entries[entry].version == version;
	LWLockRelease(bucket.lock);
	return holds;
}

bool
PageDirectoryPeek(const lb_page_tag *tag, PagePin *found)
{
	Bucket bucket = bucket_of(tag);

	LWLockAcquire(bucket.lock, LW_SHARED);
	found->entry = find_in(&bucket, tag);
	if (found->entry != INVALID_ENTRY)
	{
		/* It means something else in a reloaded entry. */
		found->comm_buffer = pg_atomic_read_u32(&page_entries[found->entry].state) & IN_FLIGHT
								 ? page_entries[found->entry].comm_buffer
								 : INVALID_COMM_BUFFER;
		found->version = page_entries[found->entry].version;
		found->checksum = page_entries[found->entry].checksum;
	}
	LWLockRelease(bucket.lock);
	return found->entry != INVALID_ENTRY;
}

PageStamp
PageDirectoryStamp(const lb_page_tag *tag)
{
	Bucket bucket = bucket_of(tag);
	PageStamp stamp;

	stamp.partition = pg_atomic_read_u32(&page_directory->changes[bucket.partition]);
	stamp.everything = pg_atomic_read_u32(&page_directory->everything);
	pg_memory_barrier(); /* before what the caller reads from storage */
	return stamp;
}

static bool
stamp_holds(const Bucket *bucket, const PageStamp *stamp)
{
	return pg_atomic_read_u32(&page_directory->changes[bucket->partition]) == stamp->partition &&
		   pg_atomic_read_u32(&page_directory->everything) == stamp->everything;
}

void
PageDirectoryForget(const lb_page_tag *tag)
{
	Bucket bucket = bucket_of(tag);
	uint32 entry;

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	count_change(&bucket);
	entry = find_in(&bucket, tag);
	if (entry != INVALID_ENTRY)
		page_unlink_entry(&bucket, entry);
	LWLockRelease(bucket.lock);
}

void
PageDirectoryForgetVersion(const lb_page_tag *tag, uint32 entry, uint64 version)
{
	Bucket bucket = bucket_of(tag);

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	if (find_in(&bucket, tag) == entry && page_entries[entry].version == version &&
		!(pg_atomic_read_u32(&page_entries[entry].state) & DIRTY))
	{
		count_change(&bucket);
		page_unlink_entry(&bucket, entry);
	}
	LWLockRelease(bucket.lock);
}

/* May a page that was read still be linked? The partition's lock must be held exclusively. */
static bool
read_may_link(const Bucket *bucket, const lb_page_tag *tag, const PageStamp *stamp)
{
	return stamp_holds(bucket, stamp) && find_in(bucket, tag) == INVALID_ENTRY;
}

uint64
page_link_entry(const Bucket *bucket, uint32 entry, const lb_page_tag *tag, uint64 checksum,
				uint32 comm_buffer, uint32 usage, uint32 flags)
{
	PageDirectoryEntry *fresh = &page_entries[entry];

	fresh->tag = *tag;
	fresh->version = pg_atomic_fetch_add_u64(&page_directory->next_version, 1);
	fresh->checksum = checksum;
	fresh->comm_buffer = comm_buffer;
	pg_atomic_fetch_add_u32(&fresh->state,
							REF_ONE + LINKED + IN_FLIGHT + usage * USAGE_ONE + flags);
	page_put_in(bucket, entry);
	return fresh->version;
}

/* A page is about to be written over: unlink its old version. Returns how recently that was used. */
static uint32
replace_old(const Bucket *bucket, const lb_page_tag *tag)
{
	uint32 old = find_in(bucket, tag);
	uint32 usage = 0;

	count_change(bucket);
	if (old != INVALID_ENTRY)
	{
		usage = USAGE(pg_atomic_read_u32(&page_entries[old].state));
		page_unlink_entry(bucket, old);
	}
	return usage;
}

uint64
PageDirectoryLink(uint32 entry, const lb_page_tag *tag, uint64 checksum, uint32 comm_buffer,
				  const PageStamp *stamp, uint32 usage)
{
	Bucket bucket = bucket_of(tag);
	uint64 version = 0;

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	if (!stamp)
	{
		uint32 old_usage = replace_old(&bucket, tag);

		usage = Max(usage, old_usage);
	}
	if (SlabTableStateOfEntry(entry) == SLAB_ACTIVE &&
		(!stamp || read_may_link(&bucket, tag, stamp)))
		version = page_link_entry(&bucket, entry, tag, checksum, comm_buffer, usage, 0);

	/*
	 * Scans that forget many pages look at entries without the lock. If one began since the stamp was compared, it may have
	 * passed this entry before it was linked.
	 */
	if (version != 0 && stamp && !stamp_holds(&bucket, stamp))
	{
		page_take_out(&bucket, entry);
		pg_atomic_fetch_sub_u32(&page_entries[entry].state, LINKED + IN_FLIGHT + REF_ONE);
		version = 0;
	}
	LWLockRelease(bucket.lock);
	if (version == 0)
		PageDirectoryUnreserve(entry);
	return version;
}

void
PageDirectoryPushEnded(uint32 entry, bool published)
{
	PageDirectoryEntry *pushed = &page_entries[entry];
	Bucket bucket = bucket_of(&pushed->tag);

	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	pushed->comm_buffer = INVALID_COMM_BUFFER;
	/* Published or not: it may have the page without our knowing, or still what was in the slot before. */
	pg_atomic_fetch_or_u32(&pushed->state, NODE_HOLDS);
	pg_atomic_fetch_and_u32(&pushed->state, ~IN_FLIGHT);
	if (!published && (pg_atomic_read_u32(&pushed->state) & LINKED))
	{
		if (pg_atomic_read_u32(&pushed->state) & DIRTY)
			elog(PANIC, "legobase: a page that is only in remote memory was given up");
		count_change(&bucket);
		page_unlink_entry(&bucket, entry);
	}
	LWLockRelease(bucket.lock);
	drop(entry, REF_ONE);
}

void
PageDirectoryReserve(uint32 entry)
{
	pg_atomic_uint32 *state = &page_entries[entry].state;
	uint32 before = pg_atomic_read_u32(state);

	/* The entry is ours alone, but for NODE_HOLDS, which the agent may clear or set at any time. */
	Assert(REFS(before) == 0 && (before & (LINKED | IN_FLIGHT)) == 0);
	while (!pg_atomic_compare_exchange_u32(state, &before, (before & NODE_HOLDS) | REF_ONE))
		;
}

void
PageDirectoryUnreserve(uint32 entry)
{
	drop(entry, REF_ONE);
}

/* Is this a page in its slot that nobody uses, and that the file has too? */
static inline bool
evictable(uint32 state)
{
	return (state & LINKED) && !(state & (IN_FLIGHT | DIRTY)) && REFS(state) == 1;
}

bool
PageDirectoryTryEvict(uint32 number, bool (*still_wanted)(const lb_page_tag *tag))
{
	PageDirectoryEntry *entry = &page_entries[number];
	uint32 state = pg_atomic_read_u32(&entry->state);
	lb_page_tag tag;
	Bucket bucket;

	if (!evictable(state) || SlabTableStateOfEntry(number) != SLAB_ACTIVE)
		return false;
	if (USAGE(state) > 0)
	{
		/* If it fails the entry is in use just now, which is as good a reason to leave it. */
		pg_atomic_compare_exchange_u32(&entry->state, &state, state - USAGE_ONE);
		return false;
	}

	/* Read without the lock: it may be torn or old. The look under the lock decides. */
	tag = entry->tag;
	if (still_wanted && still_wanted(&tag))
		return false;

	bucket = bucket_of(&tag);
	LWLockAcquire(bucket.lock, LW_EXCLUSIVE);
	state = pg_atomic_read_u32(&entry->state);
	if (find_in(&bucket, &tag) != number || !evictable(state) || USAGE(state) > 0)
	{
		LWLockRelease(bucket.lock);
		return false;
	}
	/* No pin can come while we hold the lock exclusively; the link's reference becomes the reservation's. */
	page_take_out(&bucket, number);
	pg_atomic_fetch_and_u32(&entry->state, ~LINKED);
	LWLockRelease(bucket.lock);
	return true;
}

bool
PageDirectoryGetRow(uint32 number, PageDirectoryRow *row)
{
	PageDirectoryEntry *entry = &page_entries[number];
	lb_page_tag tag;
	Bucket bucket;
	uint32 state;
	bool linked;

	if ((pg_atomic_read_u32(&entry->state) & LINKED) == 0)
		return false;
	tag = entry->tag;
	bucket = bucket_of(&tag);
	LWLockAcquire(bucket.lock, LW_SHARED);
	linked = find_in(&bucket, &tag) == number;
	state = pg_atomic_read_u32(&entry->state);
	row->tag = tag;
	row->version = entry->version;
	LWLockRelease(bucket.lock);
	row->usage = USAGE(state);
	row->in_flight = (state & IN_FLIGHT) != 0;
	row->dirty = (state & DIRTY) != 0;
	row->pins = REFS(state) - 1 - (row->in_flight ? 1 : 0);
	return linked;
}

/* Whoever is given the entry next describes it before it is in flight, and has another comm buffer. */
bool
PageDirectoryIsPushOf(uint32 entry, uint32 comm_buffer)
{
	if (!(pg_atomic_read_u32(&page_entries[entry].state) & IN_FLIGHT))
		return false;
	pg_read_barrier();
	return page_entries[entry].comm_buffer == comm_buffer;
}

bool
PageDirectoryIsUnused(uint32 entry)
{
	return REFS(pg_atomic_read_u32(&page_entries[entry].state)) == 0;
}

/* docs/locking.md, section 2, has the reasons, case by case. */
bool
PageDirectoryTakeRelease(uint32 number, uint64 *version)
{
	PageDirectoryEntry *entry = &page_entries[number];
	uint32 state = pg_atomic_read_u32(&entry->state);

	do
	{
		uint32 link = state & (LINKED | IN_FLIGHT);

		/* A page in its slot; or one that is not on its way, in a slot that has nothing. */
		if (link == LINKED || (link != IN_FLIGHT && !(state & NODE_HOLDS)))
			return false;
		pg_read_barrier(); /* the version that goes with the state, or a later one that is not sent yet */
		*version = entry->version;
		if (link == (LINKED | IN_FLIGHT))
			*version -= 1; /* what was there before, and not the page that is wanted there */
	} while (!pg_atomic_compare_exchange_u32(&entry->state, &state, state & ~NODE_HOLDS));
	return true;
}

void
PageDirectoryReleaseAgain(uint32 from, uint32 to)
{
	for (uint32 i = from; i < to; i++)
	{
		/* One that was never linked has never been pushed either. */
		if (page_entries[i].version != 0)
			pg_atomic_fetch_or_u32(&page_entries[i].state, NODE_HOLDS);
	}
}
