/*
 * test_stream.c
 *	  Streams: frames arrive whole however they were cut up, descriptors arrive with their frame, and a peer that sends
 *	  nonsense or reads nothing is noticed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lb_net.h"
#include "lb_stream.h"
#include "raw_frame.h"

#define OUTPUT_LIMIT (4 * 1024 * 1024)

static lb_status status;

/* A stream and the other end of its socket, which does not block either. */
typedef struct connection
{
	lb_stream *stream;
	int peer;
} connection;

static connection
connect_pair(size_t output_limit)
{
	int ends[2];
	connection c;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	c.stream = lb_stream_create(ends[0], output_limit, &status);
	assert_non_null(c.stream);
	assert_int_equal(lb_stream_fd(c.stream), ends[0]);
	c.peer = ends[1];
	return c;
}

static void
disconnect(connection *c)
{
	lb_stream_close(c->stream);
	close(c->peer);
}

/* Two streams connected with each other. */
static void
connect_streams(lb_stream **a, lb_stream **b, size_t output_limit)
{
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
	*a = lb_stream_create(ends[0], output_limit, &status);
	*b = lb_stream_create(ends[1], output_limit, &status);
	assert_non_null(*a);
	assert_non_null(*b);
}

static void
write_all(int fd, const void *bytes, size_t length)
{
	assert_int_equal(write(fd, bytes, length), length);
}

static void
assert_filled_with(const uint8_t *page, uint8_t fill)
{
	for (int i = 0; i < LB_PAGE_SIZE; i++)
		assert_int_equal(page[i], fill);
}

static void
test_byte_by_byte(void **state)
{
	connection c = connect_pair(OUTPUT_LIMIT);
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_number(body, 42);
	raw_frame *raw = raw_frame_make(LB_SLAB_MAP, 7, body, length, 0, 0);
	lb_frame frame;

	(void) state;
	for (int round = 0; round < 3; round++)
	{
		for (size_t i = 0; i < raw->length; i++)
		{
			assert_int_equal(lb_stream_next(c.stream, &frame, &status), 0);
			write_all(c.peer, raw->bytes + i, 1);
			assert_true(lb_stream_fill(c.stream, 0, &status));
		}
		assert_int_equal(lb_stream_next(c.stream, &frame, &status), 1);
		assert_int_equal(frame.header.type, LB_SLAB_MAP);
		assert_int_equal(frame.header.sequence, 7);
		assert_int_equal(frame.header.body_length, length);
		assert_memory_equal(frame.body, body, length);
		assert_int_equal(frame.fd, -1);
	}
	assert_true(lb_stream_fill(c.stream, 0, &status));
	assert_int_equal(lb_stream_next(c.stream, &frame, &status), 0);
	free(raw);
	disconnect(&c);
}

/* Many small frames in one piece, more than the buffer holds at a time. */
static void
test_many_at_once(void **state)
{
	connection c = connect_pair(OUTPUT_LIMIT);
	uint8_t bytes[400][LB_HEADER_SIZE];
	uint64_t expected = 0;
	lb_frame frame;

	(void) state;
	for (size_t i = 0; i < 400; i++)
		lb_encode_header(bytes[i], LB_PING, i, NULL, 0, 0);
	write_all(c.peer, bytes, sizeof(bytes));
	while (expected < 400)
	{
		assert_true(lb_stream_fill(c.stream, 0, &status));
		while (lb_stream_next(c.stream, &frame, &status) == 1)
			assert_int_equal(frame.header.sequence, expected++);
	}
	disconnect(&c);
}

/* The largest PUSH there is, through sockets that take it in pieces, between small frames. */
static void
test_large_frames(void **state)
{
	lb_stream *sender;
	lb_stream *receiver;
	uint8_t pages[LB_BATCH_MAX][LB_PAGE_SIZE];
	struct iovec bulk[LB_BATCH_MAX];
	uint8_t body[LB_BODY_MAX] = {0};
	uint64_t received = 0;
	lb_frame frame;

	(void) state;
	connect_streams(&sender, &receiver, OUTPUT_LIMIT);
	for (int i = 0; i < LB_BATCH_MAX; i++)
	{
		memset(pages[i], i, LB_PAGE_SIZE);
		bulk[i] = (struct iovec){pages[i], LB_PAGE_SIZE};
	}
	for (uint64_t sequence = 0; sequence < 60; sequence++)
	{
		bool large = sequence % 20 < 2;

		if (large)
			assert_true(lb_stream_send(sender, LB_PUSH, sequence, body, 4 + 48 * LB_BATCH_MAX, bulk,
									   LB_BATCH_MAX, -1, &status));
		else
			assert_true(lb_stream_send(sender, LB_PING, sequence, NULL, 0, NULL, 0, -1, &status));
		while (received <= sequence)
		{
			assert_true(lb_stream_flush(sender, &status));
			assert_true(lb_stream_fill(receiver, LB_BULK_MAX, &status));
			if (lb_stream_next(receiver, &frame, &status) == 0)
				continue;
			assert_int_equal(frame.header.sequence, sequence);
			assert_int_equal(frame.header.bulk_length, large ? LB_BULK_MAX : 0);
			for (int i = 0; large && i < LB_BATCH_MAX; i++)
				assert_filled_with(frame.bulk + (size_t) i * LB_PAGE_SIZE, (uint8_t) i);
			received++;
		}
		assert_false(lb_stream_wants_write(sender));
	}
	lb_stream_close(sender);
	lb_stream_close(receiver);
}

