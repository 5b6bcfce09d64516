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

/* The owner of an accepted connection, so that an event of one that is doomed finds no session. */
typedef struct queue_pair
{
	TAILQ_ENTRY(queue_pair) link; /* doomed */
	lb_rdma_connection *connection;
	session *session; /* null: doomed */
} queue_pair;

struct rdma_port
{
	node *node;
	lb_address address;
	lb_rdma_listener *listener; /* null: absent */
	struct event *event;        /* while listening */
	bool is_losing;
	TAILQ_HEAD(invited_list, session) invited;
	TAILQ_HEAD(doomed_list, queue_pair) doomed;
	uint32_t doomed_count;
	uint32_t backends;    /* invited or connected */
	uint32_t connections; /* of whatever role, doomed or not */
};

static void
set_port(lb_address *address, uint16_t port)
{
	if (address->storage.ss_family == AF_INET6)
		((struct sockaddr_in6 *) &address->storage)->sin6_port = htons(port);
	else
		((struct sockaddr_in *) &address->storage)->sin_port = htons(port);
}

/* Queue pairs. */

static void
destroy_pair(rdma_port *port, queue_pair *pair)
{
	lb_rdma_close(pair->connection);
	port->connections--;
	free(pair);
}

static void
doom_pair(rdma_port *port, queue_pair *pair)
{
	pair->session = NULL;
	TAILQ_INSERT_TAIL(&port->doomed, pair, link);
	port->doomed_count++;
	node_wake_worker(port->node);
}

static bool
destroy_doomed(rdma_port *port)
{
	queue_pair *pair = TAILQ_FIRST(&port->doomed);

	if (!pair)
		return false;
	TAILQ_REMOVE(&port->doomed, pair, link);
	port->doomed_count--;
	destroy_pair(port, pair);
	return true;
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

	end->completion = event_new(port->node->base, lb_rdma_completion_fd(end->pair->connection),
								EV_READ | EV_PERSIST, on_completion, session);
	if (!end->completion || event_add(end->completion, NULL) < 0)
		return lb_fail(status, LB_SYSTEM, "out of memory");
	session->source.connection = end->pair->connection;
	return lb_rdma_arm(end->pair->connection, status);
}

static queue_pair *
accept_pair(rdma_port *port, const lb_rdma_event *event, session *session, lb_status *status)
{
	queue_pair *pair = calloc(1, sizeof(queue_pair));

	if (!pair)
	{
		lb_rdma_reject(event);
		lb_fail(status, LB_SYSTEM, "out of memory");
		return NULL;
	}
	pair->session = session;
	pair->connection = lb_rdma_accept(port->listener, event, session->tenant->domain,
									  session->role == LB_ROLE_AGENT, pair, status);
	if (!pair->connection)
	{
		free(pair);
		return NULL;
	}
	port->connections++;
	return pair;
}

static void
on_request(rdma_port *port, const lb_rdma_event *event)
{
	session *session = take_invited(port, event->secret);
	lb_status status;

	if (!session)
	{
		log_limited(LOG_WARNING, "rdma: a connection request without invitation rejected");
		lb_rdma_reject(event);
		return;
	}
	if (LB_FAULT("memnode.rdma.accept"))
	{
		lb_rdma_reject(event);
		give_up_place(port, session);
		return;
	}
	/* Doomed ones have no place any more, but the device has them: the limit holds for it too, so one goes for one that comes. */
	if (port->backends + port->doomed_count > port->node->options->max_rdma_connections)
		destroy_doomed(port);
	session->rdma.pair = accept_pair(port, event, session, &status);
	if (!session->rdma.pair)
	{
		log_limited(LOG_WARNING, "%s: no queue pair: %s", session->peer, status.message);
		give_up_place(port, session);
		return;
	}
	if (session->role == LB_ROLE_AGENT && !wait_for_completions(port, session, &status))
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
	port->is_losing = false;
}

/* Nobody uses the device from now on. To let go of it takes longer, and is done by rdma_port_step, which needs no further event for it. */
static void
lose_device(rdma_port *port, const char *reason)
{
	node *node = port->node;
	tenant *each;

	log_line(LOG_WARNING,
			 "rdma: device %s: %s; all connections over rdma are closed; tried again until it is "
			 "back",
			 lb_rdma_listener_device(port->listener), reason);
	port->is_losing = true;
	event_free(port->event);
	port->event = NULL;
	sessions_close_rdma(node, "the RDMA device is gone");
	TAILQ_FOREACH(each, &node->tenants.all, link)
	{
		rdma_memory_lose(each);
	}
	node_wake_worker(node);
}

/* Doomed slabs are registered, too: destroying one deregisters it. */
static bool
deregister_one(node *node)
{
	tenant *each;

	if (node->pool.registered_pages == 0)
		return false;
	if (slab_pool_reap(&node->pool))
		return true;
	TAILQ_FOREACH(each, &node->tenants.all, link)
	{
		if (rdma_memory_deregister_one(each, &node->pool))
			return true;
	}
	return false;
}

bool
rdma_port_step(rdma_port *port)
{
	if (!port)
		return false;
	if (destroy_doomed(port))
		return true;
	if (!port->is_losing)
		return false;
	if (deregister_one(port->node))
		return true;
	stop_listening(port);
	return false;
}

/* The session is null if the queue pair is doomed. */
static void
on_ended(const queue_pair *pair)
{
	if (pair->session)
		session_close(pair->session, "its queue pair was disconnected");
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
				on_ended(event.owner);
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
	rdma_port *opened;

	if (!lb_rdma_may_lock(node->options->memory_bytes +
							  (uint64_t) node->options->max_rdma_connections * LOCKED_BY_QUEUE_PAIR,
						  status))
		return NULL;
	opened = calloc(1, sizeof(rdma_port));
	if (!opened)
	{
		lb_fail(status, LB_SYSTEM, "out of memory");
		return NULL;
	}
	opened->node = node;
	opened->address = *address;
	TAILQ_INIT(&opened->invited);
	TAILQ_INIT(&opened->doomed);
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
	while (destroy_doomed(port))
		;
	if (port->listener)
		stop_listening(port);
	free(port);
}

/* Sessions. */

/*
 * An agent's queue pair has reads under way that write to the tenant's memory: it is drained and destroyed at once. A backend's never posts
 * any, it only lets itself be read from, and there may be a thousand.
 */
static void
leave_pair(rdma_port *port, session *session)
{
	if (session->role == LB_ROLE_AGENT)
		destroy_pair(port, session->rdma.pair);
	else
		doom_pair(port, session->rdma.pair);
}

void
rdma_port_leave(session *session)
{
	rdma_port *port = session->node->rdma;
	rdma_end *end = &session->rdma;

	if (!end->invited && !end->pair)
		return;
	if (end->invited)
		TAILQ_REMOVE(&port->invited, session, rdma.link);
	if (end->completion)
		event_free(end->completion);
	if (end->pair)
		leave_pair(port, session);
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
	if (!port->listener || port->is_losing)
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
