/*
 * node_rdma.c
 *	  A link's queue pair: through it a memory node reads from our comm buffers (docs/rdma.md).
 *
 *	  none		there is none: another transport, no connection, or HELLO has not been answered yet
 *	  opening	RDMA_OPEN is sent
 *	  joining	RDMA_OPENED has come, rdma_cm is at it
 *	  joined	the link goes on as over shm: attach_accepted() of node_attach.c
 *
 *	 none ── WELCOME ──> opening ── RDMA_OPENED ──> joining ── established ──> joined. Each of them ── link_close ──> none.
 *
 * Opening and joining belong to the attempt: the link is connecting or resuming all the while, has node_timeout for both together, and whatever
 * goes wrong is a failure of the attempt. The node takes the attachment for made when it has sent WELCOME, so CLEAN and FLUSH_STATE may come
 * meanwhile, and are handled as ever.
 *
 * The node is done with a page when it has answered its PUSH, and can't read from here any more when rdma_close has returned.
 */
#include "postgres.h"

#include "comm_buffer.h"
#include "lb_fault.h"
#include "node_link_internal.h"
#include "node_table.h"

bool
rdma_possible(lb_status *status)
{
	lb_comm_region region;

	(void) CommBufferRegion(&region);
	return lb_rdma_may_lock(region.length, status);
}

/* What is wrong with this host (the message says what to do about it) a person has to see to. */
void
rdma_attempt_failed(NodeLink *link, const lb_status *status)
{
	bool here = status->code == LB_INVALID || status->code == LB_SYSTEM;

	attach_failed_retry(link, status->message, here ? RETRY_MS_HELD : 0);
}

void
rdma_open(NodeLink *link, const lb_welcome *welcome)
{
	lb_status status;

	link->welcome = *welcome;
	link->deadline = lb_now_ns() + link_timeout_ns();
	link->rdma_state = LINK_RDMA_OPENING;
	link->rdma_sequence = ++link->sequence;
	if (!lb_stream_send(link->stream, LB_RDMA_OPEN, link->rdma_sequence, NULL, 0, NULL, 0, -1,
						&status))
		attach_failed(link, status.message);
}

static void
join(NodeLink *link, const lb_rdma_invitation *invitation)
{
	lb_comm_region region;
	lb_rdma_memory memory = {.start = CommBufferPage(0), .remote_read = true};
	lb_status status;

	(void) CommBufferRegion(&region);
	memory.length = region.length;
	if (LB_FAULT("agent.rdma.join"))
		lb_fail(&status, LB_CLOSED, "fault point");
	else
		link->rdma = lb_rdma_connect_start(&link->address, invitation, &memory, &status);
	if (link->rdma == NULL)
	{
		rdma_attempt_failed(link, &status);
		return;
	}
	link->rdma_state = LINK_RDMA_JOINING;
	rdma_continue(link);
}

void
rdma_continue(NodeLink *link)
{
	lb_status status;
	int result;

	if (link->rdma_state != LINK_RDMA_JOINING)
		return;
	result = lb_rdma_connect_continue(link->rdma, &status);
	if (result < 0)
		rdma_attempt_failed(link, &status);
	else if (result > 0)
	{
		link->rdma_state = LINK_RDMA_JOINED;
		(void) LB_FAULT("agent.rdma.joined");
		attach_accepted(link, &link->welcome);
	}
}

/*
 * Another agent has taken over (rule R10), or there is no queue pair to be had just now: the node may have one for a later attempt, when it
 * has registered its memory, or its device is back. To an attempt to resume it has said with WELCOME that it has our pages.
 */
static void
refused(NodeLink *link, const lb_error *error)
{
	if (error->error == LB_ERR_EPOCH)
		link_panic_replaced(link, error);
	attach_failed_retry(link, error->message, error->error == LB_ERR_ROLE ? RETRY_MS_HELD : 0);
	if (link->state == LINK_RESUMING)
		link_resume_longer(link);
}

void
rdma_received(NodeLink *link, const lb_frame *frame)
{
	lb_rdma_invitation invitation;
	lb_error error;
	bool good = true;

	switch (frame->header.type)
	{
		case LB_RDMA_OPENED:
			good = link->rdma_state == LINK_RDMA_OPENING &&
				   frame->header.sequence == link->rdma_sequence &&
				   lb_decode_rdma_invitation(frame->body, frame->header.body_length, &invitation);
			if (good)
				join(link, &invitation);
			break;
		case LB_ERROR:
			good = lb_decode_error(frame->body, frame->header.body_length, &error);
			if (good)
				refused(link, &error);
			break;
		case LB_CLEAN:
		case LB_FLUSH_STATE:
			good = flush_received(link, frame);
			break;
		default:
			good = false;
	}
	if (!good)
		attach_failed(link,
					  psprintf("it sent an unexpected %s", lb_frame_type_name(frame->header.type)));
}

/* A node that ends the connection says why first, over the stream. */
void
rdma_check(NodeLink *link)
{
	lb_status status;

	if (link->rdma_state != LINK_RDMA_JOINED || lb_rdma_check(link->rdma, &status))
		return;
	link_receive(link);
	if (link->rdma_state == LINK_RDMA_JOINED && link_connected(link))
		link_broken(link, status.message);
}

void
rdma_close(NodeLink *link)
{
	if (link->rdma)
		lb_rdma_close(link->rdma);
	link->rdma = NULL;
	link->rdma_state = LINK_RDMA_NONE;
}

void
rdma_describe_buffers(const NodeLink *link, lb_comm_region *region)
{
	region->address = (uint64) (uintptr_t) CommBufferPage(0);
	region->key = lb_rdma_remote_key(link->rdma);
}