/* A file in memory that can be told from others by its length. */
static int
numbered_file(off_t number)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, number), 0);
	return fd;
}

static void
assert_is_file(int fd, off_t number)
{
	struct stat found;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &found), 0);
	assert_int_equal(found.st_size, number);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
}

static void
send_with_file(lb_stream *stream, uint64_t sequence, off_t number)
{
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_number(body, (uint32_t) sequence);
	int fd = number > 0 ? numbered_file(number) : -1;

	assert_true(
		lb_stream_send(stream, LB_SLAB_MAPPED, sequence, body, length, NULL, 0, fd, &status));
	if (fd >= 0)
		close(fd);
}

/* Take frames until there are so many; every third has the file of its number. */
static void
receive_files(lb_stream *sender, lb_stream *receiver, uint64_t count)
{
	lb_frame frame;

	for (uint64_t received = 0; received < count;)
	{
		assert_true(lb_stream_flush(sender, &status));
		assert_true(lb_stream_fill(receiver, LB_BULK_MAX, &status));
		while (lb_stream_next(receiver, &frame, &status) == 1)
		{
			if (frame.header.type != LB_SLAB_MAPPED)
				continue;
			assert_int_equal(frame.header.sequence, received);
			if (received % 3 == 0)
				assert_is_file(frame.fd, (off_t) received + 1);
			else
				assert_int_equal(frame.fd, -1);
			received++;
		}
	}
}

static void
test_descriptors(void **state)
{
	int open_before = count_open_descriptors();
	lb_stream *sender;
	lb_stream *receiver;

	(void) state;
	connect_streams(&sender, &receiver, OUTPUT_LIMIT);
	for (uint64_t i = 0; i < 20; i++)
		send_with_file(sender, i, i % 3 == 0 ? (off_t) i + 1 : 0);
	receive_files(sender, receiver, 20);
	lb_stream_close(sender);
	lb_stream_close(receiver);
	assert_int_equal(count_open_descriptors(), open_before);
}

/* The same when the socket is full, so that frames and descriptors wait in the output. */
static void
test_queued_descriptors(void **state)
{
	int open_before = count_open_descriptors();
	uint8_t page[LB_PAGE_SIZE] = {0};
	uint8_t body[LB_BODY_MAX] = {0};
	struct iovec bulk = {page, sizeof(page)};
	lb_stream *sender;
	lb_stream *receiver;

	(void) state;
	connect_streams(&sender, &receiver, OUTPUT_LIMIT);
	while (!lb_stream_wants_write(sender))
		assert_true(lb_stream_send(sender, LB_PUSH, 0, body, 52, &bulk, 1, -1, &status));
	for (uint64_t i = 0; i < 20; i++)
		send_with_file(sender, i, i % 3 == 0 ? (off_t) i + 1 : 0);
	receive_files(sender, receiver, 20);
	assert_false(lb_stream_wants_write(sender));

	/* What was queued and never sent, or received and never taken, is closed with the stream. */
	send_with_file(sender, 0, 1);
	assert_true(lb_stream_fill(receiver, 0, &status));
	while (!lb_stream_wants_write(sender))
		assert_true(lb_stream_send(sender, LB_PUSH, 0, body, 52, &bulk, 1, -1, &status));
	send_with_file(sender, 0, 1);
	lb_stream_close(sender);
	lb_stream_close(receiver);
	assert_int_equal(count_open_descriptors(), open_before);
}

