/*
 * node_client.c
 *	  This process's connections to memory nodes, made when they are first needed.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"

#include "comm_buffer.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "node_client.h"
#include "node_table.h"
#include "stats.h"

/* After a failure this process leaves the node alone for so long; twice as long after each further one in a row. */
#define RETRY_MS_MIN 1000
#define RETRY_MS_MAX 30000

/*
 * How long a node of transport rdma is read over tcp, before it is tried again whether a queue pair is to be had; up to twice as long, so that
 * those that were too many at the same time are not so again.
 */
#define RDMA_RETRY_NS UINT64_C(30000000000)

typedef struct NodeClient
{
	lb_data_plane *plane; /* null when not connected */
	uint32 session;       /* of the node, that the connection belongs to, or the last failure did */
	uint32 connection;    /* counts this process's connections to the node */
	uint64 not_before;    /* lb_now_ns: no attempt to connect to this session earlier */
	uint32 retry_ms;      /* the last interval, 0 after a success */
	bool rdma;            /* the node's transport: what follows is of use */
	uint64 rdma_retry;    /* lb_now_ns: 0, or over tcp, until then at least */
	lb_data_plane_counters counted; /* what of the connection is in the node's figures */
} NodeClient;

static NodeClient clients[MAX_NODES];
static uint32 unmap_counter;

static bool patient = false;

void
NodeClientBePatient(bool be_patient)
{
	patient = be_patient;
}

/* Asked by waits: is an interrupt pending that CHECK_FOR_INTERRUPTS() would serve? */
static bool
interrupt_pending(void *arg)
{
	return !patient && InterruptPending && InterruptHoldoffCount == 0 &&
		   QueryCancelHoldoffCount == 0 && CritSectionCount == 0;
}

uint64
NodeClientDeadline(uint64 now)
{
	return now + (uint64) node_timeout_ms * 1000000 / 4;
}

/* Add what a connection over rdma has done since the last time to the node's figures. */
static void
count_work(int node, NodeClient *client)
{
	const lb_data_plane_counters *now = lb_data_plane_counted(client->plane);
	lb_data_plane_counters *counted = &client->counted;

	NodeTableCountWork(node, now->work_requests - counted->work_requests,
					   now->doorbells - counted->doorbells,
					   now->completions - counted->completions);
	*counted = *now;
}

static void
release_descriptors(int count)
{
	while (count-- > 0)
		ReleaseExternalFD();
}

static bool
reserve_descriptors(int count)
{
	for (int i = 0; i < count; i++)
	{
		if (AcquireExternalFD())
			continue;
		release_descriptors(i);
		return false;
	}
	return true;
}

/* What a transport needs once in a process, whatever becomes of its connections. */
static bool
reserve_for_process(const lb_data_plane_ops *ops)
{
	static bool reserved = false;

	if (ops->process_descriptors > 0 && !reserved)
		reserved = reserve_descriptors(ops->process_descriptors);
	return ops->process_descriptors == 0 || reserved;
}

static void
disconnect(int node, NodeClient *client)
{
	int descriptors;

	if (client->plane == NULL)
		return;
	if (client->rdma)
		count_work(node, client);
	descriptors = client->plane->ops->descriptors;
	lb_data_plane_close(client->plane);
	client->plane = NULL;
	release_descriptors(descriptors);
}

/* An attempt or a request failed, and the connection is gone. Who else should know? */
static void
note_failure(int node, NodeClient *client, const lb_status *status, uint64 began)
{
	uint64 now = lb_now_ns();

	/* Not the node's fault: an interrupt, or a slab that was returned while we read ahead from it. */
	if (status->code == LB_CANCELLED ||
		(status->code == LB_REFUSED && status->wire_error == LB_ERR_SLAB))
		return;
	client->retry_ms =
		client->retry_ms == 0 ? RETRY_MS_MIN : Min(client->retry_ms * 2, RETRY_MS_MAX);
	client->not_before = now + (uint64) client->retry_ms * 1000000;
	NodeTableSetError(node, status->message);
	if (status->code == LB_TIMEOUT)
	{
		StatsCount(STAT_READ_TIMEOUTS, 1);
		NodeTableNoteTimeout(node, now - began);
		if (NodeTableSuspect(node, client->session))
			CommBufferWakeAgent();
	}
}

/* Connected to a node of transport rdma, or over tcp instead; then *reason says why. */
static void
begin_rdma(int node, NodeClient *client, const lb_data_plane_ops *rdma, const lb_status *reason)
{
	memset(&client->counted, 0, sizeof(client->counted));
	client->rdma_retry = 0;
	if (!lb_data_plane_fell_back(client->plane))
		return;
	release_descriptors(rdma->descriptors - client->plane->ops->descriptors);
	client->rdma_retry = lb_now_ns() + RDMA_RETRY_NS +
						 (uint64) (pg_prng_double(&pg_global_prng_state) * (double) RDMA_RETRY_NS);
	NodeTableNoteFallback(node, reason->message);
}

