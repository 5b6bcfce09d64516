/*
 * rdma_port.c
 *	  Where the memory node accepts queue pairs.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lb_clock.h"
#include "lb_fault.h"
#include "log.h"
#include "rdma_memory.h"
#include "rdma_port.h"
#include "session.h"

/* Drivers lock the rings of a queue pair too: a few pages of the system, when nothing is posted. */
#define LOCKED_BY_QUEUE_PAIR 16384

#define INVITED_FOR_NS (30 * UINT64_C(1000000000))

/* Events taken in one go; others want to be served too. */
#define EVENTS_IN_ONE_GO 32

struct rdma_port
{
	node *node;
	lb_address address;
	lb_rdma_listener *listener; /* null: the device is gone */
	struct event *event;        /* while there is a listener */
	TAILQ_HEAD(invited_list, session) invited;
	uint32_t backends;    /* invited or connected */
	uint32_t connections; /* of whatever role */
};

static void
set_port(lb_address *address, uint16_t port)
{
	if (address->storage.ss_family == AF_INET6)
		((struct sockaddr_in6 *) &address->storage)->sin6_port = htons(port);
	else
		((struct sockaddr_in *) &address->storage)->sin_port = htons(port);
}

/* Requests. */

/*
 * The session that was invited with this secret; it is invited no more. All are compared whole, so that the time that it takes tells
 * nothing.
 */
static session *
take_invited(rdma_port *port, const uint8_t *secret)
{
	session *found = NULL;
	session *each;

	TAILQ_FOREACH(each, &port->invited, rdma.link)
	{
		const volatile uint8_t *a = each->rdma.secret;
		const volatile uint8_t *b = secret;
		uint8_t difference = 0;

		for (size_t i = 0; i < LB_RDMA_SECRET_SIZE; i++)
			difference |= a[i] ^ b[i];
		if (difference == 0)
			found = each;
	}
	if (found)
	{
		TAILQ_REMOVE(&port->invited, found, rdma.link);
		found->rdma.invited = false;
	}
	return found;
}

/* What was counted and held for a session from its invitation on. */
static void
give_up_place(rdma_port *port, session *session)
{
	if (session->role == LB_ROLE_BACKEND)
		port->backends--;
	rdma_memory_leave(session->tenant);
}

static void
on_completion(evutil_socket_t fd, short what, void *arg)
{
	(void) fd;
	(void) what;
	session_completion(arg);
}

/* The agent's queue pair is for our reading: its completions are waited for. */
static bool
wait_for_completions(rdma_port *port, session *session, lb_status *status)
{
	rdma_end *end = &session->rdma;

	end->completion = event_new(port->node->base, lb_rdma_completion_fd(end->connection),
								EV_READ | EV_PERSIST, on_completion, session);
	if (!end->completion || event_add(end->completion, NULL) < 0)
		return lb_fail(status, LB_SYSTEM, "out of memory");
	session->source.connection = end->connection;
	return lb_rdma_arm(end->connection, status);
}

static void
on_request(rdma_port *port, const lb_rdma_event *event)
{
	session *session = take_invited(port, event->secret);
	bool is_agent;
	lb_status status;

	if (!session)
	{
		log_limited(LOG_WARNING, "rdma: a connection request without invitation rejected");
		lb_rdma_reject(event);
		return;
	}
	is_agent = session->role == LB_ROLE_AGENT;
	if (LB_FAULT("memnode.rdma.accept"))
	{
		lb_rdma_reject(event);
		give_up_place(port, session);
		return;
	}
	session->rdma.connection =
		lb_rdma_accept(port->listener, event, session->tenant->domain, is_agent, session, &status);
	if (!session->rdma.connection)
	{
		log_limited(LOG_WARNING, "%s: no queue pair: %s", session->peer, status.message);
		give_up_place(port, session);
		return;
	}
	port->connections++;
	if (is_agent && !wait_for_completions(port, session, &status))
	{
		log_limited(LOG_WARNING, "%s: connection ended: %s", session->peer, status.message);
		session_close(session, status.message);
	}
}

/* Listening. */

static void
stop_listening(rdma_port *port)
{
	if (port->event)
		event_free(port->event);
	port->event = NULL;
	lb_rdma_listener_close(port->listener);
	port->listener = NULL;
}

static void
lose_device(rdma_port *port, const char *reason)
{
	node *node = port->node;
	tenant *each;

	log_line(LOG_WARNING,
			 "rdma: device %s: %s; all connections over rdma are closed; tried again until it is "
			 "back",
			 lb_rdma_listener_device(port->listener), reason);
	sessions_close_rdma(node, "the RDMA device is gone");
	TAILQ_FOREACH(each, &node->tenants.all, link)
	{
		rdma_memory_lose(each, &node->pool);
	}
	slab_pool_deregister_doomed(&node->pool);
	stop_listening(port);
}

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
	rdma_port *self = arg;
	lb_rdma_event event;
	lb_status status;

	(void) fd;
	(void) what;
	for (int i = 0; i < EVENTS_IN_ONE_GO; i++)
	{
		int found = lb_rdma_listener_next(self->listener, &event, &status);

		if (found == 0)
			return;
		if (found < 0)
		{
			lose_device(self, status.message);
			return;
		}
		switch (event.kind)
		{
			case LB_RDMA_REQUESTED:
				on_request(self, &event);
				break;
			case LB_RDMA_ESTABLISHED:
				break; /* nothing waits for it: the peer is the first to do something */
			case LB_RDMA_ENDED:
				session_close(event.owner, "its queue pair was disconnected");
				break;
			case LB_RDMA_DEVICE_GONE:
				lose_device(self, "the device is gone");
				return;
		}
	}
}

