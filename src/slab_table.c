/*
 * slab_table.c
 *	  The slabs of remote memory that memory nodes have granted, and the free slots in them.
 *
 * A slab's spinlock protects its state, its node and its list of free slots. The figures per node are sums, kept with
 * atomics for placement, which wants them quickly and does not mind if they are a moment old.
 */
#include "postgres.h"

#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "page_directory.h"
#include "settings.h"
#include "slab_table.h"

typedef struct Slab
{
	slock_t lock;
	uint8 state; /* SlabState */
	int16 node;
	uint32 node_slab; /* the node's number for it */
	uint32 free_head; /* INVALID_ENTRY ends the list */
	uint32 free_count;
} Slab;

typedef struct NodeSlots
{
	pg_atomic_uint32 granted; /* slots in active slabs */
	pg_atomic_uint32 free;
	pg_atomic_uint32 hint; /* the slab that had a free slot last */
} NodeSlots;

typedef struct SlabTable
{
	uint32 count;
	uint32 pages; /* in each slab */
	pg_atomic_uint32 active_pages;
	pg_atomic_uint32 growing;
	NodeSlots nodes[MAX_NODES];
	Slab slabs[FLEXIBLE_ARRAY_MEMBER];
} SlabTable;

static SlabTable *table;

Size
SlabTableShmemSize(void)
{
	return add_size(offsetof(SlabTable, slabs),
					mul_size(sizeof(Slab), settings_max_pages() / settings_slab_pages()));
}

void
SlabTableShmemInit(void)
{
	bool found;

	table = ShmemInitStruct("legobase slab table", SlabTableShmemSize(), &found);
	if (found)
		return;

	memset(table, 0, SlabTableShmemSize());
	table->count = settings_max_pages() / settings_slab_pages();
	table->pages = settings_slab_pages();
	for (uint32 i = 0; i < table->count; i++)
		SpinLockInit(&table->slabs[i].lock);
	SlabTableReset();
}

void
SlabTableReset(void)
{
	pg_atomic_init_u32(&table->active_pages, 0);
	pg_atomic_init_u32(&table->growing, 0);
	for (int i = 0; i < MAX_NODES; i++)
	{
		pg_atomic_init_u32(&table->nodes[i].granted, 0);
		pg_atomic_init_u32(&table->nodes[i].free, 0);
		pg_atomic_init_u32(&table->nodes[i].hint, 0);
	}
	for (uint32 i = 0; i < table->count; i++)
	{
		Slab *slab = &table->slabs[i];

		SpinLockAcquire(&slab->lock);
		slab->state = SLAB_UNUSED;
		slab->free_head = INVALID_ENTRY;
		slab->free_count = 0;
		SpinLockRelease(&slab->lock);
	}
}

uint32
SlabTableCount(void)
{
	return table->count;
}

uint32
SlabTableEntries(void)
{
	return table->count * table->pages;
}

uint32
SlabTablePages(void)
{
	return table->pages;
}

static uint32
find_unused(void)
{
	for (uint32 i = 0; i < table->count; i++)
	{
		if (table->slabs[i].state == SLAB_UNUSED)
			return i;
	}
	return table->count;
}

bool
SlabTableAdd(int node, uint32 node_slab)
{
	uint32 number = find_unused();
	Slab *slab;
	uint32 first;

	if (number == table->count)
		return false;
	slab = &table->slabs[number];
	first = number * table->pages;

	/* Nobody takes slots of an unused slab, so the list can be made without the lock. */
	for (uint32 i = 0; i < table->pages; i++)
	{
		PageDirectoryEntry *entry = PageDirectoryEntryAt(first + i);

		pg_atomic_write_u32(&entry->state, 0);
		entry->next = i + 1 < table->pages ? first + i + 1 : INVALID_ENTRY;
		entry->comm_buffer = INVALID_COMM_BUFFER;
	}

	SpinLockAcquire(&slab->lock);
	slab->node = (int16) node;
	slab->node_slab = node_slab;
	slab->free_head = first;
	slab->free_count = table->pages;
	slab->state = SLAB_ACTIVE;
	SpinLockRelease(&slab->lock);

	pg_atomic_fetch_add_u32(&table->nodes[node].granted, table->pages);
	pg_atomic_fetch_add_u32(&table->nodes[node].free, table->pages);
	pg_atomic_fetch_add_u32(&table->active_pages, table->pages);
	return true;
}

void
SlabTableRebuildFree(uint32 number)
{
	Slab *slab = &table->slabs[number];
	uint32 first = number * table->pages;
	uint32 head = INVALID_ENTRY;
	uint32 count = 0;
	uint32 counted;

	/* From the end, so that the first slots are the first ones taken, as in a slab that was just added. */
	for (uint32 i = table->pages; i > 0; i--)
	{
		uint32 entry = first + i - 1;

		if (!PageDirectoryIsUnused(entry))
			continue;
		PageDirectoryEntryAt(entry)->next = head;
		head = entry;
		count++;
	}
	SpinLockAcquire(&slab->lock);
	Assert(slab->state == SLAB_ACTIVE);
	counted = slab->free_count;
	slab->free_head = head;
	slab->free_count = count;
	SpinLockRelease(&slab->lock);
	/* May be less than nothing, which an unsigned sum gets right. */
	pg_atomic_fetch_add_u32(&table->nodes[slab->node].free, (int32) (count - counted));
}

