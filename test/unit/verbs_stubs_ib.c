/*
 * verbs_stubs_ib.c
 *	  The stand-in for libibverbs: domains, regions, completion queues, queue pairs, and reads.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "verbs_stubs_internal.h"

#define FIRST_QP 1000 /* number of the first queue pair */

typedef struct stub_domain
{
	struct ibv_pd pd;
	int users; /* regions and queue pairs */
} stub_domain;

typedef struct stub_mr
{
	struct ibv_mr mr;
	int access;
} stub_mr;

typedef struct stub_comp_channel
{
	struct ibv_comp_channel channel;
	struct ibv_cq *events[QUEUE_MAX]; /* oldest first */
	int count;
} stub_comp_channel;

typedef struct stub_cq
{
	struct ibv_cq cq;
	bool armed;
	int users; /* queue pairs */
	int unacknowledged;
	int count;
	struct ibv_wc entries[QUEUE_MAX]; /* oldest first */
	uint64_t numbers[QUEUE_MAX];      /* of the work requests that they are of */
} stub_cq;

typedef struct work
{
	struct ibv_send_wr wr;
	struct ibv_sge target;
	uint64_t number;
} work;

typedef struct stub_qp
{
	struct ibv_qp qp;
	bool all_signalled;
	uint32_t max_send_wr;
	uint64_t posted;
	uint64_t
		freed; /* slots of the send queue are free up to the one whose completion was polled last */
	struct stub_qp *peer;
	unsigned access; /* of the peer */
	bool may_read;   /* there is room for a read of ours on the wire */
	bool ready;      /* to send, and to be read from */
	int count;
	work queue[QUEUE_MAX]; /* posted, not executed; oldest first */
} stub_qp;

static stub_mr *regions[REGIONS_MAX]; /* the key has the place */
static stub_qp *qps[QPS_MAX];
static uint32_t next_key = 1;

const char *
ibv_wc_status_str(enum ibv_wc_status status)
{
	static char text[40];

	snprintf(text, sizeof(text), "stub status %d", status);
	return text;
}

/* ---- domains and regions ---- */

/* Is the call to fail, or is there no device? */
static bool
refused(stub_call call, struct ibv_context *context)
{
	if (stub_fails(call))
		return true;
	errno = EIO;
	return device_of(context)->gone;
}

struct ibv_pd *
ibv_alloc_pd(struct ibv_context *context)
{
	stub_domain *domain = NULL;

	stub_lock();
	if (!refused(CALL_ibv_alloc_pd, context))
	{
		domain = calloc(1, sizeof(*domain));
		domain->pd.context = context;
		stub_count(STUB_DOMAIN, 1);
	}
	stub_unlock();
	return (struct ibv_pd *) domain;
}

int
ibv_dealloc_pd(struct ibv_pd *pd)
{
	stub_lock();
	stub_need_descriptors(pd->context);
	if (((stub_domain *) pd)->users > 0)
		stub_misuse("a protection domain is destroyed that is in use");
	stub_count(STUB_DOMAIN, -1);
	stub_unlock();
	free(pd);
	return 0;
}

#undef ibv_reg_mr

struct ibv_mr *
ibv_reg_mr(struct ibv_pd *pd, void *start, size_t length, int access)
{
	stub_mr *region = NULL;
	uint32_t place = 0;

	stub_lock();
	if (access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND))
		stub_misuse("memory is registered for writing by others");
	if (!refused(CALL_ibv_reg_mr, pd->context))
	{
		while (place < REGIONS_MAX && regions[place])
			place++;
		if (place == REGIONS_MAX)
			stub_misuse("too many regions");
		region = calloc(1, sizeof(*region));
		region->mr =
			(struct ibv_mr){.context = pd->context, .pd = pd, .addr = start, .length = length};
		region->mr.lkey = next_key++ * REGIONS_MAX * 2 + place * 2;
		region->mr.rkey = region->mr.lkey + 1;
		region->access = access;
		regions[place] = region;
		((stub_domain *) pd)->users++;
		stub_count(STUB_REGION, 1);
	}
	stub_unlock();
	return (struct ibv_mr *) region;
}

struct ibv_mr *
ibv_reg_mr_iova2(struct ibv_pd *pd, void *start, size_t length, uint64_t iova, unsigned int access)
{
	if (iova != (uintptr_t) start)
		stub_misuse("addresses that are not those of the memory are not supported");
	return ibv_reg_mr(pd, start, length, (int) access);
}

