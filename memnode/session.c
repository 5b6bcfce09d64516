/*
 * session.c
 *	  One connection to the memory node: its events, its states, its end. What frames mean is elsewhere: hello.c for the
 *	  first one, request.c for the others.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "flusher.h"
#include "hello.h"
#include "lb_clock.h"
#include "log.h"
#include "push.h"
#include "request.h"
#include "session.h"

#define SECOND_NS UINT64_C(1000000000)
#define HELLO_WITHIN_NS (10 * SECOND_NS)
#define AGENT_SILENT_NS (30 * SECOND_NS)
#define REFUSED_FOR_NS (2 * SECOND_NS)

/* One answer of the largest kind, and small ones behind it. */
#define OUTPUT_LIMIT (LB_HEADER_SIZE + LB_BODY_MAX + LB_BULK_MAX + 65536)

/* Connections that have not said HELLO; a peer that has something to say is through in a moment. */
#define STRANGERS_MAX 512

static void session_serve(session *session);

/* Do so many answers wait that nothing more is to be read? */
static bool
is_behind(const session *session)
{
	bool is_agent = session->state == SESSION_SETTLED && session->role == LB_ROLE_AGENT;

	return session->answers_waiting >= (is_agent ? ANSWERS_TO_AGENT : 1);
}

/* May the next frame be handled? */
static bool
takes_frames(const session *session)
{
	return !session->push && !is_behind(session);
}

static void
switch_event(struct event *event, bool on, bool *is_on)
{
	if (on == *is_on)
		return;
	*is_on = on;
	if (on)
		event_add(event, NULL);
	else
		event_del(event);
}

/* Write while something waits to be sent, and read unless answers do, or a pull is under way. */
static void
update_interest(session *session)
{
	bool waits = lb_stream_wants_write(session->stream);

	if (!waits)
		session->answers_waiting = 0;
	switch_event(session->writable, waits, &session->writes);
	switch_event(session->readable, takes_frames(session), &session->reads);
}

/* Throw away what a refused peer still sends. False at its end. */
static bool
discard_input(const session *session)
{
	char discarded[16384];
	ssize_t received = recv(lb_stream_fd(session->stream), discarded, sizeof(discarded), 0);

	return received > 0 || (received < 0 && (errno == EAGAIN || errno == EINTR));
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
	session *self = arg;
	size_t accept_bulk = 0;
	lb_status status;

	(void) fd;
	(void) what;
	if (self->state == SESSION_REFUSED)
	{
		if (!discard_input(self))
			session_close(self, "refused");
		return;
	}
	if (self->state == SESSION_SETTLED)
	{
		self->heard_ns = lb_now_ns();
		if (self->role == LB_ROLE_AGENT)
			accept_bulk = self->source.ops->bulk_max;
	}
	if (lb_stream_fill(self->stream, accept_bulk, &status))
	{
		session_serve(self);
		return;
	}
	if (status.code == LB_PROTOCOL)
	{
		self->node->malformed_frames++;
		log_limited(LOG_WARNING, "%s: connection ended: %s", self->peer, status.message);
	}
	session_close(self, status.message);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
	session *self = arg;
	lb_status status;

	(void) fd;
	(void) what;
	if (!lb_stream_flush(self->stream, &status))
	{
		session_close(self, status.message);
		return;
	}
	if (lb_stream_wants_write(self->stream))
		return;
	update_interest(self);
	if (self->state == SESSION_REFUSED)
	{
		shutdown(lb_stream_fd(self->stream), SHUT_WR);
		return;
	}
	if (self->role == LB_ROLE_AGENT)
		flusher_wake(self->node->flusher);
	session_serve(self);
}

/* Handle one frame, and close its descriptor if one came along. */
static bool
handle_frame(session *session, const lb_frame *frame)
{
	bool alive;

	if (frame->fd >= 0 && frame->header.type != LB_COMM_BUFFERS)
		alive = session_refuse_malformed(session, frame->header.sequence,
										 "a descriptor came with a frame that has none");
	else if (session->state == SESSION_STRANGER)
		alive = hello_handle(session, frame);
	else
		alive = request_handle(session, frame);
	if (frame->fd >= 0)
		close(frame->fd);
	return alive;
}

/* Handle the complete frames that are there. May end with the session freed. */
static void
session_serve(session *self)
{
	while (self->state != SESSION_REFUSED && takes_frames(self))
	{
		lb_frame frame;
		lb_status status;
		int found = lb_stream_next(self->stream, &frame, &status);

		if (found == 0)
			break;
		if (found < 0)
		{
			self->node->malformed_frames++;
			log_limited(LOG_WARNING, "%s: connection ended: %s", self->peer, status.message);
			session_close(self, status.message);
			return;
		}
		if (!handle_frame(self, &frame))
		{
			session_close(self, "connection lost");
			return;
		}
	}
	update_interest(self);
}

