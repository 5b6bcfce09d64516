/*
 * node_link.c
 *	  The buffer agent's control connection to one memory node: what comes over it when it is attached, requests for memory, and
 *	  time limits.
 */
#include "postgres.h"

#include <unistd.h>

#include "storage/latch.h"

#include "comm_buffer.h"
#include "node_link_internal.h"
#include "node_table.h"
#include "page_directory.h"
#include "slab_table.h"
#include "write_back.h"

#define PING_MS 1000
#define SLAB_TIMEOUT_MS \
	60000 /* memory is zeroed before it is granted; that the node lives, pings tell */
#define SLAB_RETRY_MS 10000 /* after the node had none */

/* Go on with what a predecessor has left: the node is attached, or its pages are being forgotten. */
static void
succeed(NodeLink *link)
{
	NodeAttachment attachment;

	if (NodeTableState(link->node) == NODE_LOST)
		link->state = LINK_DRAINING;
	else if (NodeTableAttachment(link->node, &attachment))
	{
		link->address = attachment.address;
		link->resolved = true;
		link->token = attachment.token;
		link->epoch = attachment.epoch;
		link->incarnation = attachment.incarnation;
		link->capacity_pages = attachment.capacity_pages;
		link->process = attachment.process;
		link->may_write = WriteBackNode(link->node) || PageDirectoryDirtyOfNode(link->node) > 0;
		/* Its last dirty pages may have been forgotten for that fence: a node without a proof may still have to be fenced. */
		link->must_fence = PageFenceAnyOpen();
		link->told = link->may_write ? TOLD_WRITE_BACK : TOLD_NOTHING;
		strlcpy(link->reason, "the buffer agent ended", sizeof(link->reason));
		link_resume(link);
	}
}

void
NodeLinkInit(NodeLink *link, int node, const lb_uri *uri, Instance *instance, bool life_wanted)
{
	memset(link, 0, sizeof(*link));
	link->node = node;
	link->uri = *uri;
	link->instance = instance;
	link->connecting_fd = -1;
	link->attached_or_lost_at = lb_now_ns();
	link->queue = palloc(sizeof(Push) * CommBufferCount());
	link->life_wanted = life_wanted;
	if (!life_wanted)
		succeed(link);
}

bool
link_send(NodeLink *link, lb_frame_type type, const void *body, size_t length)
{
	lb_status status;

	if (lb_stream_send(link->stream, type, ++link->sequence, body, length, NULL, 0, -1, &status))
		return true;
	link_broken(link, status.message);
	return false;
}

/* ---- frames of an attached node, or one that is being reloaded ---- */

static bool
handle_grant(NodeLink *link, const lb_frame *frame)
{
	lb_slab_list list;

	if (link->slab_request_at == 0 ||
		!lb_decode_slab_list(frame->body, frame->header.body_length, &list))
		return false;
	link->slab_request_at = 0;

	/*
	 * The node uses numbers again. A process that asked for keys while our SLAB_RETURN was still on its way has the old key of this number; before
	 * anything of the new slab can be found in the directory it has to ask again.
	 */
	if (link->uri.transport == LB_TRANSPORT_RDMA && list.count > 0)
		NodeTableAskUnmap();
	for (uint32 i = 0; i < list.count && link->state == LINK_ATTACHED; i++)
	{
		if (!SlabTableAdd(link->node, list.slabs[i]))
			NodeLinkReturnSlab(link, list.slabs[i]); /* the pool has shrunk since we asked */
	}
	if (list.count == 0)
		link->refused_slabs_until = lb_now_ns() + SLAB_RETRY_MS * MS_NS;
	return true;
}

static void
handle_pong(NodeLink *link, const lb_frame *frame)
{
	if (frame->header.sequence != link->ping_sequence)
		return;
	link->ping_sequence = 0;
	if (link->ping_of_suspect && NodeTableState(link->node) == NODE_SUSPECT)
		NodeTableSetState(link->node, NODE_UP);
}

static void
handle_error(NodeLink *link, const lb_frame *frame)
{
	lb_error error;

	if (!lb_decode_error(frame->body, frame->header.body_length, &error))
	{
		link_complained(link, "it sent an error that could not be read");
		return;
	}
	if (error.error == LB_ERR_EPOCH)
		link_panic_replaced(link, &error);
	link_complained(link, error.message);
}

static void
handle_connected(NodeLink *link, const lb_frame *frame)
{
	bool good = true;

	switch (frame->header.type)
	{
		case LB_PUSH_ACK:
			good = push_acknowledged(link, frame);
			break;
		case LB_SLAB_GRANT:
			good = handle_grant(link, frame);
			break;
		case LB_PONG:
			handle_pong(link, frame);
			break;
		case LB_ERROR:
			handle_error(link, frame);
			break;
		case LB_RELOAD_REPLY:
			good = reload_received(link, frame);
			break;
		case LB_CONTROLLED:
			good = control_received(link, frame);
			break;
		default:
			good = flush_received(link, frame);
	}
	if (!good && link_connected(link))
		link_complained(
			link, psprintf("it sent an unexpected %s", lb_frame_type_name(frame->header.type)));
}

/* Whatever the link is doing, its connection is of no use any more. */
static void
connection_failed(NodeLink *link, const char *reason)
{
	if (link_connected(link))
		link_broken(link, reason);
	else
		attach_failed(link, reason);
}

void
link_receive(NodeLink *link)
{
	lb_status status;
	lb_frame frame;
	bool open = lb_stream_fill(link->stream, 0, &status);
	int got = 0;

	/* A node that is about to close says why first: what has come is read in any case. */
	while (link->stream != NULL)
	{
		lb_status frame_status;

		got = lb_stream_next(link->stream, &frame, &frame_status);
		if (got < 0)
			connection_failed(link, frame_status.message);
		if (got <= 0)
			break;
		if (frame.fd >= 0)
			close(frame.fd);
		link->heard_at = lb_now_ns();
		if (link_connected(link))
			handle_connected(link, &frame);
		else
			attach_received(link, &frame);
	}
	if (!open && link->stream != NULL)
		connection_failed(link, status.message);
}

