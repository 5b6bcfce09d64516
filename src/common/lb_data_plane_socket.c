/*
 * lb_data_plane_socket.c
 *	  The blocking socket of the data planes.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_data_plane_socket.h"

#define SLICE_MS 10

bool
lb_data_plane_may_wait(const lb_data_plane *plane, uint64_t deadline_ns, lb_status *status)
{
	if (plane->cancel && plane->cancel(plane->cancel_arg))
		return lb_fail(status, LB_CANCELLED, "cancelled");
	if (lb_now_ns() >= deadline_ns)
		return lb_fail(status, LB_TIMEOUT, "no answer within the time limit");
	return true;
}

/* From now on calls on the socket block, for a slice at a time. */
static bool
make_blocking(int fd, lb_status *status)
{
	struct timeval slice = {.tv_usec = SLICE_MS * 1000};
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0 ||
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof(slice)) != 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &slice, sizeof(slice)) != 0)
		return lb_fail_errno(status, "could not set the options of a connection");
	return true;
}

/* Wait until a connect under way is decided. */
static bool
finish_connect(const lb_data_plane *plane, int fd, uint64_t deadline_ns, lb_status *status)
{
	for (;;)
	{
		struct pollfd wait = {.fd = fd, .events = POLLOUT};
		int ready = poll(&wait, 1, SLICE_MS);

		if (ready > 0)
			return lb_net_connected(fd, status);
		if (ready < 0 && errno != EINTR)
			return lb_fail_errno(status, "could not wait for a connection");
		if (!lb_data_plane_may_wait(plane, deadline_ns, status))
			return false;
	}
}

/*
 * A connected descriptor. A Unix socket whose queue of connections is full can't be waited for, only tried again.
 */
static int
connect_in_slices(const lb_data_plane *plane, const lb_address *address, uint64_t deadline_ns,
				  lb_status *status)
{
	struct timespec pause = {.tv_nsec = SLICE_MS * 1000000};
	int fd;

	while ((fd = lb_net_connect_start(address, status)) < 0)
	{
		if (errno != EAGAIN || !lb_data_plane_may_wait(plane, deadline_ns, status))
			return -1;
		nanosleep(&pause, NULL);
	}
	if (finish_connect(plane, fd, deadline_ns, status) && make_blocking(fd, status))
		return fd;
	close(fd);
	return -1;
}

/* HELLO and WELCOME. */
static bool
introduce(const lb_data_plane *plane, int fd, const lb_hello *hello, uint64_t deadline_ns,
		  lb_status *status)
{
	lb_hello ours = *hello;
	lb_welcome welcome;
	uint8_t body[LB_BODY_MAX];
	size_t length;

	ours.version_min = ours.version_max = LB_PROTOCOL_VERSION;
	ours.role = LB_ROLE_BACKEND;
	ours.take_over = false;
	ours.page_size = LB_PAGE_SIZE;
	length = lb_encode_hello(body, &ours);
	if (!lb_data_plane_socket_send(plane, fd, LB_HELLO, 0, body, length, deadline_ns, status) ||
		!lb_data_plane_socket_answer(plane, fd, LB_WELCOME, 0, body, &length, NULL, deadline_ns,
									 status))
		return false;
	if (!lb_decode_welcome(body, length, &welcome) || welcome.version != LB_PROTOCOL_VERSION)
		return lb_fail(status, LB_PROTOCOL, "the node's WELCOME is malformed");
	return true;
}

int
lb_data_plane_socket_open(const lb_data_plane *plane, const lb_address *address,
						  const lb_hello *hello, uint64_t deadline_ns, lb_status *status)
{
	int fd = connect_in_slices(plane, address, deadline_ns, status);

	if (fd >= 0 && !introduce(plane, fd, hello, deadline_ns, status))
	{
		close(fd);
		return -1;
	}
	return fd;
}

bool
lb_data_plane_socket_send(const lb_data_plane *plane, int fd, lb_frame_type type, uint64_t sequence,
						  const void *body, size_t body_length, uint64_t deadline_ns,
						  lb_status *status)
{
	uint8_t frame[LB_HEADER_SIZE + LB_BODY_MAX];
	size_t length = LB_HEADER_SIZE + body_length;
	size_t sent = 0;

	assert(body_length <= LB_BODY_MAX);
	lb_encode_header(frame, type, sequence, body, body_length, 0);
	memcpy(frame + LB_HEADER_SIZE, body, body_length);
	for (;;)
	{
		ssize_t now = send(fd, frame + sent, length - sent, MSG_NOSIGNAL);

		if (now > 0)
			sent += (size_t) now;
		else if (now < 0 && errno != EAGAIN && errno != EINTR)
			return lb_net_fail_transfer(status, "send");
		if (sent == length)
			return true;
		if (!lb_data_plane_may_wait(plane, deadline_ns, status))
			return false;
	}
}

