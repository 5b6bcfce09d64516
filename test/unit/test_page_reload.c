/*
 * test_page_reload.c
 *	  The page directory's part in coming back to pages of a former life: reloading, discarding, redo bounds, beginning anew.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "comm_buffer.h"
#include "page_reload.h"
#include "pg_stubs.h"
#include "slab_table.h"

#define SLAB_PAGES 256
#define SLABS 4
#define POOL_PAGES (SLABS * SLAB_PAGES)
#define BASE UINT64_C(0x100000000)

static int
setup(void **state)
{
	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	PageDirectorySetRedoBase(BASE);
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

static PageReload
page_of(uint32 block, uint64 version, bool dirty)
{
	PageReload page = {.tag = {.tablespace = 1663, .database = 5, .relation = 1000, .block = block},
					   .version = version,
					   .checksum = version * 3,
					   .dirty = dirty};

	return page;
}

static uint32
reload(uint32 entry, uint32 block, uint64 version, bool dirty)
{
	PageReload page = page_of(block, version, dirty);

	return PageDirectoryReload(entry, &page);
}

static void
rebuild_all(void)
{
	for (uint32 slab = 0; slab < SLABS; slab++)
		SlabTableRebuildFree(slab);
}

static void
assert_free(uint32 on_node_0, uint32 on_node_1)
{
	assert_int_equal(SlabTableNodeFree(0), on_node_0);
	assert_int_equal(SlabTableNodeFree(1), on_node_1);
}

/* What is dirty is counted for its node, its relation and the present generation; what is clean is not. */
static void
test_counts(void **state)
{
	PageReload clean = page_of(1, 5, false);
	PageReload dirty = page_of(2, 9, true);
	PageReload got;
	PageDirectoryRow row;

	clean.durable = true;
	assert_false(PageDirectoryMayHoldFork(&clean.tag));
	assert_false(PageDirectoryGetReloaded(3, &got));
	assert_int_equal(PageDirectoryReload(3, &clean), INVALID_ENTRY);
	assert_true(PageDirectoryMayHoldFork(&clean.tag));
	assert_false(PageDirectoryMayHoldDirty(&clean.tag));
	assert_int_equal(PageDirectoryReload(SLAB_PAGES + 7, &dirty), INVALID_ENTRY);
	assert_int_equal(PageDirectoryUsed(), 2);
	assert_int_equal(PageDirectoryDirty(), 1);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(1), 1);
	assert_int_equal(PageDirectoryDirtyNode(&dirty.tag), 1);
	assert_true(PageDirectoryMayHoldDirty(&dirty.tag));
	assert_int_equal(PageDirectoryNextVersion(), 10);

	assert_true(PageDirectoryGetReloaded(3, &got));
	assert_memory_equal(&got.tag, &clean.tag, sizeof(got.tag));
	assert_true(got.version == 5 && got.checksum == 15 && got.lsn == 0 && !got.dirty &&
				got.durable);
	assert_true(PageDirectoryGetReloaded(SLAB_PAGES + 7, &got));
	assert_true(got.version == 9 && got.dirty && !got.durable);
	assert_true(PageDirectoryGetRow(3, &row));
	assert_true(row.usage == USAGE_FIRST_READ && row.pins == 0 && !row.in_flight && !row.dirty);
	assert_true(PageDirectoryGetRow(SLAB_PAGES + 7, &row));
	assert_true(row.usage == USAGE_WRITTEN && row.dirty);

	/* The next checkpoint waits for it, and it becomes clean as any other. */
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	PageDirectoryFlip();
	assert_int_equal(PageDirectoryOlderDirty(), 1);
	PageDirectoryClean(&dirty.tag, 9);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(1), 0);
	assert_false(PageDirectoryMayHoldDirty(&dirty.tag));
}

/* After a flip the present generation is the other one. */
static void
test_present_generation(void **state)
{
	PageDirectoryFlip();
	assert_int_equal(reload(0, 1, 5, true), INVALID_ENTRY);
	assert_int_equal(PageDirectoryOlderDirty(), 0);
	PageDirectoryFlip();
	assert_int_equal(PageDirectoryOlderDirty(), 1);
}

static void
test_the_higher_version_stays(void **state)
{
	uint64 version;
	PageReload got;

	assert_int_equal(reload(0, 1, 5, true), INVALID_ENTRY);
	assert_int_equal(reload(SLAB_PAGES, 1, 8, false), 0);
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 0);
	assert_int_equal(PageDirectoryUsed(), 1);
	assert_false(PageDirectoryIsLinked(0));
	assert_true(PageDirectoryGetReloaded(SLAB_PAGES, &got));
	assert_int_equal(got.version, 8);

	/* Lower, and equal */
	assert_int_equal(reload(1, 1, 7, true), 1);
	assert_int_equal(reload(2, 1, 8, true), 2);
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_int_equal(PageDirectoryUsed(), 1);
	assert_int_equal(PageDirectoryNextVersion(), 9);

	/* The losers' nodes have to be told, each of its version. */
	assert_true(PageDirectoryTakeRelease(0, &version));
	assert_int_equal(version, 5);
	assert_true(PageDirectoryTakeRelease(1, &version));
	assert_int_equal(version, 7);
	assert_true(PageDirectoryTakeRelease(2, &version));
	assert_int_equal(version, 8);
	assert_false(PageDirectoryTakeRelease(0, &version));
	assert_false(PageDirectoryTakeRelease(SLAB_PAGES, &version));
	assert_false(PageDirectoryTakeRelease(3, &version));
}

