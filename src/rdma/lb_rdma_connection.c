/*
 * lb_rdma_connection.c
 *	  A connection, and how the side that asks for one makes it: rdma_cm on an event channel of its own.
 */
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "lb_rdma_internal.h"

#define RESOLVE_MS \
	5000 /* a limit of rdma_cm's for address and for route: the caller has a limit of its own for everything */

/*
 * How long the device waits for an acknowledgement before it sends again: 4.096 us * 2^14 = 67 ms; and how often. rdma_cm's own value is 2 s: a peer that has
 * gone without a word would be noticed only after a quarter of a minute. Not 7 times: soft-RoCE takes that for "for ever".
 */
#define ACK_TIMEOUT 14
#define RETRY_COUNT 6
#define RNR_RETRY_COUNT 6 /* 7 is "for ever" with all devices */

/* Reasons for a rejection, of the InfiniBand specification's table of REJ messages. */
#define REJECTED_NO_LISTENER 8
#define REJECTED_BY_PEER 28

/* ---- both sides ---- */

bool
lb_rdma_break(lb_rdma_connection *connection, lb_status *status)
{
	if (connection->state != LB_RDMA_BROKEN)
	{
		connection->state = LB_RDMA_BROKEN;
		connection->failure = *status;
	}
	*status = connection->failure;
	return false;
}

void
lb_rdma_set_ack_timeout(struct rdma_cm_id *id)
{
	uint8_t timeout = ACK_TIMEOUT;

	rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
}

struct rdma_conn_param
lb_rdma_conn_param(uint8_t initiator_depth, uint8_t responder_resources)
{
	return (struct rdma_conn_param){
		.initiator_depth = initiator_depth,
		.responder_resources = responder_resources,
		.retry_count = RETRY_COUNT,
		.rnr_retry_count = RNR_RETRY_COUNT,
	};
}

int
lb_rdma_next_cm_event(struct rdma_event_channel *channel, lb_rdma_cm_event *event,
					  lb_status *status)
{
	struct rdma_cm_event *received;
	const struct rdma_conn_param *param;
	size_t kept;

	errno = 0;
	if (rdma_get_cm_event(channel, &received) != 0)
	{
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		lb_fail_errno(status, "could not take an event of rdma_cm");
		return -1;
	}
	param = &received->param.conn;
	*event = (lb_rdma_cm_event){
		.type = received->event,
		/* librdmacm's own failures on the way to an event are -1, with the reason in errno */
		.status = received->status == -1 && errno != 0 ? -errno : received->status,
		.id = received->id,
		.responder_resources = param->responder_resources,
		.initiator_depth = param->initiator_depth,
		.private_length = param->private_data != NULL ? param->private_data_len : 0,
	};
	kept = event->private_length < sizeof(event->private_data) ? event->private_length
															   : sizeof(event->private_data);
	if (kept > 0)
		memcpy(event->private_data, param->private_data, kept);
	rdma_ack_cm_event(received);
	return 1;
}

/* A read may have failed because the device is gone, before anybody has looked at the event that says so. */
static void
notice_removal(const lb_rdma_connection *connection)
{
	lb_rdma_cm_event event;
	lb_status status;

	while (lb_rdma_next_cm_event(connection->channel, &event, &status) == 1)
		if (event.type == RDMA_CM_EVENT_DEVICE_REMOVAL)
			lb_rdma_device_removed(connection->hold.verbs);
}

void
lb_rdma_close(lb_rdma_connection *connection)
{
	if (connection == NULL)
		return;
	if (connection->hold.verbs != NULL)
		notice_removal(connection);
	lb_rdma_queue_destroy(&connection->queue);
	if (connection->idle != NULL)
		ibv_destroy_cq(connection->idle);
	lb_rdma_deregister(connection->region);
	lb_rdma_domain_destroy(connection->domain);
	lb_rdma_device_release(&connection->hold);
	if (connection->id != NULL)
		rdma_destroy_id(connection->id);
	lb_rdma_device_close(&connection->hold);
	if (connection->channel != NULL)
		rdma_destroy_event_channel(connection->channel);
	free(connection);
}

/* ---- asking ---- */