void
session_completion(session *self)
{
	lb_status status;
	int completed = self->source.ops->completed(&self->source, &status);

	if (completed == 0)
		return;
	if (completed < 0)
	{
		log_limited(LOG_WARNING, "%s: connection ended: %s", self->peer, status.message);
		session_close(self, status.message);
		return;
	}
	/* it was we who did not listen */
	self->heard_ns = lb_now_ns();
	if (!push_finish(self))
		session_close(self, "connection lost");
	else
		session_serve(self);
}

session *
session_open(node *node, int fd, lb_transport transport, const char *peer)
{
	session *opened = calloc(1, sizeof(session));
	lb_status status;

	if (!opened)
	{
		close(fd);
		return NULL;
	}
	opened->stream = lb_stream_create(fd, OUTPUT_LIMIT, &status);
	if (!opened->stream)
	{
		free(opened);
		return NULL;
	}
	opened->readable = event_new(node->base, fd, EV_READ | EV_PERSIST, on_readable, opened);
	opened->writable = event_new(node->base, fd, EV_WRITE | EV_PERSIST, on_writable, opened);
	if (!opened->readable || !opened->writable || event_add(opened->readable, NULL) < 0)
	{
		if (opened->readable)
			event_free(opened->readable);
		if (opened->writable)
			event_free(opened->writable);
		lb_stream_close(opened->stream);
		free(opened);
		return NULL;
	}
	opened->reads = true;
	opened->node = node;
	opened->transport = transport;
	opened->heard_ns = lb_now_ns();
	snprintf(opened->peer, sizeof(opened->peer), "%s", peer);
	if (node->stranger_count >= STRANGERS_MAX)
		session_close(TAILQ_FIRST(&node->strangers), "too many others that say nothing");
	TAILQ_INSERT_TAIL(&node->strangers, opened, link);
	node->stranger_count++;
	node->session_count++;
	return opened;
}

static void
leave_strangers(session *session)
{
	TAILQ_REMOVE(&session->node->strangers, session, link);
	session->node->stranger_count--;
	TAILQ_INSERT_TAIL(&session->node->settled, session, link);
}

void
session_settle(session *session, lb_role role, tenant *tenant)
{
	leave_strangers(session);
	session->state = SESSION_SETTLED;
	session->heard_ns = lb_now_ns();
	session->role = role;
	session->tenant = tenant;
	if (role == LB_ROLE_AGENT)
	{
		pull_source_init(&session->source, session->transport);
		tenant->agent = session;
	}
	else if (role == LB_ROLE_BACKEND)
		TAILQ_INSERT_TAIL(&tenant->backends, session, backend_link);
}

void
session_detach_agent(session *session, const char *reason)
{
	node *node = session->node;
	tenant *tenant = session->tenant;

	/* in this order: no slab can be given up while the queue pair may still write to it */
	rdma_port_leave(session);
	push_forget(session);
	pull_source_close(&session->source);
	flusher_detach(node->flusher, tenant);
	session->tenant = NULL;
	tenant->agent = NULL;
	tenant->detached_ns = lb_now_ns();
	if (tenant->grant.active)
	{
		TAILQ_REMOVE(&node->granting, tenant, grant_link);
		tenant_grant_cancel(tenant, &node->pool);
		node_wake_worker(node);
	}
	log_line(LOG_NOTE,
			 "instance %s: detached (%s), %" PRIu64 " MB (%" PRIu64 " dirty pages) kept for %u s",
			 tenant->name, reason, tenant->held_pages / 128, tenant->slots.dirty,
			 node->options->tenant_timeout_s);
}

static void
leave_tenant(session *session, const char *reason)
{
	if (!session->tenant)
		return;
	if (session->role == LB_ROLE_AGENT)
	{
		session_detach_agent(session, reason);
		return;
	}
	rdma_port_leave(session);
	TAILQ_REMOVE(&session->tenant->backends, session, backend_link);
	session->tenant = NULL;
}

void
session_close(session *session, const char *reason)
{
	node *node = session->node;

	leave_tenant(session, reason);
	if (session->state == SESSION_STRANGER)
		leave_strangers(session);
	TAILQ_REMOVE(&node->settled, session, link);
	node->session_count--;
	/* the flush worker may have a duplicate of the descriptor, which alone would keep the connection open */
	if (session->role == LB_ROLE_AGENT)
		shutdown(lb_stream_fd(session->stream), SHUT_RDWR);
	event_free(session->readable);
	event_free(session->writable);
	lb_stream_close(session->stream);
	free(session);
}

