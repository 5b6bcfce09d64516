/*
 * placement.c
 *	  Where a page that is pushed goes: which node, which slot, and whose page makes room when all slots are taken.
 *
 * Replacement is a clock over all slots. It counts usage down as it passes and gives up a page whose usage is zero, unless
 * the page is in shared_buffers: those are in use, and their remote copy is what makes a later clean eviction from
 * shared_buffers free of charge. Such a page is passed over, once in a round.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#include "local_pool.h"
#include "node_table.h"
#include "page_directory.h"
#include "placement.h"
#include "slab_table.h"
#include "stats.h"
#include "write_back.h"

/*
 * How far one backend moves the hand for one page. Enough to bring every usage count in a small pool to zero; beyond it the
 * push is dropped, and the hand stays where it is for the next one.
 */
#define CLOCK_STEPS_MAX 2048

/* So many pages are passed over because they are in shared_buffers; a small pool may hold nothing else. */
#define LOCAL_PAGES_SPARED 32

typedef struct Clock
{
	pg_atomic_uint32 hand;
} Clock;

static Clock *clock_state;
static int spared; /* in the present call */

Size
PlacementShmemSize(void)
{
	return sizeof(Clock);
}

void
PlacementShmemInit(void)
{
	bool found;

	clock_state = ShmemInitStruct("legobase clock", sizeof(Clock), &found);
	if (!found)
		pg_atomic_init_u32(&clock_state->hand, 0);
}

int
PlacementChooseNode(const uint32 *free_slots, int count, uint32 random)
{
	int one;
	int other;

	if (count <= 0)
		return -1;
	one = random % count;
	other = count == 1 ? one : (one + 1 + (random >> 16) % (count - 1)) % count;
	if (free_slots[other] > free_slots[one])
		one = other;
	if (free_slots[one] > 0)
		return one;

	/* Both are full: any that is not. */
	for (int i = 0; i < count; i++)
	{
		if (free_slots[(one + i) % count] > 0)
			return (one + i) % count;
	}
	return -1;
}

/* Where may the slot be? On a given node (-1: any); of a node that writes back. */
typedef struct SlotWish
{
	int node;
	bool dirty;
} SlotWish;

static bool
node_fits(int node, const SlotWish *wish)
{
	return NodeTableState(node) == NODE_UP && (wish->node < 0 || wish->node == node) &&
		   (!wish->dirty || WriteBackNode(node));
}

static uint32
take_free_slot(const SlotWish *wish)
{
	uint32 free_slots[MAX_NODES];
	int count = NodeTableCount();
	int node;
	uint32 entry;

	for (int i = 0; i < count; i++)
		free_slots[i] = node_fits(i, wish) ? SlabTableNodeFree(i) : 0;
	node = PlacementChooseNode(free_slots, count, pg_prng_uint32(&pg_global_prng_state));
	if (node < 0)
		return INVALID_ENTRY;
	entry = SlabTableTakeFree(node);
	if (entry != INVALID_ENTRY)
		PageDirectoryReserve(entry);
	return entry;
}

static bool
spare_local_page(const lb_page_tag *tag)
{
	if (spared >= LOCAL_PAGES_SPARED || !LocalPoolHolds(tag))
		return false;
	spared++;
	return true;
}

/* Can a slot of this slab be taken? Pages of a node that does not answer are left alone: it may be back in a moment. */
static bool
slab_usable(uint32 slab, const SlotWish *wish)
{
	uint32 node_slab;

	return SlabTableState(slab) == SLAB_ACTIVE &&
		   node_fits(SlabTableNodeOf(slab, &node_slab), wish);
}

static uint32
advance_clock(const SlotWish *wish)
{
	uint32 slab_pages = SlabTablePages();
	uint32 total = SlabTableEntries();
	uint32 limit = Min(CLOCK_STEPS_MAX, total * (USAGE_MAX + 1));

	spared = 0;
	for (uint32 i = 0; i < limit; i++)
	{
		uint32 hand = pg_atomic_fetch_add_u32(&clock_state->hand, 1);
		uint32 at = hand % total;

		if (!slab_usable(at / slab_pages, wish))
		{
			/* On to the end of the slab, in one step; if somebody else has moved the hand, it is on its way already. */
			uint32 expected = hand + 1;

			pg_atomic_compare_exchange_u32(&clock_state->hand, &expected,
										   hand + slab_pages - at % slab_pages);
			continue;
		}
		if (PageDirectoryTryEvict(at, spare_local_page))
		{
			StatsCount(STAT_EVICTED_PAGES, 1);
			return at;
		}
	}
	return INVALID_ENTRY;
}

/* While memory is on its way nobody gives a page up for a slot, unless it has to be on this node. */
static uint32
take_slot(const SlotWish *wish)
{
	uint32 entry;

	if (SlabTableActivePages() == 0)
		return INVALID_ENTRY;
	entry = take_free_slot(wish);
	if (entry == INVALID_ENTRY && (wish->node >= 0 || !SlabTableGrowing()))
		entry = advance_clock(wish);
	return entry;
}

uint32
PlacementTakeSlot(void)
{
	SlotWish wish = {.node = -1};

	return take_slot(&wish);
}

uint32
PlacementTakeSlotDirty(int node)
{
	SlotWish wish = {.node = node, .dirty = true};

	return take_slot(&wish);
}
