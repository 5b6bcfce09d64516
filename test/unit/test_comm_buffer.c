/*
 * test_comm_buffer.c
 *	  Comm buffers: taking, references, the queue, waking the agent, what a new agent finds.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm_buffer.h"
#include "page_directory.h"
#include "pg_stubs.h"
#include "slab_table.h"

#define POOL_PAGES 16384

static int
setup(void **state)
{
	stub_set_pool(POOL_PAGES, 1024);
	CommBufferShmemInit();
	return 0;
}

static int
teardown(void **state)
{
	stub_reset_shmem();
	return 0;
}

static uint32
take(void)
{
	uint32 buffer = CommBufferTake();

	assert_true(buffer < CommBufferCount());
	return buffer;
}

static void
test_take_all(void **state)
{
	uint32 count = CommBufferCount();
	bool *taken = calloc(count, sizeof(bool));

	assert_int_equal(CommBufferFree(), count);
	for (uint32 i = 0; i < count; i++)
	{
		uint32 buffer = take();

		assert_false(taken[buffer]);
		taken[buffer] = true;
		memset(CommBufferPage(buffer), (int) buffer, LB_PAGE_SIZE);
	}
	assert_int_equal(CommBufferTake(), INVALID_COMM_BUFFER);
	assert_int_equal(CommBufferFree(), 0);

	/* Pages do not overlap. */
	for (uint32 buffer = 0; buffer < count; buffer++)
	{
		assert_int_equal((uint8) CommBufferPage(buffer)[0], (uint8) buffer);
		assert_int_equal((uint8) CommBufferPage(buffer)[LB_PAGE_SIZE - 1], (uint8) buffer);
		CommBufferRelease(buffer);
	}
	assert_int_equal(CommBufferFree(), count);
	free(taken);
}

static void
test_references(void **state)
{
	uint32 buffer = take();

	CommBufferRetain(buffer);
	CommBufferRetain(buffer);
	CommBufferRelease(buffer);
	CommBufferRelease(buffer);
	assert_int_equal(CommBufferFree(), CommBufferCount() - 1);
	CommBufferRelease(buffer);
	assert_int_equal(CommBufferFree(), CommBufferCount());
}

/* Oldest first, in batches, across batches. */
static void
test_queue_order(void **state)
{
	uint32 buffers[10];
	uint32 entries[10];
	uint32 queued[10];
	uint32 done = 0;

	for (int round = 0; round < 3; round++)
	{
		assert_int_equal(CommBufferTakeQueued(10, buffers, entries), 0);
		for (int i = 0; i < 10; i++)
		{
			queued[i] = take();
			CommBufferQueue(queued[i], 1000 + i);
		}
		for (done = 0; done < 10;)
		{
			uint32 got = CommBufferTakeQueued(4, buffers, entries);

			assert_int_equal(got, Min(4, 10 - done));
			for (uint32 i = 0; i < got; i++)
			{
				assert_int_equal(buffers[i], queued[done + i]);
				assert_int_equal(entries[i], 1000 + done + i);
				CommBufferRelease(buffers[i]);
			}
			done += got;
		}
		assert_int_equal(CommBufferFree(), CommBufferCount());
	}
}

static void
test_waking(void **state)
{
	Latch latch;
	uint32 buffer = take();
	uint32 entry;

	/* Nobody there, then awake: no signal. */
	CommBufferAgentSleeps(1);
	CommBufferQueue(buffer, 1);
	CommBufferWakeAgent();
	assert_int_equal(stub_latches_set(), 0);
	assert_false(CommBufferHasAgent());
	CommBufferSetAgent(&latch);
	assert_true(CommBufferHasAgent());
	assert_true(CommBufferAgentSleeps(1));
	assert_true(CommBufferAgentSleeps(0));
	CommBufferQueue(take(), 2);
	assert_int_equal(stub_latches_set(), 0);

	/* Asleep with nothing to do */
	while (CommBufferTakeQueued(1, &buffer, &entry) > 0)
		CommBufferRelease(buffer);
	assert_false(CommBufferAgentSleeps(1));
	CommBufferQueue(take(), 3);
	assert_int_equal(stub_latches_set(), 1);
	CommBufferAgentSleeps(0);
	CommBufferWakeAgent();
	assert_int_equal(stub_latches_set(), 2);

	/* To be woken when three are queued: one is already. */
	assert_false(CommBufferAgentSleeps(3));
	CommBufferQueue(take(), 4);
	assert_int_equal(stub_latches_set(), 2);
	CommBufferQueue(take(), 5);
	assert_int_equal(stub_latches_set(), 3);
	assert_true(CommBufferAgentSleeps(3));
	assert_int_equal(CommBufferTakeQueued(1, &buffer, &entry), 1);
	CommBufferRelease(buffer);
	assert_false(CommBufferAgentSleeps(3));
	CommBufferAgentSleeps(0);
	CommBufferSetAgent(NULL);
	assert_false(CommBufferHasAgent());
	CommBufferWakeAgent();
	assert_int_equal(stub_latches_set(), 3);
}

static uint32 found_buffers[8];
static uint32 found_entries[8];
static int found_count;

static void
note_found(uint32 buffer, uint32 entry)
{
	found_buffers[found_count] = buffer;
	found_entries[found_count++] = entry;
}

