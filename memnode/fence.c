/*
 * fence.c
 *	  Rule R8: nothing of some pages may go to storage any more.
 */
#include "fence.h"

bool
fence_selects(const lb_fence *fence, const lb_page_tag *tag)
{
	return !(fence->by_tablespace && tag->tablespace != fence->from.tablespace) &&
		   !(fence->by_database && tag->database != fence->from.database) &&
		   !(fence->by_relation && tag->relation != fence->from.relation) &&
		   !(fence->by_fork && (tag->fork != fence->from.fork || tag->block < fence->from.block ||
								(tag->block >= fence->end && fence->end != UINT32_MAX)));
}

/* Few enough blocks of one fork, that looking each of them up is less than looking at all slots? */
static bool
is_small_range(const slot_table *table, const lb_fence *fence)
{
	return fence->by_tablespace && fence->by_database && fence->by_relation && fence->by_fork &&
		   fence->end != UINT32_MAX && fence->end > fence->from.block &&
		   fence->end - fence->from.block <= table->used / 8;
}

static uint64_t
empty_slot(slot_table *table, uint32_t id)
{
	bool dirty = slot_is_dirty(slot_table_slot(table, id));

	slot_table_empty(table, id);
	return dirty;
}

static uint64_t
empty_range(slot_table *table, const lb_fence *fence)
{
	lb_page_tag tag = fence->from;
	uint64_t dirty = 0;

	for (; tag.block < fence->end; tag.block++)
	{
		uint32_t id = slot_table_find(table, &tag);

		if (id != SLOT_NONE)
			dirty += empty_slot(table, id);
	}
	return dirty;
}

static uint64_t
empty_in_slab(slot_table *table, uint32_t slab, const lb_fence *fence)
{
	const slot *slots = table->slabs[slab].slots;
	uint64_t dirty = 0;

	for (uint32_t page = 0; page < table->slab_pages; page++)
		if (slots[page].state != SLOT_EMPTY && fence_selects(fence, &slots[page].tag))
			dirty += empty_slot(table, slot_table_id(table, slab, page));
	return dirty;
}

uint64_t
fence_empty_slots(slot_table *table, const lb_fence *fence)
{
	uint64_t dirty = 0;

	if (table->used == 0)
		return 0;
	if (is_small_range(table, fence))
		return empty_range(table, fence);
	for (uint32_t slab = 0; slab < table->slab_numbers; slab++)
		if (table->slabs[slab].dirty > 0)
			dirty += empty_in_slab(table, slab, fence);
	return dirty;
}