static void
test_free_lists(void **state)
{
	uint64 version;

	assert_int_equal(reload(0, 1, 5, true), INVALID_ENTRY);
	assert_int_equal(reload(4, 2, 6, false), INVALID_ENTRY);
	assert_int_equal(reload(5, 3, 7, true), INVALID_ENTRY);
	assert_int_equal(reload(SLAB_PAGES + 9, 3, 8, false), 5);
	PageDirectoryDiscardReloaded(4);
	PageDirectoryDiscardReloaded(4); /* nothing is there any more */
	assert_int_equal(PageDirectoryUsed(), 2);
	assert_true(PageDirectoryTakeRelease(4, &version));
	assert_int_equal(version, 6);
	rebuild_all();
	assert_free(2 * SLAB_PAGES - 1, 2 * SLAB_PAGES - 1);

	/* All but the used ones can be taken, each once, the lowest first. */
	for (uint32 i = 1; i < SLAB_PAGES; i++)
	{
		assert_int_equal(SlabTableTakeFree(0), i);
		PageDirectoryReserve(i);
	}
	assert_int_equal(SlabTableTakeFree(0), 2 * SLAB_PAGES);
	PageDirectoryReserve(2 * SLAB_PAGES);
	assert_free(SLAB_PAGES - 1, 2 * SLAB_PAGES - 1);

	/* A reloaded page that is forgotten gives its slot back as any other does. */
	assert_int_equal(PageDirectoryForgetRange(SLAB_PAGES, 2 * SLAB_PAGES), 1);
	assert_free(SLAB_PAGES - 1, 2 * SLAB_PAGES);
	assert_true(PageDirectoryTakeRelease(SLAB_PAGES + 9, &version));
	assert_int_equal(version, 8);
}

/* A slab without kept pages can be given up. */
static void
test_slab_without_pages(void **state)
{
	assert_int_equal(reload(0, 1, 5, true), INVALID_ENTRY);
	PageDirectoryDiscardReloaded(0);
	assert_int_equal(PageDirectoryDirty(), 0);
	rebuild_all();
	SlabTableDrain(0);
	assert_true(SlabTableDrained(0));
	SlabTableRemove(0);
	assert_free(SLAB_PAGES, 2 * SLAB_PAGES);
}

static bool
bound(uint32 block, XLogRecPtr *lsn)
{
	lb_page_tag tag = page_of(block, 0, false).tag;

	return PageDirectoryRedoBound(&tag, lsn);
}

static void
reload_at(uint32 entry, uint32 block, XLogRecPtr lsn, bool dirty)
{
	PageReload page = page_of(block, 5 + block, dirty);

	page.lsn = lsn;
	assert_int_equal(PageDirectoryReload(entry, &page), INVALID_ENTRY);
}

/* Of a clean page the file may have something older, flushed or not: redo must write it again. One that was flushed, and is to be again, has a bound. */
static void
test_only_dirty_has_bound(void **state)
{
	XLogRecPtr lsn;

	for (uint32 i = 0; i < 4; i++)
	{
		PageReload page = page_of(i, 5, i & 1);
		PageReload got;

		page.lsn = BASE + 80;
		page.durable = (i & 2) != 0;
		assert_int_equal(PageDirectoryReload(i, &page), INVALID_ENTRY);
		assert_int_equal(bound(i, &lsn), i & 1);
		assert_true(PageDirectoryGetReloaded(i, &got));
		assert_int_equal(got.dirty, i & 1);
		assert_int_equal(got.durable, (i & 2) != 0);
	}
	assert_int_equal(PageDirectoryDirty(), 2);
}

/* Never above the truth, and above the base exactly if the truth is. */
static void
test_redo_bounds(void **state)
{
	const XLogRecPtr lsns[] = {0,
							   1,
							   BASE - 8,
							   BASE,
							   BASE + 1,
							   BASE + 7,
							   BASE + 8,
							   BASE + 4711,
							   BASE + 4712,
							   BASE + UINT64_C(8) * (UINT32_MAX - 2),
							   BASE + UINT64_C(8) * (UINT32_MAX - 1),
							   BASE + UINT64_C(8) * UINT32_MAX,
							   BASE + (UINT64_C(1) << 40),
							   UINT64_MAX};
	PageReload got;
	XLogRecPtr lsn;

	for (uint32 i = 0; i < lengthof(lsns); i++)
	{
		reload_at(i, i, lsns[i], true);
		assert_int_equal(bound(i, &lsn), lsns[i] > BASE);
		assert_true(PageDirectoryGetReloaded(i, &got));
		assert_int_equal(got.lsn > BASE, lsns[i] > BASE);
		if (lsns[i] <= BASE)
			continue;
		assert_true(lsn > BASE && lsn <= lsns[i] && got.lsn == lsn);
		if (lsns[i] < BASE + UINT64_C(8) * UINT32_MAX && lsns[i] >= BASE + 8)
			assert_true(lsns[i] - lsn < 8);
	}
	assert_false(bound(1000, &lsn));
}