/* Is any read going to write here? */
static bool
is_target(const stub_mr *region)
{
	for (int i = 0; i < QPS_MAX; i++)
		for (int n = 0; qps[i] && n < qps[i]->count; n++)
			if (qps[i]->queue[n].target.lkey == region->mr.lkey)
				return true;
	return false;
}

int
ibv_dereg_mr(struct ibv_mr *mr)
{
	stub_mr *region = (stub_mr *) mr;

	stub_pass_time();
	stub_lock();
	stub_need_descriptors(mr->context);
	if (is_target(region))
		stub_misuse("memory is deregistered that reads under way write to");
	regions[mr->lkey / 2 % REGIONS_MAX] = NULL;
	((stub_domain *) mr->pd)->users--;
	stub_count(STUB_REGION, -1);
	stub_unlock();
	free(region);
	return 0;
}

/* The region that this key lets one at, in this domain, for so many bytes from here; or null. */
static stub_mr *
find_region(uint32_t key, bool remote, struct ibv_pd *pd, uint64_t address, size_t length,
			int access)
{
	stub_mr *region = regions[key / 2 % REGIONS_MAX];
	uint64_t start;

	if (region == NULL || (remote ? region->mr.rkey : region->mr.lkey) != key ||
		region->mr.pd != pd || (region->access & access) != access)
		return NULL;
	start = (uintptr_t) region->mr.addr;
	if (address < start || length > region->mr.length ||
		address - start > region->mr.length - length)
		return NULL;
	return region;
}

/* ---- completion queues ---- */

struct ibv_comp_channel *
ibv_create_comp_channel(struct ibv_context *context)
{
	stub_comp_channel *channel = NULL;

	stub_lock();
	if (!refused(CALL_ibv_create_comp_channel, context))
	{
		channel = calloc(1, sizeof(*channel));
		channel->channel.context = context;
		channel->channel.fd = stub_semaphore_create();
		stub_count(STUB_COMP_CHANNEL, 1);
	}
	stub_unlock();
	return (struct ibv_comp_channel *) channel;
}

int
ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	stub_lock();
	stub_need_descriptors(channel->context);
	if (channel->refcnt > 0)
		stub_misuse("a completion channel is destroyed that is in use");
	stub_count(STUB_COMP_CHANNEL, -1);
	stub_unlock();
	close(channel->fd);
	free(channel);
	return 0;
}

static void
add_completion(stub_cq *cq, const struct ibv_wc *entry, uint64_t number)
{
	stub_comp_channel *channel = (stub_comp_channel *) cq->cq.channel;

	if (cq->count == cq->cq.cqe)
		stub_misuse("a completion queue overran");
	cq->entries[cq->count] = *entry;
	cq->numbers[cq->count++] = number;
	if (!cq->armed || channel == NULL)
		return;
	cq->armed = false;
	channel->events[channel->count++] = &cq->cq;
	stub_semaphore_raise(channel->channel.fd);
}

int
ibv_get_cq_event(struct ibv_comp_channel *base, struct ibv_cq **cq, void **cq_context)
{
	stub_comp_channel *channel = (stub_comp_channel *) base;
	struct pollfd wait = {.fd = base->fd, .events = POLLIN};

	for (;;)
	{
		stub_lock();
		if (stub_fails(CALL_ibv_get_cq_event))
			break;
		if (channel->count > 0)
		{
			stub_semaphore_lower(base->fd);
			*cq = channel->events[0];
			*cq_context = (*cq)->cq_context;
			channel->count--;
			memmove(channel->events, channel->events + 1,
					(size_t) channel->count * sizeof(channel->events[0]));
			((stub_cq *) *cq)->unacknowledged++;
			stub_unlock();
			return 0;
		}
		errno = EAGAIN;
		if (!stub_semaphore_blocks(base->fd))
			break;
		stub_unlock();
		poll(&wait, 1, -1);
	}
	stub_unlock();
	return -1;
}

void
ibv_ack_cq_events(struct ibv_cq *cq, unsigned int events)
{
	stub_lock();
	((stub_cq *) cq)->unacknowledged -= (int) events;
	if (((stub_cq *) cq)->unacknowledged < 0)
		stub_misuse("more completion events are acknowledged than came");
	stub_unlock();
}

struct ibv_cq *
ibv_create_cq(struct ibv_context *context, int entries, void *cq_context,
			  struct ibv_comp_channel *channel, int vector)
{
	stub_cq *cq = NULL;

	stub_lock();
	(void) vector;
	if (!refused(CALL_ibv_create_cq, context))
	{
		if (entries < 1 || entries > QUEUE_MAX)
			stub_misuse("a completion queue of impossible size");
		cq = calloc(1, sizeof(*cq));
		cq->cq.context = context;
		cq->cq.cq_context = cq_context;
		cq->cq.channel = channel;
		cq->cq.cqe = entries;
		if (channel)
			channel->refcnt++;
		stub_count(STUB_CQ, 1);
	}
	stub_unlock();
	return (struct ibv_cq *) cq;
}

