/*
 * verbs_stubs_cm.c
 *	  The stand-in for librdmacm: event channels, identifiers, and how they find each other.
 *
 * An identifier on the active side:	new ──> address ──> route ──> asking ──> connected ──> over
 * on the passive side:					asked ──> accepted ──> connected ──> over
 * a listener:							new ──> bound ──> listening
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "verbs_stubs_internal.h"

#define IDS_MAX 64
#define EVENTS_MAX 128
#define PRIVATE_MAX 56
#define REJECTED_NO_LISTENER 8
#define REJECTED_BY_CONSUMER 28

typedef enum stage
{
	NEW,
	BOUND,
	LISTENING,
	ADDRESS,
	ROUTE,
	ASKING,
	ASKED,
	ACCEPTED,
	CONNECTED,
	OVER
} stage;

typedef struct stub_id
{
	struct rdma_cm_id id;
	stage stage;
	bool active;
	bool given; /* the user knows it; asked ones that wait in a channel are not known yet */
	stub_device *device;
	uint16_t port;
	struct stub_id *peer;
	int unacknowledged; /* events */
} stub_id;

typedef struct stub_event
{
	struct rdma_cm_event event;
	stub_id *charged; /* whose end waits for its acknowledgement */
	uint8_t data[PRIVATE_MAX];
} stub_event;

typedef struct stub_channel
{
	struct rdma_event_channel channel;
	stub_event *events[EVENTS_MAX]; /* oldest first */
	int count;
} stub_channel;

static stub_id *ids[IDS_MAX];
static uint16_t next_port = 20000;

/* ---- addresses ---- */

static bool
is_any(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ((const struct sockaddr_in *) address)->sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *) address)->sin6_addr);
}

/* In host order; the same place in both kinds of addresses. */
static uint16_t
port_of(const struct sockaddr *address)
{
	return ntohs(((const struct sockaddr_in *) address)->sin_port);
}

static void
copy_address(struct sockaddr_storage *to, const struct sockaddr *from)
{
	memcpy(to, from,
		   from->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
}

static bool
is_gone(const stub_id *id)
{
	errno = EIO;
	return id->device && id->device->gone;
}

/* ---- channels and events ---- */

struct rdma_event_channel *
rdma_create_event_channel(void)
{
	stub_channel *channel = NULL;

	stub_lock();
	errno = ENODEV;
	if (stub_device_count > 0 && !stub_fails(CALL_rdma_create_event_channel))
	{
		channel = calloc(1, sizeof(*channel));
		channel->channel.fd = stub_semaphore_create();
		stub_count(STUB_CHANNEL, 1);
	}
	stub_unlock();
	return (struct rdma_event_channel *) channel;
}

void
rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
	stub_lock();
	for (int i = 0; i < IDS_MAX; i++)
		if (ids[i] && ids[i]->id.channel == channel)
			stub_misuse("an event channel is destroyed that has identifiers");
	stub_count(STUB_CHANNEL, -1);
	stub_unlock();
	close(channel->fd);
	free(channel);
}

/* Tell of an event on this identifier, or of a request on its listener. */
static stub_event *
tell(stub_id *charged, stub_id *about, enum rdma_cm_event_type type, int status)
{
	stub_channel *channel = (stub_channel *) charged->id.channel;
	stub_event *event;

	if (!stub_event_type(&type, &status))
		return NULL;
	if (channel->count == EVENTS_MAX)
		stub_misuse("too many events");
	event = calloc(1, sizeof(*event));
	event->charged = charged;
	event->event.id = &about->id;
	event->event.listen_id = about == charged ? NULL : &charged->id;
	event->event.event = type;
	event->event.status = status;
	channel->events[channel->count++] = event;
	stub_semaphore_raise(channel->channel.fd);
	return event;
}

/* What the library does itself when the user takes an event. */
static void
taken(stub_event *event)
{
	stub_id *id = (stub_id *) event->event.id;

	event->charged->unacknowledged++;
	stub_count(STUB_EVENT, 1);
	switch (event->event.event)
	{
		case RDMA_CM_EVENT_ADDR_RESOLVED:
			id->id.verbs = &id->device->context;
			break;
		case RDMA_CM_EVENT_CONNECT_REQUEST:
			id->given = true;
			stub_count(STUB_ID, 1);
			break;
		case RDMA_CM_EVENT_ESTABLISHED:
			if (!id->active)
				break;
			if (id->peer)
			{
				id->stage = id->peer->stage = CONNECTED;
				tell(id->peer, id->peer, RDMA_CM_EVENT_ESTABLISHED, 0);
			}
			stub_qp_ready(id->id.qp);
			break;
		default:
			break;
	}
}

