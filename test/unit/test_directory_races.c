/*
 * test_directory_races.c
 *	  Page directory, slab table and comm buffers under many threads, with a checker.
 *
 * Threads play the processes of a server: clients that read and write pages under page locks, as backends do under buffer
 * locks; readers without page locks, as pg_prewarm; a session that drops and truncates relations; the agent, which pushes
 * to a memory node and gives slabs back. "Storage" and the "memory node" are arrays. A page's content is a number that is
 * never used twice, and a copy of its tag, in several places, so that torn and mixed-up pages are told from whole ones.
 *
 * Checked: whoever holds a page's lock finds in remote memory either nothing or what storage has; a pinned page stays what
 * it was found to be; nothing of a dropped relation is found while its lock is held; in the end everything is
 * free again, and the figures agree.
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
#define SLABS 2
#define POOL_PAGES (SLABS * SLAB_PAGES)
#define RELATIONS 3
#define BLOCKS 300 /* a relation; together more than the pool has room for */
#define CLIENTS 4
#define PREWARMERS 2
#define DURATION_NS UINT64_C(2500000000)

typedef struct Content
{
	lb_page_tag tag;
	uint64 number;
	uint64 copies[16];
} Content;

typedef struct StoredPage
{
	pthread_rwlock_t lock; /* the buffer's content lock */
	uint64 number;         /* atomic: is read without the lock by prewarmers */
} StoredPage;

static StoredPage storage[RELATIONS][BLOCKS];
static pthread_rwlock_t relation_locks[RELATIONS];
static Content node_slots[POOL_PAGES];
static uint64 next_number;
static bool stop; /* clients */
static bool agent_may_end;
static uint64 hits, misses, links, refusals, prewarm_links, drops_found, slabs_given_back,
	failed_pushes;

#define COUNT(counter) __atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)

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

static void
make_content(Content *content, const lb_page_tag *tag, uint64 number)
{
	content->tag = *tag;
	content->number = number;
	for (int i = 0; i < lengthof(content->copies); i++)
		content->copies[i] = number;
}

/* Any function of the content will do for a checksum here. */
static uint64
checksum_of(const Content *content)
{
	uint64 sum = content->number * 31 + content->tag.block * 7 + content->tag.relation;

	for (int i = 0; i < lengthof(content->copies); i++)
		sum = sum * UINT64_C(0x100000001b3) ^ content->copies[i];
	return sum;
}

/* Copy the first half, give others a chance, copy the rest: as a slow read would. */
static void
slow_copy(Content *to, const Content *from, uint64 *seed)
{
	memcpy(to, from, sizeof(Content) / 2);
	if (random_below(seed, 4) == 0)
		sched_yield();
	memcpy((char *) to + sizeof(Content) / 2, (const char *) from + sizeof(Content) / 2,
		   sizeof(Content) - sizeof(Content) / 2);
}