static bool
fail_no_device(const lb_rdma_connection *connection, int error, lb_status *status)
{
	char peer[LB_RDMA_ADDRESS_TEXT];

	lb_rdma_address_text((const struct sockaddr *) &connection->peer, peer);
	switch (error)
	{
		case ETIMEDOUT:
			return lb_fail(status, LB_TIMEOUT, "no answer when resolving %s for RDMA", peer);
		case EPERM:
		case EACCES:
			return lb_fail(status, LB_SYSTEM,
						   "this host's RDMA device for the way to %s could not be opened: see to "
						   "it that /dev/infiniband/uverbs* may be, or use tcp://",
						   peer);
		case ENODEV:
		case EADDRNOTAVAIL:
		case ENETUNREACH:
		case EHOSTUNREACH:
			return lb_fail(status, LB_SYSTEM,
						   "this host has no RDMA device for the way to %s (%s): set one up "
						   "(\"rdma link\" lists them), or use tcp://",
						   peer, strerror(error));
		default:
			return lb_fail(status, LB_SYSTEM, "could not resolve %s for RDMA: %s", peer,
						   strerror(error));
	}
}

static bool
begin_resolving(lb_rdma_connection *connection, const lb_address *address, uint16_t port,
				lb_status *status)
{
	struct sockaddr_storage *peer = &connection->peer;

	*peer = address->storage;
	if (peer->ss_family == AF_INET)
		((struct sockaddr_in *) peer)->sin_port = htons(port);
	else if (peer->ss_family == AF_INET6)
		((struct sockaddr_in6 *) peer)->sin6_port = htons(port);
	else
		return lb_fail(status, LB_INVALID, "an RDMA connection needs an IP address");

	connection->channel = lb_rdma_channel_open(LB_SYSTEM, status);
	if (connection->channel == NULL)
		return false;
	if (rdma_create_id(connection->channel, &connection->id, NULL, RDMA_PS_TCP) != 0)
	{
		connection->id = NULL;
		return lb_fail_errno(status, "could not make an id of rdma_cm");
	}
	lb_rdma_set_ack_timeout(connection->id);
	if (rdma_resolve_addr(connection->id, NULL, (struct sockaddr *) peer, RESOLVE_MS) != 0)
		return fail_no_device(connection, errno, status);
	return true;
}

lb_rdma_connection *
lb_rdma_connect_start(const lb_address *address, const lb_rdma_invitation *invitation,
					  const lb_rdma_memory *memory, lb_status *status)
{
	lb_rdma_connection *connection = calloc(1, sizeof(*connection));

	if (connection == NULL)
	{
		lb_fail_errno(status, "could not allocate memory for an RDMA connection");
		return NULL;
	}
	connection->state = LB_RDMA_RESOLVING;
	connection->memory = *memory;
	memcpy(connection->secret, invitation->secret, sizeof(connection->secret));
	if (!begin_resolving(connection, address, invitation->port, status))
	{
		lb_rdma_close(connection);
		return NULL;
	}
	return connection;
}

/* The device is known: make everything on it, and send the request. */
static bool
request(lb_rdma_connection *connection, lb_status *status)
{
	struct rdma_cm_id *id = connection->id;
	const lb_rdma_memory *memory = &connection->memory;
	lb_rdma_depths depths;
	struct rdma_conn_param param;

	if (!lb_rdma_device_is_fit(id->verbs, LB_SYSTEM, status) ||
		!lb_rdma_device_depths(id->verbs, &depths, status))
		return false;
	connection->domain = lb_rdma_domain_on(id->verbs, status);
	if (connection->domain == NULL)
		return false;
	connection->region = lb_rdma_register_for(
		connection->domain, memory->start, memory->length,
		memory->remote_read ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_LOCAL_WRITE, status);
	if (connection->region == NULL)
		return false;
	if (memory->remote_read)
	{
		connection->idle = lb_rdma_idle_cq_create(id->verbs, status);
		if (connection->idle == NULL)
			return false;
	}
	if (!lb_rdma_queue_create(&connection->queue, id, connection->domain, connection->idle, false,
							  status))
		return false;

	param = memory->remote_read ? lb_rdma_conn_param(0, depths.served)
								: lb_rdma_conn_param(depths.posted, 0);
	param.private_data = connection->secret;
	param.private_data_len = sizeof(connection->secret);
	if (rdma_connect(id, &param) != 0)
		return lb_fail_errno(status, "could not send an RDMA connection request");
	connection->state = LB_RDMA_CONNECTING;
	return true;
}

