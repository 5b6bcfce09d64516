/*
 * lb_data_plane_tcp.c
 *	  The tcp data plane: a READ frame on a connection of the process's own, answered by a READ_REPLY whose bulk is
 *	  received straight into the destinations.
 *
 * Answers come in the order of the requests. A reply is received before its header was looked at, which is what makes it
 * one system call; if it turns out to be something else the connection is of no use any more, and what the destinations
 * have is undefined, as after any failure.
 *
 * The two sides cannot block each other by both sending: at most LB_BATCHES_MAX requests of about half a kilobyte are
 * under way, which fits any socket's buffers, so that a request is sent without waiting for the node to read.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lb_data_plane_socket.h"

#define REPLY_HEAD (LB_HEADER_SIZE + 4) /* header and body of a READ_REPLY */
#define ERROR_FRAME_MAX (LB_HEADER_SIZE + LB_ERROR_BODY_MAX)

/* An ERROR must fit the space of the smallest reply. */
_Static_assert(ERROR_FRAME_MAX <= REPLY_HEAD + LB_PAGE_SIZE, "see receive_error");

typedef struct tcp_batch
{
	int count;
	void *dest[LB_BATCH_MAX];
} tcp_batch;

typedef struct tcp_plane
{
	lb_data_plane head;
	int fd;
	tcp_batch batches[LB_BATCHES_MAX]; /* by ticket modulo LB_BATCHES_MAX */
} tcp_plane;

static bool
tcp_connect(lb_data_plane *plane, const lb_address *address, const lb_hello *hello,
			uint64_t deadline_ns, lb_status *status)
{
	tcp_plane *tcp = (tcp_plane *) plane;

	tcp->fd = lb_data_plane_socket_open(plane, address, hello, deadline_ns, status);
	return tcp->fd >= 0;
}

/* Take the bytes that were received off the front of the pieces. Returns how many pieces are used up. */
static int
advance(struct iovec *pieces, size_t received)
{
	int used = 0;

	while (received > 0 && received >= pieces[used].iov_len)
		received -= pieces[used++].iov_len;
	if (received > 0)
	{
		pieces[used].iov_base = (uint8_t *) pieces[used].iov_base + received;
		pieces[used].iov_len -= received;
	}
	return used;
}

/*
 * The answer is an ERROR. It was received as if it were a reply: its start is in head, what follows in the first
 * destination. Put it together, with what is still to come.
 */
static bool
receive_error(tcp_plane *tcp, const uint8_t *head, const void *dest, size_t received,
			  uint32_t body_length, uint64_t deadline_ns, lb_status *status)
{
	uint8_t frame[ERROR_FRAME_MAX];
	size_t length = LB_HEADER_SIZE + body_length;

	if (received > length)
		received = length;
	memcpy(frame, head, received < REPLY_HEAD ? received : REPLY_HEAD);
	if (received > REPLY_HEAD)
		memcpy(frame + REPLY_HEAD, dest, received - REPLY_HEAD);
	while (received < length)
	{
		struct iovec piece = {frame + received, length - received};
		ssize_t more;

		if (!lb_data_plane_may_wait(&tcp->head, deadline_ns, status))
			return false;
		more =
			lb_data_plane_socket_receive(&tcp->head, tcp->fd, &piece, 1, NULL, deadline_ns, status);
		if (more < 0)
			return false;
		received += (size_t) more;
	}
	if (!lb_frame_intact(frame, frame + LB_HEADER_SIZE))
		return lb_fail(status, LB_PROTOCOL, "an ERROR frame was received damaged");
	return lb_data_plane_refused(frame + LB_HEADER_SIZE, body_length, status);
}

/* Is this the header of the reply to the batch, or at least of an ERROR? */
static bool
expected_header(const uint8_t *head, uint64_t sequence, int count, lb_header *header)
{
	if (!lb_decode_header(head, header))
		return false;
	if (header->type == LB_ERROR)
		return true;
	return header->type == LB_READ_REPLY && header->sequence == sequence &&
		   header->body_length == REPLY_HEAD - LB_HEADER_SIZE &&
		   header->bulk_length == (uint32_t) count * LB_PAGE_SIZE;
}

