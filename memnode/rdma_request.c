/*
 * rdma_request.c
 *	  What sessions over rdma ask for: a queue pair (RDMA_OPEN), and where the slabs are (SLAB_KEYS).
 */
#include "request.h"

bool
rdma_open_handle(session *session, const lb_frame *frame)
{
	uint64_t sequence = frame->header.sequence;
	lb_rdma_invitation invitation;
	uint8_t body[LB_BODY_MAX];
	lb_status status;

	if (frame->header.body_length != 0)
		return request_malformed(session, frame);
	if (session->rdma.pair)
		return session_error(session, sequence, LB_ERR_LIMIT,
							 "this session has a queue pair already");
	if (!rdma_port_invite(session->node->rdma, session, &invitation, &status))
		return session_error(session, sequence,
							 status.code == LB_REFUSED ? (lb_wire_error) status.wire_error
													   : LB_ERR_INTERNAL,
							 "%s", status.message);
	return session_send(session, LB_RDMA_OPENED, sequence, body,
						lb_encode_rdma_invitation(body, &invitation));
}

static void
list_keys(const tenant *tenant, uint32_t from, lb_slab_keys *keys)
{
	keys->more = false;
	keys->next = keys->count = 0;
	for (uint32_t number = from; number < tenant->slab_numbers; number++)
	{
		const slab *slab = tenant->slabs[number];

		if (!slab || !slab->region)
			continue;
		if (keys->count == LB_SLAB_KEYS_MAX)
		{
			keys->more = true;
			keys->next = number;
			return;
		}
		keys->slabs[keys->count++] = (lb_slab_key){.slab = number,
												   .pages = slab->pages,
												   .address = (uint64_t) (uintptr_t) slab->memory,
												   .key = lb_rdma_region_remote_key(slab->region)};
	}
}

bool
slab_keys_handle(session *session, const lb_frame *frame)
{
	uint64_t sequence = frame->header.sequence;
	uint8_t body[LB_BODY_MAX];
	lb_slab_keys keys;
	uint32_t from;

	if (!lb_decode_slab_number(frame->body, frame->header.body_length, &from))
		return request_malformed(session, frame);
	if (!session->rdma.pair)
		return session_error(session, sequence, LB_ERR_ROLE, "SLAB_KEYS without a queue pair");
	list_keys(session->tenant, from, &keys);
	return session_send(session, LB_SLAB_KEYS_REPLY, sequence, body,
						lb_encode_slab_keys(body, &keys));
}
