/*
 * node_client.c
 *	  This process's connections to memory nodes, made when they are first needed.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "lb_clock.h"
#include "lb_fault.h"
#include "node_client.h"
#include "node_table.h"
#include "stats.h"

/* After a failure this process leaves the node alone for so long. */
#define RETRY_AFTER_MS 1000

typedef struct NodeClient
{
	lb_data_plane *plane; /* null when not connected */
	uint32 session;       /* of the node, that the connection belongs to */
	uint32 connection;    /* counts this process's connections to the node */
	uint64 not_before;    /* lb_now_ns: no attempt to connect earlier */
} NodeClient;

static NodeClient clients[MAX_NODES];
static uint32 unmap_counter;

/* Asked by waits: could an interrupt that is pending be served by CHECK_FOR_INTERRUPTS()? */
static bool
interrupt_pending(void *arg)
{
	return InterruptPending && InterruptHoldoffCount == 0 && QueryCancelHoldoffCount == 0 &&
		   CritSectionCount == 0;
}

static uint64
read_deadline(uint64 start)
{
	return start + (uint64) node_timeout_ms * 1000000 / 4;
}

static void
disconnect(NodeClient *client)
{
	if (client->plane)
		lb_data_plane_close(client->plane);
	client->plane = NULL;
}

static bool
connect_node(int node, NodeClient *client)
{
	NodeSession session;
	lb_status status;

	if (CritSectionCount > 0 || lb_now_ns() < client->not_before ||
		!NodeTableSession(node, &session))
		return false;
	client->plane =
		lb_data_plane_connect(session.transport, &session.address, &session.hello,
							  interrupt_pending, NULL, read_deadline(lb_now_ns()), &status);
	client->session = session.session;
	client->connection++;
	if (client->plane)
		return true;

	if (status.code == LB_CANCELLED)
		return false;
	client->not_before = lb_now_ns() + (uint64) RETRY_AFTER_MS * 1000000;
	NodeTableSetError(node, status.message);
	if (status.code == LB_TIMEOUT)
		NodeTableSuspect(node, session.session);
	return false;
}

/* The connection for the node's present session; null if there can be none now. */
static NodeClient *
client_for(int node)
{
	NodeClient *client = &clients[node];
	uint32 session = NodeTableSessionNumber(node);

	if (NodeTableState(node) != NODE_UP || session == 0)
		return NULL;
	if (client->plane && client->session == session)
		return client;
	if (client->plane && CritSectionCount > 0)
		return NULL;
	disconnect(client);
	return connect_node(node, client) ? client : NULL;
}

/* A request failed: the connection is of no more use. Who else should know? */
static NodeReadResult
failed(int node, NodeClient *client, const lb_status *status)
{
	disconnect(client);
	if (status->code == LB_CANCELLED)
		return NODE_READ_INTERRUPTED;
	client->not_before = lb_now_ns() + (uint64) RETRY_AFTER_MS * 1000000;
	NodeTableSetError(node, status->message);
	if (status->code == LB_TIMEOUT)
	{
		StatsCount(STAT_READ_TIMEOUTS, 1);
		NodeTableSuspect(node, client->session);
	}
	return NODE_READ_UNAVAILABLE;
}

NodeReadResult
NodeClientRead(int node, const lb_slot_ref *slot, void *dest, uint64 *elapsed_ns)
{
	NodeClient *client = client_for(node);
	lb_read_target target = {.slot = *slot, .dest = dest};
	uint64 start;
	uint64 deadline;
	uint64 ticket;
	lb_status status;

	if (client == NULL)
		return interrupt_pending(NULL) ? NODE_READ_INTERRUPTED : NODE_READ_UNAVAILABLE;
	if (LB_FAULT("read.fail"))
	{
		lb_fail(&status, LB_TIMEOUT, "fault point");
		return failed(node, client, &status);
	}

	start = lb_now_ns();
	deadline = read_deadline(start);
	ticket = lb_data_plane_submit(client->plane, &target, 1, deadline, &status);
	if (ticket == 0 || !lb_data_plane_wait(client->plane, ticket, deadline, &status))
		return failed(node, client, &status);
	*elapsed_ns = lb_now_ns() - start;
	return NODE_READ_DONE;
}

uint64
NodeClientSubmit(int node, const lb_read_target *targets, int count, uint32 *connection)
{
	NodeClient *client = client_for(node);
	lb_status status;
	uint64 ticket;

	if (client == NULL)
		return 0;
	ticket =
		lb_data_plane_submit(client->plane, targets, count, read_deadline(lb_now_ns()), &status);
	if (ticket == 0)
	{
		failed(node, client, &status);
		return 0;
	}
	*connection = client->connection;
	return ticket;
}

NodeReadResult
NodeClientWait(int node, uint32 connection, uint64 ticket)
{
	NodeClient *client = &clients[node];
	lb_status status;

	if (client->plane == NULL || client->connection != connection)
		return NODE_READ_UNAVAILABLE;
	if (!lb_data_plane_wait(client->plane, ticket, read_deadline(lb_now_ns()), &status))
		return failed(node, client, &status);
	return NODE_READ_DONE;
}

bool
NodeClientReadAheadHelps(int node)
{
	return lb_data_plane_ops_for(NodeTableTransport(node))->read_ahead_helps;
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
