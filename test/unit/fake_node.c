/*
 * fake_node.c
 *	  The other side of a data plane. A failure here is a failure of the test: the process aborts.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_node.h"

struct fake_node
{
	fake_script script;
	void *arg;
	bool many;
	int listening;
	lb_address bound;
	char folder[32];
	char path[64];
	pthread_t thread;
};

static void
require(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fake node: %s\n", what);
	abort();
}

static void *
run(void *arg)
{
	fake_node *node = arg;
	int socket;

	/* It is not blocking; and when fake_node_stop has shut it down it is readable, but accepts nothing. */
	do
	{
		struct pollfd wait = {.fd = node->listening, .events = POLLIN};

		poll(&wait, 1, -1);
		socket = accept4(node->listening, NULL, NULL, SOCK_CLOEXEC);
		if (socket < 0)
			continue;
		node->script(socket, node->arg);
		close(socket);
	} while (socket < 0 ? errno == EINTR || errno == EAGAIN : node->many);
	return NULL;
}

static fake_node *
start(lb_transport transport, fake_script script, void *arg, bool many)
{
	fake_node *node = calloc(1, sizeof(*node));
	char text[128];
	lb_uri uri;
	lb_address address;
	lb_status status;

	require(node != NULL, "no memory");
	node->script = script;
	node->arg = arg;
	node->many = many;
	strcpy(text, "tcp://127.0.0.1:0");
	if (transport == LB_TRANSPORT_SHM)
	{
		strcpy(node->folder, "/tmp/fake_node.XXXXXX");
		require(mkdtemp(node->folder) != NULL, "no folder");
		snprintf(node->path, sizeof(node->path), "%s/sock", node->folder);
		snprintf(text, sizeof(text), "shm://%s", node->path);
	}
	require(lb_uri_parse(text, true, &uri, &status), "bad address");
	require(lb_net_resolve(&uri, true, &address, &status), "no address");
	node->listening = lb_net_listen(&uri, &address, &node->bound, &status);
	require(node->listening >= 0, "cannot listen");
	require(pthread_create(&node->thread, NULL, run, node) == 0, "no thread");
	return node;
}

fake_node *
fake_node_start(lb_transport transport, fake_script script, void *arg)
{
	return start(transport, script, arg, false);
}

fake_node *
fake_node_start_many(lb_transport transport, fake_script script, void *arg)
{
	return start(transport, script, arg, true);
}

const lb_address *
fake_node_address(const fake_node *node)
{
	return &node->bound;
}

void
fake_node_stop(fake_node *node)
{
	if (node->many)
		shutdown(node->listening, SHUT_RD);
	require(pthread_join(node->thread, NULL) == 0, "cannot join");
	close(node->listening);
	if (node->folder[0])
	{
		unlink(node->path);
		rmdir(node->folder);
	}
	free(node);
}

static bool
receive_all(int socket, uint8_t *bytes, size_t length)
{
	while (length > 0)
	{
		ssize_t received = recv(socket, bytes, length, 0);

		if (received <= 0)
			return false;
		bytes += received;
		length -= (size_t) received;
	}
	return true;
}

bool
fake_receive(int socket, lb_header *header, uint8_t *body)
{
	uint8_t bytes[LB_HEADER_SIZE];

	if (!receive_all(socket, bytes, sizeof(bytes)))
		return false;
	require(lb_decode_header(bytes, header), "received something else than a frame");
	require(header->bulk_length == 0, "received bulk");
	if (!receive_all(socket, body, header->body_length))
		return false;
	require(lb_frame_intact(bytes, body), "received a damaged frame");
	return true;
}

void
fake_send(int socket, const void *bytes, size_t length)
{
	const uint8_t *next = bytes;

	while (length > 0)
	{
		ssize_t sent = send(socket, next, length, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		next += sent;
		length -= (size_t) sent;
	}
}

void
fake_send_frame(int socket, lb_frame_type type, uint64_t sequence, const void *body,
				size_t body_length, int pass_fd, int times)
{
	uint8_t bytes[LB_HEADER_SIZE + LB_BODY_MAX];
	union
	{
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control = {0};
	struct iovec piece = {bytes, LB_HEADER_SIZE + body_length};
	struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};

	lb_encode_header(bytes, type, sequence, body, body_length, 0);
	if (body_length > 0)
		memcpy(bytes + LB_HEADER_SIZE, body, body_length);
	if (pass_fd < 0)
	{
		fake_send(socket, bytes, piece.iov_len);
		return;
	}
	message.msg_control = &control;
	message.msg_controllen = CMSG_SPACE((size_t) times * sizeof(int));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN((size_t) times * sizeof(int));
	for (int i = 0; i < times; i++)
		memcpy(CMSG_DATA(&control.header) + (size_t) i * sizeof(int), &pass_fd, sizeof(int));
	require(sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t) piece.iov_len, "cannot send");
}

void
fake_send_error(int socket, uint64_t sequence, lb_wire_error error, const char *message)
{
	lb_error refusal = {.error = (uint16_t) error};
	uint8_t body[LB_BODY_MAX];

	snprintf(refusal.message, sizeof(refusal.message), "%s", message);
	fake_send_frame(socket, LB_ERROR, sequence, body, lb_encode_error(body, &refusal), -1, 0);
}

void
fake_welcome(int socket, lb_hello *hello)
{
	lb_welcome welcome = {.version = LB_PROTOCOL_VERSION, .incarnation = 1};
	lb_header header;
	uint8_t body[LB_BODY_MAX];

	require(fake_receive(socket, &header, body), "closed instead of a HELLO");
	require(header.type == LB_HELLO && lb_decode_hello(body, header.body_length, hello),
			"received something else than a HELLO");
	fake_send_frame(socket, LB_WELCOME, header.sequence, body, lb_encode_welcome(body, &welcome),
					-1, 0);
}

void
fake_wait_closed(int socket)
{
	uint8_t byte;

	while (recv(socket, &byte, 1, 0) > 0)
		continue;
}
