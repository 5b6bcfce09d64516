/*
 * test_placement.c
 *	  Placement: which node, which slot, whose page makes room.
 */
#include "postgres.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "common/pg_prng.h"

#include "comm_buffer.h"
#include "local_pool.h"
#include "node_table.h"
#include "page_directory.h"
#include "pg_stubs.h"
#include "placement.h"
#include "slab_table.h"
#include "stats.h"
#include "write_back.h"

#define SLAB_PAGES 256

/* The other modules, as placement sees them. */
static int nodes;
static NodeState node_states[MAX_NODES];
static uint64 evictions;
static uint32 local_blocks; /* blocks below this one are in shared_buffers */

pg_prng_state pg_global_prng_state;

uint32
pg_prng_uint32(pg_prng_state *state)
{
	state->s0 = state->s0 * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32) (state->s0 >> 32);
}

int
NodeTableCount(void)
{
	return nodes;
}

NodeState
NodeTableState(int node)
{
	return node_states[node];
}

static bool writes_back[MAX_NODES];

bool
WriteBackNode(int node)
{
	return writes_back[node];
}

void
StatsCount(StatCounter counter, uint64 n)
{
	assert_int_equal(counter, STAT_EVICTED_PAGES);
	evictions += n;
}

bool
LocalPoolHolds(const lb_page_tag *tag)
{
	return tag->block < local_blocks;
}

/* A pool with one slab on each of the nodes. */
static void
make_pool(int node_count)
{
	nodes = node_count;
	evictions = 0;
	local_blocks = 0;
	stub_set_pool(node_count * SLAB_PAGES, SLAB_PAGES);
	PageDirectoryShmemInit();
	SlabTableShmemInit();
	CommBufferShmemInit();
	PlacementShmemInit();
	for (int i = 0; i < node_count; i++)
	{
		assert_true(SlabTableAdd(i, 0));
		node_states[i] = NODE_UP;
	}
}

static int
teardown(void **state)
{
	stub_reset_shmem();
	return 0;
}

/* Push a page into a slot that was taken. */
static void
store(uint32 entry, uint32 block, uint32 usage)
{
	lb_page_tag tag = {.tablespace = 1663, .database = 5, .relation = 16384, .block = block};
	uint32 buffer = CommBufferTake();

	assert_int_not_equal(PageDirectoryLink(entry, &tag, block, buffer, NULL, usage), 0);
	PageDirectoryPushEnded(entry, true);
	CommBufferRelease(buffer);
}

static void
fill_pool(uint32 usage)
{
	uint32 pages = SlabTableEntries();

	for (uint32 block = 0; block < pages; block++)
	{
		uint32 entry = PlacementTakeSlot();

		assert_int_not_equal(entry, INVALID_ENTRY);
		store(entry, block, usage);
	}
	assert_int_equal(PageDirectoryUsed(), pages);
	assert_int_equal(evictions, 0);
}

static bool
holds(uint32 block)
{
	lb_page_tag tag = {.tablespace = 1663, .database = 5, .relation = 16384, .block = block};
	PagePin pin;

	return PageDirectoryPeek(&tag, &pin);
}

static void
test_choose_node(void **state)
{
	uint32 random[] = {0, 1, 2, 3, 0x10000, 0x10001, 0x20002, 0xffffffff, 0x12345678, 0x9abcdef0};
	uint32 none[4] = {0, 0, 0, 0};
	uint32 one[4] = {0, 0, 7, 0};
	uint32 full[2] = {0, 10};

	assert_int_equal(PlacementChooseNode(none, 0, 1), -1);
	for (int i = 0; i < lengthof(random); i++)
	{
		assert_int_equal(PlacementChooseNode(none, 4, random[i]), -1);
		assert_int_equal(PlacementChooseNode(one, 4, random[i]), 2);
		assert_int_equal(PlacementChooseNode(&one[2], 1, random[i]), 0);
		assert_int_equal(PlacementChooseNode(none, 1, random[i]), -1);
		assert_int_equal(PlacementChooseNode(full, 2, random[i]), 1);
	}
}

/* With two choices, eight nodes fill up almost evenly; and all of them can be chosen. */
static void
test_even_filling(void **state)
{
	uint32 free_slots[8];
	uint32 least = UINT32_MAX;
	uint32 most = 0;

	for (int i = 0; i < 8; i++)
		free_slots[i] = 10000;
	for (int i = 0; i < 40000; i++)
	{
		int node = PlacementChooseNode(free_slots, 8, pg_prng_uint32(&pg_global_prng_state));

		assert_in_range(node, 0, 7);
		free_slots[node]--;
	}
	for (int i = 0; i < 8; i++)
	{
		least = Min(least, free_slots[i]);
		most = Max(most, free_slots[i]);
	}
	assert_in_range(least, 4980, 5000);
	assert_in_range(most, 5000, 5020);
}

static void
test_no_memory(void **state)
{
	make_pool(2);
	SlabTableDrain(0);
	SlabTableDrain(1);
	assert_int_equal(PlacementTakeSlot(), INVALID_ENTRY);
}

/* Slots of nodes that are not up are neither given out nor needed: the other nodes' pages make room. */
static void
test_node_down(void **state)
{
	lb_slot_ref slot;

	make_pool(2);
	node_states[0] = NODE_SUSPECT;
	for (uint32 block = 0; block < SLAB_PAGES; block++)
	{
		uint32 entry = PlacementTakeSlot();

		assert_int_not_equal(entry, INVALID_ENTRY);
		assert_int_equal(SlabTableSlot(entry, &slot), 1);
		store(entry, block, 0);
	}
	assert_int_not_equal(PlacementTakeSlot(), INVALID_ENTRY);
	assert_int_equal(evictions, 1);
}

