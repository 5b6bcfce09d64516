/*
 * request.c
 *	  What settled sessions ask for: memory, mappings, pages, figures. (PUSH is in push.c, what is about dirty pages in
 *	  flush_request.c, what a new life of a server asks in reload.c, what is about queue pairs in rdma_request.c.)
 *
 * A request that makes no sense is answered with ERROR; a frame that no correct peer can send ends the session.
 */
#include "lb_clock.h"
#include "lb_fault.h"
#include "push.h"
#include "request.h"

static bool
ping_handle(session *session, const lb_frame *frame)
{
	return session_send(session, LB_PONG, frame->header.sequence, NULL, 0);
}

static bool
comm_buffers_handle(session *session, const lb_frame *frame)
{
	lb_comm_region layout;
	lb_status status;

	if (!lb_decode_comm_region(frame->body, frame->header.body_length, &layout))
		return request_malformed(session, frame);
	if (!session->source.ops->attach_region(&session->source, &layout, frame->fd, &status))
		return session_refuse_malformed(session, frame->header.sequence, status.message);
	return true;
}

/* Over rdma a slab is registered in one go, while others wait: a GB of ordinary pages would take a quarter of a second. */
static uint32_t
largest_slab(const session *session)
{
	return session->transport == LB_TRANSPORT_RDMA ? LB_RDMA_SLAB_PAGES_MAX : LB_SLAB_PAGES_MAX;
}

static bool
slab_request_handle(session *session, const lb_frame *frame)
{
	tenant *tenant = session->tenant;
	node *node = session->node;
	uint64_t sequence = frame->header.sequence;
	uint32_t most = largest_slab(session);
	lb_slab_request request;
	uint32_t pages;

	if (!lb_decode_slab_request(frame->body, frame->header.body_length, &request))
		return request_malformed(session, frame);
	pages = request.slab_pages;
	if (pages < LB_SLAB_PAGES_MIN || pages > most || (pages & (pages - 1)) != 0)
		return session_error(session, sequence, LB_ERR_SLAB,
							 "slabs of %u pages: not a power of two from %d to %u over %s", pages,
							 LB_SLAB_PAGES_MIN, most, lb_transport_name(session->transport));
	if (tenant->slots.slab_pages != 0 && tenant->slots.slab_pages != pages)
		return session_error(session, sequence, LB_ERR_SLAB,
							 "slabs of %u pages: those that are there have %u", pages,
							 tenant->slots.slab_pages);
	if (tenant->grant.active)
		return session_error(
			session, sequence, LB_ERR_LIMIT,
			"one SLAB_REQUEST at a time: the answer to the former is being prepared");
	tenant_grant_begin(tenant, sequence, &request);
	TAILQ_INSERT_TAIL(&node->granting, tenant, grant_link);
	node_wake_worker(node);
	return true;
}

void
request_answer_grant(tenant *tenant)
{
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_list(body, &tenant->grant.granted);

	if (!session_send(tenant->agent, LB_SLAB_GRANT, tenant->grant.sequence, body, length))
		session_close(tenant->agent, "connection lost");
}

static bool
slab_return_handle(session *session, const lb_frame *frame)
{
	tenant *tenant = session->tenant;
	lb_slab_list list;

	if (!lb_decode_slab_list(frame->body, frame->header.body_length, &list))
		return request_malformed(session, frame);
	if (!tenant_return_slabs(tenant, &session->node->pool, &list))
		return session_error(session, frame->header.sequence, LB_ERR_SLAB,
							 "SLAB_RETURN of a slab that is not this instance's");
	node_wake_worker(session->node);
	return true;
}

/* References to slots that are not there are ignored: there is nothing to be emptied. */
static bool
release_handle(session *session, const lb_frame *frame)
{
	lb_release_batch batch;

	if (!lb_decode_release(frame->body, frame->header.body_length, &batch))
		return request_malformed(session, frame);
	for (uint32_t i = 0; i < batch.count; i++)
	{
		const lb_slot_ref *ref = &batch.slots[i];
		slot_table *slots = &session->tenant->slots;

		if (slot_table_has(slots, ref->slab, ref->page))
			slot_table_release(slots, slot_table_id(slots, ref->slab, ref->page),
							   batch.versions[i]);
	}
	return true;
}

static bool
slab_map_handle(session *session, const lb_frame *frame)
{
	uint8_t body[LB_BODY_MAX];
	uint32_t number;
	slab *slab;

	if (!lb_decode_slab_number(frame->body, frame->header.body_length, &number))
		return request_malformed(session, frame);
	slab = tenant_slab(session->tenant, number);
	if (!slab)
		return session_error(session, frame->header.sequence, LB_ERR_SLAB, "no slab %u", number);
	return session_send_bulk(session, LB_SLAB_MAPPED, frame->header.sequence, body,
							 lb_encode_slab_number(body, number), NULL, 0, slab->fd);
}

/*
 * The pages go out from where they lie. An empty slot is sent like any other: whether a page is the one that was asked
 * for, the reader finds out by its checksum.
 */
