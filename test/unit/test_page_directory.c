/*
 * test_page_directory.c
 *	  Page directory and slab table: states, links, stamps, selections, eviction, draining. One thread; the directory under
 *	  many is test_directory_races.c.
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

static int
setup(void **state)
{
	stub_set_pool(POOL_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	for (uint32 slab = 0; slab < SLABS; slab++)
		assert_true(SlabTableAdd(0, 100 + slab));
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
reserve(void)
{
	uint32 entry = SlabTableTakeFree(0);

	assert_int_not_equal(entry, INVALID_ENTRY);
	PageDirectoryReserve(entry);
	return entry;
}

/* Push a page through to its slot. Returns the entry. */
static uint32
store(lb_page_tag tag, uint64 checksum, uint32 usage)
{
	uint32 entry = reserve();
	uint32 buffer = CommBufferTake();

	assert_int_not_equal(buffer, INVALID_COMM_BUFFER);
	assert_int_not_equal(PageDirectoryLink(entry, &tag, checksum, buffer, NULL, usage), 0);
	PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
	return entry;
}

static bool
is_linked(lb_page_tag tag)
{
	PagePin pin;

	if (!PageDirectoryPin(&tag, false, &pin))
		return false;
	PageDirectoryUnpin(&pin);
	return true;
}

static void
assert_all_free(void)
{
	assert_int_equal(PageDirectoryUsed(), 0);
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES);
	assert_int_equal(CommBufferFree(), CommBufferCount());
}

static void
test_life_of_a_page(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = reserve();
	uint32 buffer = CommBufferTake();
	PageDirectoryRow row;
	PagePin pin;
	uint64 version;

	assert_false(is_linked(tag));
	assert_false(PageDirectoryGetRow(entry, &row));
	version = PageDirectoryLink(entry, &tag, 42, buffer, NULL, USAGE_FIRST_READ);
	assert_int_not_equal(version, 0);
	assert_int_equal(PageDirectoryUsed(), 1);

	/* In flight: the reader gets the comm buffer, which stays while it holds it. */
	assert_true(PageDirectoryPin(&tag, true, &pin));
	assert_int_equal(pin.entry, entry);
	assert_int_equal(pin.version, version);
	assert_int_equal(pin.checksum, 42);
	assert_int_equal(pin.comm_buffer, buffer);
	assert_true(PageDirectoryGetRow(entry, &row));
	assert_true(row.in_flight);
	assert_int_equal(row.pins, 1);
	assert_int_equal(row.usage, USAGE_FIRST_READ + 1);

	PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
	assert_int_equal(CommBufferFree(), CommBufferCount() - 1);
	PageDirectoryUnpin(&pin);
	assert_int_equal(CommBufferFree(), CommBufferCount());

	/* Remote */
	assert_true(PageDirectoryPin(&tag, false, &pin));
	assert_int_equal(pin.comm_buffer, INVALID_COMM_BUFFER);
	assert_true(PageDirectoryGetRow(entry, &row));
	assert_false(row.in_flight);
	assert_int_equal(row.version, version);
	assert_memory_equal(&row.tag, &tag, sizeof(tag));

	/* Unlinked while pinned: not found any more, but the slot is not free yet. */
	PageDirectoryForget(&tag);
	assert_false(is_linked(tag));
	assert_false(PageDirectoryGetRow(entry, &row));
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - 1);
	PageDirectoryUnpin(&pin);
	assert_all_free();
}

static void
test_forgotten_in_flight(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = reserve();
	uint32 buffer = CommBufferTake();

	PageDirectoryLink(entry, &tag, 1, buffer, NULL, USAGE_WRITTEN);
	PageDirectoryForget(&tag);
	assert_false(is_linked(tag));
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - 1);
	PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
	assert_all_free();
}

static void
test_push_that_failed(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = reserve();
	uint32 buffer = CommBufferTake();
	PagePin pin;

	PageDirectoryLink(entry, &tag, 1, buffer, NULL, USAGE_WRITTEN);
	assert_true(PageDirectoryPin(&tag, false, &pin));
	PageDirectoryPushEnded(entry, false);
	CommBufferRelease(buffer);
	assert_false(is_linked(tag));

	/* Whoever found it in flight may still copy it from the comm buffer. */
	assert_int_equal(pin.comm_buffer, buffer);
	assert_int_equal(CommBufferFree(), CommBufferCount() - 1);
	PageDirectoryUnpin(&pin);
	assert_all_free();
}

