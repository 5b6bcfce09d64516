/*
 * peer.c
 *	  The other end of a conversation that goes wrong: a client that greets a memory node with whatever a test asks for, and a
 *	  memory node that refuses everybody. Built by the tests from this file and src/common.
 *
 *	peer hello URI [version=N] [page_size=N] [role=N] [take_over=N] [epoch=N] [token=N] [uuid=N] [system=N]
 *		Send one HELLO, print the answer: "WELCOME version=N", "ERROR name: message" or "closed".
 *
 *	peer refuse URI ERROR MESSAGE
 *		Listen, print "ready: URI", answer every HELLO with this error (a number of lb_wire_error), for ever.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_net.h"
#include "lb_stream.h"
#include "lb_wire.h"

#define LIMIT_MS 10000

static void
die(const lb_status *status)
{
	fprintf(stderr, "peer: %s\n", status->message);
	exit(1);
}

/* Wait for a frame. False when the peer closed the connection. */
static bool
receive(lb_stream *stream, lb_frame *frame)
{
	uint64_t deadline = lb_now_ns() + LIMIT_MS * UINT64_C(1000000);
	lb_status status;
	int got;

	while ((got = lb_stream_next(stream, frame, &status)) == 0)
	{
		struct pollfd readable = {.fd = lb_stream_fd(stream), .events = POLLIN};

		if (poll(&readable, 1, lb_ms_until(deadline)) <= 0)
			return false;
		if (!lb_stream_fill(stream, 0, &status))
			return lb_stream_next(stream, frame, &status) > 0;
	}
	if (got < 0)
		die(&status);
	return true;
}

static void
set_field(lb_hello *hello, const char *setting)
{
	const char *value = strchr(setting, '=');
	size_t length = value ? (size_t) (value - setting) : 0;
	uint64_t number = value ? strtoull(value + 1, NULL, 0) : 0;

	if (strncmp(setting, "version=", length + 1) == 0)
		hello->version_min = hello->version_max = (uint16_t) number;
	else if (strncmp(setting, "page_size=", length + 1) == 0)
		hello->page_size = (uint32_t) number;
	else if (strncmp(setting, "role=", length + 1) == 0)
		hello->role = (uint16_t) number;
	else if (strncmp(setting, "take_over=", length + 1) == 0)
		hello->take_over = number != 0;
	else if (strncmp(setting, "epoch=", length + 1) == 0)
		hello->epoch = number;
	else if (strncmp(setting, "token=", length + 1) == 0)
		hello->token = number;
	else if (strncmp(setting, "uuid=", length + 1) == 0)
		memset(hello->uuid, (int) number, LB_UUID_SIZE);
	else if (strncmp(setting, "system=", length + 1) == 0)
		hello->system_identifier = number;
	else
	{
		fprintf(stderr, "peer: unknown setting \"%s\"\n", setting);
		exit(2);
	}
}

static void
greet(const lb_uri *uri, int count, char **settings)
{
	lb_hello hello = {.version_min = LB_PROTOCOL_VERSION,
					  .version_max = LB_PROTOCOL_VERSION,
					  .role = LB_ROLE_AGENT,
					  .page_size = LB_PAGE_SIZE,
					  .system_identifier = 1,
					  .epoch = 1,
					  .uuid = {1},
					  .holder = "peer of a test"};
	uint8_t body[LB_BODY_MAX];
	lb_address address;
	lb_status status;
	lb_stream *stream;
	lb_frame frame;
	lb_error error;
	lb_welcome welcome;
	int fd;

	for (int i = 0; i < count; i++)
		set_field(&hello, settings[i]);
	if (!lb_net_resolve(uri, false, &address, &status))
		die(&status);
	fd = lb_net_connect(&address, lb_now_ns() + LIMIT_MS * UINT64_C(1000000), &status);
	if (fd < 0 || !(stream = lb_stream_create(fd, LB_BODY_MAX, &status)) ||
		!lb_stream_send(stream, LB_HELLO, 1, body, lb_encode_hello(body, &hello), NULL, 0, -1,
						&status))
		die(&status);
	if (!receive(stream, &frame))
		printf("closed\n");
	else if (lb_decode_error(frame.body, frame.header.body_length, &error) &&
			 frame.header.type == LB_ERROR)
		printf("ERROR %s: %s\n", lb_wire_error_name(error.error), error.message);
	else if (lb_decode_welcome(frame.body, frame.header.body_length, &welcome) &&
			 frame.header.type == LB_WELCOME)
		printf("WELCOME version=%u\n", welcome.version);
	else
		printf("%s\n", lb_frame_type_name(frame.header.type));
	lb_stream_close(stream);
}

static void
refuse(const lb_uri *uri, int error_number, const char *message)
{
	lb_error error = {.error = (uint16_t) error_number};
	uint8_t body[LB_BODY_MAX];
	lb_address address;
	lb_status status;
	int listener;

	snprintf(error.message, sizeof(error.message), "%s", message);
	if (!lb_net_resolve(uri, true, &address, &status) ||
		(listener = lb_net_listen(uri, &address, &address, &status)) < 0)
		die(&status);
	printf("ready: %s\n", uri->text);
	fflush(stdout);
	for (;;)
	{
		struct pollfd readable = {.fd = listener, .events = POLLIN};
		lb_stream *stream;
		lb_frame frame;
		int fd;

		poll(&readable, 1, -1);
		fd = accept(listener, NULL, NULL);
		if (fd < 0)
			continue;
		stream = lb_stream_create(fd, LB_BODY_MAX, &status);
		if (!stream)
			die(&status);
		if (receive(stream, &frame))
			lb_stream_send(stream, LB_ERROR, frame.header.sequence, body,
						   lb_encode_error(body, &error), NULL, 0, -1, &status);
		lb_stream_close(stream);
	}
}

int
main(int argc, char **argv)
{
	lb_status status;
	lb_uri uri;

	if (argc >= 3 && !lb_uri_parse(argv[2], strcmp(argv[1], "refuse") == 0, &uri, &status))
		die(&status);
	if (argc >= 3 && strcmp(argv[1], "hello") == 0)
		greet(&uri, argc - 3, argv + 3);
	else if (argc == 5 && strcmp(argv[1], "refuse") == 0)
		refuse(&uri, atoi(argv[3]), argv[4]);
	else
	{
		fprintf(stderr, "usage: see the head of peer.c\n");
		return 2;
	}
	return 0;
}