/* The frames of a descriptor and after it arrive in small pieces. */
static void
test_descriptor_in_pieces(void **state)
{
	connection c = connect_pair(OUTPUT_LIMIT);
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_number(body, 1);
	raw_frame *raw = raw_frame_make(LB_SLAB_MAPPED, 1, body, length, 0, 0);
	lb_stream *sender;
	lb_frame frame;

	(void) state;
	/* The first byte carries the descriptor; a stream sends frames whole, so it is made by hand. */
	for (size_t i = 0; i < raw->length; i++)
	{
		union
		{
			struct cmsghdr header;
			char space[CMSG_SPACE(sizeof(int))];
		} control = {0};
		struct iovec piece = {raw->bytes + i, 1};
		struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};

		if (i == 0)
		{
			int fd = numbered_file(5);

			message.msg_control = &control;
			message.msg_controllen = sizeof(control.space);
			control.header.cmsg_level = SOL_SOCKET;
			control.header.cmsg_type = SCM_RIGHTS;
			control.header.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
			assert_int_equal(sendmsg(c.peer, &message, 0), 1);
			close(fd);
		}
		else
			assert_int_equal(sendmsg(c.peer, &message, 0), 1);
		assert_true(lb_stream_fill(c.stream, 0, &status));
	}
	sender = lb_stream_create(dup(c.peer), OUTPUT_LIMIT, &status);
	send_with_file(sender, 2, 6);
	assert_int_equal(lb_stream_next(c.stream, &frame, &status), 1);
	assert_is_file(frame.fd, 5);
	assert_true(lb_stream_fill(c.stream, 0, &status));
	assert_int_equal(lb_stream_next(c.stream, &frame, &status), 1);
	assert_is_file(frame.fd, 6);
	lb_stream_close(sender);
	free(raw);
	disconnect(&c);
}

/* A message with so many descriptors, on the bytes of a frame. */
static void
send_descriptors(int socket, raw_frame *raw, int count)
{
	union
	{
		struct cmsghdr header;
		char space[CMSG_SPACE(16 * sizeof(int))];
	} control = {0};
	struct iovec piece = {raw->bytes, raw->length};
	struct msghdr message = {.msg_iov = &piece,
							 .msg_iovlen = 1,
							 .msg_control = &control,
							 .msg_controllen = CMSG_SPACE((size_t) count * sizeof(int))};

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN((size_t) count * sizeof(int));
	for (int i = 0; i < count; i++)
		memcpy(CMSG_DATA(&control.header) + (size_t) i * sizeof(int), &socket, sizeof(int));
	assert_int_equal(sendmsg(socket, &message, 0), raw->length);
}

static void
test_too_many_descriptors(void **state)
{
	raw_frame *raw = raw_frame_make(LB_PING, 1, NULL, 0, 0, 0);
	int open_before = count_open_descriptors();

	(void) state;
	for (int count = 2; count <= 16; count++)
	{
		connection c = connect_pair(OUTPUT_LIMIT);

		send_descriptors(c.peer, raw, count);
		assert_false(lb_stream_fill(c.stream, 0, &status));
		assert_int_equal(status.code, LB_PROTOCOL);
		disconnect(&c);
		assert_int_equal(count_open_descriptors(), open_before);
	}
	free(raw);
}

static void
test_output_limit(void **state)
{
	connection c = connect_pair(64 * 1024);
	uint8_t page[LB_PAGE_SIZE] = {0};
	uint8_t body[LB_BODY_MAX] = {0};
	struct iovec bulk = {page, sizeof(page)};
	int sent = 0;

	(void) state;
	while (lb_stream_send(c.stream, LB_PUSH, 0, body, 52, &bulk, 1, -1, &status))
		assert_true(++sent < 1000);
	assert_int_equal(status.code, LB_TIMEOUT);
	disconnect(&c);
}

static void
test_descriptor_limit(void **state)
{
	connection c = connect_pair(OUTPUT_LIMIT);
	uint8_t page[LB_PAGE_SIZE] = {0};
	uint8_t body[LB_BODY_MAX] = {0};
	struct iovec bulk = {page, sizeof(page)};
	int sent = 0;

	(void) state;
	while (!lb_stream_wants_write(c.stream))
		assert_true(lb_stream_send(c.stream, LB_PUSH, 0, body, 52, &bulk, 1, -1, &status));
	while (lb_stream_send(c.stream, LB_SLAB_MAPPED, 0, body, 4, NULL, 0, c.peer, &status))
		assert_true(++sent < 1000);
	assert_int_equal(status.code, LB_TIMEOUT);
	disconnect(&c);
}

static void
assert_refused(const uint8_t *bytes, size_t length, size_t accept_bulk)
{
	connection c = connect_pair(OUTPUT_LIMIT);
	lb_frame frame;
	bool filled;

	write_all(c.peer, bytes, length);
	memset(&status, 0, sizeof(status));
	filled = lb_stream_fill(c.stream, accept_bulk, &status);
	assert_true(!filled || lb_stream_next(c.stream, &frame, &status) == -1);
	assert_int_equal(status.code, LB_PROTOCOL);
	disconnect(&c);
}

