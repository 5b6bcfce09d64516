/*
 * reload.c
 *	  What a new life of a server asks for: CONTROL, which names the checkpoints that the pages here are good for, and RELOAD,
 *	  which lists the pages (docs/recovery.md).
 */
#include <string.h>

#include "lb_clock.h"
#include "lb_fault.h"
#include "lb_page.h"
#include "log.h"
#include "request.h"

/* Looked at for one RELOAD, empty ones too: a fraction of a millisecond. */
#define SLOTS_IN_ONE_GO 8192

bool
control_handle(session *session, const lb_frame *frame)
{
	lb_control control;

	if (!lb_decode_control(frame->body, frame->header.body_length, &control))
		return request_malformed(session, frame);
	if (LB_FAULT("memnode.control"))
		return false;
	session->tenant->control = control;
	return session_send(session, LB_CONTROLLED, frame->header.sequence, NULL, 0);
}

static uint64_t
page_lsn(const uint8_t *page)
{
	uint32_t words[2];

	memcpy(words, page, sizeof(words));
	return (uint64_t) words[0] << 32 | words[1];
}

static lb_slot_kind
slot_kind(const slot *slot)
{
	if (slot_is_dirty(slot))
		return LB_SLOT_DIRTY;
	return slot->state == SLOT_FLUSHED ? LB_SLOT_FLUSHED : LB_SLOT_CLEAN;
}

/*
 * Records of the WAL will be skipped because of what is told here, so the page is looked at as closely as one that is read. One
 * that is damaged is nothing that the server could make use of: it goes on from the page in the file, and redoes everything. If
 * it were listed, and dirty, the server would end with a PANIC when it reads it, time and again. An agent that has confirmed its
 * storage knows its pages already: there flushing finds the damage, and tells.
 */
static void
list_slot(tenant *tenant, uint32_t slab, uint32_t page, uint64_t redo, lb_reload_reply *reply)
{
	slot_table *slots = &tenant->slots;
	uint32_t id = slot_table_id(slots, slab, page);
	const slot *slot = slot_table_slot(slots, id);
	const uint8_t *memory = tenant_page(tenant, slab, page);

	if (slot->state == SLOT_EMPTY)
		return;
	if (lb_page_checksum(memory) != slot->checksum)
	{
		log_limited(LOG_WARNING,
					"instance %s: block %u of relation %u/%u/%u is damaged in this node's memory",
					tenant->name, slot->tag.block, slot->tag.tablespace, slot->tag.database,
					slot->tag.relation);
		if (!tenant->flushing.confirmed)
			slot_table_empty(slots, id);
		return;
	}
	reply->slots[reply->count++] = (lb_reload_slot){.slot = {slab, page},
													.tag = slot->tag,
													.version = slot->version,
													.checksum = slot->checksum,
													.lsn = page_lsn(memory),
													.kind = (uint8_t) slot_kind(slot)};

	/* Listed as flushed all the same: the agent knows what that means for the end of the file. */
	if (slot->state == SLOT_FLUSHED && page_lsn(memory) > redo && !tenant->flushing.confirmed)
		slot_table_doubt(slots, id, (uint32_t) (lb_now_ns() / UINT64_C(1000000000)));
}

/* Fill the reply with what is in the slots from this one on. A slab that is not there costs as much as a slot. */
static void
list_slots(tenant *tenant, lb_slot_ref at, uint64_t redo, lb_reload_reply *reply)
{
	const slot_table *slots = &tenant->slots;

	for (uint32_t looked = 0; at.slab < slots->slab_numbers; looked++)
	{
		if (!slot_table_has(slots, at.slab, at.page))
		{
			at = (lb_slot_ref){at.slab + 1, 0};
			continue;
		}
		if (looked >= SLOTS_IN_ONE_GO || reply->count == LB_RELOAD_MAX)
		{
			reply->more = true;
			reply->next = at;
			return;
		}
		list_slot(tenant, at.slab, at.page++, redo, reply);
	}
}

bool
reload_handle(session *session, const lb_frame *frame)
{
	tenant *tenant = session->tenant;
	lb_reload_reply reply = {.control = tenant_control(tenant),
							 .slab_pages = tenant->slots.slab_pages};
	uint8_t body[LB_BODY_MAX];
	lb_reload reload;

	if (!lb_decode_reload(frame->body, frame->header.body_length, &reload))
		return request_malformed(session, frame);
	list_slots(tenant, reload.from, reload.redo, &reply);
	if (LB_FAULT("memnode.reload"))
		return false;
	return session_send(session, LB_RELOAD_REPLY, frame->header.sequence, body,
						lb_encode_reload_reply(body, &reply));
}