/* Events that were not taken from the channel go with the queue. */
static void
forget_events(stub_comp_channel *channel, const struct ibv_cq *cq)
{
	int kept = 0;

	for (int i = 0; i < channel->count; i++)
	{
		if (channel->events[i] == cq)
			stub_semaphore_lower(channel->channel.fd);
		else
			channel->events[kept++] = channel->events[i];
	}
	channel->count = kept;
}

int
ibv_destroy_cq(struct ibv_cq *base)
{
	stub_cq *cq = (stub_cq *) base;

	stub_lock();
	stub_need_descriptors(base->context);
	if (cq->users > 0)
		stub_misuse("a completion queue is destroyed that is in use");
	if (cq->unacknowledged > 0)
		stub_misuse("a completion queue is destroyed that has events that were not acknowledged");
	if (base->channel)
	{
		forget_events((stub_comp_channel *) base->channel, base);
		base->channel->refcnt--;
	}
	stub_count(STUB_CQ, -1);
	stub_unlock();
	free(cq);
	return 0;
}

static int
req_notify_cq(struct ibv_cq *cq, int solicited_only)
{
	int result = 0;

	stub_lock();
	(void) solicited_only;
	if (cq->channel == NULL)
		stub_misuse("notifications are asked for where there is no channel");
	if (refused(CALL_ibv_req_notify_cq, cq->context))
		result = errno;
	else
		((stub_cq *) cq)->armed = true;
	stub_unlock();
	return result;
}

static int
poll_cq(struct ibv_cq *base, int wanted, struct ibv_wc *entries)
{
	stub_cq *cq = (stub_cq *) base;
	int taken;

	stub_lock();
	if (stub_fails(CALL_ibv_poll_cq))
	{
		stub_unlock();
		return -1;
	}
	taken = cq->count < wanted ? cq->count : wanted;
	memcpy(entries, cq->entries, (size_t) taken * sizeof(entries[0]));
	for (int i = 0; i < taken; i++)
		if (qps[entries[i].qp_num - FIRST_QP])
			qps[entries[i].qp_num - FIRST_QP]->freed = cq->numbers[i];
	cq->count -= taken;
	memmove(cq->entries, cq->entries + taken, (size_t) cq->count * sizeof(entries[0]));
	memmove(cq->numbers, cq->numbers + taken, (size_t) cq->count * sizeof(cq->numbers[0]));
	for (int i = 0; i < taken; i++)
	{
		/* What is not valid in a completion that failed may have anything. */
		if (entries[i].status != IBV_WC_SUCCESS)
			entries[i].opcode = (enum ibv_wc_opcode) 0x7777;
	}
	stub_sums.completions += (unsigned) taken;
	stub_unlock();
	return taken;
}

/* ---- queue pairs and reads ---- */

struct ibv_qp *
stub_qp_create(struct ibv_pd *pd, struct ibv_qp_init_attr *attributes)
{
	stub_qp *qp;
	int place = 0;

	if (attributes->qp_type != IBV_QPT_RC || attributes->cap.max_send_wr > QUEUE_MAX ||
		attributes->cap.max_send_sge > 1)
		stub_misuse("a queue pair of an impossible kind");
	if (attributes->send_cq == NULL || attributes->recv_cq == NULL)
		stub_misuse("the completion queues of rdma_cm are not supported here");
	while (place < QPS_MAX && qps[place])
		place++;
	if (place == QPS_MAX)
		stub_misuse("too many queue pairs");
	qp = calloc(1, sizeof(*qp));
	qp->qp = (struct ibv_qp){.context = pd->context,
							 .qp_context = attributes->qp_context,
							 .pd = pd,
							 .send_cq = attributes->send_cq,
							 .recv_cq = attributes->recv_cq,
							 .qp_num = (uint32_t) place + FIRST_QP,
							 .state = IBV_QPS_INIT,
							 .qp_type = IBV_QPT_RC};
	qp->all_signalled = attributes->sq_sig_all;
	qp->max_send_wr = attributes->cap.max_send_wr;
	((stub_domain *) pd)->users++;
	((stub_cq *) attributes->send_cq)->users++;
	((stub_cq *) attributes->recv_cq)->users++;
	qps[place] = qp;
	stub_count(STUB_QP, 1);
	return &qp->qp;
}

