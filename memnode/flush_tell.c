/*
 * flush_tell.c
 *	  What the memory node tells agents about flushing.
 */
#include <string.h>

#include "flush_tell.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "session.h"

#define MS UINT64_C(1000000)
#define STATE_EACH_NS (1000 * MS)
#define TURN_EACH_NS (200 * MS)

/* Frames in one go; others want to be served too. */
#define FRAMES_IN_ONE_GO 64

static bool
has_room(const tenant *tenant)
{
	return tenant->agent && !lb_stream_wants_write(tenant->agent->stream);
}

static bool
has_clean(const flushing *flushing)
{
	return !clean_queue_is_empty(&flushing->clean) || flushing->retelling;
}

static bool
tell_clean(tenant *tenant)
{
	uint8_t body[LB_BODY_MAX];
	lb_clean batch;

	for (int i = 0; i < FRAMES_IN_ONE_GO && has_room(tenant); i++)
	{
		if (!flushing_next_clean(&tenant->flushing, &tenant->slots, &batch))
			break;
		if (LB_FAULT("memnode.flush.clean") ||
			!session_send_unasked(tenant->agent, LB_CLEAN, body, lb_encode_clean(body, &batch)))
			return false;
	}
	return true;
}

static bool
same_figures(const lb_flush_state *a, const lb_flush_state *b)
{
	return a->dirty_pages == b->dirty_pages && a->flushed_pages == b->flushed_pages &&
		   a->write_calls == b->write_calls && a->failures == b->failures && a->syncs == b->syncs &&
		   a->sync_failures == b->sync_failures && a->damaged_pages == b->damaged_pages &&
		   strcmp(a->error, b->error) == 0;
}

static bool
tell_state(tenant *tenant)
{
	flushing *flushing = &tenant->flushing;
	lb_flush_state state = flushing_state(flushing, &tenant->slots);
	uint64_t silent_ns = lb_now_ns() - flushing->told_ns;
	uint8_t body[LB_BODY_MAX];

	if (!has_room(tenant) || !(flushing->tell_turn ? silent_ns >= TURN_EACH_NS
												   : silent_ns >= STATE_EACH_NS &&
														 !same_figures(&state, &flushing->told)))
		return true;
	flushing->tell_turn = false;
	flushing->told_ns = lb_now_ns();
	flushing->told = state;
	return session_send_unasked(tenant->agent, LB_FLUSH_STATE, body,
								lb_encode_flush_state(body, &state));
}

bool
flush_tell(tenant *tenant)
{
	if (!tell_clean(tenant) || !tell_state(tenant))
	{
		session_close(tenant->agent, "connection lost");
		return false;
	}
	return has_room(tenant) && has_clean(&tenant->flushing);
}

bool
flush_tell_is_due(const tenant *tenant)
{
	const flushing *flushing = &tenant->flushing;
	lb_flush_state state = flushing_state(flushing, &tenant->slots);

	return tenant->agent && (flushing->tell_turn || !same_figures(&state, &flushing->told));
}

void
flush_tell_fenced(tenant *tenant)
{
	flushing *flushing = &tenant->flushing;

	for (uint32_t i = 0; tenant->agent && i < flushing->fence_count; i++)
		if (LB_FAULT("memnode.fenced") ||
			!session_send(tenant->agent, LB_FENCED, flushing->fences[i], NULL, 0))
		{
			session_close(tenant->agent, "connection lost");
			return;
		}
	flushing->fence_count = 0;
}
