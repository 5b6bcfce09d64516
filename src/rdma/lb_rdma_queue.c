/*
 * lb_rdma_queue.c
 *	  Queue pairs: what they are made of, posting reads, taking completions, draining.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "lb_clock.h"
#include "lb_rdma_internal.h"

#define DRAIN_NS 100000000 /* how long flushed work requests are waited for */
#define DRAIN_PAUSE_NS 100000

/* ---- making ---- */

struct ibv_cq *
lb_rdma_idle_cq_create(struct ibv_context *verbs, lb_status *status)
{
	struct ibv_cq *cq = ibv_create_cq(verbs, 1, NULL, NULL, 0);

	if (cq == NULL)
		lb_rdma_fail_make(status, verbs, "completion queue");
	return cq;
}

static void
destroy_completion(lb_rdma_queue *queue)
{
	if (queue->cq != NULL)
		ibv_destroy_cq(queue->cq);
	if (queue->completion != NULL)
		ibv_destroy_comp_channel(queue->completion);
	queue->cq = NULL;
	queue->completion = NULL;
}

/* After an error each work request that is under way has a completion, also those that were not signalled: there is room for all. */
static bool
create_completion(lb_rdma_queue *queue, struct ibv_context *verbs, bool with_channel,
				  lb_status *status)
{
	if (with_channel)
	{
		queue->completion = ibv_create_comp_channel(verbs);
		if (queue->completion == NULL)
			return lb_rdma_fail_make(status, verbs, "completion channel");
		if (!lb_rdma_set_nonblocking(queue->completion->fd, status))
			return false;
	}
	queue->cq = ibv_create_cq(verbs, LB_RDMA_READS_MAX, NULL, queue->completion, 0);
	if (queue->cq == NULL)
		return lb_rdma_fail_make(status, verbs, "completion queue");
	return true;
}

static bool
create_pair(lb_rdma_queue *queue, struct rdma_cm_id *id, lb_rdma_domain *domain,
			struct ibv_cq *idle, lb_status *status)
{
	struct ibv_cq *cq = queue->cq != NULL ? queue->cq : idle;
	struct ibv_qp_init_attr attributes = {
		.send_cq = cq,
		.recv_cq = cq,
		/* Nobody sends or receives messages, but not all devices make a queue pair without a receive queue. */
		.cap = {.max_send_wr = queue->cq != NULL ? LB_RDMA_READS_MAX : 1,
				.max_recv_wr = 1,
				.max_send_sge = 1,
				.max_recv_sge = 1},
		.qp_type = IBV_QPT_RC,
		.sq_sig_all = 0,
	};

	if (rdma_create_qp(id, domain->pd, &attributes) != 0)
		return lb_rdma_fail_make(status, id->verbs, "queue pair");
	queue->id = id;
	queue->domain = domain;
	domain->queue_pairs++;
	return true;
}

bool
lb_rdma_queue_create(lb_rdma_queue *queue, struct rdma_cm_id *id, lb_rdma_domain *domain,
					 struct ibv_cq *idle, bool with_channel, lb_status *status)
{
	memset(queue, 0, sizeof(*queue));
	if ((idle != NULL || create_completion(queue, id->verbs, with_channel, status)) &&
		create_pair(queue, id, domain, idle, status))
		return true;
	destroy_completion(queue);
	return false;
}

bool
lb_rdma_queue_restrict(lb_rdma_queue *queue, bool remote_read, lb_status *status)
{
	struct ibv_qp_attr attributes = {
		.qp_access_flags = remote_read ? IBV_ACCESS_REMOTE_READ : 0,
	};
	int error = ibv_modify_qp(queue->id->qp, &attributes, IBV_QP_ACCESS_FLAGS);

	if (error != 0)
		return lb_fail(status, LB_SYSTEM, "could not restrict the access of a queue pair: %s",
					   strerror(error));
	return true;
}

/* ---- posting and polling ---- */

/* The caller has stored the batch's id; the first number is that of its first work request. */
static void
fill_chain(struct ibv_send_wr *requests, struct ibv_sge *pieces, const lb_rdma_read *reads,
		   int count, uint64_t first)
{
	for (int i = 0; i < count; i++)
	{
		bool last = i == count - 1;

		pieces[i] = (struct ibv_sge){
			.addr = (uintptr_t) reads[i].dest,
			.length = LB_PAGE_SIZE,
			.lkey = reads[i].local_key,
		};
		requests[i] = (struct ibv_send_wr){
			.wr_id = first + (uint64_t) i,
			.next = last ? NULL : &requests[i + 1],
			.sg_list = &pieces[i],
			.num_sge = 1,
			.opcode = IBV_WR_RDMA_READ,
			.send_flags = last ? IBV_SEND_SIGNALED : 0,
			.wr.rdma = {.remote_addr = reads[i].address, .rkey = reads[i].remote_key},
		};
	}
}

bool
lb_rdma_post_reads(lb_rdma_connection *connection, const lb_rdma_read *reads, int count,
				   uint64_t id, lb_status *status)
{
	lb_rdma_queue *queue = &connection->queue;
	struct ibv_send_wr requests[LB_BATCH_MAX];
	struct ibv_sge pieces[LB_BATCH_MAX];
	struct ibv_send_wr *bad = NULL;
	int error;

	assert(count > 0 && count <= LB_BATCH_MAX && queue->cq != NULL);
	assert(queue->posted - queue->completed + (uint64_t) count <= LB_RDMA_READS_MAX);
	if (connection->state == LB_RDMA_BROKEN)
		return lb_rdma_break(connection, status);

	fill_chain(requests, pieces, reads, count, queue->posted + 1);
	error = ibv_post_send(queue->id->qp, requests, &bad);
	queue->counters.doorbells++;
	if (error != 0)
	{
		uint64_t accepted = bad != NULL ? (uint64_t) (bad - requests) : 0;

		queue->posted += accepted;
		queue->counters.work_requests += accepted;
		lb_fail(status, LB_SYSTEM, "could not post an RDMA read: %s", strerror(error));
		return lb_rdma_break(connection, status);
	}
	queue->posted += (uint64_t) count;
	queue->counters.work_requests += (uint64_t) count;
	queue->ids[queue->posted % LB_RDMA_READS_MAX] = id;
	return true;
}