/* The bound is of this version in this entry, for as long as redo has not gone back. */
static void
test_bounds_end(void **state)
{
	lb_page_tag tag = page_of(1, 0, false).tag;
	XLogRecPtr lsn;
	PagePin found;
	uint32 buffer;
	uint32 entry;

	reload_at(0, 1, BASE + 80, true);
	reload_at(1, 2, BASE + 80, true);
	reload_at(2, 3, BASE + 80, true);
	rebuild_all();

	/* What looks like a comm buffer is none. */
	assert_true(PageDirectoryPeek(&tag, &found));
	assert_int_equal(found.comm_buffer, INVALID_COMM_BUFFER);
	assert_true(PageDirectoryPin(&tag, true, &found));
	assert_int_equal(found.comm_buffer, INVALID_COMM_BUFFER);
	PageDirectoryUnpin(&found);

	assert_true(bound(1, &lsn));
	PageDirectoryForgetRedoBound(&tag);
	assert_false(bound(1, &lsn));
	PageDirectoryForgetRedoBound(&tag);
	assert_true(bound(2, &lsn));
	assert_int_equal(lsn, BASE + 80);

	/* Written again: another entry. */
	tag.block = 2;
	entry = SlabTableTakeFree(0);
	PageDirectoryReserve(entry);
	buffer = CommBufferTake();
	assert_int_not_equal(PageDirectoryLink(entry, &tag, 1, buffer, NULL, USAGE_WRITTEN), 0);
	assert_false(bound(2, &lsn));
	PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
	assert_false(bound(2, &lsn));

	/* Clean or dirty, the page is the same. */
	tag.block = 3;
	PageDirectoryClean(&tag, 8);
	assert_int_equal(PageDirectoryDirty(), 1);
	assert_true(bound(3, &lsn));

	/* Evicted: the slot's next page has no bound. */
	for (int i = 0; i < USAGE_MAX; i++)
		(void) PageDirectoryTryEvict(2, NULL);
	assert_false(bound(3, &lsn));
	assert_false(PageDirectoryIsLinked(2));
	tag.block = 77;
	buffer = CommBufferTake();
	assert_int_not_equal(PageDirectoryLinkDirty(2, &tag, 1, buffer, USAGE_WRITTEN), 0);
	assert_false(bound(77, &lsn));
	PageDirectoryPushEnded(2, true);
	CommBufferRelease(buffer);
	assert_false(bound(77, &lsn));
}

static void
test_reset(void **state)
{
	PageReload got;
	XLogRecPtr lsn;
	uint64 version;

	for (uint32 i = 0; i < POOL_PAGES; i += 3)
		reload_at(i, i, BASE + i, i % 2);
	SlabTableDrain(3);
	SlabTableSetGrowing(true);
	PageDirectoryReset();
	assert_int_equal(PageDirectoryUsed(), 0);
	assert_int_equal(PageDirectoryDirty(), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(0), 0);
	assert_int_equal(PageDirectoryDirtyOfNode(1), 0);
	assert_int_equal(SlabTableActivePages(), 0);
	assert_int_equal(SlabTableNodePages(0), 0);
	assert_false(SlabTableGrowing());
	assert_free(0, 0);
	assert_true(PageDirectoryNextVersion() > POOL_PAGES / 3 * 3);
	for (uint32 i = 0; i < POOL_PAGES; i++)
	{
		lb_page_tag tag = page_of(i, 0, false).tag;

		assert_false(PageDirectoryGetReloaded(i, &got));
		assert_false(PageDirectoryTakeRelease(i, &version));
		assert_false(PageDirectoryMayHoldFork(&tag));
		assert_false(PageDirectoryMayHoldDirty(&tag));
		assert_false(bound(i, &lsn));
		assert_int_equal(PageDirectoryEntryAt(i)->comm_buffer, INVALID_COMM_BUFFER);
	}
	for (uint32 slab = 0; slab < SLABS; slab++)
	{
		assert_int_equal(SlabTableState(slab), SLAB_UNUSED);
		assert_true(SlabTableAdd(0, slab));
	}
	assert_free(POOL_PAGES, 0);
	assert_int_equal(reload(0, 1, 5, true), INVALID_ENTRY);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_counts),      TEST(test_present_generation), TEST(test_the_higher_version_stays),
		TEST(test_free_lists),  TEST(test_slab_without_pages), TEST(test_only_dirty_has_bound),
		TEST(test_redo_bounds), TEST(test_bounds_end),         TEST(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
