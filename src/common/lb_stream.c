/*
 * lb_stream.c
 *	  A buffered, non-blocking stream of frames over a connected socket.
 *
 * Descriptors on Unix sockets. The kernel delivers a descriptor with the first byte of the sendmsg that it was given to,
 * and a receive never goes on past the data of that sendmsg. Two rules of the sender make it unambiguous whose it is: it
 * is sent with the first bytes of its frame, and in a sendmsg that has no byte of another frame. So on the receiving
 * side a descriptor belongs to the frame that has the last byte of the receive it came with.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lb_net.h"
#include "lb_stream.h"

#define INPUT_SMALL 4096 /* bytes: enough for every frame without bulk that is sent often */
#define OUTPUT_SMALL 4096
#define FRAMES_UNTIL_SHRINK 16 /* small frames in a row before a large input buffer is given up */
#define QUEUED_FDS_MAX 16
#define DESCRIPTORS_PER_MESSAGE 4 /* room for a misbehaving peer's, so that they can be closed */

typedef struct queued_fd
{
	uint64_t begin; /* positions in the output of its frame */
	uint64_t end;
	int fd;
} queued_fd;

struct lb_stream
{
	int fd;

	/* Input: the bytes from in_begin to in_end of the buffer wait to be taken as frames. */
	uint8_t *in;
	size_t in_capacity;
	size_t in_begin;
	size_t in_end;
	int small_frames; /* in a row, see FRAMES_UNTIL_SHRINK */
	int in_fd;        /* a descriptor that came, or -1 ... */
	size_t in_fd_at;  /* ... with the byte at this offset of the buffer */

	/* Output: what the socket did not take at once. Positions count all bytes that were ever given to the socket. */
	uint8_t *out;
	size_t out_capacity;
	size_t out_begin;
	size_t out_end;
	size_t out_limit;
	uint64_t sent; /* position of out[out_begin] */
	int queued_fd_count;
	queued_fd queued_fds[QUEUED_FDS_MAX];
};

lb_stream *
lb_stream_create(int fd, size_t output_limit, lb_status *status)
{
	lb_stream *stream = calloc(1, sizeof(*stream));
	uint8_t *in = malloc(INPUT_SMALL);

	if (stream == NULL || in == NULL)
	{
		lb_fail_errno(status, "could not allocate a connection's buffers");
		free(stream);
		free(in);
		close(fd);
		return NULL;
	}
	stream->fd = fd;
	stream->in = in;
	stream->in_capacity = INPUT_SMALL;
	stream->in_fd = -1;
	stream->out_limit = output_limit;
	return stream;
}

void
lb_stream_close(lb_stream *stream)
{
	close(stream->fd);
	if (stream->in_fd >= 0)
		close(stream->in_fd);
	for (int i = 0; i < stream->queued_fd_count; i++)
		close(stream->queued_fds[i].fd);
	free(stream->in);
	free(stream->out);
	free(stream);
}

int
lb_stream_fd(const lb_stream *stream)
{
	return stream->fd;
}

bool
lb_stream_wants_write(const lb_stream *stream)
{
	return stream->out_end > stream->out_begin;
}

/* One sendmsg. The number of bytes taken, 0 if the socket is full or still connecting, -1 with a status. */
static ssize_t
send_pieces(int fd, struct iovec *pieces, size_t count, int pass_fd, lb_status *status)
{
	union
	{
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
	ssize_t sent;

	if (pass_fd >= 0)
	{
		struct cmsghdr *part;

		memset(&control, 0, sizeof(control));
		message.msg_control = &control;
		message.msg_controllen = sizeof(control.space);
		part = CMSG_FIRSTHDR(&message);
		part->cmsg_level = SOL_SOCKET;
		part->cmsg_type = SCM_RIGHTS;
		part->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(part), &pass_fd, sizeof(int));
	}
	do
		sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent >= 0)
		return sent;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return 0;
	lb_net_fail_transfer(status, "send");
	return -1;
}