/* Read a page from remote memory; false if it is not there. What is there must be whole, and this page. */
static bool
read_remote(const lb_page_tag *tag, uint64 *number, uint64 *seed)
{
	Content content;
	PagePin pin;

	if (!PageDirectoryPin(tag, true, &pin))
		return false;
	if (pin.comm_buffer != INVALID_COMM_BUFFER)
		slow_copy(&content, (Content *) CommBufferPage(pin.comm_buffer), seed);
	else
		slow_copy(&content, &node_slots[pin.entry], seed);
	check(lb_page_tag_equal(&content.tag, tag), "another page in the slot");
	check(checksum_of(&content) == pin.checksum, "another version in the slot");
	PageDirectoryUnpin(&pin);
	*number = content.number;
	return true;
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

/* As a push in remote_smgr does it. False if it could not be done. */
static bool
push(const lb_page_tag *tag, uint64 number, const PageStamp *stamp, uint64 *seed)
{
	uint32 buffer = CommBufferTake();
	uint32 entry;
	Content *content;

	if (buffer == INVALID_COMM_BUFFER)
	{
		sched_yield();
		return false;
	}
	entry = take_slot(seed);
	if (entry == INVALID_ENTRY)
	{
		CommBufferRelease(buffer);
		return false;
	}
	if (random_below(seed, 8) == 0)
		sched_yield();
	content = (Content *) CommBufferPage(buffer);
	make_content(content, tag, number);
	if (PageDirectoryLink(entry, tag, checksum_of(content), buffer, stamp,
						  stamp ? USAGE_FIRST_READ : USAGE_WRITTEN) == 0)
	{
		COUNT(refusals);
		CommBufferRelease(buffer);
		return false;
	}
	COUNT(links);
	CommBufferQueue(buffer, entry);
	return true;
}

static void
read_page(const lb_page_tag *tag, StoredPage *page, uint64 *seed)
{
	uint64 number;

	if (read_remote(tag, &number, seed))
	{
		COUNT(hits);
		check(number == page->number, "a stale page");
	}
	else
	{
		PageStamp stamp = PageDirectoryStamp(tag);

		COUNT(misses);
		push(tag, __atomic_load_n(&page->number, __ATOMIC_SEQ_CST), &stamp, seed);
	}
}

/* Forgotten before the file changes, and once more after it if the new version is not pushed: see PageDirectoryForget. */
static void
write_page(const lb_page_tag *tag, StoredPage *page, uint64 *seed)
{
	uint64 number = __atomic_add_fetch(&next_number, 1, __ATOMIC_SEQ_CST);

	PageDirectoryForget(tag);
	__atomic_store_n(&page->number, number, __ATOMIC_SEQ_CST);
	if (random_below(seed, 8) == 0 || !push(tag, number, NULL, seed))
		PageDirectoryForget(tag);
}

static void *
client(void *argument)
{
	uint64 seed = (uintptr_t) argument * 7919;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
	{
		uint32 relation = random_below(&seed, RELATIONS);
		uint32 block = random_below(&seed, BLOCKS);
		StoredPage *page = &storage[relation][block];
		lb_page_tag tag = tag_of(relation, block);

		pthread_rwlock_rdlock(&relation_locks[relation]);
		if (random_below(&seed, 4) == 0)
		{
			pthread_rwlock_wrlock(&page->lock);
			write_page(&tag, page, &seed);
		}
		else
		{
			pthread_rwlock_rdlock(&page->lock);
			read_page(&tag, page, &seed);
		}
		pthread_rwlock_unlock(&page->lock);
		pthread_rwlock_unlock(&relation_locks[relation]);
	}
	return NULL;
}

/* Reads storage without a lock on the page and slowly: what it has read may be old when it comes to push it. */
static void *
prewarmer(void *argument)
{
	uint64 seed = (uintptr_t) argument * 104729;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
	{
		uint32 relation = random_below(&seed, RELATIONS);
		uint32 block = random_below(&seed, BLOCKS);
		lb_page_tag tag = tag_of(relation, block);
		PageStamp stamp;
		uint64 number;

		pthread_rwlock_rdlock(&relation_locks[relation]);
		stamp = PageDirectoryStamp(&tag);
		number = __atomic_load_n(&storage[relation][block].number, __ATOMIC_SEQ_CST);
		sched_yield();
		if (push(&tag, number, &stamp, &seed))
			COUNT(prewarm_links);
		pthread_rwlock_unlock(&relation_locks[relation]);
	}
	return NULL;
}

/* Drops and truncates, with the relation locked against everybody. The numbers begin anew, as in a reused file. */
static void *
dropper(void *argument)
{
	uint64 seed = 4711;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
	{
		uint32 relation = random_below(&seed, RELATIONS);
		uint32 from = random_below(&seed, 2) ? 0 : random_below(&seed, BLOCKS);
		PageSelection selection = {true, true, true, true, false, tag_of(relation, from), BLOCKS};
		uint64 ignored;

		if (from == 0)
			selection.by_fork = random_below(&seed, 2);
		pthread_rwlock_wrlock(&relation_locks[relation]);
		PageDirectoryForgetSelected(&selection);
		for (uint32 block = from; block < BLOCKS; block++)
		{
			lb_page_tag tag = tag_of(relation, block);

			check(!read_remote(&tag, &ignored, &seed), "a page of a dropped relation");
			storage[relation][block].number = __atomic_add_fetch(&next_number, 1, __ATOMIC_SEQ_CST);
		}
		COUNT(drops_found);
		pthread_rwlock_unlock(&relation_locks[relation]);
		for (int i = 0; i < 20; i++)
			sched_yield();
	}
	return NULL;
}

/* The view legobase_pages, read all the time. */
static void *
viewer(void *argument)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
	{
		for (uint32 entry = 0; entry < POOL_PAGES; entry++)
		{
			PageDirectoryRow row;

			if (!PageDirectoryGetRow(entry, &row))
				continue;
			check(row.tag.tablespace == 1663 && row.tag.relation - 100 < RELATIONS &&
					  row.tag.block < BLOCKS && row.usage <= USAGE_MAX && row.pins <= 20,
				  "a row that makes no sense");
		}
		sched_yield();
	}
	return NULL;
}