/* Is it time to see whether there is a queue pair now? Not with batches under way, which would be lost. */
static bool
should_retry_rdma(const NodeClient *client)
{
	return client->rdma_retry != 0 && CritSectionCount == 0 && lb_data_plane_idle(client->plane) &&
		   lb_now_ns() >= client->rdma_retry;
}

static bool
connect_node(int node, NodeClient *client, uint64 deadline)
{
	NodeSession session;
	lb_status status;
	const lb_data_plane_ops *ops;
	uint64 began = lb_now_ns();

	if (CritSectionCount > 0 || !NodeTableSession(node, &session))
		return false;
	if (session.session == client->session && began < client->not_before && !patient)
		return false;
	client->session = session.session;
	ops = lb_data_plane_ops_for(session.transport);
	if (!reserve_for_process(ops) || !reserve_descriptors(ops->descriptors))
		return false;
	client->plane = lb_data_plane_connect(session.transport, &session.address, &session.hello,
										  interrupt_pending, NULL, deadline, &status);
	client->connection++;
	if (client->plane == NULL)
	{
		release_descriptors(ops->descriptors);
		note_failure(node, client, &status, began);
		return false;
	}
	client->rdma = session.transport == LB_TRANSPORT_RDMA;
	if (client->rdma)
		begin_rdma(node, client, ops, &status);
	return true;
}

/* The connection for the node's present session; null if there can be none now. */
static NodeClient *
client_for(int node, uint64 deadline)
{
	NodeClient *client = &clients[node];
	uint32 session = NodeTableSessionNumber(node);

	/* Slab numbers are used again after a return: their old mappings must be gone before a new one is read. */
	NodeClientUnmapReturned();
	if (NodeTableState(node) != NODE_UP || session == 0)
		return NULL;
	if (client->plane && client->session == session && !(client->rdma && should_retry_rdma(client)))
		return client;
	if (client->plane && CritSectionCount > 0)
		return NULL;
	disconnect(node, client);
	return connect_node(node, client, deadline) ? client : NULL;
}

static bool
failed(int node, NodeClient *client, const lb_status *status, uint64 began)
{
	disconnect(node, client);
	note_failure(node, client, status, began);
	return false;
}

/* The wait shows in pg_stat_activity as one of an extension. */
static bool
wait_for_ticket(int node, NodeClient *client, uint64 ticket, uint64 deadline, lb_status *status)
{
	bool complete;

	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	complete = lb_data_plane_wait(client->plane, ticket, deadline, status);
	pgstat_report_wait_end();
	if (client->rdma)
		count_work(node, client);
	return complete;
}

bool
NodeClientRead(int node, const lb_slot_ref *slot, void *dest, uint64 deadline, uint64 *began_ns)
{
	NodeClient *client = client_for(node, deadline);
	lb_read_target target = {.slot = *slot, .dest = dest};
	uint64 start;
	uint64 ticket;
	lb_status status;

	if (client == NULL)
		return false;
	start = lb_now_ns();
	if (LB_FAULT("read.fail"))
	{
		lb_fail(&status, LB_TIMEOUT, "fault point");
		return failed(node, client, &status, start);
	}
	ticket = lb_data_plane_submit(client->plane, &target, 1, deadline, &status);
	if (ticket == 0 || !wait_for_ticket(node, client, ticket, deadline, &status))
		return failed(node, client, &status, start);
	client->retry_ms = 0;
	*began_ns = start;
	return true;
}

uint64
NodeClientSubmit(int node, const lb_read_target *targets, int count, uint32 *connection)
{
	uint64 now = lb_now_ns();
	uint64 deadline = NodeClientDeadline(now);
	NodeClient *client = client_for(node, deadline);
	lb_status status;
	uint64 ticket;

	if (client == NULL)
		return 0;
	ticket = lb_data_plane_submit(client->plane, targets, count, deadline, &status);
	if (ticket == 0)
	{
		failed(node, client, &status, now);
		return 0;
	}
	if (client->rdma)
		count_work(node, client);
	*connection = client->connection;
	return ticket;
}

bool
NodeClientWait(int node, uint32 connection, uint64 ticket, uint64 deadline)
{
	NodeClient *client = &clients[node];
	uint64 start = lb_now_ns();
	lb_status status;

	if (client->plane == NULL || client->connection != connection)
		return false;
	if (!wait_for_ticket(node, client, ticket, deadline, &status))
		return failed(node, client, &status, start);
	return true;
}

bool
NodeClientIsFar(int node)
{
	return lb_data_plane_ops_for(NodeTableTransport(node))->read_ahead_helps;
}

bool
NodeClientAnyFar(void)
{
	static int any = -1; /* not known yet; the nodes are the same for the life of the server */

	if (any < 0)
	{
		any = 0;
		for (int i = 0; i < NodeTableCount(); i++)
			any |= NodeClientIsFar(i) ? 1 : 0;
	}
	return any == 1;
}

void
NodeClientUnmapReturned(void)
{
	uint32 counter = NodeTableUnmapCounter();

	if (counter == unmap_counter)
		return;
	unmap_counter = counter;
	for (int i = 0; i < NodeTableCount(); i++)
	{
		if (clients[i].plane)
			lb_data_plane_unmap(clients[i].plane);
	}
}
