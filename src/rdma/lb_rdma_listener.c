/*
 * lb_rdma_listener.c
 *	  How the side that accepts connections makes them: one rdma_cm listener and one device.
 */
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "lb_rdma_internal.h"

#define EVENTS_IN_ONE_GO 32 /* taken by one call: some are of no interest to the caller */
#define BACKLOG 1024        /* requests that wait for us; the kernel's limit is the same */

/*
 * Ids of accepted connections, and those of requests, use the listener's event channel; their context is the connection, or null. An id that is bound to
 * "any address" has no device, and is not told when one goes away; so there is a second one, the watcher, that is bound to an address of our device.
 */
struct lb_rdma_listener
{
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct rdma_cm_id *watcher; /* null: id has the device */
	struct ibv_context *verbs;  /* of id or watcher, and open as long as they are there */
	lb_rdma_hold hold;
	struct ibv_cq *idle; /* of all queue pairs that never post */
	lb_rdma_depths depths;
};

/* ---- the device ---- */

static bool
is_any_address(const struct sockaddr_storage *address)
{
	if (address->ss_family == AF_INET6)
		return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *) address)->sin6_addr);
	return ((const struct sockaddr_in *) address)->sin_addr.s_addr == htonl(INADDR_ANY);
}

static bool
is_the_one(struct ibv_device *device, const char *name, int fit)
{
	if (name != NULL)
		return strcmp(ibv_get_device_name(device), name) == 0;
	return fit == 1 && lb_rdma_is_fit(device);
}

/* The only device that is fit for this, or the one with this name: its name, to be freed. */
static char *
choose_device(const char *name, lb_status *status)
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	char *chosen = NULL;
	int fit = 0;

	for (int i = 0; i < count; i++)
		fit += lb_rdma_is_fit(devices[i]) ? 1 : 0;
	for (int i = 0; i < count && chosen == NULL; i++)
		if (is_the_one(devices[i], name, fit))
			chosen = strdup(ibv_get_device_name(devices[i]));
	if (devices != NULL)
		ibv_free_device_list(devices);
	if (chosen == NULL)
	{
		char names[LB_RDMA_NAMES_TEXT];

		lb_rdma_device_names(names);
		if (name != NULL)
			lb_fail(status, LB_INVALID, "there is no RDMA device \"%.64s\" (there are: %s)", name,
					names);
		else
			lb_fail(status, LB_INVALID,
					"which RDMA device? (there are: %s) Listen at the address of one, or name it",
					names);
	}
	return chosen;
}

/* Does this address belong to the device? Then watch it. (If it is that of another one, librdmacm has that open from now on.) */
static bool
try_watching(lb_rdma_listener *listener, const struct sockaddr *address, const char *device)
{
	struct sockaddr_storage copy = {0};
	struct rdma_cm_id *id;

	if (address->sa_family == AF_INET)
		memcpy(&copy, address, sizeof(struct sockaddr_in));
	else if (address->sa_family == AF_INET6)
		memcpy(&copy, address, sizeof(struct sockaddr_in6));
	else
		return false;
	if (rdma_create_id(listener->channel, &id, NULL, RDMA_PS_TCP) != 0)
		return false;
	if (rdma_bind_addr(id, (struct sockaddr *) &copy) == 0 && id->verbs != NULL &&
		strcmp(lb_rdma_device_name(id->verbs), device) == 0)
	{
		listener->watcher = id;
		listener->verbs = id->verbs;
		return true;
	}
	rdma_destroy_id(id);
	return false;
}

/* Find an address of the device that we listen with, at whatever address. */
static bool
watch_device(lb_rdma_listener *listener, const char *device_name, lb_status *status)
{
	char *device = choose_device(device_name, status);
	struct ifaddrs *interfaces = NULL;
	bool found = false;

	if (device == NULL)
		return false;
	if (getifaddrs(&interfaces) != 0)
		lb_fail_errno(status, "could not list this host's addresses");
	else
	{
		for (struct ifaddrs *i = interfaces; i != NULL && !found; i = i->ifa_next)
			found = i->ifa_addr != NULL && try_watching(listener, i->ifa_addr, device);
		freeifaddrs(interfaces);
		if (!found)
			lb_fail(status, LB_INVALID,
					"RDMA device \"%.64s\" has no IP address: give one to its network interface",
					device);
	}
	free(device);
	return found;
}