static void
test_newer_version_replaces(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 first = store(tag, 1, USAGE_WRITTEN);
	uint64 version;
	PagePin old;
	PagePin new;
	uint32 second;

	assert_true(PageDirectoryPin(&tag, false, &old));
	version = old.version;
	second = store(tag, 2, USAGE_FIRST_READ);
	assert_int_not_equal(first, second);
	assert_true(PageDirectoryPin(&tag, false, &new));
	assert_int_equal(new.entry, second);
	assert_int_equal(new.checksum, 2);
	assert_true(new.version > version);
	assert_int_equal(PageDirectoryUsed(), 1);

	/* The old slot keeps the old page until its reader is done. */
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - 2);
	PageDirectoryUnpin(&old);
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - 1);
	PageDirectoryUnpin(&new);

	assert_true(PageDirectoryStillHolds(&tag, second, new.version));
	assert_false(PageDirectoryStillHolds(&tag, second, version));
	assert_false(PageDirectoryStillHolds(&tag, first, version));

	/* Two pushes of one page under way: the first to be linked may end last. */
	{
		uint32 entries[2] = {reserve(), reserve()};
		uint32 buffers[2] = {CommBufferTake(), CommBufferTake()};

		PageDirectoryLink(entries[0], &tag, 3, buffers[0], NULL, USAGE_WRITTEN);
		PageDirectoryLink(entries[1], &tag, 4, buffers[1], NULL, USAGE_WRITTEN);
		for (int i = 1; i >= 0; i--)
		{
			PageDirectoryPushEnded(entries[i], true);
			CommBufferRelease(buffers[i]);
		}
	}
	assert_true(PageDirectoryPin(&tag, false, &new));
	assert_int_equal(new.checksum, 4);
	PageDirectoryUnpin(&new);
	PageDirectoryForget(&tag);
	assert_all_free();
}

/* Link a page as one that was read when the stamp was taken. */
static uint64
link_read(lb_page_tag tag, const PageStamp *stamp)
{
	uint32 entry = reserve();
	uint32 buffer = CommBufferTake();
	uint64 version = PageDirectoryLink(entry, &tag, 9, buffer, stamp, USAGE_FIRST_READ);

	if (version != 0)
		PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
	return version;
}

static void
test_stamps(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	PageStamp stamp = PageDirectoryStamp(&tag);

	assert_int_not_equal(link_read(tag, &stamp), 0);

	/* Linked already, since the stamp or before: that copy is as good, and stays. */
	assert_int_equal(link_read(tag, &stamp), 0);
	stamp = PageDirectoryStamp(&tag);
	assert_int_equal(link_read(tag, &stamp), 0);
	assert_true(is_linked(tag));

	/* Forgotten since, though there was nothing to forget. */
	PageDirectoryForget(&tag);
	stamp = PageDirectoryStamp(&tag);
	PageDirectoryForget(&tag);
	assert_int_equal(link_read(tag, &stamp), 0);
	assert_false(is_linked(tag));

	/* A selection, of whatever kind: exact or not, with something to forget or not. */
	for (int kind = 0; kind < 4; kind++)
	{
		PageSelection selection = {.from = tag_of(7777, 0), .end = 10};

		selection.by_tablespace = kind != 1;
		selection.by_database = kind != 2;
		selection.by_relation = selection.by_fork = kind != 3;
		selection.from.relation = kind == 0 ? 1000 : 7777;
		stamp = PageDirectoryStamp(&tag);
		PageDirectoryForgetSelected(&selection);
		assert_int_equal(link_read(tag, &stamp), 0);
	}

	/* Eviction changes nothing about the page. */
	{
		uint32 entry = store(tag_of(1000, 8), 5, 0);

		stamp = PageDirectoryStamp(&tag);
		assert_true(PageDirectoryTryEvict(entry, NULL));
		PageDirectoryUnreserve(entry);
	}
	assert_int_not_equal(link_read(tag, &stamp), 0);
	PageDirectoryForget(&tag);
	assert_all_free();
}

