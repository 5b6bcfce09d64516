/*
 * slot_table.c
 *	  What each slot of one tenant holds, and the index from a page to its slot.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "slot_table.h"

/* A power of two. Fewer are never worth it. */
#define BUCKETS_MIN 256
#define BUCKETS_MAX (UINT32_C(1) << 31)

bool
slot_table_init(slot_table *table)
{
	memset(table, 0, sizeof(*table));
	table->buckets = malloc(BUCKETS_MIN * sizeof(uint32_t));
	table->bucket_capacity = BUCKETS_MIN;
	slot_table_clear(table);
	return table->buckets != NULL;
}

void
slot_table_free(slot_table *table)
{
	free(table->slabs);
	free(table->buckets);
	memset(table, 0, sizeof(*table));
}

void
slot_table_clear(slot_table *table)
{
	uint32_t *smaller;

	free(table->slabs);
	table->slabs = NULL;
	table->slab_numbers = 0;
	table->slab_pages = table->slab_shift = 0;
	table->used = table->dirty = 0;
	if (!table->buckets)
		return;
	smaller = realloc(table->buckets, BUCKETS_MIN * sizeof(uint32_t));
	if (smaller)
	{
		table->buckets = smaller;
		table->bucket_capacity = BUCKETS_MIN;
	}
	table->bucket_count = BUCKETS_MIN;
	memset(table->buckets, 0xff, BUCKETS_MIN * sizeof(uint32_t));
}

/* The index. With n buckets, 2^k <= n < 2^(k+1), those from n - 2^k to 2^k are still whole: not split into two. */

static uint32_t
low_half(uint32_t bucket_count)
{
	return UINT32_C(1) << (31 - __builtin_clz(bucket_count));
}

static uint32_t
bucket_of(const slot_table *table, const lb_page_tag *tag)
{
	uint32_t hash = (uint32_t) lb_page_tag_hash(tag);
	uint32_t half = low_half(table->bucket_count);
	uint32_t bucket = hash & (2 * half - 1);

	return bucket < table->bucket_count ? bucket : hash & (half - 1);
}

static bool
reserve_bucket(slot_table *table)
{
	uint32_t *larger;

	if (table->bucket_count < table->bucket_capacity)
		return true;
	if (table->bucket_capacity >= BUCKETS_MAX)
		return false;
	larger = realloc(table->buckets, 2 * (size_t) table->bucket_capacity * sizeof(uint32_t));
	if (!larger)
		return false;
	table->buckets = larger;
	table->bucket_capacity *= 2;
	return true;
}

/* One bucket more: half of another one's slots go there. Without memory for it chains get longer, that is all. */
static void
split_bucket(slot_table *table)
{
	uint32_t old = table->bucket_count - low_half(table->bucket_count);
	uint32_t next;

	if (!reserve_bucket(table))
		return;
	next = table->buckets[old];
	table->buckets[old] = SLOT_NONE;
	table->buckets[table->bucket_count++] = SLOT_NONE;
	while (next != SLOT_NONE)
	{
		slot *entry = slot_table_slot(table, next);
		uint32_t *bucket = &table->buckets[bucket_of(table, &entry->tag)];
		uint32_t id = next;

		next = entry->next;
		entry->next = *bucket;
		*bucket = id;
	}
}

static void
index_add(slot_table *table, uint32_t id)
{
	slot *entry = slot_table_slot(table, id);
	uint32_t *bucket;

	if (table->used > table->bucket_count)
		split_bucket(table);
	bucket = &table->buckets[bucket_of(table, &entry->tag)];
	entry->next = *bucket;
	*bucket = id;
}

static void
index_remove(slot_table *table, uint32_t id)
{
	const slot *entry = slot_table_slot(table, id);
	uint32_t *link = &table->buckets[bucket_of(table, &entry->tag)];

	while (*link != id)
	{
		assert(*link != SLOT_NONE);
		link = &slot_table_slot(table, *link)->next;
	}
	*link = entry->next;
}

uint32_t
slot_table_find(const slot_table *table, const lb_page_tag *tag)
{
	uint32_t id = table->buckets[bucket_of(table, tag)];

	while (id != SLOT_NONE)
	{
		const slot *entry = slot_table_slot(table, id);

		if (lb_page_tag_equal(&entry->tag, tag))
			break;
		id = entry->next;
	}
	return id;
}