/* The port of the control listener, or any other: they are different spaces of ports, and each may be taken. */
static lb_rdma_listener *
listen_near(const lb_address *address, const char *device, lb_status *status)
{
	lb_rdma_listener *listener = lb_rdma_listen(address, device, status);
	lb_address any_port = *address;

	if (listener || status->code == LB_INVALID)
		return listener;
	set_port(&any_port, 0);
	return lb_rdma_listen(&any_port, device, status);
}

static bool
start_listening(rdma_port *port, lb_status *status)
{
	port->listener = listen_near(&port->address, port->node->options->rdma_device, status);
	if (!port->listener)
		return false;
	port->event = event_new(port->node->base, lb_rdma_listener_fd(port->listener),
							EV_READ | EV_PERSIST, on_event, port);
	if (port->event && event_add(port->event, NULL) == 0)
		return true;
	stop_listening(port);
	return lb_fail(status, LB_SYSTEM, "out of memory");
}

static void
log_listening(const rdma_port *port, const char *what)
{
	log_line(LOG_NOTE, "rdma: %s on device %s, port %u of rdma_cm", what,
			 lb_rdma_listener_device(port->listener), lb_rdma_listener_port(port->listener));
}

rdma_port *
rdma_port_open(node *node, const lb_address *address, lb_status *status)
{
	lb_status cause;
	rdma_port *opened;

	if (!lb_rdma_may_lock(node->options->memory_bytes +
							  (uint64_t) node->options->max_rdma_connections * LOCKED_BY_QUEUE_PAIR,
						  &cause))
	{
		lb_fail(status, cause.code, "rdma: %.200s", cause.message);
		return NULL;
	}
	opened = calloc(1, sizeof(rdma_port));
	if (!opened)
	{
		lb_fail(status, LB_SYSTEM, "out of memory");
		return NULL;
	}
	opened->node = node;
	opened->address = *address;
	TAILQ_INIT(&opened->invited);
	if (!start_listening(opened, status))
	{
		free(opened);
		return NULL;
	}
	log_listening(opened, "listening");
	return opened;
}

void
rdma_port_close(rdma_port *port)
{
	if (!port)
		return;
	if (port->listener)
		stop_listening(port);
	free(port);
}

/* Sessions. */

void
rdma_port_leave(session *session)
{
	rdma_port *port = session->node->rdma;
	rdma_end *end = &session->rdma;

	if (!end->invited && !end->connection)
		return;
	if (end->invited)
		TAILQ_REMOVE(&port->invited, session, rdma.link);
	if (end->completion)
		event_free(end->completion);
	if (end->connection)
	{
		lb_rdma_close(end->connection);
		port->connections--;
	}
	session->source.connection = NULL;
	memset(end, 0, sizeof(*end));
	give_up_place(port, session);
}

bool
rdma_port_invite(rdma_port *port, session *session, lb_rdma_invitation *invitation,
				 lb_status *status)
{
	node *node = port->node;
	rdma_end *end = &session->rdma;

	rdma_port_leave(session);
	if (!port->listener)
		return lb_fail(status, LB_SYSTEM, "the RDMA device of this memory node is gone");
	if (session->role == LB_ROLE_BACKEND && port->backends >= node->options->max_rdma_connections)
	{
		lb_fail(status, LB_REFUSED, "this memory node has reached its limit of %u queue pairs",
				node->options->max_rdma_connections);
		status->wire_error = LB_ERR_LIMIT;
		return false;
	}
	while (getrandom(end->secret, sizeof(end->secret), 0) != sizeof(end->secret))
		if (errno != EINTR)
			return lb_fail_errno(status, "cannot make random numbers");
	if (!rdma_memory_join(session->tenant, &node->pool, port->listener, status))
	{
		if (session->tenant->registering)
		{
			node->registering = true;
			node_wake_worker(node);
		}
		return false;
	}
	if (session->role == LB_ROLE_BACKEND)
		port->backends++;
	end->invited = true;
	end->invited_ns = lb_now_ns();
	TAILQ_INSERT_TAIL(&port->invited, session, rdma.link);
	invitation->port = lb_rdma_listener_port(port->listener);
	memcpy(invitation->secret, end->secret, sizeof(invitation->secret));
	return true;
}

uint32_t
rdma_port_connections(const rdma_port *port)
{
	return port ? port->connections : 0;
}

void
rdma_port_tick(rdma_port *port, uint64_t now_ns)
{
	session *oldest;
	lb_status status;

	if (!port)
		return;
	while ((oldest = TAILQ_FIRST(&port->invited)) &&
		   elapsed_ns(now_ns, oldest->rdma.invited_ns) >= INVITED_FOR_NS)
		rdma_port_leave(oldest);
	if (!port->listener && start_listening(port, &status))
		log_listening(port, "listening again");
}

void
rdma_port_forgive(rdma_port *port, uint64_t now_ns)
{
	session *each;

	if (!port)
		return;
	TAILQ_FOREACH(each, &port->invited, rdma.link)
	{
		each->rdma.invited_ns = now_ns;
	}
}