void
NodeLinkReady(NodeLink *link, uint32 events)
{
	lb_status status;

	if (link->connecting_fd >= 0)
	{
		attach_greet(link);
		return;
	}
	if ((events & WL_SOCKET_WRITEABLE) && link->stream && !lb_stream_flush(link->stream, &status))
		connection_failed(link, status.message);
	if ((events & WL_SOCKET_READABLE) && link->stream)
		link_receive(link);
	rdma_continue(link);
}

/* While a queue pair is being connected its events are waited for, and the end of the stream as ever. */
int
NodeLinkSockets(const NodeLink *link, LinkSocket sockets[LINK_SOCKETS_MAX])
{
	int count = 0;

	if (link->connecting_fd >= 0)
		sockets[count++] =
			(LinkSocket){.socket = link->connecting_fd, .events = WL_SOCKET_WRITEABLE};
	if (link->stream)
		sockets[count++] =
			(LinkSocket){.socket = lb_stream_fd(link->stream),
						 .events = WL_SOCKET_READABLE |
								   (lb_stream_wants_write(link->stream) ? WL_SOCKET_WRITEABLE : 0)};
	if (link->rdma_state == LINK_RDMA_JOINING)
		sockets[count++] =
			(LinkSocket){.socket = lb_rdma_event_fd(link->rdma), .events = WL_SOCKET_READABLE};
	return count;
}

/* ---- requests and time limits ---- */

void
NodeLinkRequestSlabs(NodeLink *link, uint32 count)
{
	lb_slab_request request = {.slab_pages = SlabTablePages(),
							   .count = Min(count, LB_SLABS_PER_FRAME)};
	uint8 body[LB_BODY_MAX];

	if (link->state != LINK_ATTACHED || link->slab_request_at != 0 ||
		lb_now_ns() < link->refused_slabs_until)
		return;
	if (link_send(link, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request)))
		link->slab_request_at = lb_now_ns();
}

void
NodeLinkReturnSlab(NodeLink *link, uint32 node_slab)
{
	lb_slab_list list = {.count = 1, .slabs = {node_slab}};
	uint8 body[LB_BODY_MAX];

	if (link->state == LINK_ATTACHED)
		(void) link_send(link, LB_SLAB_RETURN, body, lb_encode_slab_list(body, &list));
}

void
NodeLinkRelease(NodeLink *link, const lb_release_batch *batch)
{
	uint8 body[LB_BODY_MAX];

	if (link_connected(link))
		(void) link_send(link, LB_RELEASE, body, lb_encode_release(body, batch));
}

static void
ping(NodeLink *link, uint64 now)
{
	link->ping_of_suspect = NodeTableState(link->node) == NODE_SUSPECT;
	if (link_send(link, LB_PING, NULL, 0))
	{
		link->ping_sequence = link->sequence;
		link->ping_at = now;
	}
}

/* What does a node owe an answer to for too long? Null: nothing. */
static const char *
overdue(const NodeLink *link, uint64 now)
{
	uint64 limit = link_timeout_ns();

	if ((link->sent_count > 0 && now > link->sent[0].sent_at + limit) ||
		(link->ping_sequence != 0 && now > link->ping_at + limit) ||
		(link->reload_sequence != 0 && now > link->reload_at + limit) ||
		(link->control.sequence != 0 && now > link->control.sent_at + limit))
		return "it did not answer in time";
	if (link->slab_request_at != 0 && now > link->slab_request_at + SLAB_TIMEOUT_MS * MS_NS)
		return "it did not answer a request for memory in time";
	return NULL;
}

static void
check_answers(NodeLink *link, uint64 now)
{
	bool suspect = NodeTableState(link->node) == NODE_SUSPECT;

	/* The answer may be here, and we late. */
	if (overdue(link, now))
		link_receive(link);
	rdma_check(link);
	if (!link_connected(link))
		return;
	if (overdue(link, now))
		link_broken(link, overdue(link, now));
	else if (link->ping_sequence == 0 && (suspect || now > link->ping_at + PING_MS * MS_NS))
		ping(link, now);
}

void
NodeLinkForgive(NodeLink *link, uint64 standstill_ns)
{
	for (int i = 0; i < link->sent_count; i++)
		link->sent[i].sent_at += standstill_ns;
	link->ping_at += standstill_ns;
	link->deadline += standstill_ns;
	link->resume_until += standstill_ns;
	link->resume_at_most += standstill_ns;
	link->storage_asked_at += standstill_ns;
	link->reload_at += standstill_ns;
	link->reload.proof_until += standstill_ns;
	link->control.sent_at += standstill_ns;
	if (link->slab_request_at != 0)
		link->slab_request_at += standstill_ns;
}

void
NodeLinkTick(NodeLink *link, uint64 now)
{
	switch (link->state)
	{
		case LINK_WAITING:
		case LINK_CONNECTING:
		case LINK_RESUMING:
			attach_tick(link, now);
			break;
		case LINK_RELOADING:
		case LINK_RELOADED:
			check_answers(link, now);
			if (link->state == LINK_RELOADING)
				reload_tick(link, now);
			break;
		case LINK_ATTACHED:
			check_answers(link, now);
			if (link->state == LINK_ATTACHED)
				flush_tick(link, now);
			break;
		case LINK_FENCING:
			link_continue_fencing(link, now);
			break;
		case LINK_DRAINING:
			link_continue_draining(link);
			break;
	}
}