void
SlabTableDrain(uint32 number)
{
	Slab *slab = &table->slabs[number];
	uint32 free_now;

	SpinLockAcquire(&slab->lock);
	Assert(slab->state == SLAB_ACTIVE);
	slab->state = SLAB_DRAINING;
	free_now = slab->free_count;
	SpinLockRelease(&slab->lock);

	pg_atomic_fetch_sub_u32(&table->active_pages, table->pages);
	pg_atomic_fetch_sub_u32(&table->nodes[slab->node].granted, table->pages);
	pg_atomic_fetch_sub_u32(&table->nodes[slab->node].free, free_now);
}

bool
SlabTableDrained(uint32 number)
{
	Slab *slab = &table->slabs[number];
	bool drained;

	SpinLockAcquire(&slab->lock);
	drained = slab->state == SLAB_DRAINING && slab->free_count == table->pages;
	SpinLockRelease(&slab->lock);
	return drained;
}

void
SlabTableRemove(uint32 number)
{
	Slab *slab = &table->slabs[number];

	SpinLockAcquire(&slab->lock);
	Assert(slab->state == SLAB_DRAINING && slab->free_count == table->pages);
	slab->state = SLAB_UNUSED;
	slab->free_head = INVALID_ENTRY;
	slab->free_count = 0;
	SpinLockRelease(&slab->lock);
}

SlabState
SlabTableState(uint32 slab)
{
	return (SlabState) table->slabs[slab].state;
}

SlabState
SlabTableStateOfEntry(uint32 entry)
{
	return SlabTableState(entry / table->pages);
}

int
SlabTableSlot(uint32 entry, lb_slot_ref *slot)
{
	const Slab *slab = &table->slabs[entry / table->pages];

	slot->slab = slab->node_slab;
	slot->page = entry % table->pages;
	return slab->node;
}

int
SlabTableNodeOf(uint32 slab, uint32 *node_slab)
{
	*node_slab = table->slabs[slab].node_slab;
	return table->slabs[slab].node;
}

uint32
SlabTableActivePages(void)
{
	return pg_atomic_read_u32(&table->active_pages);
}

void
SlabTableSetGrowing(bool growing)
{
	if (growing != SlabTableGrowing())
		pg_atomic_write_u32(&table->growing, growing ? 1 : 0);
}

bool
SlabTableGrowing(void)
{
	return pg_atomic_read_u32(&table->growing) != 0;
}

uint32
SlabTableNodePages(int node)
{
	return pg_atomic_read_u32(&table->nodes[node].granted);
}

uint32
SlabTableNodeFree(int node)
{
	return pg_atomic_read_u32(&table->nodes[node].free);
}

static uint32
take_from(Slab *slab, int node)
{
	uint32 entry = INVALID_ENTRY;

	/* A look without the lock first: most slabs of a full pool have nothing free. */
	if (slab->state != SLAB_ACTIVE || slab->node != node || slab->free_count == 0)
		return INVALID_ENTRY;

	SpinLockAcquire(&slab->lock);
	if (slab->state == SLAB_ACTIVE && slab->node == node && slab->free_count > 0)
	{
		entry = slab->free_head;
		slab->free_head = PageDirectoryEntryAt(entry)->next;
		slab->free_count--;
	}
	SpinLockRelease(&slab->lock);
	return entry;
}

uint32
SlabTableTakeFree(int node)
{
	NodeSlots *slots = &table->nodes[node];
	uint32 start = pg_atomic_read_u32(&slots->hint);

	if (pg_atomic_read_u32(&slots->free) == 0)
		return INVALID_ENTRY;
	for (uint32 i = 0; i < table->count; i++)
	{
		uint32 number = (start + i) % table->count;
		uint32 entry = take_from(&table->slabs[number], node);

		if (entry != INVALID_ENTRY)
		{
			pg_atomic_fetch_sub_u32(&slots->free, 1);
			if (i > 0)
				pg_atomic_write_u32(&slots->hint, number);
			return entry;
		}
	}
	return INVALID_ENTRY;
}

void
SlabTablePutFree(uint32 entry)
{
	Slab *slab = &table->slabs[entry / table->pages];
	bool active;
	int node;

	SpinLockAcquire(&slab->lock);
	PageDirectoryEntryAt(entry)->next = slab->free_head;
	slab->free_head = entry;
	slab->free_count++;
	active = slab->state == SLAB_ACTIVE;
	node = slab->node;
	SpinLockRelease(&slab->lock);

	if (active)
		pg_atomic_fetch_add_u32(&table->nodes[node].free, 1);
}
