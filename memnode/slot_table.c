/*
 * slot_table.c
 *	  What each slot of one slab holds.
 */
#include <assert.h>
#include <stdlib.h>

#include "slot_table.h"

bool
slot_table_init(slot_table *table, uint32_t pages)
{
	table->pages = pages;
	table->used = 0;
	table->slots = calloc(pages, sizeof(slot));
	return table->slots != NULL;
}

void
slot_table_free(slot_table *table)
{
	free(table->slots);
	table->slots = NULL;
	table->pages = 0;
	table->used = 0;
}

static void
make_empty(slot_table *table, slot *entry)
{
	if (entry->state == SLOT_EMPTY)
		return;
	entry->state = SLOT_EMPTY;
	table->used--;
}

bool
slot_table_begin(slot_table *table, uint32_t page, const lb_page_tag *tag, uint64_t version)
{
	slot *entry = &table->slots[page];

	assert(page < table->pages);
	if (entry->state != SLOT_EMPTY && entry->version >= version &&
		lb_page_tag_equal(&entry->tag, tag))
		return false;
	make_empty(table, entry);
	return true;
}

void
slot_table_publish(slot_table *table, uint32_t page, const lb_page_tag *tag, uint64_t version,
				   uint64_t checksum)
{
	slot *entry = &table->slots[page];

	assert(page < table->pages);
	assert(entry->state == SLOT_EMPTY);
	entry->tag = *tag;
	entry->version = version;
	entry->checksum = checksum;
	entry->state = SLOT_CLEAN;
	table->used++;
}

bool
slot_table_release(slot_table *table, uint32_t page, uint64_t version)
{
	slot *entry = &table->slots[page];

	assert(page < table->pages);
	if (entry->state == SLOT_EMPTY || entry->version != version)
		return false;
	make_empty(table, entry);
	return true;
}
