/*
 * flushing.c
 *	  What the memory node knows of the flushing of one tenant's dirty pages.
 */
#include <assert.h>
#include <string.h>

#include "flushing.h"

/* Slots looked at in one go when FLUSHED ones are told of: others want to be served too. */
#define SLOTS_IN_ONE_GO 16384

void
flushing_init(flushing *flushing)
{
	flush_pace_init(&flushing->pace);
	flush_survey_reset(&flushing->survey);
}

void
flushing_free(flushing *flushing)
{
	assert(!flushing->in_round);
	clean_queue_free(&flushing->clean);
	flush_pass_end(&flushing->pass);
}

void
flushing_detach(flushing *flushing)
{
	flushing->proven = flushing->confirmed = flushing->barred = false;
	flushing->requested = flushing->requested_again = false;
	flushing->fence_count = 0;
	/* its memory stays: a round that is still under way has reserved it */
	clean_queue_clear(&flushing->clean);
	flushing->untold = flushing->retelling = flushing->tell_turn = false;
	flushing->told_ns = 0;
	flush_pass_end(&flushing->pass);
	flushing->pass_requested = flushing->pass_failed = false;
	flushing->not_before_ns = 0;
	flushing->figures.error[0] = '\0';
	flushing->policy = (flush_policy){.draining = false};
	flush_pace_init(&flushing->pace);
	flush_survey_reset(&flushing->survey);
}

lb_flush_state
flushing_state(const flushing *flushing, const slot_table *slots)
{
	lb_flush_state state = flushing->figures;

	state.dirty_pages = slots->dirty;
	return state;
}

flush_decision
flushing_decide(flushing *flushing, const flush_policy_options *options, const slot_table *slots,
				uint64_t granted_pages, uint32_t now_s)
{
	flush_figures figures = {.dirty_pages = slots->dirty,
							 .granted_pages = granted_pages,
							 .requested = flushing->requested};

	flush_survey_tell(&flushing->survey, now_s, &figures);
	return flush_policy_decide(&flushing->policy, options, &figures);
}

void
flushing_request(flushing *flushing, const slot_table *slots)
{
	if (slots->dirty == 0)
		return;
	if (flushing->requested && flushing->pass_requested)
	{
		flushing->requested_again = true;
		return;
	}
	if (flushing->pass.active)
		flushing_end_pass(flushing, slots, false);
	flushing->requested = true;
}

void
flushing_end_pass(flushing *flushing, const slot_table *slots, bool complete)
{
	if (flushing->pass_requested && complete && !flushing->pass_failed)
	{
		flushing->requested = flushing->requested_again && slots->dirty > 0;
		flushing->requested_again = false;
	}
	flush_pass_end(&flushing->pass);
	flushing->pass_requested = flushing->pass_failed = false;
	flush_survey_reset(&flushing->survey);
}

void
flushing_begin_retelling(flushing *flushing)
{
	flushing->untold = false;
	flushing->retelling = true;
	flushing->retell_slab = flushing->retell_page = 0;
}

static void
retell(flushing *flushing, const slot_table *slots, lb_clean *batch)
{
	for (uint32_t looked = 0; looked < SLOTS_IN_ONE_GO && batch->count < LB_BATCH_MAX &&
							  flushing->retell_slab < slots->slab_numbers;
		 looked++)
	{
		const slot *in_slab = slots->slabs[flushing->retell_slab].slots;
		const slot *slot;

		if (!in_slab || flushing->retell_page >= slots->slab_pages)
		{
			flushing->retell_slab++;
			flushing->retell_page = 0;
			continue;
		}
		slot = &in_slab[flushing->retell_page++];
		if (slot->state != SLOT_FLUSHED)
			continue;
		batch->tags[batch->count] = slot->tag;
		batch->versions[batch->count++] = slot->version;
	}
	flushing->retelling = flushing->retell_slab < slots->slab_numbers;
}

bool
flushing_next_clean(flushing *flushing, const slot_table *slots, lb_clean *batch)
{
	if (clean_queue_take(&flushing->clean, batch))
		return true;
	if (flushing->retelling)
		retell(flushing, slots, batch);
	return batch->count > 0;
}