static void
test_forget_version(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = store(tag, 1, USAGE_WRITTEN);
	PagePin pin;

	assert_true(PageDirectoryPeek(&tag, &pin));
	assert_int_equal(pin.entry, entry);
	assert_int_equal(pin.checksum, 1);
	PageDirectoryForgetVersion(&tag, entry, pin.version + 1);
	PageDirectoryForgetVersion(&tag, entry + 1, pin.version);
	assert_true(is_linked(tag));
	PageDirectoryForgetVersion(&tag, entry, pin.version);
	assert_false(is_linked(tag));
	assert_false(PageDirectoryPeek(&tag, &pin));
	assert_all_free();
}

/* Peek tells what is in flight from what can be read from a slot. */
static void
test_peek_in_flight(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = reserve();
	uint32 buffer = CommBufferTake();
	PagePin pin;

	PageDirectoryLink(entry, &tag, 1, buffer, NULL, USAGE_WRITTEN);
	assert_true(PageDirectoryPeek(&tag, &pin));
	assert_int_equal(pin.comm_buffer, buffer);
	PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
	assert_true(PageDirectoryPeek(&tag, &pin));
	assert_int_equal(pin.comm_buffer, INVALID_COMM_BUFFER);
}

/* Pages that differ in one field each from the next, for selections. */
#define BLOCKS 20

static void
store_variety(void)
{
	for (uint32 spread = 0; spread < 16; spread++)
	{
		for (uint32 block = 0; block < BLOCKS; block++)
		{
			lb_page_tag tag = {
				.tablespace = 1 + (spread & 1),
				.database = 10 + ((spread >> 1) & 1),
				.relation = 100 + ((spread >> 2) & 1),
				.fork = (spread >> 3) & 1,
				.block = block,
			};

			store(tag, block, USAGE_WRITTEN);
		}
	}
}

static uint64
forget(PageSelection selection)
{
	uint32 before = PageDirectoryUsed();
	uint64 forgotten = PageDirectoryForgetSelected(&selection);
	PageDirectoryRow row;

	assert_int_equal(before - PageDirectoryUsed(), forgotten);

	/* None of them is left, whichever way they were searched for. */
	for (uint32 entry = 0; entry < POOL_PAGES; entry++)
	{
		if (!PageDirectoryGetRow(entry, &row))
			continue;
		assert_true((selection.by_tablespace && row.tag.tablespace != selection.from.tablespace) ||
					(selection.by_database && row.tag.database != selection.from.database) ||
					(selection.by_relation && row.tag.relation != selection.from.relation) ||
					(selection.by_fork &&
					 (row.tag.fork != selection.from.fork || row.tag.block < selection.from.block ||
					  row.tag.block >= selection.end)));
	}
	return forgotten;
}

static void
test_selections(void **state)
{
	lb_page_tag from = {.tablespace = 1, .database = 10, .relation = 100, .fork = 0, .block = 5};
	PageSelection exact = {true, true, true, true, false, from, 8};
	PageSelection selection;

	store_variety();
	assert_int_equal(PageDirectoryUsed(), 16 * BLOCKS);

	/* A few blocks: by lookup. To the end of the fork: by scan. */
	assert_int_equal(forget(exact), 3);
	assert_int_equal(forget(exact), 0);
	exact.end = InvalidBlockNumber;
	assert_int_equal(forget(exact), BLOCKS - 8);
	exact.from.block = 0;
	assert_int_equal(forget(exact), 5);

	/* Nothing left of this fork, many of the others; an empty range. */
	exact.end = 1000;
	assert_int_equal(forget(exact), 0);
	exact.from.fork = 1;
	exact.from.block = exact.end = 3;
	assert_int_equal(forget(exact), 0);

	/* A range that is larger than the directory is worth a scan. */
	exact.from.block = 1;
	exact.end = InvalidBlockNumber - 1;
	assert_int_equal(forget(exact), BLOCKS - 1);

	selection = (PageSelection){
		.by_tablespace = true, .by_database = true, .by_relation = true, .from = from};
	assert_int_equal(forget(selection), 1);
	selection = (PageSelection){.by_tablespace = true, .by_database = true, .from = from};
	assert_int_equal(forget(selection), 2 * BLOCKS);
	selection = (PageSelection){.by_database = true, .from = from};
	assert_int_equal(forget(selection), 4 * BLOCKS);
	selection = (PageSelection){.by_tablespace = true, .from = from};
	assert_int_equal(forget(selection), 4 * BLOCKS);
	selection = (PageSelection){.by_database = false};
	assert_int_equal(forget(selection), 4 * BLOCKS);
	assert_all_free();
}