static void
complete(stub_qp *qp, const work *item, enum ibv_wc_status status)
{
	struct ibv_wc entry = {.wr_id = item->wr.wr_id,
						   .status = status,
						   .opcode = IBV_WC_RDMA_READ,
						   .byte_len = item->target.length,
						   .qp_num = qp->qp.qp_num};

	if (status != IBV_WC_SUCCESS || qp->all_signalled || item->wr.send_flags & IBV_SEND_SIGNALED)
		add_completion((stub_cq *) qp->qp.send_cq, &entry, item->number);
}

static void
drop_first(stub_qp *qp)
{
	qp->count--;
	memmove(qp->queue, qp->queue + 1, (size_t) qp->count * sizeof(qp->queue[0]));
}

/* Check as the two devices do, and copy so many bytes. */
static enum ibv_wc_status
execute(stub_qp *qp, const work *item, size_t length)
{
	const struct ibv_sge *target = &item->target;
	stub_mr *local = find_region(target->lkey, false, qp->qp.pd, target->addr, target->length,
								 IBV_ACCESS_LOCAL_WRITE);
	stub_mr *remote;

	if (local == NULL)
		return IBV_WC_LOC_PROT_ERR;
	if (!qp->may_read)
		return IBV_WC_LOC_QP_OP_ERR;
	if (qp->peer == NULL || !qp->peer->ready)
		return IBV_WC_RETRY_EXC_ERR;
	remote = find_region(item->wr.wr.rdma.rkey, true, qp->peer->qp.pd, item->wr.wr.rdma.remote_addr,
						 target->length, IBV_ACCESS_REMOTE_READ);
	if ((qp->peer->access & IBV_ACCESS_REMOTE_READ) == 0)
		return IBV_WC_REM_INV_REQ_ERR;
	if (remote == NULL)
		return IBV_WC_REM_ACCESS_ERR;
	memcpy((void *) (uintptr_t) target->addr,
		   (const void *) (uintptr_t) item->wr.wr.rdma.remote_addr, length);
	return IBV_WC_SUCCESS;
}

/*
 * Into the error state. What is under way is flushed; but the device may have received half of it by then, and has put that where it was
 * told to.
 */
void
stub_qp_error(struct ibv_qp *base)
{
	stub_qp *qp = (stub_qp *) base;

	qp->ready = false;
	base->state = IBV_QPS_ERR;
	while (qp->count > 0)
	{
		work item = qp->queue[0];

		execute(qp, &item, item.target.length / 2);
		drop_first(qp);
		complete(qp, &item, IBV_WC_WR_FLUSH_ERR);
	}
}

/* Execute what is posted, as far as it may go on. */
static void
progress(stub_qp *qp)
{
	while (qp->count > 0 && qp->ready && !stub_withheld())
	{
		work item = qp->queue[0];
		enum ibv_wc_status status;

		/* A peer that has accepted, but is not ready yet, is asked again until it is. */
		if (qp->peer && !qp->peer->ready && qp->peer->qp.state == IBV_QPS_INIT)
			return;
		status = stub_injected_status();
		if (status == IBV_WC_SUCCESS)
			status = execute(qp, &item, item.target.length);
		drop_first(qp);
		complete(qp, &item, status);
		if (status == IBV_WC_SUCCESS)
			continue;
		if (status == IBV_WC_REM_ACCESS_ERR && qp->peer)
			stub_qp_error(&qp->peer->qp);
		stub_qp_error(&qp->qp);
	}
}

void
stub_qps_progress(void)
{
	for (int i = 0; i < QPS_MAX; i++)
		if (qps[i])
			progress(qps[i]);
}

unsigned
stub_qps_pending(void)
{
	unsigned pending = 0;

	for (int i = 0; i < QPS_MAX; i++)
		if (qps[i])
			pending += (unsigned) qps[i]->count;
	return pending;
}

unsigned
stub_qps_room(void)
{
	unsigned room = 0;

	for (int i = 0; i < QPS_MAX; i++)
		if (qps[i])
			room += qps[i]->max_send_wr;
	return room;
}

void
stub_qps_of_device(stub_device *device, void (*what)(struct ibv_qp *qp))
{
	for (int i = 0; i < QPS_MAX; i++)
		if (qps[i] && qps[i]->qp.context == &device->context)
			what(&qps[i]->qp);
}

void
stub_qp_join(struct ibv_qp *one, struct ibv_qp *other)
{
	((stub_qp *) one)->peer = (stub_qp *) other;
	((stub_qp *) other)->peer = (stub_qp *) one;
}

