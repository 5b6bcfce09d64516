/*
 * flush_pass.c
 *	  One pass over a tenant's dirty pages.
 *
 * Where memory for more names is short a pass is smaller than it could be: what is left out stays dirty, and has another pass.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "flush_pass.h"
#include "storage.h"

/* Slots looked at in one go: about a millisecond, with the sorting of those that are dirty. */
#define SLOTS_IN_ONE_GO 16384

void
flush_pass_begin(flush_pass *pass, const flush_decision *decision, uint32_t now_s)
{
	assert(!pass->active);
	pass->active = pass->collecting = true;
	pass->decision = *decision;
	pass->now_s = now_s;
}

void
flush_pass_end(flush_pass *pass)
{
	free(pass->pages);
	free(pass->runs);
	memset(pass, 0, sizeof(*pass));
}

void
flush_pass_add(flush_pass *pass, const lb_page_tag *tag)
{
	if (pass->count == pass->capacity)
	{
		uint32_t capacity = pass->capacity > 0 ? 2 * pass->capacity : 1024;
		lb_page_tag *larger =
			capacity > pass->capacity ? realloc(pass->pages, capacity * sizeof(lb_page_tag)) : NULL;

		if (!larger)
			return;
		pass->pages = larger;
		pass->capacity = capacity;
	}
	pass->pages[pass->count++] = *tag;
}

static bool
is_wanted(const flush_pass *pass, const slot *slot)
{
	if (slot->state != SLOT_DIRTY)
		return false;
	switch (pass->decision.kind)
	{
		case FLUSH_FILE:
			return storage_same_file(&slot->tag, &pass->decision.file);
		case FLUSH_AGED:
			return pass->now_s >= slot->dirty_since_s &&
				   (pass->now_s - slot->dirty_since_s) * UINT64_C(1000) >=
					   pass->decision.older_than_ms;
		case FLUSH_EVERYTHING:
			return true;
		default:
			return false;
	}
}

static int
compare_tags(const void *a, const void *b)
{
	const lb_page_tag *left = a;
	const lb_page_tag *right = b;

	if (left->tablespace != right->tablespace)
		return left->tablespace < right->tablespace ? -1 : 1;
	if (left->database != right->database)
		return left->database < right->database ? -1 : 1;
	if (left->relation != right->relation)
		return left->relation < right->relation ? -1 : 1;
	if (left->fork != right->fork)
		return left->fork < right->fork ? -1 : 1;
	if (left->block != right->block)
		return left->block < right->block ? -1 : 1;
	return 0;
}

/* Make a run of the pages that are in none yet. */
static void
sort_run(flush_pass *pass)
{
	if (pass->sorted == pass->count)
		return;
	if (pass->run_count == pass->run_capacity)
	{
		uint32_t capacity = pass->run_capacity > 0 ? 2 * pass->run_capacity : 16;
		flush_run *larger = realloc(pass->runs, capacity * sizeof(flush_run));

		if (!larger)
		{
			pass->count = pass->sorted;
			return;
		}
		pass->runs = larger;
		pass->run_capacity = capacity;
	}
	qsort(pass->pages + pass->sorted, pass->count - pass->sorted, sizeof(lb_page_tag),
		  compare_tags);
	pass->runs[pass->run_count++] = (flush_run){pass->sorted, pass->count};
	pass->sorted = pass->count;
}

bool
flush_pass_collect(flush_pass *pass, const slot_table *table)
{
	uint32_t left = SLOTS_IN_ONE_GO;

	assert(pass->collecting);
	while (pass->next_slab < table->slab_numbers && left > 0)
	{
		const slab_slots *slab = &table->slabs[pass->next_slab];

		if (!slab->slots || slab->dirty == 0 || pass->next_page >= table->slab_pages)
		{
			pass->next_slab++;
			pass->next_page = 0;
			continue;
		}
		if (is_wanted(pass, &slab->slots[pass->next_page]))
			flush_pass_add(pass, &slab->slots[pass->next_page].tag);
		pass->next_page++;
		left--;
	}
	if (pass->count - pass->sorted >= SLOTS_IN_ONE_GO / 2 || pass->next_slab >= table->slab_numbers)
		sort_run(pass);
	pass->collecting = pass->next_slab < table->slab_numbers;
	return !pass->collecting;
}

bool
flush_pass_next(flush_pass *pass, lb_page_tag *tag)
{
	flush_run *first = NULL;

	for (uint32_t i = 0; i < pass->run_count;)
	{
		flush_run *run = &pass->runs[i];

		if (run->next == run->end)
		{
			*run = pass->runs[--pass->run_count];
			continue;
		}
		if (!first || compare_tags(&pass->pages[run->next], &pass->pages[first->next]) < 0)
			first = run;
		i++;
	}
	if (!first)
		return false;
	*tag = pass->pages[first->next++];
	return true;
}