static bool
wanted(const lb_page_tag *tag)
{
	return tag->block == 1;
}

static void
test_eviction(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = store(tag, 1, USAGE_WRITTEN);
	PagePin pin;

	/* Each look takes one off the usage; the one after the last evicts. */
	for (int i = 0; i < USAGE_WRITTEN; i++)
		assert_false(PageDirectoryTryEvict(entry, NULL));

	assert_true(PageDirectoryPin(&tag, false, &pin));
	assert_false(PageDirectoryTryEvict(entry, NULL));
	PageDirectoryUnpin(&pin);
	assert_true(is_linked(tag));
	assert_true(PageDirectoryTryEvict(entry, wanted));
	assert_false(is_linked(tag));
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - 1);

	/* The entry is reserved now, and takes another page. */
	{
		uint32 buffer = CommBufferTake();
		lb_page_tag other = tag_of(1000, 1);

		assert_int_not_equal(PageDirectoryLink(entry, &other, 2, buffer, NULL, 0), 0);
		assert_false(PageDirectoryTryEvict(entry, NULL)); /* in flight */
		PageDirectoryPushEnded(entry, true);
		CommBufferRelease(buffer);
		assert_false(PageDirectoryTryEvict(entry, wanted));
		assert_true(is_linked(other));
	}

	/* Free and reserved entries have no page to evict. */
	PageDirectoryForget(&(lb_page_tag){1663, 5, 1000, 0, 1});
	assert_false(PageDirectoryTryEvict(entry, NULL));
	assert_all_free();
}

/* Usage rises with each counted use up to its maximum, and stays with the page when it is pushed again. */
static void
test_usage(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = store(tag, 1, 0);
	PageDirectoryRow row;
	PagePin pin;

	for (int i = 0; i < USAGE_MAX + 3; i++)
	{
		assert_true(PageDirectoryPin(&tag, true, &pin));
		PageDirectoryUnpin(&pin);
		assert_true(PageDirectoryGetRow(entry, &row));
		assert_int_equal(row.usage, Min(i + 1, USAGE_MAX));
	}
	entry = store(tag, 2, USAGE_FIRST_READ);
	assert_true(PageDirectoryGetRow(entry, &row));
	assert_int_equal(row.usage, USAGE_MAX);

	/* A slot that was used much and then freed begins anew: nothing of the usage is left. */
	for (int i = 0; i < 3 * POOL_PAGES; i++)
	{
		PageDirectoryForget(&tag);
		entry = store(tag, i, USAGE_MAX);
		assert_true(PageDirectoryGetRow(entry, &row));
		assert_int_equal(row.usage, USAGE_MAX);
		assert_int_equal(row.pins, 0);
		assert_false(row.in_flight);
	}
}