/* While more memory is on its way a full pool gives no page up; afterwards it does. */
static void
test_growing(void **state)
{
	make_pool(1);
	for (uint32 block = 0; block < SLAB_PAGES; block++)
		store(PlacementTakeSlot(), block, 0);
	SlabTableSetGrowing(true);
	assert_int_equal(PlacementTakeSlot(), INVALID_ENTRY);
	assert_int_equal(evictions, 0);
	SlabTableSetGrowing(false);
	assert_int_not_equal(PlacementTakeSlot(), INVALID_ENTRY);
	assert_int_equal(evictions, 1);
}

/* A full pool gives up pages one by one, those that were not used again first. */
static void
test_least_used_first(void **state)
{
	make_pool(1);
	for (uint32 block = 0; block < SLAB_PAGES; block++)
		store(PlacementTakeSlot(), block, block % 2 ? USAGE_WRITTEN : USAGE_FIRST_READ);
	for (uint32 i = 0; i < SLAB_PAGES / 2; i++)
	{
		uint32 entry = PlacementTakeSlot();

		assert_int_not_equal(entry, INVALID_ENTRY);
		store(entry, 1000 + i, USAGE_WRITTEN);
	}
	assert_int_equal(evictions, SLAB_PAGES / 2);
	for (uint32 block = 1; block < SLAB_PAGES; block += 2)
		assert_true(holds(block));
	for (uint32 block = 0; block < SLAB_PAGES; block += 2)
		assert_false(holds(block));
}

static void
use(uint32 block)
{
	lb_page_tag tag = {.tablespace = 1663, .database = 5, .relation = 16384, .block = block};
	PagePin pin;

	if (PageDirectoryPin(&tag, true, &pin))
		PageDirectoryUnpin(&pin);
}

/* A scan that reads everything once does not push out what is used again and again. */
static void
test_scan_resistance(void **state)
{
	uint32 hot = SLAB_PAGES / 4;
	uint32 kept = 0;

	make_pool(1);
	fill_pool(USAGE_FIRST_READ);
	for (uint32 block = 0; block < hot; block++)
		use(block);
	for (uint32 i = 0; i < 4 * SLAB_PAGES; i++)
	{
		use(i % hot);
		store(PlacementTakeSlot(), 100000 + i, USAGE_FIRST_READ);
	}
	for (uint32 block = 0; block < hot; block++)
		kept += holds(block);
	assert_in_range(kept, hot * 9 / 10, hot);
}

/* Pages that shared_buffers hold too are the last to go, but they do go when there is nothing else. */
static void
test_local_pages_spared(void **state)
{
	make_pool(1);
	fill_pool(0);
	local_blocks = 20;
	for (uint32 i = 0; i < SLAB_PAGES - 20; i++)
		store(PlacementTakeSlot(), 1000 + i, USAGE_WRITTEN);
	for (uint32 block = 0; block < 20; block++)
		assert_true(holds(block));

	local_blocks = UINT32_MAX;
	for (uint32 i = 0; i < SLAB_PAGES / 2; i++)
		assert_int_not_equal(PlacementTakeSlot(), INVALID_ENTRY);
}

/* When every page is pinned the clock gives up, and works again when one is not. */
static void
test_all_pinned(void **state)
{
	PagePin pins[SLAB_PAGES];

	make_pool(1);
	fill_pool(0);
	for (uint32 block = 0; block < SLAB_PAGES; block++)
	{
		lb_page_tag tag = {.tablespace = 1663, .database = 5, .relation = 16384, .block = block};

		assert_true(PageDirectoryPin(&tag, false, &pins[block]));
	}
	assert_int_equal(PlacementTakeSlot(), INVALID_ENTRY);
	PageDirectoryUnpin(&pins[99]);
	assert_int_equal(PlacementTakeSlot(), pins[99].entry);
	assert_int_equal(PlacementTakeSlot(), INVALID_ENTRY);
}

/* A page that is written back goes to a node that writes back, or to the one that has its dirty version, or nowhere. */
static void
test_dirty_slots(void **state)
{
	lb_slot_ref slot;

	make_pool(3);
	assert_int_equal(PlacementTakeSlotDirty(-1), INVALID_ENTRY);
	writes_back[1] = writes_back[2] = true;
	for (int i = 0; i < 20; i++)
		assert_int_not_equal(SlabTableSlot(PlacementTakeSlotDirty(-1), &slot), 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(SlabTableSlot(PlacementTakeSlotDirty(2), &slot), 2);
	assert_int_equal(PlacementTakeSlotDirty(0), INVALID_ENTRY);
	node_states[2] = NODE_SUSPECT;
	assert_int_equal(PlacementTakeSlotDirty(2), INVALID_ENTRY);
	memset(writes_back, 0, sizeof(writes_back));
}

/* A full node: a clean page makes room there, and only there. */
static void
test_dirty_slot_of_a_full_node(void **state)
{
	lb_slot_ref slot;

	make_pool(2);
	writes_back[0] = writes_back[1] = true;
	fill_pool(0);
	for (int i = 0; i < 50; i++)
		assert_int_equal(SlabTableSlot(PlacementTakeSlotDirty(1), &slot), 1);
	assert_int_equal(evictions, 50);
	memset(writes_back, 0, sizeof(writes_back));
}

#define TEST(function) cmocka_unit_test_teardown(function, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_choose_node),
		TEST(test_even_filling),
		TEST(test_no_memory),
		TEST(test_node_down),
		TEST(test_least_used_first),
		TEST(test_scan_resistance),
		TEST(test_local_pages_spared),
		TEST(test_all_pinned),
		TEST(test_growing),
		TEST(test_dirty_slots),
		TEST(test_dirty_slot_of_a_full_node),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