/* A new agent finds what its predecessor had sent, and in the queue what it had not. */
static void
test_recovery(void **state)
{
	uint32 sent[3];
	uint32 entries[3];
	uint32 filling;

	found_count = 0;
	for (int i = 0; i < 4; i++)
		CommBufferQueue(take(), 100 + i);
	assert_int_equal(CommBufferTakeQueued(3, sent, entries), 3);

	/* Ended before the agent did; a reader still has the buffer, but the push must not be made again. */
	CommBufferRetain(sent[1]);
	CommBufferNotSent(sent[1]);
	CommBufferRelease(sent[1]);
	CommBufferRetain(sent[2]);
	filling = take();

	CommBufferRecover(note_found);
	assert_int_equal(found_count, 2);
	for (int i = 0; i < 2; i++)
	{
		assert_int_equal(found_buffers[i], found_entries[i] == 100 ? sent[0] : sent[2]);
		assert_true(found_entries[i] == 100 || found_entries[i] == 102);
	}
	assert_int_not_equal(found_entries[0], found_entries[1]);

	/* Nothing was let go; should this agent end too, the next one finds the same. */
	assert_int_equal(CommBufferFree(), CommBufferCount() - 5);
	found_count = 0;
	CommBufferRecover(note_found);
	assert_int_equal(found_count, 2);
	for (int i = 0; i < 2; i++)
	{
		CommBufferNotSent(found_buffers[i]);
		CommBufferRelease(found_buffers[i]);
	}
	found_count = 0;
	CommBufferRecover(note_found);
	assert_int_equal(found_count, 0);

	/* Left: one queued, one being filled, two with a reader. */
	assert_int_equal(CommBufferFree(), CommBufferCount() - 4);
	CommBufferRelease(sent[1]);
	CommBufferRelease(sent[2]);
	CommBufferRelease(filling);
	assert_int_equal(CommBufferTakeQueued(3, sent, entries), 1);
	assert_int_equal(entries[0], 103);
	CommBufferRelease(sent[0]);
	assert_int_equal(CommBufferFree(), CommBufferCount());
}

/* What a memory node gets: a file of exactly this size, which nobody can shrink under its mapping. */
static void
test_region(void **state)
{
	lb_comm_region region;
	int fd = CommBufferRegion(&region);
	struct stat status;
	char *mapped;

	assert_int_equal(region.count, CommBufferCount());
	assert_int_equal(region.stride, LB_PAGE_SIZE);
	assert_int_equal(fstat(fd, &status), 0);
	assert_int_equal(status.st_size, region.length);
	assert_true((uint64) region.count * region.stride <= region.length);
	assert_int_equal(ftruncate(fd, 0), -1);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);

	mapped = mmap(NULL, region.length, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(mapped, MAP_FAILED);
	for (uint32 buffer = 0; buffer < region.count; buffer += 7)
	{
		memset(CommBufferPage(buffer), (int) buffer, LB_PAGE_SIZE);
		assert_memory_equal(mapped + (size_t) buffer * region.stride, CommBufferPage(buffer),
							LB_PAGE_SIZE);
	}
	munmap(mapped, region.length);
}

/* Shared memory made anew, as after a crash: everything is free again. */
static void
test_new_shared_memory(void **state)
{
	take();
	CommBufferQueue(take(), 5);
	stub_reset_shmem();
	CommBufferShmemInit();
	assert_int_equal(CommBufferFree(), CommBufferCount());
	assert_false(CommBufferAgentSleeps(0));
}

/* Pushes that were under way at some version: when has each of them ended? */
static void
test_older_pushes(void **state)
{
	lb_page_tag tag = {.tablespace = 1663, .database = 5, .relation = 10};
	uint32 buffer = take();
	uint32 filling = take();
	uint32 entry;
	uint32 newer;
	uint64 version;

	PageDirectoryShmemInit();
	SlabTableShmemInit();
	assert_true(SlabTableAdd(0, 0));
	entry = SlabTableTakeFree(0);
	PageDirectoryReserve(entry);
	assert_true(CommBufferMayHoldOlder(buffer, PageDirectoryNextVersion()));
	assert_int_not_equal(PageDirectoryLinkDirty(entry, &tag, 1, buffer, USAGE_WRITTEN), 0);
	version = PageDirectoryNextVersion();

	/* Linked and not queued, queued, sent: under way; but not for whoever asked before it was linked. */
	assert_true(CommBufferMayHoldOlder(buffer, version));
	CommBufferQueue(buffer, entry);
	assert_true(CommBufferMayHoldOlder(buffer, version));
	assert_false(CommBufferMayHoldOlder(buffer, version - 1));
	assert_int_equal(CommBufferTakeQueued(1, &newer, &entry), 1);
	assert_true(CommBufferMayHoldOlder(buffer, version));

	/* A newer version of the page does not end it. */
	newer = SlabTableTakeFree(0);
	PageDirectoryReserve(newer);
	assert_int_not_equal(PageDirectoryLinkDirty(newer, &tag, 1, filling, USAGE_WRITTEN), 0);
	CommBufferQueue(filling, newer);
	assert_true(CommBufferMayHoldOlder(buffer, version));
	assert_false(CommBufferMayHoldOlder(filling, version));

	/* Its answer does, even if a reader keeps the buffer for a while. */
	CommBufferRetain(buffer);
	CommBufferNotSent(buffer);
	PageDirectoryPushEnded(entry, true);
	assert_false(CommBufferMayHoldOlder(buffer, version));
	CommBufferRelease(buffer);
	CommBufferRelease(buffer);
	assert_false(CommBufferMayHoldOlder(buffer, version));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_take_all),          TEST(test_references),
		TEST(test_queue_order),       TEST(test_waking),
		TEST(test_recovery),          TEST(test_region),
		TEST(test_new_shared_memory), TEST(test_older_pushes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
