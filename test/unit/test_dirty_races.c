/*
 * test_dirty_races.c
 *	  Write-back under many threads, with a checker: a model of docs/write_back.md around the real page directory.
 *
 * Clients write pages back, or through when they are clean, and read them; the agent pushes to a "memory node" (arrays), which flushes
 * in rounds to "files" (arrays) and tells what is clean; a checkpointer flips generations; a session truncates. Numbers
 * of a page only rise, so that an old version is told from a new one.
 *
 * Checked: whoever holds a page's lock finds its newest version, in remote memory, or if nothing is there, in the file; the
 * same if what is there is said to be clean; a checkpoint that ends finds in each file at least what was written before it began;
 * nothing of a truncated relation comes back; at the end everything is in the files, and the figures agree.
 */
#include "postgres.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <unistd.h>

#include "comm_buffer.h"
#include "lb_clock.h"
#include "page_directory.h"
#include "pg_stubs.h"
#include "slab_table.h"

#define SLAB_PAGES 256
#define POOL_PAGES SLAB_PAGES
#define RELATIONS 2
#define BLOCKS 160 /* a relation; together more than the pool has room for */
#define CLIENTS 4
#define ROUND_PAGES 16
#define DURATION_NS UINT64_C(3000000000)

typedef struct Page
{
	pthread_rwlock_t lock; /* the buffer's content lock */
	uint64 newest;         /* what was written last; atomic */
	uint64 file;           /* atomic */
} Page;

/* What the node has in a slot. Only the agent's thread, which plays the node as well, touches it; readers read number. */
typedef struct NodeSlot
{
	lb_page_tag tag;
	uint64 version;
	uint64 number;
	bool dirty;
} NodeSlot;

static Page pages[RELATIONS][BLOCKS];
static pthread_rwlock_t relation_locks[RELATIONS];
static NodeSlot slots[POOL_PAGES];
static bool stop;
static bool agent_may_end;
static uint32 fence_wanted; /* counts fences asked for and given */
static uint32 fence_given;
static pthread_mutex_t fence_lock = PTHREAD_MUTEX_INITIALIZER;
static PageSelection fence_selection;
static uint64 written_back, written_through, waits, remote_reads, file_reads, flushed, late,
	checkpoints, truncations;

#define COUNT(counter) __atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)
#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_SEQ_CST)
#define STORE(place, value) __atomic_store_n(&(place), value, __ATOMIC_SEQ_CST)

static void
check(bool condition, const char *what)
{
	if (condition)
		return;
	fputs(what, stderr);
	fputc('\n', stderr);
	abort();
}

static uint32
random_below(uint64 *seed, uint32 limit)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32) (*seed >> 33) % limit;
}

static lb_page_tag
tag_of(uint32 relation, uint32 block)
{
	lb_page_tag tag = {
		.tablespace = 1663, .database = 5, .relation = 100 + relation, .block = block};

	return tag;
}

static Page *
page_of(const lb_page_tag *tag)
{
	return &pages[tag->relation - 100][tag->block];
}

static uint32
take_slot(uint64 *seed)
{
	uint32 entry = SlabTableTakeFree(0);

	if (entry != INVALID_ENTRY)
	{
		PageDirectoryReserve(entry);
		return entry;
	}
	for (int i = 0; i < 50; i++)
	{
		entry = random_below(seed, POOL_PAGES);
		if (PageDirectoryTryEvict(entry, NULL))
			return entry;
	}
	return INVALID_ENTRY;
}

static bool
write_back(const lb_page_tag *tag, uint64 number, uint64 *seed)
{
	uint32 buffer = CommBufferTake();
	uint32 entry;

	if (buffer == INVALID_COMM_BUFFER)
		return false;
	entry = take_slot(seed);
	memcpy(CommBufferPage(buffer), &number, sizeof(number));
	if (entry == INVALID_ENTRY ||
		PageDirectoryLinkDirty(entry, tag, number, buffer, USAGE_WRITTEN) == 0)
	{
		CommBufferRelease(buffer);
		return false;
	}
	if (random_below(seed, 4) == 0)
		sched_yield();
	CommBufferQueue(buffer, entry);
	return true;
}

