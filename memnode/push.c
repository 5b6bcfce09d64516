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
 *
 * Where pages come later (rdma) all slots are emptied first, and pages are published when the last one is there. Meanwhile nobody
 * publishes anything in this tenant: it has one agent, and that is not listened to. So what was found at the beginning
 * (the slot is there, the version newer than what there is, storage proven) is as good as if it had been found at the end. Within
 * one PUSH the pages are published in its order, so that of two versions of one page the later one stays; the source has
 * refused a PUSH in which that would not be the newer one, or that has a slot twice.
 */
#include <assert.h>
#include <stdlib.h>

#include "lb_clock.h"
#include "lb_fault.h"
#include "lb_page.h"
#include "log.h"
#include "push.h"

#define SECOND_NS UINT64_C(1000000000)
#define PULLED_WITHIN_NS (10 * SECOND_NS)

struct push_under_way
{
	uint64_t sequence;
	uint64_t began_ns;
	lb_push_batch batch;
	uint8_t
		*dest[LB_BATCH_MAX]; /* where the page is pulled to; null: it is not, and has its result */
	lb_push_ack ack;
};

/* May this page be pulled? Then its slot is emptied, and *dest is where to. Else *dest is null, and the result says why. */
static lb_push_result
admit_page(tenant *tenant, const lb_push *push, uint8_t **dest)
{
	slot_table *slots = &tenant->slots;
	uint8_t *page = tenant_page(tenant, push->slab, push->page);

	*dest = NULL;
	if (!page)
		return LB_PUSH_NO_SLOT;
	if (!slot_table_is_newer(slots, &push->tag, push->version))
		return LB_PUSH_OLD_VERSION;
	if (push->dirty && !tenant->flushing.proven)
		return LB_PUSH_NO_STORAGE;
	slot_table_empty(slots, slot_table_id(slots, push->slab, push->page));
	*dest = page;
	return LB_PUSH_PUBLISHED;
}

/* It was admitted, and was pulled. */
static lb_push_result
publish_page(const session *session, const lb_push *push, const uint8_t *page)
{
	tenant *tenant = session->tenant;
	slot_table *slots = &tenant->slots;

	if (LB_FAULT("memnode.pulled") || lb_page_checksum(page) != push->checksum)
		return LB_PUSH_BAD_CHECKSUM;
	if (slot_table_publish(slots, slot_table_id(slots, push->slab, push->page), push,
						   (uint32_t) (lb_now_ns() / SECOND_NS)))
		log_limited(LOG_WARNING,
					"instance %s: block %u of relation %u/%u/%u was dirty and is replaced by a "
					"newer version that is not",
					tenant->name, push->tag.block, push->tag.tablespace, push->tag.database,
					push->tag.relation);
	if (push->dirty)
		flusher_note_dirty(session->node->flusher, tenant, &push->tag);
	return LB_PUSH_PUBLISHED;
}

/* Count a page's result, which is final. False: close the session. */
static bool
settle_page(node *node, lb_push_ack *ack, uint32_t index, lb_push_result result)
{
	ack->results[index] = (uint8_t) result;
	if (result != LB_PUSH_PUBLISHED)
		node->rejected_pushes++;
	else if (LB_FAULT("memnode.published"))
		return false;
	return true;
}

static bool
acknowledge(session *session, uint64_t sequence, const lb_push_ack *ack)
{
	uint8_t body[LB_BODY_MAX];

	session->node->pushes += ack->count;
	if (LB_FAULT("memnode.acknowledge"))
		return false;
	return session_send(session, LB_PUSH_ACK, sequence, body, lb_encode_push_ack(body, ack));
}

/* One page after the other. */
static bool
push_at_once(session *session, const lb_frame *frame, const lb_push_batch *batch)
{
	lb_push_ack ack = {.count = batch->count};

	for (uint32_t i = 0; i < batch->count; i++)
	{
		const lb_push *push = &batch->pushes[i];
		uint8_t *dest;
		lb_push_result result = admit_page(session->tenant, push, &dest);

		if (dest)
		{
			session->source.ops->pull(&session->source, batch, i, frame, dest);
			result = publish_page(session, push, dest);
		}
		if (!settle_page(session->node, &ack, i, result))
			return false;
	}
	return acknowledge(session, frame->header.sequence, &ack);
}

/* Empty the slots, and list what is to be pulled into them. */
static uint32_t
admit_all(tenant *tenant, push_under_way *push, pull_page *pages)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < push->batch.count; i++)
	{
		const lb_push *page = &push->batch.pushes[i];

		push->ack.results[i] = (uint8_t) admit_page(tenant, page, &push->dest[i]);
		if (push->dest[i])
			pages[count++] = (pull_page){.buffer = page->buffer,
										 .dest = push->dest[i],
										 .slab = tenant_slab(tenant, page->slab)};
	}
	return count;
}

static bool
push_begin(session *session, const lb_frame *frame, const lb_push_batch *batch)
{
	pull_page pages[LB_BATCH_MAX];
	push_under_way *push = malloc(sizeof(push_under_way));
	lb_status status;
	uint32_t count;

	assert(!session->push);
	if (!push)
	{
		log_limited(LOG_WARNING, "%s: connection ended: out of memory", session->peer);
		return false;
	}
	session->push = push;
	push->sequence = frame->header.sequence;
	push->began_ns = lb_now_ns();
	push->batch = *batch;
	push->ack.count = batch->count;
	count = admit_all(session->tenant, push, pages);
	if (count == 0)
		return push_finish(session);
	/* fail: nothing is posted, as if the peer's device did not answer */
	if (LB_FAULT("memnode.rdma.pull"))
		return true;
	if (session->source.ops->begin(&session->source, pages, count, &status))
		return true;
	log_limited(LOG_WARNING, "%s: connection ended: %s", session->peer, status.message);
	return false;
}

bool
push_finish(session *session)
{
	push_under_way *push = session->push;
	bool alive = !LB_FAULT("memnode.rdma.pulled");

	for (uint32_t i = 0; alive && i < push->batch.count; i++)
	{
		lb_push_result result = (lb_push_result) push->ack.results[i];

		if (push->dest[i])
			result = publish_page(session, &push->batch.pushes[i], push->dest[i]);
		alive = settle_page(session->node, &push->ack, i, result);
	}
	session->push = NULL;
	alive = alive && acknowledge(session, push->sequence, &push->ack);
	free(push);
	return alive;
}

void
push_forget(session *session)
{
	free(session->push);
	session->push = NULL;
}

bool
push_is_late(const session *session, uint64_t now_ns)
{
	return elapsed_ns(now_ns, session->push->began_ns) >= PULLED_WITHIN_NS;
}

void
push_forgive(session *session, uint64_t now_ns)
{
	if (session->push)
		session->push->began_ns = now_ns;
}

bool
push_handle(session *session, const lb_frame *frame)
{
	const pull_ops *ops = session->source.ops;
	lb_push_batch batch;
	lb_status status;

	if (!lb_decode_push(frame->body, frame->header.body_length, &batch))
		return session_refuse_malformed(session, frame->header.sequence, "malformed PUSH");
	if (!ops->check(&session->source, &batch, frame, &status))
		return session_refuse_malformed(session, frame->header.sequence, status.message);
	if (LB_FAULT("memnode.received"))
		return false;
	return ops->begin ? push_begin(session, frame, &batch) : push_at_once(session, frame, &batch);
}
