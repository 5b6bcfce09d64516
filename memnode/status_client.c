/*
 * status_client.c
 *	  legobase-memnode --status: ask a running memory node for its figures.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#include "lb_clock.h"
#include "lb_net.h"
#include "lb_stream.h"
#include "status_client.h"

#define STATUS_WITHIN_NS (5 * UINT64_C(1000000000))

/* Wait for a frame of this type. An ERROR becomes LB_REFUSED. */
static bool
receive(lb_stream *stream, lb_frame_type type, lb_frame *frame, uint64_t deadline_ns,
		lb_status *status)
{
	int found;

	while ((found = lb_stream_next(stream, frame, status)) == 0)
	{
		struct pollfd wait = {.fd = lb_stream_fd(stream), .events = POLLIN};

		if (poll(&wait, 1, lb_ms_until(deadline_ns)) <= 0)
			return lb_fail(status, LB_TIMEOUT, "no answer within 5 s");
		if (!lb_stream_fill(stream, 0, status))
			return false;
	}
	if (found < 0)
		return false;
	if (frame->header.type == LB_ERROR)
	{
		lb_error error;

		if (!lb_decode_error(frame->body, frame->header.body_length, &error))
			return lb_fail(status, LB_PROTOCOL, "malformed answer");
		return lb_fail(status, LB_REFUSED, "refused (%s): %.180s", lb_wire_error_name(error.error),
					   error.message);
	}
	if (frame->header.type != type)
		return lb_fail(status, LB_PROTOCOL, "unexpected answer: %s",
					   lb_frame_type_name(frame->header.type));
	return true;
}

static bool
fetch(lb_stream *stream, lb_node_figures *figures, uint64_t deadline_ns, lb_status *status)
{
	lb_hello hello = {.version_min = LB_PROTOCOL_VERSION,
					  .version_max = LB_PROTOCOL_VERSION,
					  .role = LB_ROLE_MONITOR,
					  .page_size = LB_PAGE_SIZE};
	uint8_t body[LB_BODY_MAX];
	lb_frame frame;

	if (!lb_stream_send(stream, LB_HELLO, 1, body, lb_encode_hello(body, &hello), NULL, 0, -1,
						status) ||
		!receive(stream, LB_WELCOME, &frame, deadline_ns, status) ||
		!lb_stream_send(stream, LB_STATUS, 2, NULL, 0, NULL, 0, -1, status) ||
		!receive(stream, LB_STATUS_REPLY, &frame, deadline_ns, status))
		return false;
	if (!lb_decode_node_figures(frame.body, frame.header.body_length, figures))
		return lb_fail(status, LB_PROTOCOL, "malformed answer");
	return true;
}

static void
print_figures(const lb_node_figures *figures)
{
	printf("incarnation: %016" PRIx64 "\n", figures->incarnation);
	printf("uptime_s: %" PRIu64 "\n", figures->uptime_s);
	printf("capacity_pages: %" PRIu64 "\n", figures->capacity_pages);
	printf("granted_pages: %" PRIu64 "\n", figures->granted_pages);
	printf("used_pages: %" PRIu64 "\n", figures->used_pages);
	printf("huge_pages: %" PRIu64 "\n", figures->huge_pages);
	printf("tenants: %u\n", figures->tenants);
	printf("sessions: %u\n", figures->sessions);
	printf("pushes: %" PRIu64 "\n", figures->pushes);
	printf("reads: %" PRIu64 "\n", figures->reads);
	printf("rejected_pushes: %" PRIu64 "\n", figures->rejected_pushes);
	printf("refused_sessions: %" PRIu64 "\n", figures->refused_sessions);
	printf("malformed_frames: %" PRIu64 "\n", figures->malformed_frames);
	printf("dirty_pages: %" PRIu64 "\n", figures->dirty_pages);
	printf("flushed_pages: %" PRIu64 "\n", figures->flushed_pages);
	printf("flush_failures: %" PRIu64 "\n", figures->flush_failures);
	printf("registered_pages: %" PRIu64 "\n", figures->registered_pages);
	printf("rdma_connections: %u\n", figures->rdma_connections);
}

static bool
ask(const lb_uri *uri, lb_node_figures *figures, lb_status *status)
{
	uint64_t deadline_ns = lb_now_ns() + STATUS_WITHIN_NS;
	lb_address address;
	lb_stream *stream;
	bool fetched;
	int fd;

	if (!lb_net_resolve(uri, false, &address, status))
		return false;
	fd = lb_net_connect(&address, deadline_ns, status);
	if (fd < 0)
		return false;
	stream = lb_stream_create(fd, LB_BODY_MAX, status);
	if (!stream)
		return false;
	fetched = fetch(stream, figures, deadline_ns, status);
	lb_stream_close(stream);
	return fetched;
}

bool
status_print(const lb_uri *uri, lb_status *status)
{
	lb_node_figures figures;
	lb_status cause;

	if (!ask(uri, &figures, &cause))
		return lb_fail(status, cause.code, "no figures from \"%s\": %s", uri->text, cause.message);
	print_figures(&figures);
	return true;
}
