/*
 * flush_request.c
 *	  What an agent asks for that is about dirty pages: STORAGE, FLUSH, FENCE, STORAGE_LOAD; and SLAB_KEEP, after resuming.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fence.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "log.h"
#include "request.h"
#include "storage.h"

/*
 * Look for the data directory; what is found is what will be written to, once the agent has confirmed that it is the right one: by
 * FLUSH or STORAGE_LOAD. It could be a copy, the right one being out of sight.
 */
static void
find_storage(session *session, const lb_storage *storage, lb_storage_reply *reply)
{
	const options *options = session->node->options;
	flushing *flushing = &session->tenant->flushing;
	lb_status status;

	flushing->proven = flushing->confirmed = false;
	if (options->storage_count == 0)
		lb_fail(&status, LB_INVALID, "this memory node was started without --storage");
	else if (flushing->barred)
		lb_fail(&status, LB_REFUSED, "a later start of the server has fenced this one off");
	else if (storage_find(options->storage, options->storage_count, session->tenant->uuid,
						  reply->nonce, flushing->root, &status))
	{
		memcpy(flushing->version_folder, storage->version_folder, sizeof(flushing->version_folder));
		flushing->proven = reply->found = true;
		snprintf(reply->message, sizeof(reply->message), "%.*s", LB_MESSAGE_MAX, flushing->root);
		return;
	}
	memset(reply->nonce, 0, sizeof(reply->nonce));
	snprintf(reply->message, sizeof(reply->message), "%.*s", LB_MESSAGE_MAX, status.message);
}

bool
storage_handle(session *session, const lb_frame *frame)
{
	tenant *tenant = session->tenant;
	lb_storage_reply reply = {.found = false};
	uint8_t body[LB_BODY_MAX];
	lb_storage storage;

	if (!lb_decode_storage(frame->body, frame->header.body_length, &storage))
		return request_malformed(session, frame);
	find_storage(session, &storage, &reply);
	if (reply.found)
	{
		log_line(LOG_NOTE, "instance %s: its data directory is %s", tenant->name,
				 tenant->flushing.root);
		if (tenant->flushing.untold)
			flushing_begin_retelling(&tenant->flushing);
		flusher_wake(session->node->flusher);
	}
	return session_send(session, LB_STORAGE_REPLY, frame->header.sequence, body,
						lb_encode_storage_reply(body, &reply));
}

bool
flush_handle(session *session, const lb_frame *frame)
{
	if (frame->header.body_length != 0)
		return request_malformed(session, frame);
	if (session->tenant->flushing.proven)
	{
		session->tenant->flushing.confirmed = true;
		flushing_request(&session->tenant->flushing, &session->tenant->slots);
		flusher_wake(session->node->flusher);
	}
	return true;
}

bool
fence_handle(session *session, const lb_frame *frame)
{
	tenant *tenant = session->tenant;
	uint64_t sequence = frame->header.sequence;
	lb_fence fence;

	if (!lb_decode_fence(frame->body, frame->header.body_length, &fence))
		return request_malformed(session, frame);
	if (tenant->flushing.fence_count == FENCES_MAX)
		return session_error(session, sequence, LB_ERR_LIMIT,
							 "more than %d FENCEs wait for the end of a round", FENCES_MAX);
	if (LB_FAULT("memnode.fence"))
		return false;
	fence_empty_slots(&tenant->slots, &fence);
	if (!flusher_fence(session->node->flusher, tenant, &fence, sequence))
		return true;
	if (LB_FAULT("memnode.fenced"))
		return false;
	return session_send(session, LB_FENCED, sequence, NULL, 0);
}

bool
slab_keep_handle(session *session, const lb_frame *frame)
{
	tenant *tenant = session->tenant;
	lb_slab_keep keep;
	uint32_t freed;

	if (!lb_decode_slab_keep(frame->body, frame->header.body_length, &keep))
		return request_malformed(session, frame);
	if (tenant->grant.active)
		return session_error(session, frame->header.sequence, LB_ERR_LIMIT,
							 "SLAB_KEEP before the answer to SLAB_REQUEST");
	freed = tenant_keep_slabs(tenant, &session->node->pool, &keep);
	if (freed > 0)
		log_line(LOG_NOTE, "instance %s: %u slabs that it does not know freed, %" PRIu64 " MB left",
				 tenant->name, freed, tenant->held_pages / 128);
	node_wake_worker(session->node);
	return true;
}

bool
storage_load_handle(session *session, const lb_frame *frame)
{
	lb_storage_load load;

	if (!lb_decode_storage_load(frame->body, frame->header.body_length, &load))
		return request_malformed(session, frame);
	session->tenant->flushing.confirmed = session->tenant->flushing.proven;
	flush_pace_load(&session->tenant->flushing.pace, load.reads, load.read_us, lb_now_ns());
	return true;
}