/* Make room for more bytes of output, within the limit. */
static bool
reserve_output(lb_stream *stream, size_t more, lb_status *status)
{
	size_t queued = stream->out_end - stream->out_begin;
	size_t capacity = stream->out_capacity > 0 ? stream->out_capacity : OUTPUT_SMALL;
	uint8_t *larger;

	if (queued + more > stream->out_limit)
		return lb_fail(status, LB_TIMEOUT,
					   "the peer does not read: %zu bytes wait to be sent to it", queued);
	if (stream->out_capacity - stream->out_end >= more)
		return true;
	if (stream->out_begin > 0)
	{
		memmove(stream->out, stream->out + stream->out_begin, queued);
		stream->out_begin = 0;
		stream->out_end = queued;
		if (stream->out_capacity - queued >= more)
			return true;
	}
	while (capacity < queued + more)
		capacity *= 2;
	larger = realloc(stream->out, capacity);
	if (larger == NULL)
		return lb_fail_errno(status, "could not allocate %zu bytes for output", capacity);
	stream->out = larger;
	stream->out_capacity = capacity;
	return true;
}

/* Append the pieces to the output, without their first skip bytes. */
static bool
queue_pieces(lb_stream *stream, const struct iovec *pieces, size_t count, size_t skip, size_t total,
			 lb_status *status)
{
	if (!reserve_output(stream, total - skip, status))
		return false;
	for (size_t i = 0; i < count; i++)
	{
		size_t skipped = skip < pieces[i].iov_len ? skip : pieces[i].iov_len;
		size_t length = pieces[i].iov_len - skipped;

		skip -= skipped;
		if (length == 0)
			continue;
		memcpy(stream->out + stream->out_end, (const uint8_t *) pieces[i].iov_base + skipped,
			   length);
		stream->out_end += length;
	}
	return true;
}

/* Remember a descriptor for the frame that begins where the output ends now. */
static bool
queue_fd(lb_stream *stream, int fd, size_t frame_length, lb_status *status)
{
	queued_fd *queued = &stream->queued_fds[stream->queued_fd_count];

	if (stream->queued_fd_count == QUEUED_FDS_MAX)
		return lb_fail(status, LB_TIMEOUT, "the peer does not read: %d descriptors wait to be sent",
					   QUEUED_FDS_MAX);
	queued->begin = stream->sent + (stream->out_end - stream->out_begin);
	queued->end = queued->begin + frame_length;
	queued->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (queued->fd < 0)
		return lb_fail_errno(status, "could not duplicate a descriptor");
	stream->queued_fd_count++;
	return true;
}

bool
lb_stream_send(lb_stream *stream, lb_frame_type type, uint64_t sequence, const void *body,
			   size_t body_length, const struct iovec *bulk, int bulk_count, int pass_fd,
			   lb_status *status)
{
	uint8_t header[LB_HEADER_SIZE];
	struct iovec pieces[2 + LB_BATCH_MAX];
	size_t count = 2 + (size_t) bulk_count;
	size_t bulk_length = 0;
	size_t total;
	ssize_t sent = 0;

	assert(bulk_count <= LB_BATCH_MAX);
	for (int i = 0; i < bulk_count; i++)
	{
		pieces[2 + i] = bulk[i];
		bulk_length += bulk[i].iov_len;
	}
	lb_encode_header(header, type, sequence, body, body_length, bulk_length);
	pieces[0] = (struct iovec){header, LB_HEADER_SIZE};
	pieces[1] = (struct iovec){(void *) body, body_length};
	total = LB_HEADER_SIZE + body_length + bulk_length;

	if (!lb_stream_wants_write(stream))
	{
		sent = send_pieces(stream->fd, pieces, count, pass_fd, status);
		if (sent < 0)
			return false;
		stream->sent += (uint64_t) sent;
		if ((size_t) sent == total)
			return true;
		if (sent > 0)
			pass_fd = -1;
	}
	if (pass_fd >= 0 && !queue_fd(stream, pass_fd, total, status))
		return false;
	return queue_pieces(stream, pieces, count, (size_t) sent, total, status);
}