/* Forget, and wait until the agent has emptied the node of it, outside of any round. */
static void
forget_fenced(const PageSelection *selection)
{
	pthread_mutex_lock(&fence_lock);
	PageDirectoryForgetSelected(selection);
	fence_selection = *selection;
	STORE(fence_wanted, fence_wanted + 1);
	while (LOAD(fence_given) != LOAD(fence_wanted))
		sched_yield();
	pthread_mutex_unlock(&fence_lock);
}

static void
write_page(const lb_page_tag *tag, Page *page, uint64 *seed)
{
	uint64 number = LOAD(page->newest) + 1;

	if (random_below(seed, 10) != 0 && write_back(tag, number, seed))
	{
		/* Only now has smgrwrite returned: what a checkpoint must have is what was here before it began. */
		STORE(page->newest, number);
		COUNT(written_back);
		return;
	}
	/* Not forgotten with a fence: a checkpoint may be waiting for this version, and must not end before the file has it. */
	if (PageDirectoryDirtyNode(tag) >= 0)
		COUNT(waits);
	while (PageDirectoryDirtyNode(tag) >= 0)
		sched_yield();
	PageDirectoryForget(tag);
	STORE(page->file, number);
	STORE(page->newest, number);
	COUNT(written_through);
}

static void
read_page(const lb_page_tag *tag, Page *page, uint64 *seed)
{
	PagePin pin;
	uint64 number;

	if (!PageDirectoryPin(tag, true, &pin))
	{
		check(LOAD(page->file) == LOAD(page->newest), "a stale page in the file");
		COUNT(file_reads);
		return;
	}
	if (random_below(seed, 4) == 0)
		sched_yield();
	if (pin.comm_buffer != INVALID_COMM_BUFFER)
		memcpy(&number, CommBufferPage(pin.comm_buffer), sizeof(number));
	else
		number = LOAD(slots[pin.entry].number);
	check(number == pin.checksum, "another version in the slot");
	check(number == LOAD(page->newest), "a stale page in remote memory");
	if (!pin.dirty)
		check(LOAD(page->file) == number, "a page called clean that the file does not have");
	PageDirectoryUnpin(&pin);
	COUNT(remote_reads);
}

static void *
client(void *argument)
{
	uint64 seed = (uintptr_t) argument * 7919;

	while (!LOAD(stop))
	{
		uint32 relation = random_below(&seed, RELATIONS);
		/* a few pages are hot */
		uint32 block = random_below(&seed, random_below(&seed, 3) == 0 ? 4 : BLOCKS);
		Page *page = &pages[relation][block];
		lb_page_tag tag = tag_of(relation, block);

		pthread_rwlock_rdlock(&relation_locks[relation]);
		pthread_rwlock_wrlock(&page->lock);
		if (random_below(&seed, 2) == 0)
			write_page(&tag, page, &seed);
		else
			read_page(&tag, page, &seed);
		pthread_rwlock_unlock(&page->lock);
		pthread_rwlock_unlock(&relation_locks[relation]);
	}
	return NULL;
}