int
rdma_get_cm_event(struct rdma_event_channel *base, struct rdma_cm_event **event)
{
	stub_channel *channel = (stub_channel *) base;
	struct pollfd wait = {.fd = base->fd, .events = POLLIN};

	for (;;)
	{
		stub_lock();
		if (stub_fails(CALL_rdma_get_cm_event))
			break;
		if (channel->count > 0)
		{
			stub_event *first = channel->events[0];

			stub_semaphore_lower(base->fd);
			channel->count--;
			memmove(channel->events, channel->events + 1,
					(size_t) channel->count * sizeof(channel->events[0]));
			taken(first);
			*event = &first->event;
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

int
rdma_ack_cm_event(struct rdma_cm_event *base)
{
	stub_event *event = (stub_event *) base;

	stub_lock();
	event->charged->unacknowledged--;
	stub_count(STUB_EVENT, -1);
	stub_unlock();
	free(event);
	return 0;
}

const char *
rdma_event_str(enum rdma_cm_event_type type)
{
	static char text[40];

	snprintf(text, sizeof(text), "stub event %d", type);
	return text;
}

/* ---- identifiers ---- */

static stub_id *
make_id(struct rdma_event_channel *channel, void *context, enum rdma_port_space space)
{
	stub_id *id = calloc(1, sizeof(*id));
	int place = 0;

	while (place < IDS_MAX && ids[place])
		place++;
	if (place == IDS_MAX)
		stub_misuse("too many identifiers");
	ids[place] = id;
	id->id.channel = channel;
	id->id.context = context;
	id->id.ps = space;
	return id;
}

int
rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id, void *context,
			   enum rdma_port_space space)
{
	int result = -1;

	stub_lock();
	if (channel == NULL || space != RDMA_PS_TCP)
		stub_misuse("an identifier of a kind that is not supported here");
	if (!stub_fails(CALL_rdma_create_id))
	{
		stub_id *made = make_id(channel, context, space);

		made->given = true;
		*id = &made->id;
		stub_count(STUB_ID, 1);
		result = 0;
	}
	stub_unlock();
	return result;
}

/* The connection that there was, or that was asked for, is no more: the other side hears of it. */
static void
leave(stub_id *id)
{
	stub_id *peer = id->peer;

	if (peer == NULL)
		return;
	if (id->stage == CONNECTED || id->stage == ACCEPTED)
		tell(peer, peer, RDMA_CM_EVENT_DISCONNECTED, 0);
	else if (peer->given)
		tell(peer, peer, RDMA_CM_EVENT_REJECTED, REJECTED_BY_CONSUMER);
	peer->stage = OVER;
	peer->peer = NULL;
	id->peer = NULL;
}

/* Out of the books, without a word to the user: with what waits in its channel. */
static void
forget_id(stub_id *id)
{
	stub_channel *channel = (stub_channel *) id->id.channel;
	int kept = 0;

	for (int i = 0; i < IDS_MAX; i++)
		if (ids[i] == id)
			ids[i] = NULL;
	for (int i = 0; i < channel->count; i++)
	{
		stub_event *event = channel->events[i];
		stub_id *about = (stub_id *) event->event.id;

		if (event->charged != id && about != id)
		{
			channel->events[kept++] = event;
			continue;
		}
		stub_semaphore_lower(channel->channel.fd);
		free(event);
	}
	channel->count = kept;
	if (id->device)
		stub_device_leave(id->device);
	free(id);
}

int
rdma_destroy_id(struct rdma_cm_id *base)
{
	stub_id *id = (stub_id *) base;

	stub_lock();
	if (base->qp)
		stub_misuse("an identifier is destroyed that has a queue pair");
	if (id->unacknowledged > 0)
		stub_misuse("an identifier is destroyed that has events that were not acknowledged");
	/* Requests that were not taken from a listener's channel end with it. */
	for (int i = 0; i < IDS_MAX && id->stage == LISTENING; i++)
		if (ids[i] && !ids[i]->given && ids[i]->port == id->port &&
			ids[i]->id.channel == base->channel)
		{
			stub_id *waiting = ids[i];

			leave(waiting);
			forget_id(waiting);
		}
	leave(id);
	forget_id(id);
	stub_count(STUB_ID, -1);
	stub_unlock();
	return 0;
}

int
rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t length)
{
	int result;

	stub_lock();
	(void) id;
	(void) level;
	(void) name;
	(void) value;
	(void) length;
	result = stub_fails(CALL_rdma_set_option) ? -1 : 0;
	stub_unlock();
	return result;
}

/* ---- listening ---- */

static bool
port_is_taken(uint16_t port)
{
	for (int i = 0; i < IDS_MAX; i++)
		if (ids[i] && (ids[i]->stage == BOUND || ids[i]->stage == LISTENING) &&
			ids[i]->port == port)
			return true;
	return false;
}

static bool
bind_id(stub_id *id, struct sockaddr *address)
{
	uint16_t port = port_of(address);

	if (stub_fails(CALL_rdma_bind_addr))
		return false;
	if (!is_any(address))
	{
		id->device = stub_device_use(address);
		errno = ENODEV;
		if (id->device == NULL)
			return false;
		id->id.verbs = &id->device->context;
		id->id.port_num = 1;
	}
	errno = EADDRINUSE;
	if (port != 0 && port_is_taken(port))
		return false;
	id->port = port ? port : next_port++;
	copy_address(&id->id.route.addr.src_storage, address);
	id->id.route.addr.src_sin.sin_port = htons(id->port);
	id->stage = BOUND;
	return true;
}

int
rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *address)
{
	int result;

	stub_lock();
	result = bind_id((stub_id *) id, address) ? 0 : -1;
	stub_unlock();
	return result;
}