/* Receive the reply to the oldest batch. */
static bool
receive_reply(tcp_plane *tcp, uint64_t deadline_ns, lb_status *status)
{
	uint64_t ticket = tcp->head.completed + 1;
	const tcp_batch *batch = &tcp->batches[ticket % LB_BATCHES_MAX];
	uint8_t head[REPLY_HEAD];
	struct iovec pieces[1 + LB_BATCH_MAX];
	struct iovec *next = pieces;
	struct iovec *end = pieces + 1 + batch->count;
	lb_header header = {0};
	size_t received = 0;
	uint32_t count;

	pieces[0] = (struct iovec){head, REPLY_HEAD};
	for (int i = 0; i < batch->count; i++)
		pieces[1 + i] = (struct iovec){batch->dest[i], LB_PAGE_SIZE};

	for (;;)
	{
		ssize_t more = lb_data_plane_socket_receive(&tcp->head, tcp->fd, next, (int) (end - next),
													NULL, deadline_ns, status);

		if (more < 0)
			return false;
		next += advance(next, (size_t) more);
		received += (size_t) more;
		if (received >= LB_HEADER_SIZE && header.type == 0)
		{
			if (!expected_header(head, ticket, batch->count, &header))
				return lb_fail(status, LB_PROTOCOL,
							   "the node's answer is not the reply to the READ");
			if (header.type == LB_ERROR)
				return receive_error(tcp, head, batch->dest[0], received, header.body_length,
									 deadline_ns, status);
		}
		if (next == end)
			break;
		if (!lb_data_plane_may_wait(&tcp->head, deadline_ns, status))
			return false;
	}
	if (!lb_frame_intact(head, head + LB_HEADER_SIZE))
		return lb_fail(status, LB_PROTOCOL, "a READ_REPLY frame was received damaged");
	if (!lb_decode_count(head + LB_HEADER_SIZE, REPLY_HEAD - LB_HEADER_SIZE, &count) ||
		count != (uint32_t) batch->count)
		return lb_fail(status, LB_PROTOCOL, "the node's READ_REPLY has the wrong number of pages");
	tcp->head.completed = ticket;
	tcp->head.counters.pages += count;
	return true;
}

static bool
tcp_wait(lb_data_plane *plane, uint64_t ticket, uint64_t deadline_ns, lb_status *status)
{
	assert(ticket <= plane->submitted);
	while (plane->completed < ticket)
		if (!receive_reply((tcp_plane *) plane, deadline_ns, status))
			return false;
	return true;
}

static bool
tcp_submit(lb_data_plane *plane, const lb_read_target *targets, int count, uint64_t deadline_ns,
		   lb_status *status)
{
	tcp_plane *tcp = (tcp_plane *) plane;
	uint64_t ticket = plane->submitted + 1;
	tcp_batch *batch = &tcp->batches[ticket % LB_BATCHES_MAX];
	lb_read_batch request;
	uint8_t body[4 + sizeof(request.slots)];
	size_t length;

	assert(count > 0 && count <= LB_BATCH_MAX);
	if (plane->submitted - plane->completed == LB_BATCHES_MAX &&
		!tcp_wait(plane, plane->completed + 1, deadline_ns, status))
		return false;

	request.count = (uint32_t) count;
	for (int i = 0; i < count; i++)
	{
		request.slots[i] = targets[i].slot;
		batch->dest[i] = targets[i].dest;
	}
	batch->count = count;
	length = lb_encode_read(body, &request);
	if (!lb_data_plane_socket_send(plane, tcp->fd, LB_READ, ticket, body, length, deadline_ns,
								   status))
		return false;
	plane->submitted = ticket;
	plane->counters.batches++;
	plane->counters.round_trips++;
	return true;
}

static void
tcp_close(lb_data_plane *plane)
{
	close(((tcp_plane *) plane)->fd);
	free(plane);
}

const lb_data_plane_ops lb_data_plane_tcp = {
	.name = "tcp",
	.size = sizeof(tcp_plane),
	.descriptors = 1,
	.read_ahead_helps = true,
	.connect = tcp_connect,
	.submit = tcp_submit,
	.wait = tcp_wait,
	.close = tcp_close,
};