/* What an unsuccessful completion says of the connection. */
static void
fail_completion(const struct ibv_wc *completion, lb_status *status)
{
	const char *name = ibv_wc_status_str(completion->status);

	switch (completion->status)
	{
		case IBV_WC_REM_ACCESS_ERR:
			lb_fail(status, LB_REFUSED, "the peer's memory may not be read with this key (%s)",
					name);
			status->wire_error = LB_ERR_SLAB;
			break;
		case IBV_WC_RETRY_EXC_ERR:
		case IBV_WC_RNR_RETRY_EXC_ERR:
		case IBV_WC_RESP_TIMEOUT_ERR:
			lb_fail(status, LB_TIMEOUT, "the peer's RDMA device does not answer (%s)", name);
			break;
		case IBV_WC_WR_FLUSH_ERR:
			lb_fail(status, LB_CLOSED, "the RDMA connection was ended (%s)", name);
			break;
		default:
			lb_fail(status, LB_SYSTEM, "an RDMA read failed: %s (vendor's error %u)", name,
					completion->vendor_err);
			break;
	}
}

/* Take one completion: as ibv_poll_cq. */
static int
take_completion(lb_rdma_queue *queue, struct ibv_wc *completion)
{
	int taken = ibv_poll_cq(queue->cq, 1, completion);

	if (taken > 0)
	{
		queue->counters.completions++;
		queue->completed = completion->wr_id;
	}
	return taken;
}

int
lb_rdma_poll(lb_rdma_connection *connection, uint64_t *id, lb_status *status)
{
	lb_rdma_queue *queue = &connection->queue;
	struct ibv_wc completion;
	int taken;

	if (connection->state == LB_RDMA_BROKEN)
	{
		lb_rdma_break(connection, status);
		return -1;
	}
	if (queue->posted == queue->completed)
		return 0;

	taken = take_completion(queue, &completion);
	if (taken == 0)
		return 0;
	if (taken > 0 && completion.status == IBV_WC_SUCCESS)
	{
		*id = queue->ids[completion.wr_id % LB_RDMA_READS_MAX];
		return 1;
	}
	if (taken > 0)
		fail_completion(&completion, status);
	else
		lb_fail(status, LB_SYSTEM, "could not poll an RDMA completion queue");
	lb_rdma_break(connection, status);
	return -1;
}

lb_rdma_counters
lb_rdma_get_counters(const lb_rdma_connection *connection)
{
	return connection->queue.counters;
}

/* ---- the completion channel ---- */

int
lb_rdma_completion_fd(const lb_rdma_connection *connection)
{
	return connection->queue.completion != NULL ? connection->queue.completion->fd : -1;
}

bool
lb_rdma_arm(lb_rdma_connection *connection, lb_status *status)
{
	lb_rdma_queue *queue = &connection->queue;
	struct ibv_cq *cq;
	void *context;
	int error;

	while (ibv_get_cq_event(queue->completion, &cq, &context) == 0)
		ibv_ack_cq_events(cq, 1);
	if (errno != EAGAIN && errno != EINTR)
	{
		lb_fail_errno(status, "could not take an event of an RDMA completion channel");
		return lb_rdma_break(connection, status);
	}
	error = ibv_req_notify_cq(queue->cq, 0);
	if (error != 0)
	{
		lb_fail(status, LB_SYSTEM, "could not ask for RDMA completion events: %s", strerror(error));
		return lb_rdma_break(connection, status);
	}
	return true;
}

/* ---- the end ---- */

/*
 * In the error state the device flushes what is under way, each with a completion; the last one that was posted has one in any case, and comes last.
 * Destroying the queue pair stops the device as well, so the limit is for devices that are gone or broken.
 */
static void
drain(lb_rdma_queue *queue)
{
	struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_ERR};
	uint64_t deadline = lb_now_ns() + DRAIN_NS;
	struct ibv_wc completion;

	if (ibv_modify_qp(queue->id->qp, &attributes, IBV_QP_STATE) != 0)
		return;
	while (queue->completed != queue->posted)
	{
		struct timespec pause = {.tv_nsec = DRAIN_PAUSE_NS};
		int taken = take_completion(queue, &completion);

		if (taken < 0 || (taken == 0 && lb_now_ns() >= deadline))
			return;
		if (taken == 0)
			nanosleep(&pause, NULL);
	}
}

static void
leave_domain(lb_rdma_queue *queue)
{
	lb_rdma_domain *domain = queue->domain;

	queue->domain = NULL;
	if (--domain->queue_pairs == 0 && domain->given_up)
		lb_rdma_domain_destroy(domain);
}

void
lb_rdma_queue_destroy(lb_rdma_queue *queue)
{
	if (queue->id != NULL)
	{
		/* Tells the peer, if there is one; and fails without harm if there is none yet, or no more. */
		rdma_disconnect(queue->id);
		if (queue->cq != NULL)
			drain(queue);
		rdma_destroy_qp(queue->id);
		queue->id = NULL;
		leave_domain(queue);
	}
	destroy_completion(queue);
}