/* Send the start of the queue, with a descriptor if it is the turn of one. The same results as send_pieces. */
static ssize_t
flush_once(lb_stream *stream, lb_status *status)
{
	struct iovec piece = {stream->out + stream->out_begin, stream->out_end - stream->out_begin};
	queued_fd *next = stream->queued_fd_count > 0 ? &stream->queued_fds[0] : NULL;
	int pass_fd = -1;
	ssize_t sent;

	if (next && next->begin == stream->sent)
	{
		pass_fd = next->fd;
		piece.iov_len = next->end - next->begin;
	}
	else if (next)
		piece.iov_len = next->begin - stream->sent;

	sent = send_pieces(stream->fd, &piece, 1, pass_fd, status);
	if (sent <= 0)
		return sent;
	if (pass_fd >= 0)
	{
		close(pass_fd);
		stream->queued_fd_count--;
		memmove(next, next + 1, (size_t) stream->queued_fd_count * sizeof(*next));
	}
	stream->sent += (uint64_t) sent;
	stream->out_begin += (size_t) sent;
	return sent;
}

bool
lb_stream_flush(lb_stream *stream, lb_status *status)
{
	while (lb_stream_wants_write(stream))
	{
		ssize_t sent = flush_once(stream, status);

		if (sent < 0)
			return false;
		if (sent == 0)
			return true;
	}
	stream->out_begin = stream->out_end = 0;
	if (stream->out_capacity > OUTPUT_SMALL)
	{
		free(stream->out);
		stream->out = NULL;
		stream->out_capacity = 0;
	}
	return true;
}

/*
 * How long the frame at the start of the input is: LB_HEADER_SIZE while the header is not there yet. False with
 * LB_PROTOCOL if it is not a header.
 */
static bool
front_length(const lb_stream *stream, lb_header *header, size_t *length, lb_status *status)
{
	*length = LB_HEADER_SIZE;
	if (stream->in_end - stream->in_begin < LB_HEADER_SIZE)
		return true;
	if (!lb_decode_header(stream->in + stream->in_begin, header))
		return lb_fail(status, LB_PROTOCOL, "what was received is not a frame");
	*length += header->body_length + header->bulk_length;
	return true;
}

/* Move the input to the start of the buffer, and make the buffer large enough for the frame that is being received. */
static bool
reserve_input(lb_stream *stream, size_t length, lb_status *status)
{
	size_t filled = stream->in_end - stream->in_begin;

	if (stream->in_begin > 0)
	{
		memmove(stream->in, stream->in + stream->in_begin, filled);
		stream->in_fd_at -= stream->in_begin;
		stream->in_begin = 0;
		stream->in_end = filled;
	}
	if (length > stream->in_capacity)
	{
		uint8_t *larger = realloc(stream->in, length);

		if (larger == NULL)
			return lb_fail_errno(status, "could not allocate %zu bytes for input", length);
		stream->in = larger;
		stream->in_capacity = length;
	}
	return true;
}

/* Keep the descriptor that came with a receive; more than one is more than any frame may have. */
static bool
take_descriptors(lb_stream *stream, struct msghdr *message, lb_status *status)
{
	bool excess = (message->msg_flags & MSG_CTRUNC) != 0;

	for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
	{
		size_t count;

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++)
		{
			int fd;

			memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
			if (stream->in_fd < 0)
			{
				stream->in_fd = fd;
				stream->in_fd_at = stream->in_end - 1;
				continue;
			}
			close(fd);
			excess = true;
		}
	}
	if (excess)
		return lb_fail(status, LB_PROTOCOL, "more descriptors were received than the frame has");
	return true;
}