static bool
fail_rejected(int reason, lb_status *status)
{
	switch (reason)
	{
		case REJECTED_NO_LISTENER:
			return lb_fail(status, LB_CLOSED, "nobody listens for RDMA connections at this port");
		case REJECTED_BY_PEER:
			return lb_fail(status, LB_CLOSED, "the memory node has rejected the RDMA connection");
		default:
			return lb_fail(status, LB_CLOSED, "the RDMA connection was rejected (reason %d)",
						   reason);
	}
}

/* An event means that the connection did not come about, or is gone. */
static bool
fail_event(const lb_rdma_connection *connection, const lb_rdma_cm_event *event, lb_status *status)
{
	int error = event->status < 0 ? -event->status : event->status;

	switch (event->type)
	{
		case RDMA_CM_EVENT_ADDR_ERROR:
		case RDMA_CM_EVENT_ROUTE_ERROR:
			return fail_no_device(connection, error, status);
		case RDMA_CM_EVENT_REJECTED:
			/* A node that closes before it knows that we are established rejects. */
			if (connection->state == LB_RDMA_ESTABLISHED_STATE)
				return lb_fail(status, LB_CLOSED, "the memory node has ended the RDMA connection");
			return fail_rejected(event->status, status);
		case RDMA_CM_EVENT_UNREACHABLE:
			return lb_fail(status, LB_TIMEOUT, "no answer to an RDMA connection request");
		case RDMA_CM_EVENT_CONNECT_ERROR:
			return lb_fail(status, LB_SYSTEM, "an RDMA connection could not be completed: %s",
						   strerror(error));
		case RDMA_CM_EVENT_DISCONNECTED:
			return lb_fail(status, LB_CLOSED, "the memory node has ended the RDMA connection");
		case RDMA_CM_EVENT_DEVICE_REMOVAL:
			lb_rdma_device_removed(connection->id->verbs);
			return lb_fail(status, LB_SYSTEM, "this host's RDMA device was removed");
		default:
			return lb_fail(status, LB_SYSTEM, "unexpected event of an RDMA connection: %s",
						   rdma_event_str(event->type));
	}
}

/* False: broken. */
static bool
handle_event(lb_rdma_connection *connection, const lb_rdma_cm_event *event, lb_status *status)
{
	switch (event->type)
	{
		case RDMA_CM_EVENT_ADDR_RESOLVED:
			lb_rdma_device_hold(&connection->hold, connection->id->verbs);
			if (rdma_resolve_route(connection->id, RESOLVE_MS) != 0)
				return fail_no_device(connection, errno, status);
			return true;
		case RDMA_CM_EVENT_ROUTE_RESOLVED:
			return request(connection, status);
		case RDMA_CM_EVENT_ESTABLISHED:
			connection->state = LB_RDMA_ESTABLISHED_STATE;
			return lb_rdma_queue_restrict(&connection->queue, connection->memory.remote_read,
										  status);
		case RDMA_CM_EVENT_ADDR_CHANGE:
			/* A bond has another active link now: if the peer can't be reached any more, reads fail. */
			return true;
		default:
			return fail_event(connection, event, status);
	}
}

/* Handle all events that have come. */
static bool
handle_events(lb_rdma_connection *connection, lb_status *status)
{
	while (connection->state != LB_RDMA_BROKEN)
	{
		lb_rdma_cm_event event;
		int taken = lb_rdma_next_cm_event(connection->channel, &event, status);

		if (taken == 0)
			return true;
		if (taken < 0 || !handle_event(connection, &event, status))
			break;
	}
	return lb_rdma_break(connection, status);
}

int
lb_rdma_connect_continue(lb_rdma_connection *connection, lb_status *status)
{
	if (!handle_events(connection, status))
		return -1;
	return connection->state == LB_RDMA_ESTABLISHED_STATE ? 1 : 0;
}

/* ---- established ---- */

int
lb_rdma_event_fd(const lb_rdma_connection *connection)
{
	return connection->channel != NULL ? connection->channel->fd : -1;
}

bool
lb_rdma_check(lb_rdma_connection *connection, lb_status *status)
{
	if (connection->channel != NULL)
		return handle_events(connection, status);
	return connection->state != LB_RDMA_BROKEN || lb_rdma_break(connection, status);
}

uint32_t
lb_rdma_local_key(const lb_rdma_connection *connection)
{
	return lb_rdma_region_local_key(connection->region);
}

uint32_t
lb_rdma_remote_key(const lb_rdma_connection *connection)
{
	return lb_rdma_region_remote_key(connection->region);
}