static void
test_nonsense(void **state)
{
	uint8_t body[LB_BODY_MAX] = {0};
	raw_frame *raw = raw_frame_make(LB_PUSH, 1, body, 52, 1, 0);
	uint8_t garbage[100];

	(void) state;
	memset(garbage, 'x', sizeof(garbage));
	assert_refused(garbage, sizeof(garbage), LB_BULK_MAX);

	/* Lengths beyond the limit are refused with the header alone, before memory is taken for them. */
	memset(raw->bytes + 8, 0xff, 4);
	assert_refused(raw->bytes, LB_HEADER_SIZE, LB_BULK_MAX);
	free(raw);
	raw = raw_frame_make(LB_PUSH, 1, body, 52, 1, 0);
	memset(raw->bytes + 12, 0xff, 4);
	assert_refused(raw->bytes, LB_HEADER_SIZE, LB_BULK_MAX);
	free(raw);

	/* Pages from somebody who may not send any (yet). */
	raw = raw_frame_make(LB_PUSH, 1, body, 52, 2, 0);
	assert_refused(raw->bytes, raw->length, 0);
	assert_refused(raw->bytes, raw->length, LB_PAGE_SIZE);

	/* A damaged body, and a damaged part of the header that no limit protects. */
	raw->bytes[LB_HEADER_SIZE + 10] ^= 4;
	assert_refused(raw->bytes, raw->length, LB_BULK_MAX);
	raw->bytes[LB_HEADER_SIZE + 10] ^= 4;
	raw->bytes[18] ^= 1;
	assert_refused(raw->bytes, raw->length, LB_BULK_MAX);
	free(raw);
}

/* What a peer sent before it closed is not lost; then comes LB_CLOSED; and sending to it fails, without SIGPIPE. */
static void
test_closed_by_peer(void **state)
{
	connection c = connect_pair(OUTPUT_LIMIT);
	raw_frame *raw = raw_frame_make(LB_PONG, 9, NULL, 0, 0, 0);
	lb_frame frame;

	(void) state;
	write_all(c.peer, raw->bytes, raw->length);
	write_all(c.peer, raw->bytes, raw->length / 2);
	close(c.peer);
	assert_true(lb_stream_fill(c.stream, 0, &status));
	assert_int_equal(lb_stream_next(c.stream, &frame, &status), 1);
	assert_int_equal(frame.header.sequence, 9);
	assert_int_equal(lb_stream_next(c.stream, &frame, &status), 0);
	assert_false(lb_stream_fill(c.stream, 0, &status));
	assert_int_equal(status.code, LB_CLOSED);
	assert_false(lb_stream_send(c.stream, LB_PING, 1, NULL, 0, NULL, 0, -1, &status));
	assert_int_equal(status.code, LB_CLOSED);
	lb_stream_close(c.stream);
	free(raw);
}

/* Frames may be given to a stream whose connect is still under way. */
static void
test_connecting(void **state)
{
	lb_uri uri;
	lb_address address;
	lb_address bound;
	int listening;
	int accepted;
	lb_stream *stream;
	raw_frame *raw = raw_frame_make(LB_PING, 3, NULL, 0, 0, 0);
	uint8_t bytes[2 * LB_HEADER_SIZE];

	(void) state;
	assert_true(lb_uri_parse("tcp://127.0.0.1:0", true, &uri, &status));
	assert_true(lb_net_resolve(&uri, true, &address, &status));
	listening = lb_net_listen(&uri, &address, &bound, &status);
	assert_true(listening >= 0);
	stream = lb_stream_create(lb_net_connect_start(&bound, &status), OUTPUT_LIMIT, &status);
	assert_non_null(stream);
	assert_true(lb_stream_send(stream, LB_PING, 3, NULL, 0, NULL, 0, -1, &status));
	accepted = accept(listening, NULL, NULL);
	assert_true(accepted >= 0);
	assert_true(lb_net_connected(lb_stream_fd(stream), &status));
	assert_true(lb_stream_flush(stream, &status));
	assert_int_equal(read(accepted, bytes, sizeof(bytes)), LB_HEADER_SIZE);
	assert_memory_equal(bytes, raw->bytes, LB_HEADER_SIZE);
	lb_stream_close(stream);
	close(accepted);
	close(listening);
	free(raw);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_by_byte),         cmocka_unit_test(test_many_at_once),
		cmocka_unit_test(test_large_frames),         cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_queued_descriptors),   cmocka_unit_test(test_descriptor_in_pieces),
		cmocka_unit_test(test_too_many_descriptors), cmocka_unit_test(test_output_limit),
		cmocka_unit_test(test_descriptor_limit),     cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_closed_by_peer),       cmocka_unit_test(test_connecting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
