/*
 * test_page_dirty.c
 *	  Dirty pages: what they are counted as, what binds them to a node, what a checkpoint has to wait for.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "comm_buffer.h"
#include "page_directory.h"
#include "pg_stubs.h"
#include "slab_table.h"

#define SLAB_PAGES 256
#define SLABS 4
#define POOL_PAGES (SLABS * SLAB_PAGES)

/* Two nodes, two slabs each. */
static int
setup(void **state)
{
	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	for (uint32 slab = 0; slab < SLABS; slab++)
		assert_true(SlabTableAdd(slab % 2, slab));
	return 0;
}

static int
teardown(void **state)
{
	stub_reset_shmem();
	return 0;
}

static lb_page_tag
tag_of(uint32 relation, uint32 block)
{
	lb_page_tag tag = {
		.tablespace = 1663, .database = 5, .relation = relation, .fork = 0, .block = block};

	return tag;
}

static uint32
reserve_on(int node)
{
	uint32 entry = SlabTableTakeFree(node);

	assert_int_not_equal(entry, INVALID_ENTRY);
	PageDirectoryReserve(entry);
	return entry;
}

/* Link a dirty version on a node. Returns its version, 0 if it was refused. Its push ends at once. */
static uint64
write_back(lb_page_tag tag, int node, uint32 *entry)
{
	uint32 buffer = CommBufferTake();
	uint64 version;

	assert_int_not_equal(buffer, INVALID_COMM_BUFFER);
	*entry = reserve_on(node);
	version = PageDirectoryLinkDirty(*entry, &tag, 1, buffer, USAGE_WRITTEN);
	if (version != 0)
		PageDirectoryPushEnded(*entry, true);
	CommBufferRelease(buffer);
	return version;
}

static bool
pinned_dirty(lb_page_tag tag)
{
	PagePin pin;

	assert_true(PageDirectoryPin(&tag, false, &pin));
	PageDirectoryUnpin(&pin);
	return pin.dirty;
}

static void
test_counts(void **state)
{
	lb_page_tag tag = tag_of(10, 1);
	lb_page_tag other = tag_of(11, 1);
	uint32 entry;
	uint64 version;

	assert_int_equal(PageDirectoryDirtyNode(&tag), -1);
	version = write_back(tag, 1, &entry);
	assert_int_not_equal(version, 0);
	assert_int_equal(PageDirectoryDirty(), 1);
	assert_int_equal(PageDirectoryDirtyOfNode(1), 1);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 0);
	assert_int_equal(PageDirectoryDirtyNode(&tag), 1);
	assert_true(PageDirectoryMayHoldDirty(&tag));
	assert_false(PageDirectoryMayHoldDirty(&other));
	assert_true(PageDirectoryIsDirty(entry));
	assert_true(pinned_dirty(tag));

	PageDirectoryClean(&tag, version - 1);
	assert_true(pinned_dirty(tag));
	PageDirectoryClean(&tag, version);
	assert_false(pinned_dirty(tag));
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(1), 0);
	assert_false(PageDirectoryMayHoldDirty(&tag));
	PageDirectoryClean(&tag, version); /* told twice */
	assert_int_equal(PageDirectoryDirty(), 0);
}

static void
test_newer_version_stays_on_its_node(void **state)
{
	lb_page_tag tag = tag_of(10, 1);
	uint32 entry;
	uint64 first = write_back(tag, 0, &entry);
	uint64 second;
	uint32 free_on_1 = SlabTableNodeFree(1);

	assert_int_equal(write_back(tag, 1, &entry), 0);
	assert_int_equal(SlabTableNodeFree(1), free_on_1);
	assert_int_equal(PageDirectoryDirtyNode(&tag), 0);
	second = write_back(tag, 0, &entry);
	assert_true(second > first);
	assert_int_equal(PageDirectoryDirty(), 1);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 1);

	/* The older version is durable: the newer one is as dirty as before. */
	PageDirectoryClean(&tag, first);
	assert_true(pinned_dirty(tag));
	PageDirectoryClean(&tag, second);
	assert_false(pinned_dirty(tag));

	/* A clean page may move. */
	assert_int_not_equal(write_back(tag, 1, &entry), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(1), 1);
}