/* One recvmsg of at most room bytes. 1: some came, 0: none there, -1: failed. */
static int
receive(lb_stream *stream, size_t room, lb_status *status)
{
	union
	{
		struct cmsghdr header;
		char space[CMSG_SPACE(DESCRIPTORS_PER_MESSAGE * sizeof(int))];
	} control;
	struct iovec piece = {stream->in + stream->in_end, room};
	struct msghdr message = {.msg_iov = &piece,
							 .msg_iovlen = 1,
							 .msg_control = &control,
							 .msg_controllen = sizeof(control.space)};
	ssize_t received;

	do
		received = recvmsg(stream->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (received < 0 && errno == EINTR);
	if (received < 0)
	{
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		lb_net_fail_transfer(status, "receive");
		return -1;
	}
	if (received == 0)
	{
		lb_fail(status, LB_CLOSED, "the peer closed the connection");
		return -1;
	}
	stream->in_end += (size_t) received;
	return take_descriptors(stream, &message, status) ? 1 : -1;
}

/*
 * Each turn receives for the frame at the front. It ends when that frame is complete, so that what is read ahead is
 * limited by the buffer's size, or when the socket had less than asked for.
 */
bool
lb_stream_fill(lb_stream *stream, size_t accept_bulk, lb_status *status)
{
	for (;;)
	{
		lb_header header = {0};
		size_t length;
		size_t filled;
		size_t room;
		int got;

		if (!front_length(stream, &header, &length, status))
			return false;
		filled = stream->in_end - stream->in_begin;
		if (filled >= LB_HEADER_SIZE && header.bulk_length > accept_bulk)
			return lb_fail(status, LB_PROTOCOL,
						   "a %s frame with %u bytes of pages came out of turn",
						   lb_frame_type_name(header.type), header.bulk_length);
		if (filled >= LB_HEADER_SIZE && filled >= length)
			return true;
		if (!reserve_input(stream, length, status))
			return false;

		/* With a descriptor that nobody took yet, read no further than its frame: another could come. */
		room = stream->in_fd >= 0 ? length - filled : stream->in_capacity - filled;
		got = receive(stream, room, status);
		if (got < 0)
			return false;
		if (got == 0 || stream->in_end - stream->in_begin < filled + room)
			return true;
	}
}

/* Give up a large buffer when it is empty and has not been needed for a while. */
static void
shrink_input(lb_stream *stream)
{
	uint8_t *smaller;

	stream->in_begin = stream->in_end = 0;
	if (stream->in_capacity == INPUT_SMALL || stream->small_frames < FRAMES_UNTIL_SHRINK)
		return;
	smaller = realloc(stream->in, INPUT_SMALL);
	if (smaller == NULL)
		return;
	stream->in = smaller;
	stream->in_capacity = INPUT_SMALL;
}

int
lb_stream_next(lb_stream *stream, lb_frame *frame, lb_status *status)
{
	const uint8_t *start = stream->in + stream->in_begin;
	size_t filled = stream->in_end - stream->in_begin;
	size_t length;

	if (filled == 0)
		shrink_input(stream);
	if (filled < LB_HEADER_SIZE)
		return 0;
	if (!front_length(stream, &frame->header, &length, status))
		return -1;
	if (filled < length)
		return 0;
	frame->body = start + LB_HEADER_SIZE;
	frame->bulk = frame->body + frame->header.body_length;
	frame->fd = -1;
	if (!lb_frame_intact(start, frame->body))
	{
		lb_fail(status, LB_PROTOCOL, "a %s frame was received damaged",
				lb_frame_type_name(frame->header.type));
		return -1;
	}

	stream->in_begin += length;
	if (stream->in_fd >= 0 && stream->in_fd_at < stream->in_begin)
	{
		frame->fd = stream->in_fd;
		stream->in_fd = -1;
	}
	if (length > INPUT_SMALL)
		stream->small_frames = 0;
	else if (stream->small_frames < FRAMES_UNTIL_SHRINK)
		stream->small_frames++;
	return 1;
}