void
sessions_expire(node *node, uint64_t now_ns)
{
	session *each;
	session *next;

	for (each = TAILQ_FIRST(&node->strangers); each; each = next)
	{
		next = TAILQ_NEXT(each, link);
		if (elapsed_ns(now_ns, each->heard_ns) >= HELLO_WITHIN_NS)
		{
			log_limited(LOG_WARNING, "%s: connection ended: no HELLO", each->peer);
			session_close(each, "no HELLO");
		}
	}
	for (each = TAILQ_FIRST(&node->settled); each; each = next)
	{
		next = TAILQ_NEXT(each, link);
		if (each->state == SESSION_REFUSED && elapsed_ns(now_ns, each->heard_ns) >= REFUSED_FOR_NS)
			session_close(each, "refused");
		else if (each->state != SESSION_SETTLED || each->role != LB_ROLE_AGENT)
			continue;
		else if (each->push)
		{
			if (push_is_late(each, now_ns))
				session_close(each, "its pages could not be read within 10 s");
		}
		else if (elapsed_ns(now_ns, each->heard_ns) >= AGENT_SILENT_NS)
			session_close(each, "silent for 30 s");
	}
}

void
sessions_close_rdma(node *node, const char *reason)
{
	session *each;
	session *next;

	for (each = TAILQ_FIRST(&node->settled); each; each = next)
	{
		next = TAILQ_NEXT(each, link);
		if (each->transport == LB_TRANSPORT_RDMA && each->tenant)
			session_close(each, reason);
	}
}

void
sessions_forgive(node *node, uint64_t now_ns)
{
	session *each;

	for (each = TAILQ_FIRST(&node->strangers); each; each = TAILQ_NEXT(each, link))
		each->heard_ns = now_ns;
	for (each = TAILQ_FIRST(&node->settled); each; each = TAILQ_NEXT(each, link))
	{
		each->heard_ns = now_ns;
		push_forgive(each, now_ns);
	}
}

bool
session_peer_gone(const session *session)
{
	struct pollfd state = {.fd = lb_stream_fd(session->stream), .events = POLLRDHUP};

	return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

bool
session_send_bulk(session *session, lb_frame_type type, uint64_t sequence, const void *body,
				  size_t body_length, const struct iovec *bulk, int bulk_count, int pass_fd)
{
	lb_status status;

	if (!lb_stream_send(session->stream, type, sequence, body, body_length, bulk, bulk_count,
						pass_fd, &status))
	{
		if (status.code != LB_CLOSED)
			log_limited(LOG_WARNING, "%s: connection ended: %s", session->peer, status.message);
		return false;
	}
	session->answers_waiting += 1 + (uint32_t) (body_length / 1024);
	update_interest(session);
	return true;
}

bool
session_send_unasked(session *session, lb_frame_type type, const void *body, size_t body_length)
{
	lb_status status;

	if (!lb_stream_send(session->stream, type, 0, body, body_length, NULL, 0, -1, &status))
		return false;
	update_interest(session);
	return true;
}

bool
session_send(session *session, lb_frame_type type, uint64_t sequence, const void *body,
			 size_t body_length)
{
	return session_send_bulk(session, type, sequence, body, body_length, NULL, 0, -1);
}

static bool
send_error(session *session, uint64_t sequence, const lb_error *error)
{
	uint8_t body[LB_BODY_MAX];

	return session_send(session, LB_ERROR, sequence, body, lb_encode_error(body, error));
}

bool
session_error(session *session, uint64_t sequence, lb_wire_error code, const char *format, ...)
{
	lb_error error = {.error = (uint16_t) code};
	va_list args;

	va_start(args, format);
	vsnprintf(error.message, sizeof(error.message), format, args);
	va_end(args);
	log_limited(LOG_WARNING, "%s: request refused: %s", session->peer, error.message);
	return send_error(session, sequence, &error);
}

bool
session_refuse(session *session, uint64_t sequence, lb_wire_error code, uint64_t epoch,
			   const char *format, ...)
{
	lb_error error = {.error = (uint16_t) code, .epoch = epoch};
	va_list args;

	va_start(args, format);
	vsnprintf(error.message, sizeof(error.message), format, args);
	va_end(args);
	session->node->refused_sessions++;
	log_limited(LOG_WARNING, "%s: refused: %s", session->peer, error.message);

	leave_tenant(session, error.message);
	if (session->state == SESSION_STRANGER)
		leave_strangers(session);
	session->state = SESSION_REFUSED;
	session->heard_ns = lb_now_ns();
	if (!send_error(session, sequence, &error))
		return false;
	if (!lb_stream_wants_write(session->stream))
		shutdown(lb_stream_fd(session->stream), SHUT_WR);
	return true;
}

bool
session_refuse_malformed(session *session, uint64_t sequence, const char *reason)
{
	session->node->malformed_frames++;
	return session_refuse(session, sequence, LB_ERR_MALFORMED, 0, "%s", reason);
}