int
rdma_listen(struct rdma_cm_id *id, int backlog)
{
	int result = -1;

	stub_lock();
	(void) backlog;
	if (((stub_id *) id)->stage != BOUND)
		stub_misuse("listening without an address");
	if (!stub_fails(CALL_rdma_listen) && !is_gone((stub_id *) id))
	{
		((stub_id *) id)->stage = LISTENING;
		result = 0;
	}
	stub_unlock();
	return result;
}

__be16
rdma_get_src_port(struct rdma_cm_id *id)
{
	return htons(((stub_id *) id)->port);
}

__be16
rdma_get_dst_port(struct rdma_cm_id *id)
{
	return id->route.addr.dst_sin.sin_port;
}

/* ---- connecting ---- */

int
rdma_resolve_addr(struct rdma_cm_id *base, struct sockaddr *source, struct sockaddr *address,
				  int timeout_ms)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	(void) source;
	if (timeout_ms <= 0 || id->stage != NEW)
		stub_misuse("an address is resolved without a time limit, or twice");
	if (!stub_fails(CALL_rdma_resolve_addr))
	{
		copy_address(&base->route.addr.dst_storage, address);
		id->active = true;
		id->device = stub_device_use(address);
		id->stage = ADDRESS;
		if (id->device)
			tell(id, id, RDMA_CM_EVENT_ADDR_RESOLVED, 0);
		else
			tell(id, id, RDMA_CM_EVENT_ADDR_ERROR, -ENODEV);
		result = 0;
	}
	stub_unlock();
	return result;
}

int
rdma_resolve_route(struct rdma_cm_id *base, int timeout_ms)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	if (timeout_ms <= 0 || id->stage != ADDRESS || base->verbs == NULL)
		stub_misuse("a route is resolved without a time limit, or without an address");
	if (!stub_fails(CALL_rdma_resolve_route) && !is_gone(id))
	{
		id->stage = ROUTE;
		tell(id, id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0);
		result = 0;
	}
	stub_unlock();
	return result;
}

int
rdma_create_qp(struct rdma_cm_id *base, struct ibv_pd *pd, struct ibv_qp_init_attr *attributes)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	if (base->verbs == NULL || pd == NULL || pd->context != base->verbs || base->qp)
		stub_misuse(
			"a queue pair without a device, of another one than its domain, or a second one");
	if (!stub_fails(CALL_rdma_create_qp) && !is_gone(id))
	{
		base->qp = stub_qp_create(pd, attributes);
		base->pd = pd;
		if (id->peer && id->peer->id.qp)
			stub_qp_join(base->qp, id->peer->id.qp);
		result = 0;
	}
	stub_unlock();
	return result;
}

void
rdma_destroy_qp(struct rdma_cm_id *id)
{
	stub_pass_time();
	stub_lock();
	if (id->qp == NULL)
		stub_misuse("a queue pair is destroyed that is not there");
	stub_qp_destroy(id->qp);
	id->qp = NULL;
	stub_unlock();
}

static stub_id *
find_listener(const stub_id *asking)
{
	uint16_t port = port_of(&asking->id.route.addr.dst_addr);

	for (int i = 0; i < IDS_MAX; i++)
		if (ids[i] && ids[i]->stage == LISTENING && ids[i]->port == port &&
			(ids[i]->device == NULL || ids[i]->device == asking->device))
			return ids[i];
	return NULL;
}

static void
check_depths(const struct rdma_conn_param *parameters)
{
	if (parameters->responder_resources > 16 || parameters->initiator_depth > 16)
		stub_misuse("more reads at a time than the device can do");
	if (parameters->retry_count > 7 || parameters->rnr_retry_count > 7)
		stub_misuse("a retry count has three bits");
}

