/*
 * flush_survey.c
 *	  What the flush policy wants to know of a tenant's dirty pages.
 */
#include <string.h>

#include "flush_survey.h"
#include "storage.h"

/* Slots looked at in one go: a fraction of a millisecond. */
#define SLOTS_IN_ONE_GO 32768

static void
begin_walk(flush_survey *survey)
{
	survey->next_slab = survey->next_page = 0;
	survey->oldest_s = UINT32_MAX;
	survey->votes = 0;
	survey->file_pages = 0;
}

void
flush_survey_reset(flush_survey *survey)
{
	memset(survey, 0, sizeof(*survey));
	survey->known_oldest_s = UINT32_MAX;
	begin_walk(survey);
}

static void
look_at(flush_survey *survey, const slot *slot)
{
	if (slot->state != SLOT_DIRTY)
		return;
	if (slot->dirty_since_s < survey->oldest_s)
		survey->oldest_s = slot->dirty_since_s;
	if (survey->votes == 0)
		survey->vote = slot->tag;
	if (storage_same_file(&slot->tag, &survey->vote))
		survey->votes++;
	else
		survey->votes--;
	if (survey->has_file && storage_same_file(&slot->tag, &survey->file))
		survey->file_pages++;
}

static void
end_walk(flush_survey *survey)
{
	survey->known_oldest_s = survey->oldest_s;
	survey->known_file = survey->file;
	survey->known_file_pages = survey->file_pages;
	survey->has_file = survey->votes > 0;
	survey->file = survey->vote;
	begin_walk(survey);
}

void
flush_survey_step(flush_survey *survey, const slot_table *table)
{
	uint32_t left = SLOTS_IN_ONE_GO;

	while (left > 0)
	{
		const slab_slots *slab;

		if (survey->next_slab >= table->slab_numbers)
		{
			end_walk(survey);
			return;
		}
		slab = &table->slabs[survey->next_slab];
		if (!slab->slots || slab->dirty == 0 || survey->next_page >= table->slab_pages)
		{
			survey->next_slab++;
			survey->next_page = 0;
			continue;
		}
		look_at(survey, &slab->slots[survey->next_page++]);
		left--;
	}
}

void
flush_survey_tell(const flush_survey *survey, uint32_t now_s, flush_figures *figures)
{
	uint32_t oldest_s = survey->known_oldest_s;

	figures->oldest_age_ms = oldest_s < now_s ? (now_s - oldest_s) * UINT64_C(1000) : 0;
	figures->largest_file = survey->known_file;
	figures->largest_file_pages = survey->known_file_pages;
}
