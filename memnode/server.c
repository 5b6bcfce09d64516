/*
 * server.c
 *	  The memory node's event loop.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <systemd/sd-daemon.h>

#include "lb_clock.h"
#include "lb_fault.h"
#include "listener.h"
#include "log.h"
#include "rdma_memory.h"
#include "rdma_port.h"
#include "request.h"
#include "server.h"
#include "session.h"

#define TICK_MS 500
#define SECOND_NS UINT64_C(1000000000)

/* After a gap this long between ticks the process was stopped, not the peers silent. */
#define STANDSTILL_NS (5 * SECOND_NS)

typedef struct server
{
	node node;
	listener listeners[LISTENERS_MAX];
	int listener_count;
	struct event *terminate;
	struct event *interrupt;
	struct event *tick;
	uint64_t ticked_ns;
	uint64_t used_ns; /* when there was a session last */
} server;

static void
on_signal(evutil_socket_t signal_number, short what, void *arg)
{
	server *self = arg;

	(void) what;
	log_line(LOG_NOTE, "stopping (%s)", strsignal((int) signal_number));
	event_base_loopbreak(self->node.base);
}

/* Register a slab for one of the tenants that wait for it. */
static bool
register_one(node *node)
{
	tenant *each;

	if (!node->registering)
		return false;
	TAILQ_FOREACH(each, &node->tenants.all, link)
	{
		if (rdma_memory_step(each, &node->pool))
			return true;
	}
	node->registering = false;
	return false;
}

/* A step for the tenant whose turn it is. */
static bool
grant_one(node *node)
{
	tenant *tenant = TAILQ_FIRST(&node->granting);

	if (!tenant)
		return false;
	TAILQ_REMOVE(&node->granting, tenant, grant_link);
	if (tenant_grant_step(tenant, &node->pool))
		request_answer_grant(tenant);
	else
		TAILQ_INSERT_TAIL(&node->granting, tenant, grant_link);
	return true;
}

/* Do one small piece of work, and come again if more is left. */
static void
on_work(evutil_socket_t fd, short what, void *arg)
{
	node *node = arg;
	bool worked;

	(void) fd;
	(void) what;
	worked = rdma_port_step(node->rdma) || slab_pool_reap(&node->pool) || register_one(node);
	/*
	 * What is granted may need the memory of doomed slabs. But letting go of a device, and registering, can take longer than who has asked for slabs
	 * waits for an answer: so that goes on beside them.
	 */
	if (!node->pool.doomed && grant_one(node))
		worked = true;
	if (worked)
		node_wake_worker(node);
}

/* Nobody can resume any more. */
static void
discard_memory(node *node, tenant *tenant)
{
	log_line(LOG_NOTE, "instance %s: %" PRIu64 " MB freed", tenant->name, tenant->held_pages / 128);
	if (tenant->slots.dirty > 0)
		log_line(LOG_WARNING,
				 "instance %s: %" PRIu64 " dirty pages dropped, because its server was away for "
				 "longer than %u s; the server will recover them from its WAL",
				 tenant->name, tenant->slots.dirty, node->options->tenant_timeout_s);
	tenant_discard_slabs(tenant, &node->pool);
	node_wake_worker(node);
}

static void
expire_tenants(node *node, uint64_t now_ns)
{
	uint64_t keep_ns = node->options->tenant_timeout_s * SECOND_NS;
	tenant *each;

	for (each = TAILQ_FIRST(&node->tenants.all); each; each = TAILQ_NEXT(each, link))
	{
		if (each->agent || elapsed_ns(now_ns, each->detached_ns) < keep_ns)
			continue;
		while (!TAILQ_EMPTY(&each->backends))
			session_close(TAILQ_FIRST(&each->backends), "the instance's memory was freed");
		if (each->held_pages > 0)
			discard_memory(node, each);
		else if (each->alive)
			tenant_discard_slabs(each, &node->pool);
	}
}