static void
test_draining(void **state)
{
	uint32 in_flight = reserve();
	uint32 buffer = CommBufferTake();
	uint32 slab = in_flight / SLAB_PAGES;
	uint32 late;
	lb_page_tag tag = tag_of(1, 0);
	lb_page_tag old = tag_of(1, 1);
	lb_slot_ref slot;

	assert_int_equal(SlabTableSlot(in_flight, &slot), 0);
	assert_int_equal(slot.slab, 100 + slab);
	assert_int_equal(slot.page, in_flight % SLAB_PAGES);

	PageDirectoryLink(in_flight, &tag, 1, buffer, NULL, USAGE_WRITTEN);
	store(old, 1, USAGE_WRITTEN);
	late = reserve();
	assert_int_equal(late / SLAB_PAGES, slab);

	SlabTableDrain(slab);
	assert_int_equal(SlabTableNodePages(0), POOL_PAGES - SLAB_PAGES);
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - SLAB_PAGES);
	assert_int_equal(SlabTableActivePages(), POOL_PAGES - SLAB_PAGES);
	assert_int_equal(PageDirectoryForgetRange(slab * SLAB_PAGES, (slab + 1) * SLAB_PAGES), 2);
	assert_false(SlabTableDrained(slab));

	/* A slot taken before may not be linked any more; the older version, wherever it is, goes as well. */
	{
		uint32 second = CommBufferTake();

		store(old, 2, USAGE_WRITTEN);
		assert_int_equal(PageDirectoryLink(late, &old, 3, second, NULL, USAGE_WRITTEN), 0);
		CommBufferRelease(second);
		assert_false(is_linked(old));
	}
	assert_false(SlabTableDrained(slab));
	PageDirectoryPushEnded(in_flight, true);
	CommBufferRelease(buffer);
	assert_true(SlabTableDrained(slab));

	SlabTableRemove(slab);
	assert_int_equal(SlabTableState(slab), SLAB_UNUSED);
	assert_true(SlabTableAdd(3, 55));
	assert_false(SlabTableAdd(3, 56));
	assert_int_equal(SlabTableState(slab), SLAB_ACTIVE);
	assert_int_equal(SlabTableNodePages(3), SLAB_PAGES);
	assert_int_equal(SlabTableNodeFree(3), SLAB_PAGES);
	assert_int_equal(SlabTableNodeOf(slab, &slot.slab), 3);
	assert_int_equal(slot.slab, 55);
}

/* Every slot of a node can be taken, none twice, and not one more. */
static void
test_taking_slots(void **state)
{
	bool taken[POOL_PAGES] = {false};

	for (int i = 0; i < POOL_PAGES; i++)
	{
		uint32 entry = reserve();

		assert_true(entry < POOL_PAGES);
		assert_false(taken[entry]);
		taken[entry] = true;
	}
	assert_int_equal(SlabTableNodeFree(0), 0);
	assert_int_equal(SlabTableTakeFree(0), INVALID_ENTRY);
	assert_int_equal(SlabTableTakeFree(1), INVALID_ENTRY);
	for (uint32 entry = 0; entry < POOL_PAGES; entry++)
		PageDirectoryUnreserve(entry);
	assert_all_free();
}

/* Memory nodes are told once of each slot that holds nothing of worth, with the version that they have there at most. */
static void
test_releases(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = store(tag, 1, USAGE_WRITTEN);
	uint64 version;
	PagePin pin;

	/* Readers do not mind, nor does whoever is about to push something there. */
	assert_true(PageDirectoryPin(&tag, false, &pin));
	assert_false(PageDirectoryTakeRelease(entry, &version));
	PageDirectoryForget(&tag);
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_int_equal(version, pin.version);
	assert_false(PageDirectoryTakeRelease(entry, &version));
	PageDirectoryUnpin(&pin);
	assert_false(PageDirectoryTakeRelease(entry, &version));

	entry = store(tag, 1, USAGE_WRITTEN);
	PageDirectoryForget(&tag);
	assert_int_equal(reserve(), entry);
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_false(PageDirectoryTakeRelease(entry, &version));
	PageDirectoryUnreserve(entry);
	assert_false(PageDirectoryTakeRelease(entry, &version));

	/* Evicted: nobody links it for a while. */
	entry = store(tag, 1, 0);
	assert_true(PageDirectoryTryEvict(entry, NULL));
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_int_equal(version, PageDirectoryNextVersion() - 1);
	PageDirectoryUnreserve(entry);
}