static bool
bind_address(lb_rdma_listener *listener, const lb_address *address, const char *device_name,
			 lb_status *status)
{
	struct sockaddr_storage copy = address->storage;
	char text[LB_RDMA_ADDRESS_TEXT];
	char names[LB_RDMA_NAMES_TEXT];

	lb_rdma_address_text((struct sockaddr *) &copy, text);
	if (rdma_bind_addr(listener->id, (struct sockaddr *) &copy) != 0)
	{
		if (errno == EADDRINUSE)
			return lb_fail(status, LB_SYSTEM, "another process listens for RDMA at this port of %s",
						   text);
		if (errno != ENODEV && errno != EADDRNOTAVAIL)
			return lb_fail_errno(status, "could not listen for RDMA at %s", text);
	}
	else if (is_any_address(&copy))
		return watch_device(listener, device_name, status);
	else if (listener->id->verbs != NULL)
	{
		listener->verbs = listener->id->verbs;
		if (device_name == NULL || strcmp(lb_rdma_device_name(listener->verbs), device_name) == 0)
			return true;
	}
	lb_rdma_device_names(names);
	if (listener->verbs != NULL)
		return lb_fail(status, LB_INVALID,
					   "address %s is that of RDMA device %s, not of \"%.64s\" (there are: %s)",
					   text, lb_rdma_device_name(listener->verbs), device_name, names);
	return lb_fail(status, LB_INVALID, "no RDMA device has the address %s (there are: %s)", text,
				   names);
}

/* ---- making and closing ---- */

static bool
open_listener(lb_rdma_listener *listener, const lb_address *address, const char *device_name,
			  lb_status *status)
{
	listener->channel = lb_rdma_channel_open(LB_INVALID, status);
	if (listener->channel == NULL)
		return false;
	if (rdma_create_id(listener->channel, &listener->id, NULL, RDMA_PS_TCP) != 0)
	{
		listener->id = NULL;
		return lb_fail_errno(status, "could not make an id of rdma_cm");
	}
	if (!bind_address(listener, address, device_name, status))
		return false;
	lb_rdma_device_hold(&listener->hold, listener->verbs);
	if (!lb_rdma_device_is_fit(listener->verbs, LB_INVALID, status) ||
		!lb_rdma_device_depths(listener->verbs, &listener->depths, status))
		return false;
	listener->idle = lb_rdma_idle_cq_create(listener->verbs, status);
	if (listener->idle == NULL)
		return false;
	if (rdma_listen(listener->id, BACKLOG) != 0)
		return lb_fail_errno(status, "could not listen for RDMA connections");
	return true;
}

lb_rdma_listener *
lb_rdma_listen(const lb_address *address, const char *device_name, lb_status *status)
{
	lb_rdma_listener *listener = calloc(1, sizeof(*listener));

	if (listener == NULL)
	{
		lb_fail_errno(status, "could not allocate memory for an RDMA listener");
		return NULL;
	}
	if (!open_listener(listener, address, device_name, status))
	{
		lb_rdma_listener_close(listener);
		return NULL;
	}
	return listener;
}

void
lb_rdma_listener_close(lb_rdma_listener *listener)
{
	if (listener == NULL)
		return;
	if (listener->idle != NULL)
		ibv_destroy_cq(listener->idle);
	lb_rdma_device_release(&listener->hold);
	if (listener->watcher != NULL)
		rdma_destroy_id(listener->watcher);
	if (listener->id != NULL)
		rdma_destroy_id(listener->id);
	lb_rdma_device_close(&listener->hold);
	if (listener->channel != NULL)
		rdma_destroy_event_channel(listener->channel);
	free(listener);
}

uint16_t
lb_rdma_listener_port(const lb_rdma_listener *listener)
{
	return ntohs(rdma_get_src_port(listener->id));
}

const char *
lb_rdma_listener_device(const lb_rdma_listener *listener)
{
	return lb_rdma_device_name(listener->verbs);
}

int
lb_rdma_listener_fd(const lb_rdma_listener *listener)
{
	return listener->channel->fd;
}

lb_rdma_domain *
lb_rdma_domain_create(lb_rdma_listener *listener, lb_status *status)
{
	return lb_rdma_domain_on(listener->verbs, status);
}

/* ---- events ---- */

static void
reject(struct rdma_cm_id *id)
{
	rdma_reject(id, NULL, 0);
	rdma_destroy_id(id);
}