/* One line for all that was returned since the last tick: a pool that shrinks returns slab after slab. */
static void
log_returned_slabs(node *node)
{
	tenant *each;

	for (each = TAILQ_FIRST(&node->tenants.all); each; each = TAILQ_NEXT(each, link))
	{
		if (each->returned > 0)
			log_line(LOG_NOTE, "instance %s: %u slabs returned, %" PRIu64 " MB left", each->name,
					 each->returned, each->held_pages / 128);
		each->returned = 0;
	}
}

/* This process was stopped for a while: nobody's time limit ran out in that time. */
static void
forgive_standstill(server *self, uint64_t now_ns)
{
	tenant *each;

	sessions_forgive(&self->node, now_ns);
	rdma_port_forgive(self->node.rdma, now_ns);
	for (each = TAILQ_FIRST(&self->node.tenants.all); each; each = TAILQ_NEXT(each, link))
		each->detached_ns = now_ns;
	self->used_ns = now_ns;
}

/* A server that is away for a moment is to find its pages. */
static bool
any_dirty(const node *node)
{
	const tenant *each;

	TAILQ_FOREACH(each, &node->tenants.all, link)
	{
		if (each->slots.dirty > 0)
			return true;
	}
	return false;
}

static void
on_tick(evutil_socket_t fd, short what, void *arg)
{
	server *self = arg;
	node *node = &self->node;
	uint64_t now_ns = lb_now_ns();

	(void) fd;
	(void) what;
	if (elapsed_ns(now_ns, self->ticked_ns) > STANDSTILL_NS)
		forgive_standstill(self, now_ns);
	self->ticked_ns = now_ns;
	sessions_expire(node, now_ns);
	log_returned_slabs(node);
	expire_tenants(node, now_ns);
	rdma_port_tick(node->rdma, now_ns);
	for (int i = 0; i < self->listener_count; i++)
		listener_resume(&self->listeners[i]);

	if (node->session_count > 0 || any_dirty(node))
		self->used_ns = now_ns;
	if (node->options->exit_when_unused_s > 0 &&
		elapsed_ns(now_ns, self->used_ns) >= node->options->exit_when_unused_s * SECOND_NS)
	{
		log_line(LOG_NOTE, "stopping (unused for %u s)", node->options->exit_when_unused_s);
		event_base_loopbreak(node->base);
	}
}

static bool
make_incarnation(uint64_t *incarnation, lb_status *status)
{
	*incarnation = 0;
	while (*incarnation == 0 || *incarnation == LB_RESUME_LIFE)
		if (getrandom(incarnation, sizeof(*incarnation), 0) != sizeof(*incarnation) &&
			errno != EINTR)
			return lb_fail_errno(status, "cannot make random numbers");
	return true;
}

static bool
make_events(server *self, lb_status *status)
{
	static const struct timeval tick = {.tv_usec = TICK_MS * 1000};
	node *node = &self->node;

	node->base = event_base_new();
	if (!node->base)
		return lb_fail(status, LB_SYSTEM, "cannot make an event loop");
	node->work = evtimer_new(node->base, on_work, node);
	self->terminate = evsignal_new(node->base, SIGTERM, on_signal, self);
	self->interrupt = evsignal_new(node->base, SIGINT, on_signal, self);
	self->tick = event_new(node->base, -1, EV_PERSIST, on_tick, self);
	if (!node->work || !self->terminate || !self->interrupt || !self->tick ||
		event_add(self->terminate, NULL) < 0 || event_add(self->interrupt, NULL) < 0 ||
		event_add(self->tick, &tick) < 0)
		return lb_fail(status, LB_SYSTEM, "cannot make the events of the event loop");
	return true;
}

