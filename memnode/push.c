/*
 * push.c
 *	  PUSH: pull pages into slots, verify them, publish them, acknowledge.
 *
 *	  frame received -> for each page: slot emptied -> page pulled -> checksum of the copy right -> identity published
 *	  -> PUSH_ACK
 *
 * The checksum is computed over the copy in the slot, not over the source: the compute node may change the source at any
 * time, and what has to be right is what will be read. The session's death at any point leaves slots that are empty
 * or whole.
 */
#include "lb_clock.h"
#include "lb_fault.h"
#include "lb_page.h"
#include "log.h"
#include "request.h"

static lb_push_result
push_page(const session *session, const lb_push_batch *batch, uint32_t index, const lb_frame *frame)
{
	const lb_push *push = &batch->pushes[index];
	tenant *tenant = session->tenant;
	slot_table *slots = &tenant->slots;
	uint8_t *dest = tenant_page(tenant, push->slab, push->page);
	uint32_t id;

	if (!dest)
		return LB_PUSH_NO_SLOT;
	if (!slot_table_is_newer(slots, &push->tag, push->version))
		return LB_PUSH_OLD_VERSION;
	if (push->dirty && !tenant->flushing.proven)
		return LB_PUSH_NO_STORAGE;
	id = slot_table_id(slots, push->slab, push->page);
	slot_table_empty(slots, id);
	session->source.ops->pull(&session->source, batch, index, frame, dest);
	if (LB_FAULT("memnode.pulled") || lb_page_checksum(dest) != push->checksum)
		return LB_PUSH_BAD_CHECKSUM;
	if (slot_table_publish(slots, id, push, (uint32_t) (lb_now_ns() / UINT64_C(1000000000))))
		log_limited(LOG_WARNING,
					"instance %s: block %u of relation %u/%u/%u was dirty and is replaced by a "
					"newer version that is not",
					tenant->name, push->tag.block, push->tag.tablespace, push->tag.database,
					push->tag.relation);
	if (push->dirty)
		flusher_note_dirty(session->node->flusher, tenant, &push->tag);
	return LB_PUSH_PUBLISHED;
}

bool
push_handle(session *session, const lb_frame *frame)
{
	node *node = session->node;
	uint8_t body[LB_BODY_MAX];
	lb_push_batch batch;
	lb_push_ack ack;
	lb_status status;

	if (!lb_decode_push(frame->body, frame->header.body_length, &batch))
		return session_refuse_malformed(session, frame->header.sequence, "malformed PUSH");
	if (!session->source.ops->check(&session->source, &batch, frame, &status))
		return session_refuse_malformed(session, frame->header.sequence, status.message);
	if (LB_FAULT("memnode.received"))
		return false;
	ack.count = batch.count;
	for (uint32_t i = 0; i < batch.count; i++)
	{
		lb_push_result result = push_page(session, &batch, i, frame);

		ack.results[i] = (uint8_t) result;
		if (result != LB_PUSH_PUBLISHED)
			node->rejected_pushes++;
		else if (LB_FAULT("memnode.published"))
			return false;
	}
	node->pushes += batch.count;
	if (LB_FAULT("memnode.acknowledge"))
		return false;
	return session_send(session, LB_PUSH_ACK, frame->header.sequence, body,
						lb_encode_push_ack(body, &ack));
}