static void *
checkpointer(void *argument)
{
	static uint64 wanted[RELATIONS][BLOCKS];

	while (!LOAD(stop))
	{
		for (int relation = 0; relation < RELATIONS; relation++)
			for (int block = 0; block < BLOCKS; block++)
				wanted[relation][block] = LOAD(pages[relation][block].newest);
		/* what was linked while the last flip was made may have been counted too late for it */
		while (PageDirectoryOlderDirty() > 0)
			sched_yield();
		PageDirectoryFlip();
		while (PageDirectoryOlderDirty() > 0)
			sched_yield();
		/* A truncation under way delays the end of a checkpoint (DELAY_CHKPT_COMPLETE): the lock stands for that. */
		for (int relation = 0; relation < RELATIONS; relation++)
		{
			pthread_rwlock_rdlock(&relation_locks[relation]);
			for (int block = 0; block < BLOCKS; block++)
				check(LOAD(pages[relation][block].file) >= wanted[relation][block],
					  "a checkpoint ended too early");
			pthread_rwlock_unlock(&relation_locks[relation]);
		}
		COUNT(checkpoints);
	}
	return NULL;
}

/* Cut a relation, with all others locked out. What is made of the pages afterwards has new numbers. */
static void *
truncator(void *argument)
{
	uint64 seed = 4711;

	while (!LOAD(stop))
	{
		uint32 relation = random_below(&seed, RELATIONS);
		uint32 from = random_below(&seed, BLOCKS);
		PageSelection selection = {true, true, true, true, false, tag_of(relation, from), BLOCKS};

		pthread_rwlock_wrlock(&relation_locks[relation]);
		forget_fenced(&selection);
		for (uint32 block = from; block < BLOCKS; block++)
		{
			Page *page = &pages[relation][block];
			uint64 number = LOAD(page->newest) + 1000;

			STORE(page->file, number);
			STORE(page->newest, number);
		}
		sched_yield();
		for (uint32 block = from; block < BLOCKS; block++)
			check(LOAD(pages[relation][block].file) == LOAD(pages[relation][block].newest),
				  "a page came back after its truncation");
		COUNT(truncations);
		pthread_rwlock_unlock(&relation_locks[relation]);
		usleep(2000);
	}
	return NULL;
}

/* ---- the agent and the node ---- */

/* The node publishes a page: an older version's dirt goes, it is superseded. */
static void
publish(uint32 entry, const lb_page_tag *tag, uint64 version, uint64 number)
{
	for (uint32 i = 0; i < POOL_PAGES; i++)
	{
		if (slots[i].dirty && lb_page_tag_equal(&slots[i].tag, tag))
		{
			check(slots[i].version < version, "versions came out of order");
			slots[i].dirty = false;
		}
	}
	slots[entry].tag = *tag;
	slots[entry].version = version;
	STORE(slots[entry].number, number);
	slots[entry].dirty = true;
}

static uint32
push_some(uint64 *seed)
{
	uint32 buffers[16];
	uint32 entries[16];
	uint32 count = CommBufferTakeQueued(1 + random_below(seed, 16), buffers, entries);

	for (uint32 i = 0; i < count; i++)
	{
		PageDirectoryEntry *entry = PageDirectoryEntryAt(entries[i]);
		bool linked = PageDirectoryIsLinked(entries[i]);
		uint64 number;

		if (linked)
		{
			memcpy(&number, CommBufferPage(buffers[i]), sizeof(number));
			publish(entries[i], &entry->tag, entry->version, number);
		}
		CommBufferNotSent(buffers[i]);
		PageDirectoryPushEnded(entries[i], linked || PageDirectoryIsDirty(entries[i]));
		CommBufferRelease(buffers[i]);
	}
	return count;
}

static bool
fence_matches(const lb_page_tag *tag)
{
	return tag->relation == fence_selection.from.relation &&
		   tag->block >= fence_selection.from.block && tag->block < fence_selection.end;
}

/* No round is under way here: the rounds of the model are not interleaved with anything of this thread. */
static void
serve_fence(void)
{
	if (LOAD(fence_wanted) == LOAD(fence_given))
		return;
	for (uint32 i = 0; i < POOL_PAGES; i++)
	{
		if (slots[i].dirty && fence_matches(&slots[i].tag))
			slots[i].dirty = false;
	}
	STORE(fence_given, fence_given + 1);
}