void
stub_qp_ready(struct ibv_qp *qp)
{
	if (qp->state == IBV_QPS_ERR)
		return;
	qp->state = IBV_QPS_RTS;
	((stub_qp *) qp)->ready = true;
	stub_qps_progress();
}

void
stub_qp_destroy(struct ibv_qp *base)
{
	stub_qp *qp = (stub_qp *) base;

	stub_need_descriptors(base->context);
	/* Completions are not found any more, but the device may have written meanwhile. */
	while (qp->count > 0)
	{
		execute(qp, &qp->queue[0], qp->queue[0].target.length / 2);
		drop_first(qp);
	}
	for (int i = 0; i < QPS_MAX; i++)
	{
		if (qps[i] == qp)
			qps[i] = NULL;
		else if (qps[i] && qps[i]->peer == qp)
			qps[i]->peer = NULL;
	}
	((stub_domain *) base->pd)->users--;
	((stub_cq *) base->send_cq)->users--;
	((stub_cq *) base->recv_cq)->users--;
	stub_count(STUB_QP, -1);
	free(qp);
}

/* What rdma_cm lets the peer of a queue pair do, and what the pair itself may do. */
void
stub_qp_depths(struct ibv_qp *qp, const struct rdma_conn_param *parameters)
{
	((stub_qp *) qp)->access = IBV_ACCESS_REMOTE_WRITE;
	if (parameters->responder_resources > 0)
		((stub_qp *) qp)->access |= IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
	((stub_qp *) qp)->may_read = parameters->initiator_depth > 0;
}

unsigned
stub_qps_count(bool (*which)(unsigned access))
{
	unsigned count = 0;

	for (int i = 0; i < QPS_MAX; i++)
		if (qps[i] && qps[i]->qp.state == IBV_QPS_RTS && which(qps[i]->access))
			count++;
	return count;
}

int
ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attributes, int mask)
{
	int result = 0;

	stub_lock();
	if (refused(CALL_ibv_modify_qp, qp->context))
		result = errno;
	else if (mask == IBV_QP_STATE && attributes->qp_state == IBV_QPS_ERR)
		stub_qp_error(qp);
	else if (mask == IBV_QP_ACCESS_FLAGS && qp->state == IBV_QPS_RTS)
		((stub_qp *) qp)->access = attributes->qp_access_flags;
	else if (mask == IBV_QP_ACCESS_FLAGS)
		result = EINVAL;
	else
		stub_misuse("a queue pair is modified in a way that is not supported here");
	stub_unlock();
	return result;
}

/* Take one work request, as far as it can be told at once whether it is a good one. */
static int
post_one(stub_qp *qp, const struct ibv_send_wr *wr)
{
	work *item;

	if (wr->opcode != IBV_WR_RDMA_READ || wr->num_sge != 1 || (wr->send_flags & IBV_SEND_INLINE))
		stub_misuse("something else than a read is posted");
	if (qp->posted - qp->freed == qp->max_send_wr)
		return ENOMEM;
	item = &qp->queue[qp->count++];
	item->wr = *wr;
	item->target = wr->sg_list[0];
	item->number = ++qp->posted;
	stub_sums.work_requests++;
	if (wr->send_flags & IBV_SEND_SIGNALED)
		stub_sums.signalled++;
	return 0;
}

static int
chain_length(const struct ibv_send_wr *wr)
{
	int length = 0;

	for (; wr; wr = wr->next)
		length++;
	return length;
}

static int
post_send(struct ibv_qp *base, struct ibv_send_wr *wr, struct ibv_send_wr **bad_wr)
{
	stub_qp *qp = (stub_qp *) base;
	int result = 0;
	int error;
	int good;
	bool fails;

	stub_lock();
	if (base->state != IBV_QPS_RTS && base->state != IBV_QPS_ERR)
		stub_misuse("a read is posted before the connection is established");
	stub_sums.posts++;
	fails = stub_fails(CALL_ibv_post_send);
	error = errno;
	good = chain_length(wr) / 2;
	for (; wr; wr = wr->next)
	{
		result = fails && good-- == 0 ? error : post_one(qp, wr);
		if (result != 0)
			break;
	}
	if (result != 0)
		*bad_wr = wr;
	if (base->state == IBV_QPS_ERR)
		stub_qp_error(base);
	progress(qp);
	stub_unlock();
	return result;
}

static int
post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad_wr)
{
	(void) qp;
	(void) wr;
	(void) bad_wr;
	stub_misuse("nothing is received here");
}

const struct ibv_context_ops stub_context_ops = {
	.poll_cq = poll_cq,
	.req_notify_cq = req_notify_cq,
	.post_send = post_send,
	.post_recv = post_recv,
};