static void
test_dirty_pages_are_not_given_up(void **state)
{
	lb_page_tag tag = tag_of(10, 1);
	uint32 entry;
	uint64 version = write_back(tag, 0, &entry);

	for (int i = 0; i <= USAGE_MAX + 1; i++)
		assert_false(PageDirectoryTryEvict(entry, NULL));
	assert_int_equal(PageDirectoryForgetRange(0, POOL_PAGES), 0);
	PageDirectoryForgetVersion(&tag, entry, version);
	assert_true(pinned_dirty(tag));

	PageDirectoryClean(&tag, version);
	assert_int_equal(PageDirectoryForgetRange(0, POOL_PAGES), 1);
}

static void
test_draining_slab_refuses(void **state)
{
	lb_page_tag tag = tag_of(10, 1);
	uint32 entry = reserve_on(0);
	uint32 buffer = CommBufferTake();

	SlabTableDrain(entry / SLAB_PAGES);
	assert_int_equal(PageDirectoryLinkDirty(entry, &tag, 1, buffer, USAGE_WRITTEN), 0);
	CommBufferRelease(buffer);
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_int_equal(PageDirectoryUsed(), 0);
}

static void
test_forgetting_uncounts(void **state)
{
	uint32 entry;
	PageSelection selection = {
		.by_tablespace = true, .by_database = true, .by_relation = true, .from = tag_of(10, 0)};

	for (uint32 block = 0; block < 5; block++)
	{
		assert_int_not_equal(write_back(tag_of(10, block), block % 2, &entry), 0);
		assert_int_not_equal(write_back(tag_of(11, block), block % 2, &entry), 0);
	}
	assert_int_equal(PageDirectoryForgetSelected(&selection), 5);
	assert_int_equal(PageDirectoryDirty(), 5);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 3);
	assert_false(PageDirectoryMayHoldDirty(&selection.from));
	assert_int_equal(SlabTableNodeFree(0), 2 * SLAB_PAGES - 3);
}

static void
test_checkpoint_waits_for_what_was_there(void **state)
{
	lb_page_tag before = tag_of(10, 1);
	lb_page_tag after = tag_of(10, 2);
	uint32 entry;
	uint64 version = write_back(before, 0, &entry);

	assert_int_equal(PageDirectoryOlderDirty(), 0);
	PageDirectoryFlip();
	assert_int_equal(PageDirectoryOlderDirty(), 1);
	assert_int_not_equal(write_back(after, 0, &entry), 0);
	assert_int_equal(PageDirectoryOlderDirty(), 1);
	PageDirectoryClean(&before, version);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	assert_int_equal(PageDirectoryDirty(), 1);

	PageDirectoryFlip();
	assert_int_equal(PageDirectoryOlderDirty(), 1);
}

/* Its changes from before the checkpoint are in no file while only a newer version exists: that one is waited for. */
static void
test_newer_version_inherits_the_wait(void **state)
{
	lb_page_tag tag = tag_of(10, 1);
	uint32 entry;
	uint64 first = write_back(tag, 0, &entry);
	uint64 second;

	PageDirectoryFlip();
	second = write_back(tag, 0, &entry);
	assert_int_equal(PageDirectoryOlderDirty(), 1);
	/* the first one may be older than the last one before the flip: it proves nothing */
	PageDirectoryClean(&tag, first);
	assert_int_equal(PageDirectoryOlderDirty(), 1);
	PageDirectoryClean(&tag, second);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	assert_int_equal(PageDirectoryDirty(), 0);
}

/* A page that is written again and again must not keep a checkpoint from ending. */
static void
test_hot_page_is_waited_for_once(void **state)
{
	lb_page_tag tag = tag_of(10, 1);
	uint32 entry;
	uint64 second;
	uint64 third;

	assert_int_not_equal(write_back(tag, 0, &entry), 0);
	PageDirectoryFlip();
	second = write_back(tag, 0, &entry);
	third = write_back(tag, 0, &entry);
	PageDirectoryClean(&tag, second);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	assert_true(pinned_dirty(tag));
	assert_int_equal(PageDirectoryDirty(), 1);

	/* but the next checkpoint has to wait for it */
	PageDirectoryFlip();
	assert_int_equal(PageDirectoryOlderDirty(), 1);
	PageDirectoryClean(&tag, third);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_newer_version_stays_on_its_node, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dirty_pages_are_not_given_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_draining_slab_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forgetting_uncounts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_checkpoint_waits_for_what_was_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_newer_version_inherits_the_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hot_page_is_waited_for_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