/* Is it for the owner to decide? */
static bool
take_request(lb_rdma_listener *listener, const lb_rdma_cm_event *received, lb_rdma_event *event)
{
	if (received->id->verbs != listener->verbs || received->private_length < sizeof(event->secret))
	{
		reject(received->id);
		return false;
	}
	*event = (lb_rdma_event){
		.kind = LB_RDMA_REQUESTED,
		.request = received->id,
		.reads_from_peer = received->initiator_depth,
		.reads_by_peer = received->responder_resources,
	};
	memcpy(event->secret, received->private_data, sizeof(event->secret));
	return true;
}

/* An event of an accepted connection. Is it for the owner? */
static bool
take_connection_event(lb_rdma_connection *connection, const lb_rdma_cm_event *received,
					  lb_rdma_event *event)
{
	lb_status status;

	*event = (lb_rdma_event){.kind = LB_RDMA_ENDED, .owner = connection->owner};
	switch (received->type)
	{
		case RDMA_CM_EVENT_ESTABLISHED:
			if (connection->state != LB_RDMA_CONNECTING)
				return false;
			connection->state = LB_RDMA_ESTABLISHED_STATE;
			event->kind = LB_RDMA_ESTABLISHED;
			return true;
		case RDMA_CM_EVENT_ADDR_CHANGE:
			return false;
		case RDMA_CM_EVENT_DISCONNECTED:
			lb_fail(&status, LB_CLOSED, "the compute node has ended the RDMA connection");
			break;
		default:
			lb_fail(&status, LB_CLOSED, "the RDMA connection did not come about: %s",
					rdma_event_str(received->type));
			break;
	}
	lb_rdma_break(connection, &status);
	if (connection->ended)
		return false;
	connection->ended = true;
	return true;
}

int
lb_rdma_listener_next(lb_rdma_listener *listener, lb_rdma_event *event, lb_status *status)
{
	for (int i = 0; i < EVENTS_IN_ONE_GO; i++)
	{
		lb_rdma_cm_event received;
		int taken = lb_rdma_next_cm_event(listener->channel, &received, status);

		if (taken <= 0)
			return taken;
		if (received.type == RDMA_CM_EVENT_DEVICE_REMOVAL)
		{
			lb_rdma_device_removed(listener->verbs);
			*event = (lb_rdma_event){.kind = LB_RDMA_DEVICE_GONE};
			return 1;
		}
		if (received.type == RDMA_CM_EVENT_CONNECT_REQUEST)
		{
			if (take_request(listener, &received, event))
				return 1;
		}
		else if (received.id->context != NULL &&
				 take_connection_event(received.id->context, &received, event))
			return 1;
	}
	return 0; /* the descriptor is readable still */
}

/* ---- accepting ---- */

static bool
accept_request(lb_rdma_listener *listener, lb_rdma_connection *connection,
			   const lb_rdma_event *event, lb_rdma_domain *domain, bool may_read, lb_status *status)
{
	struct rdma_cm_id *id = connection->id;
	uint8_t depth = event->reads_from_peer < listener->depths.posted ? event->reads_from_peer
																	 : listener->depths.posted;
	uint8_t resources = event->reads_by_peer < listener->depths.served ? event->reads_by_peer
																	   : listener->depths.served;
	struct rdma_conn_param param = lb_rdma_conn_param(may_read ? depth : 0, resources);

	if (may_read && depth == 0)
		return lb_fail(status, LB_PROTOCOL,
					   "the compute node lets nobody read over this connection");
	if (!lb_rdma_queue_create(&connection->queue, id, domain, may_read ? NULL : listener->idle,
							  may_read, status))
		return false;
	lb_rdma_set_ack_timeout(id);
	if (rdma_accept(id, &param) != 0)
		return lb_fail_errno(status, "could not accept an RDMA connection");
	return lb_rdma_queue_restrict(&connection->queue, resources > 0, status);
}

lb_rdma_connection *
lb_rdma_accept(lb_rdma_listener *listener, const lb_rdma_event *event, lb_rdma_domain *domain,
			   bool may_read, void *owner, lb_status *status)
{
	lb_rdma_connection *connection = calloc(1, sizeof(*connection));

	if (connection == NULL)
	{
		lb_fail_errno(status, "could not allocate memory for an RDMA connection");
		reject(event->request);
		return NULL;
	}
	connection->state = LB_RDMA_CONNECTING;
	connection->owner = owner;
	connection->id = event->request;
	connection->id->context = connection;
	if (!accept_request(listener, connection, event, domain, may_read, status))
	{
		rdma_reject(connection->id, NULL, 0);
		lb_rdma_close(connection);
		return NULL;
	}
	return connection;
}

void
lb_rdma_reject(const lb_rdma_event *event)
{
	reject(event->request);
}