static bool
read_handle(session *session, const lb_frame *frame)
{
	struct iovec pages[LB_BATCH_MAX];
	uint8_t body[LB_BODY_MAX];
	lb_read_batch batch;

	if (!lb_decode_read(frame->body, frame->header.body_length, &batch))
		return request_malformed(session, frame);
	for (uint32_t i = 0; i < batch.count; i++)
	{
		const lb_slot_ref *ref = &batch.slots[i];
		uint8_t *page = tenant_page(session->tenant, ref->slab, ref->page);

		if (!page)
			return session_error(session, frame->header.sequence, LB_ERR_SLAB,
								 "READ of page %u of slab %u: no such slot", ref->page, ref->slab);
		pages[i] = (struct iovec){page, LB_PAGE_SIZE};
	}
	if (LB_FAULT("memnode.read"))
		return session_error(session, frame->header.sequence, LB_ERR_INTERNAL,
							 "fault point memnode.read");
	session->node->reads += batch.count;
	return session_send_bulk(session, LB_READ_REPLY, frame->header.sequence, body,
							 lb_encode_count(body, batch.count), pages, (int) batch.count, -1);
}

static bool
status_handle(session *session, const lb_frame *frame)
{
	const node *node = session->node;
	const slab_pool *pool = &node->pool;
	uint8_t body[LB_BODY_MAX];
	const tenant *tenant;
	lb_node_figures figures = {
		.incarnation = node->incarnation,
		.uptime_s = (lb_now_ns() - node->started_ns) / UINT64_C(1000000000),
		.capacity_pages = pool->capacity_pages,
		.granted_pages = pool->held_pages - pool->doomed_pages,
		.huge_pages = pool->huge_pages,
		.sessions = node->session_count,
		.pushes = node->pushes,
		.reads = node->reads,
		.rejected_pushes = node->rejected_pushes,
		.refused_sessions = node->refused_sessions,
		.malformed_frames = node->malformed_frames,
		.flushed_pages = node->flushed_pages,
		.flush_failures = node->flush_failures,
		.registered_pages = pool->registered_pages,
		.rdma_connections = rdma_port_connections(node->rdma),
	};

	for (tenant = TAILQ_FIRST(&node->tenants.all); tenant; tenant = TAILQ_NEXT(tenant, link))
	{
		figures.used_pages += tenant->slots.used;
		figures.dirty_pages += tenant->slots.dirty;
		if (tenant->agent || tenant->held_pages > 0)
			figures.tenants++;
	}
	return session_send(session, LB_STATUS_REPLY, frame->header.sequence, body,
						lb_encode_node_figures(body, &figures));
}

#define BY_AGENT (1U << LB_ROLE_AGENT)
#define BY_BACKEND (1U << LB_ROLE_BACKEND)
#define BY_MONITOR (1U << LB_ROLE_MONITOR)
#define OVER_SHM (1U << LB_TRANSPORT_SHM)
#define OVER_TCP (1U << LB_TRANSPORT_TCP)
#define OVER_RDMA (1U << LB_TRANSPORT_RDMA)
#define OVER_ANY (OVER_SHM | OVER_TCP | OVER_RDMA)

static const struct
{
	unsigned roles;
	unsigned transports;
	bool (*handle)(session *session, const lb_frame *frame);
} requests[LB_FRAME_TYPES] = {
	[LB_COMM_BUFFERS] = {BY_AGENT, OVER_SHM | OVER_RDMA, comm_buffers_handle},
	[LB_SLAB_REQUEST] = {BY_AGENT, OVER_ANY, slab_request_handle},
	[LB_SLAB_RETURN] = {BY_AGENT, OVER_ANY, slab_return_handle},
	[LB_PUSH] = {BY_AGENT, OVER_ANY, push_handle},
	[LB_RELEASE] = {BY_AGENT, OVER_ANY, release_handle},
	[LB_SLAB_MAP] = {BY_BACKEND, OVER_SHM, slab_map_handle},
	[LB_READ] = {BY_BACKEND, OVER_TCP | OVER_RDMA, read_handle},
	[LB_PING] = {BY_AGENT | BY_BACKEND | BY_MONITOR, OVER_ANY, ping_handle},
	[LB_STATUS] = {BY_MONITOR, OVER_ANY, status_handle},
	[LB_STORAGE] = {BY_AGENT, OVER_ANY, storage_handle},
	[LB_FLUSH] = {BY_AGENT, OVER_ANY, flush_handle},
	[LB_FENCE] = {BY_AGENT, OVER_ANY, fence_handle},
	[LB_SLAB_KEEP] = {BY_AGENT, OVER_ANY, slab_keep_handle},
	[LB_STORAGE_LOAD] = {BY_AGENT, OVER_ANY, storage_load_handle},
	[LB_CONTROL] = {BY_AGENT, OVER_ANY, control_handle},
	[LB_RELOAD] = {BY_AGENT, OVER_ANY, reload_handle},
	[LB_RDMA_OPEN] = {BY_AGENT | BY_BACKEND, OVER_RDMA, rdma_open_handle},
	[LB_SLAB_KEYS] = {BY_BACKEND, OVER_RDMA, slab_keys_handle},
};

bool
request_malformed(session *session, const lb_frame *frame)
{
	return session_refuse_malformed(session, frame->header.sequence,
									lb_frame_type_name(frame->header.type));
}

bool
request_handle(session *session, const lb_frame *frame)
{
	unsigned type = frame->header.type;

	if (!requests[type].handle)
		return request_malformed(session, frame);
	if (!(requests[type].roles & 1U << session->role) ||
		!(requests[type].transports & 1U << session->transport))
		return session_error(session, frame->header.sequence, LB_ERR_ROLE,
							 "%s is not for this role over %s", lb_frame_type_name(type),
							 lb_transport_name(session->transport));
	return requests[type].handle(session, frame);
}