/* Slabs. */

bool
slot_table_numbers_suffice(uint32_t number, uint32_t slab_pages)
{
	return number < LB_SLAB_NUMBERS_MAX && ((uint64_t) number + 1) * slab_pages < SLOT_NONE;
}

bool
slot_table_add_slab(slot_table *table, uint32_t number, slot *slots, uint32_t slab_pages)
{
	assert(slot_table_numbers_suffice(number, slab_pages));
	if (number >= table->slab_numbers)
	{
		slab_slots *longer = realloc(table->slabs, ((size_t) number + 1) * sizeof(slab_slots));

		if (!longer)
			return false;
		memset(longer + table->slab_numbers, 0,
			   (number + 1 - table->slab_numbers) * sizeof(slab_slots));
		table->slabs = longer;
		table->slab_numbers = number + 1;
	}
	assert(table->slab_pages == 0 || table->slab_pages == slab_pages);
	table->slab_pages = slab_pages;
	table->slab_shift = (uint32_t) __builtin_ctz(slab_pages);
	table->slabs[number] = (slab_slots){.slots = slots};
	return true;
}

void
slot_table_remove_slab(slot_table *table, uint32_t number)
{
	for (uint32_t page = 0; page < table->slab_pages; page++)
		slot_table_empty(table, slot_table_id(table, number, page));
	table->slabs[number].slots = NULL;
}

/* Slots. */

static void
count_dirty(slot_table *table, uint32_t id, int change)
{
	table->dirty += (uint64_t) change;
	table->slabs[slot_table_slab_of(table, id)].dirty += (uint32_t) change;
}

bool
slot_table_is_newer(const slot_table *table, const lb_page_tag *tag, uint64_t version)
{
	uint32_t id = slot_table_find(table, tag);

	return id == SLOT_NONE || slot_table_slot(table, id)->version < version;
}

void
slot_table_empty(slot_table *table, uint32_t id)
{
	slot *entry = slot_table_slot(table, id);

	if (entry->state == SLOT_EMPTY)
		return;
	index_remove(table, id);
	if (slot_is_dirty(entry))
		count_dirty(table, id, -1);
	entry->state = SLOT_EMPTY;
	table->used--;
}

bool
slot_table_publish(slot_table *table, uint32_t id, const lb_push *push, uint32_t now_s)
{
	slot *entry = slot_table_slot(table, id);
	uint32_t older_id = slot_table_find(table, &push->tag);
	bool drops_dirt = false;

	assert(entry->state == SLOT_EMPTY);
	entry->dirty_since_s = now_s;
	if (older_id != SLOT_NONE)
	{
		const slot *older = slot_table_slot(table, older_id);

		assert(older->version < push->version);
		drops_dirt = slot_is_dirty(older) && !push->dirty;
		/* what is being written just now does not make the newer version any older */
		if (older->state == SLOT_DIRTY)
			entry->dirty_since_s = older->dirty_since_s;
		slot_table_empty(table, older_id);
	}
	entry->tag = push->tag;
	entry->version = push->version;
	entry->checksum = push->checksum;
	entry->state = push->dirty ? SLOT_DIRTY : SLOT_CLEAN;
	table->used++;
	if (push->dirty)
		count_dirty(table, id, 1);
	index_add(table, id);
	return drops_dirt;
}

bool
slot_table_release(slot_table *table, uint32_t id, uint64_t version)
{
	const slot *entry = slot_table_slot(table, id);

	if (entry->state == SLOT_EMPTY || entry->version > version)
		return false;
	slot_table_empty(table, id);
	return true;
}

void
slot_table_doubt(slot_table *table, uint32_t id, uint32_t now_s)
{
	slot *entry = slot_table_slot(table, id);

	assert(entry->state == SLOT_FLUSHED);
	entry->state = SLOT_DIRTY;
	entry->dirty_since_s = now_s;
	count_dirty(table, id, 1);
}

void
slot_table_set_state(slot_table *table, uint32_t id, slot_state state)
{
	slot *entry = slot_table_slot(table, id);
	bool was_dirty = slot_is_dirty(entry);

	assert(was_dirty && state >= SLOT_FLUSHED);
	entry->state = state;
	if (was_dirty && !slot_is_dirty(entry))
		count_dirty(table, id, -1);
}