/* Keep one descriptor, close the others: true if there was none too many. */
static bool
take_descriptors(struct msghdr *message, int *passed_fd)
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
			if (*passed_fd < 0)
				*passed_fd = fd;
			else
			{
				close(fd);
				excess = true;
			}
		}
	}
	return !excess;
}

ssize_t
lb_data_plane_socket_receive(const lb_data_plane *plane, int fd, struct iovec *pieces, int count,
							 int *passed_fd, uint64_t deadline_ns, lb_status *status)
{
	union
	{
		struct cmsghdr header;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control;

	for (;;)
	{
		struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t) count};
		ssize_t received;

		if (passed_fd)
		{
			message.msg_control = &control;
			message.msg_controllen = sizeof(control.space);
		}
		received = recvmsg(fd, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
		if (received > 0)
		{
			if (passed_fd && !take_descriptors(&message, passed_fd))
			{
				lb_fail(status, LB_PROTOCOL, "more descriptors were received than expected");
				return -1;
			}
			return received;
		}
		if (received == 0)
		{
			lb_fail(status, LB_CLOSED, "the peer closed the connection");
			return -1;
		}
		if (errno != EAGAIN && errno != EINTR)
		{
			lb_net_fail_transfer(status, "receive");
			return -1;
		}
		if (!lb_data_plane_may_wait(plane, deadline_ns, status))
			return -1;
	}
}

/* Receive exactly so many bytes. */
static bool
receive_all(const lb_data_plane *plane, int fd, uint8_t *bytes, size_t length, int *passed_fd,
			uint64_t deadline_ns, lb_status *status)
{
	while (length > 0)
	{
		struct iovec piece = {bytes, length};
		ssize_t received =
			lb_data_plane_socket_receive(plane, fd, &piece, 1, passed_fd, deadline_ns, status);

		if (received < 0)
			return false;
		bytes += received;
		length -= (size_t) received;
		if (length > 0 && !lb_data_plane_may_wait(plane, deadline_ns, status))
			return false;
	}
	return true;
}

bool
lb_data_plane_refused(const uint8_t *body, size_t length, lb_status *status)
{
	lb_error error;

	if (!lb_decode_error(body, length, &error))
		return lb_fail(status, LB_PROTOCOL, "the node's ERROR is malformed");
	lb_fail(status, LB_REFUSED, "the node refused (%s): %.200s", lb_wire_error_name(error.error),
			error.message);
	status->wire_error = error.error;
	return false;
}

static bool
receive_answer(const lb_data_plane *plane, int fd, lb_frame_type type, uint64_t sequence,
			   uint8_t *body, size_t *body_length, int *passed_fd, uint64_t deadline_ns,
			   lb_status *status)
{
	uint8_t bytes[LB_HEADER_SIZE];
	lb_header header;

	if (!receive_all(plane, fd, bytes, LB_HEADER_SIZE, passed_fd, deadline_ns, status))
		return false;
	if (!lb_decode_header(bytes, &header) || header.bulk_length > 0 ||
		(header.type != type && header.type != LB_ERROR) || header.sequence != sequence)
		return lb_fail(status, LB_PROTOCOL, "the node did not answer with %s",
					   lb_frame_type_name(type));
	if (!receive_all(plane, fd, body, header.body_length, NULL, deadline_ns, status))
		return false;
	if (!lb_frame_intact(bytes, body))
		return lb_fail(status, LB_PROTOCOL, "a %s frame was received damaged",
					   lb_frame_type_name(header.type));
	if (header.type == LB_ERROR)
		return lb_data_plane_refused(body, header.body_length, status);
	*body_length = header.body_length;
	return true;
}

bool
lb_data_plane_socket_answer(const lb_data_plane *plane, int fd, lb_frame_type type,
							uint64_t sequence, uint8_t *body, size_t *body_length, int *passed_fd,
							uint64_t deadline_ns, lb_status *status)
{
	if (passed_fd)
		*passed_fd = -1;
	if (receive_answer(plane, fd, type, sequence, body, body_length, passed_fd, deadline_ns,
					   status))
		return true;
	if (passed_fd && *passed_fd >= 0)
	{
		close(*passed_fd);
		*passed_fd = -1;
	}
	return false;
}