/* What the slot had before goes while the next page is on its way there; that one stays, unless it is unlinked. */
static void
test_releases_in_flight(void **state)
{
	lb_page_tag old_tag = tag_of(1000, 7);
	lb_page_tag tag = tag_of(1000, 8);
	uint32 entry = store(old_tag, 1, 0);
	uint32 buffer = CommBufferTake();
	uint64 pushed;
	uint64 version;

	assert_true(PageDirectoryTryEvict(entry, NULL));
	pushed = PageDirectoryLink(entry, &tag, 1, buffer, NULL, USAGE_WRITTEN);
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_int_equal(version, pushed - 1);
	assert_false(PageDirectoryTakeRelease(entry, &version));

	/* It may have been sent: what follows it on the way empties the slot. */
	PageDirectoryForget(&tag);
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_int_equal(version, pushed);
	PageDirectoryPushEnded(entry, false);
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_int_equal(version, pushed);
	assert_false(PageDirectoryTakeRelease(entry, &version));
	CommBufferRelease(buffer);

	/* A read page whose stamp does not hold is never linked: the slot has what it had. */
	entry = store(old_tag, 1, 0);
	assert_true(PageDirectoryTryEvict(entry, NULL));
	{
		PageStamp stamp = PageDirectoryStamp(&tag);

		PageDirectoryForget(&tag);
		assert_int_equal(PageDirectoryLink(entry, &tag, 1, 0, &stamp, USAGE_FIRST_READ), 0);
	}
	assert_true(PageDirectoryTakeRelease(entry, &version));
	assert_true(version >= pushed + 1);
}

/* RELEASEs that may have been lost with their connection are taken again, of whatever is not linked. */
static void
test_releases_again(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);
	uint32 entry = store(tag, 1, USAGE_WRITTEN);
	uint32 kept = store(tag_of(1000, 8), 1, USAGE_WRITTEN);
	uint64 version;
	uint64 again;

	PageDirectoryForget(&tag);
	assert_true(PageDirectoryTakeRelease(entry, &version));
	PageDirectoryReleaseAgain(0, POOL_PAGES);
	for (uint32 i = 0; i < POOL_PAGES; i++)
		assert_int_equal(PageDirectoryTakeRelease(i, &again), i == entry);
	assert_int_equal(SlabTableTakeFree(0), entry);
	PageDirectoryReserve(entry);
	PageDirectoryReleaseAgain(0, POOL_PAGES);
	assert_true(PageDirectoryTakeRelease(entry, &again));
	assert_int_equal(again, version);
	assert_true(PageDirectoryIsLinked(kept));
	PageDirectoryUnreserve(entry);
}

static void
test_a_full_directory(void **state)
{
	for (uint32 block = 0; block < POOL_PAGES; block++)
		store(tag_of(block % 7, block), block, USAGE_WRITTEN);
	assert_int_equal(PageDirectoryUsed(), POOL_PAGES);
	for (uint32 block = 0; block < POOL_PAGES; block++)
	{
		lb_page_tag tag = tag_of(block % 7, block);
		PagePin pin;

		assert_true(PageDirectoryPin(&tag, false, &pin));
		assert_int_equal(pin.checksum, block);
		PageDirectoryUnpin(&pin);
		assert_false(is_linked(tag_of(block % 7 + 7, block)));
	}
	for (uint32 block = 0; block < POOL_PAGES; block++)
	{
		lb_page_tag tag = tag_of(block % 7, block);

		PageDirectoryForget(&tag);
	}
	assert_all_free();
}

/* Processes that attach to what is there already must not make it anew. */
static void
test_attach(void **state)
{
	lb_page_tag tag = tag_of(1000, 7);

	store(tag, 1, USAGE_WRITTEN);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	assert_true(is_linked(tag));
	assert_int_equal(SlabTableNodeFree(0), POOL_PAGES - 1);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_life_of_a_page),   TEST(test_forgotten_in_flight),
		TEST(test_push_that_failed), TEST(test_newer_version_replaces),
		TEST(test_stamps),           TEST(test_forget_version),
		TEST(test_peek_in_flight),   TEST(test_selections),
		TEST(test_eviction),         TEST(test_usage),
		TEST(test_draining),         TEST(test_taking_slots),
		TEST(test_releases),         TEST(test_releases_in_flight),
		TEST(test_releases_again),   TEST(test_a_full_directory),
		TEST(test_attach),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