/* Copy some dirty pages; let pushes of newer versions happen; write; tell. */
static void
flush_round(uint64 *seed)
{
	NodeSlot round[ROUND_PAGES];
	uint32 from[ROUND_PAGES];
	int count = 0;
	uint32 start = random_below(seed, POOL_PAGES);

	for (uint32 i = 0; i < POOL_PAGES && count < ROUND_PAGES; i++)
	{
		uint32 at = (start + i) % POOL_PAGES;

		if (slots[at].dirty)
		{
			from[count] = at;
			round[count++] = slots[at];
		}
	}
	push_some(seed);
	for (int i = 0; i < count; i++)
	{
		STORE(page_of(&round[i].tag)->file, round[i].number);
		if (random_below(seed, 8) == 0)
			sched_yield();
	}
	push_some(seed);
	for (int i = 0; i < count; i++)
	{
		NodeSlot *slot = &slots[from[i]];

		if (slot->dirty && slot->version == round[i].version)
			slot->dirty = false;
		else
			late++;
		PageDirectoryClean(&round[i].tag, round[i].version);
		flushed++;
	}
}

static void *
agent(void *argument)
{
	uint64 seed = 99;

	while (!LOAD(agent_may_end))
	{
		if (push_some(&seed) == 0)
			sched_yield();
		serve_fence();
		if (random_below(&seed, 3) == 0)
			flush_round(&seed);
	}
	while (push_some(&seed) > 0)
		;
	while (PageDirectoryDirty() > 0)
		flush_round(&seed);
	return NULL;
}

static void
make_pool(void)
{
	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	assert_true(SlabTableAdd(0, 0));
	for (int relation = 0; relation < RELATIONS; relation++)
	{
		pthread_rwlock_init(&relation_locks[relation], NULL);
		for (int block = 0; block < BLOCKS; block++)
			pthread_rwlock_init(&pages[relation][block].lock, NULL);
	}
}

static void
test_races(void **state)
{
	pthread_t clients[CLIENTS];
	pthread_t others[3];
	uint64 end = lb_now_ns() + DURATION_NS;
	uint32 linked = 0;

	make_pool();
	pthread_create(&others[0], NULL, agent, NULL);
	pthread_create(&others[1], NULL, checkpointer, NULL);
	pthread_create(&others[2], NULL, truncator, NULL);
	for (intptr_t i = 0; i < CLIENTS; i++)
		pthread_create(&clients[i], NULL, client, (void *) (i + 1));
	while (lb_now_ns() < end)
		usleep(10000);
	STORE(stop, true);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(clients[i], NULL);
	pthread_join(others[1], NULL);
	pthread_join(others[2], NULL);
	STORE(agent_may_end, true);
	pthread_join(others[0], NULL);

	for (int relation = 0; relation < RELATIONS; relation++)
		for (int block = 0; block < BLOCKS; block++)
			assert_int_equal(pages[relation][block].file, pages[relation][block].newest);
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 0);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	for (uint32 entry = 0; entry < POOL_PAGES; entry++)
	{
		PageDirectoryRow row;

		assert_false(PageDirectoryIsDirty(entry));
		if (PageDirectoryGetRow(entry, &row))
			linked++;
	}
	assert_int_equal(linked, PageDirectoryUsed());
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - linked);
	assert_int_equal(CommBufferFree(), CommBufferCount());

	print_message(
		"%lu written back, %lu through, %lu after a wait, %lu remote reads, %lu file reads, %lu "
		"flushed, %lu late, %lu checkpoints, %lu truncations\n",
		written_back, written_through, waits, remote_reads, file_reads, flushed, late, checkpoints,
		truncations);
	assert_true(written_back > 1000 && written_through > 100 && remote_reads > 1000 &&
				file_reads > 100 && flushed > 1000);
	assert_true(waits > 10 && late > 0 && checkpoints > 10 && truncations > 10);
	stub_reset_shmem();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_races),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