static uint32
push_some(uint64 *seed)
{
	uint32 buffers[16];
	uint32 entries[16];
	uint32 count = CommBufferTakeQueued(1 + random_below(seed, 16), buffers, entries);

	/* Some time between taking and ending. */
	if (random_below(seed, 4) == 0)
		sched_yield();
	for (uint32 i = 0; i < count; i++)
	{
		bool published = random_below(seed, 20) != 0;

		if (published)
			slow_copy(&node_slots[entries[i]], (Content *) CommBufferPage(buffers[i]), seed);
		else
		{
			memset(&node_slots[entries[i]], 0xee, sizeof(Content));
			COUNT(failed_pushes);
		}
		PageDirectoryPushEnded(entries[i], published);
		CommBufferRelease(buffers[i]);
	}
	return count;
}

/* Give a slab back to the node, which fills it with rubbish, and get it again. Pushes go on meanwhile. */
static void
exchange_slab(uint64 *seed)
{
	uint32 slab = random_below(seed, SLABS);
	uint32 node_slab;

	SlabTableDrain(slab);
	PageDirectoryForgetRange(slab * SLAB_PAGES, (slab + 1) * SLAB_PAGES);
	while (!SlabTableDrained(slab))
	{
		push_some(seed);
		sched_yield();
	}
	memset(&node_slots[slab * SLAB_PAGES], 0xdd, SLAB_PAGES * sizeof(Content));
	SlabTableNodeOf(slab, &node_slab);
	SlabTableRemove(slab);
	check(SlabTableAdd(0, node_slab), "a slab that was removed can be added");
	COUNT(slabs_given_back);
}

/* Tell the node about free slots; it then may clear them. */
static void
release_some(uint64 *seed)
{
	for (int i = 0; i < 32; i++)
	{
		uint64 version;

		PageDirectoryTakeRelease(random_below(seed, POOL_PAGES), &version);
	}
}

static void *
agent(void *argument)
{
	uint64 seed = 99;

	while (!__atomic_load_n(&agent_may_end, __ATOMIC_RELAXED))
	{
		if (push_some(&seed) == 0)
			sched_yield();
		release_some(&seed);
		if (random_below(&seed, 300) == 0)
			exchange_slab(&seed);
	}
	while (push_some(&seed) > 0)
		;
	return NULL;
}

static void
check_figures(void)
{
	uint32 linked = 0;

	for (uint32 entry = 0; entry < POOL_PAGES; entry++)
	{
		PageDirectoryRow row;

		if (!PageDirectoryGetRow(entry, &row))
			continue;
		linked++;
		check(row.pins == 0 && !row.in_flight, "something is still in use");
	}
	assert_int_equal(linked, PageDirectoryUsed());
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - linked);
	assert_int_equal(CommBufferFree(), CommBufferCount());
}

static void
test_races(void **state)
{
	pthread_t clients[CLIENTS];
	pthread_t prewarmers[PREWARMERS];
	pthread_t others[3];
	uint64 end = lb_now_ns() + DURATION_NS;
	PageSelection everything = {.by_tablespace = false};

	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	for (uint32 slab = 0; slab < SLABS; slab++)
		assert_true(SlabTableAdd(0, slab));
	for (int relation = 0; relation < RELATIONS; relation++)
	{
		pthread_rwlock_init(&relation_locks[relation], NULL);
		for (int block = 0; block < BLOCKS; block++)
			pthread_rwlock_init(&storage[relation][block].lock, NULL);
	}

	pthread_create(&others[0], NULL, agent, NULL);
	pthread_create(&others[1], NULL, dropper, NULL);
	pthread_create(&others[2], NULL, viewer, NULL);
	for (intptr_t i = 0; i < CLIENTS; i++)
		pthread_create(&clients[i], NULL, client, (void *) (i + 1));
	for (intptr_t i = 0; i < PREWARMERS; i++)
		pthread_create(&prewarmers[i], NULL, prewarmer, (void *) (i + 1));

	while (lb_now_ns() < end)
		usleep(10000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < CLIENTS; i++)
		pthread_join(clients[i], NULL);
	for (int i = 0; i < PREWARMERS; i++)
		pthread_join(prewarmers[i], NULL);
	pthread_join(others[1], NULL);
	pthread_join(others[2], NULL);
	__atomic_store_n(&agent_may_end, true, __ATOMIC_RELAXED);
	pthread_join(others[0], NULL);

	check_figures();
	PageDirectoryForgetSelected(&everything);
	assert_int_equal(PageDirectoryUsed(), 0);
	check_figures();

	/* A run in which nothing of note happened would prove nothing. */
	print_message("%lu hits, %lu misses, %lu links, %lu refused, %lu links without page lock, %lu "
				  "drops, %lu slabs "
				  "exchanged, %lu failed pushes\n",
				  hits, misses, links, refusals, prewarm_links, drops_found, slabs_given_back,
				  failed_pushes);
	assert_true(hits > 1000 && misses > 1000 && links > 1000);
	assert_true(refusals > 0 && prewarm_links > 0 && drops_found > 0 && slabs_given_back > 0 &&
				failed_pushes > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_races),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