/* A request at the listener. */
static void
ask(stub_id *id, stub_id *listener, const struct rdma_conn_param *parameters)
{
	stub_id *passive = make_id(listener->id.channel, listener->id.context, RDMA_PS_TCP);
	stub_event *event;

	passive->stage = ASKED;
	passive->device = id->device;
	passive->device->ids++;
	passive->port = listener->port;
	passive->id.verbs = &id->device->context;
	passive->id.port_num = 1;
	passive->id.route.addr.src_storage = id->id.route.addr.dst_storage;
	passive->id.route.addr.dst_storage = id->id.route.addr.dst_storage;
	passive->peer = id;
	id->peer = passive;
	event = tell(listener, passive, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
	if (event == NULL)
		stub_misuse("requests can't be replaced");
	event->event.param.conn = *parameters;
	if (parameters->private_data)
	{
		memcpy(event->data, parameters->private_data, parameters->private_data_len);
		event->event.param.conn.private_data = event->data;
		event->event.param.conn.private_data_len = PRIVATE_MAX;
	}
	event->event.param.conn.responder_resources = parameters->initiator_depth;
	event->event.param.conn.initiator_depth = parameters->responder_resources;
}

int
rdma_connect(struct rdma_cm_id *base, struct rdma_conn_param *parameters)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	if (id->stage != ROUTE || base->qp == NULL || parameters->private_data_len > PRIVATE_MAX)
		stub_misuse("connecting without a route or a queue pair, or with too many private data");
	check_depths(parameters);
	if (!stub_fails(CALL_rdma_connect) && !is_gone(id))
	{
		stub_id *listener = find_listener(id);

		id->stage = ASKING;
		stub_qp_depths(base->qp, parameters);
		if (listener)
			ask(id, listener, parameters);
		else
			tell(id, id, RDMA_CM_EVENT_REJECTED, REJECTED_NO_LISTENER);
		result = 0;
	}
	stub_unlock();
	return result;
}

int
rdma_accept(struct rdma_cm_id *base, struct rdma_conn_param *parameters)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	if (base->qp == NULL)
		stub_misuse("accepting without a queue pair");
	check_depths(parameters);
	errno = EINVAL;
	if (id->stage == ASKED && !stub_fails(CALL_rdma_accept) && !is_gone(id))
	{
		id->stage = ACCEPTED;
		stub_qp_depths(base->qp, parameters);
		stub_qp_join(base->qp, id->peer->id.qp);
		stub_qp_ready(base->qp);
		tell(id->peer, id->peer, RDMA_CM_EVENT_ESTABLISHED, 0);
		result = 0;
	}
	stub_unlock();
	return result;
}

int
rdma_reject(struct rdma_cm_id *base, const void *data, uint8_t length)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	(void) data;
	(void) length;
	errno = EINVAL;
	if (id->stage == ASKED && !stub_fails(CALL_rdma_reject) && !is_gone(id))
	{
		leave(id);
		id->stage = OVER;
		result = 0;
	}
	stub_unlock();
	return result;
}

int
rdma_disconnect(struct rdma_cm_id *base)
{
	stub_id *id = (stub_id *) base;
	int result = -1;

	stub_lock();
	if (!stub_fails(CALL_rdma_disconnect) && !is_gone(id))
	{
		if (base->qp)
			stub_qp_error(base->qp);
		errno = EINVAL;
		if (id->stage == CONNECTED)
		{
			leave(id);
			id->stage = OVER;
			tell(id, id, RDMA_CM_EVENT_DISCONNECTED, 0);
			result = 0;
		}
		else if (id->stage == OVER)
			result = 0;
	}
	stub_unlock();
	return result;
}

/* ---- what happens by itself ---- */

void
stub_raise(enum rdma_cm_event_type type, bool active_side)
{
	stub_lock();
	for (int i = 0; i < IDS_MAX; i++)
		if (ids[i] && ids[i]->id.qp && ids[i]->active == active_side)
			tell(ids[i], ids[i], type, 0);
	stub_unlock();
}

void
stub_remove_device(int number)
{
	stub_device *device = stub_devices[number];

	stub_lock();
	device->gone = true;
	stub_qps_of_device(device, stub_qp_error);
	for (int i = 0; i < IDS_MAX; i++)
	{
		if (ids[i] == NULL || ids[i]->device != device || !ids[i]->given)
			continue;
		tell(ids[i], ids[i], RDMA_CM_EVENT_DEVICE_REMOVAL, 0);
	}
	stub_unlock();
}