static bool
open_listeners(server *self, lb_status *status)
{
	node *node = &self->node;
	const options *options = node->options;

	if (!listener_reserve_fd(status))
		return false;
	while (self->listener_count < options->listen_count)
	{
		listener *next = &self->listeners[self->listener_count];

		self->listener_count++;
		if (!listener_open(next, node, &options->listen[self->listener_count - 1], status))
			return false;
		if (next->uri->transport == LB_TRANSPORT_RDMA &&
			!(node->rdma = rdma_port_open(node, &next->bound, status)))
			return false;
	}
	return true;
}

static bool
start(server *self, const options *options, lb_status *status)
{
	node *node = &self->node;

	node->options = options;
	node->started_ns = self->ticked_ns = self->used_ns = lb_now_ns();
	TAILQ_INIT(&node->strangers);
	TAILQ_INIT(&node->settled);
	TAILQ_INIT(&node->granting);
	tenant_table_init(&node->tenants);
	slab_pool_init(&node->pool, options->memory_bytes / LB_PAGE_SIZE, options->use_huge_pages);
	return lb_fault_set(options->fault_points, status) &&
		   make_incarnation(&node->incarnation, status) && slab_pool_probe(&node->pool, status) &&
		   make_events(self, status) && (node->flusher = flusher_start(node, status)) != NULL &&
		   open_listeners(self, status);
}

static void
announce(const server *self)
{
	char uris[LISTENERS_MAX * (LB_URI_MAX + 20)];
	size_t length = 0;

	for (int i = 0; i < self->listener_count; i++)
		length += (size_t) snprintf(uris + length, sizeof(uris) - length, "%s%s", i > 0 ? ", " : "",
									self->listeners[i].bound_uri);
	log_line(LOG_NOTE, "ready: listening on %s, %" PRIu64 " MB to lend", uris,
			 self->node.pool.capacity_pages / 128);
	printf("ready: listening on %s\n", uris);
	fflush(stdout);
	sd_notify(0, "READY=1");
}

static void
close_all_sessions(node *node)
{
	while (!TAILQ_EMPTY(&node->strangers))
		session_close(TAILQ_FIRST(&node->strangers), "stopping");
	while (!TAILQ_EMPTY(&node->settled))
		session_close(TAILQ_FIRST(&node->settled), "stopping");
}

static void
warn_of_dirty_pages(const node *node)
{
	const tenant *each;

	TAILQ_FOREACH(each, &node->tenants.all, link)
	{
		if (each->slots.dirty > 0)
			log_line(LOG_WARNING,
					 "instance %s: %" PRIu64
					 " dirty pages are lost; the server will recover them from its WAL",
					 each->name, each->slots.dirty);
	}
}

/* Also after a start that got only half way. */
static void
stop(server *self)
{
	struct event *events[] = {self->node.work, self->terminate, self->interrupt, self->tick};
	node *node = &self->node;

	for (int i = 0; i < self->listener_count; i++)
		listener_close(&self->listeners[i]);
	listener_free_reserve_fd();
	close_all_sessions(node);
	warn_of_dirty_pages(node);
	flusher_stop(node->flusher);
	tenant_table_free(&node->tenants, &node->pool);
	while (slab_pool_reap(&node->pool))
		;
	rdma_port_close(node->rdma);
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
		if (events[i])
			event_free(events[i]);
	if (node->base)
		event_base_free(node->base);
	libevent_global_shutdown();
}

int
server_run(const options *options)
{
	server self = {0};
	lb_status status;

	if (!start(&self, options, &status))
	{
		log_line(LOG_ERROR, "cannot start: %s", status.message);
		if (options->log_file)
			fprintf(stderr, "legobase-memnode: %s\n", status.message);
		stop(&self);
		return 1;
	}
	for (int i = 0; i < self.listener_count; i++)
		listener_resume(&self.listeners[i]);
	announce(&self);
	event_base_dispatch(self.node.base);
	sd_notify(0, "STOPPING=1");
	stop(&self);
	log_line(LOG_NOTE, "stopped");
	return 0;
}
