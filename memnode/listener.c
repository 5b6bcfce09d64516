/*
 * listener.c
 *	  Where the memory node accepts connections.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lb_fault.h"
#include "listener.h"
#include "log.h"
#include "session.h"

#define ACCEPTS_PER_TURN 32

/* How long sent data may stay unacknowledged, or the peer's window closed, before the connection is given up. */
#define TCP_USER_TIMEOUT_MS 30000

/* Room for strangers and refused sessions beyond --max-sessions; see hello.c for the limit itself. */
#define SESSIONS_BEYOND_LIMIT 1024

static int reserve_fd = -1;

bool
listener_reserve_fd(lb_status *status)
{
	reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return reserve_fd >= 0 ? true : lb_fail_errno(status, "cannot open /dev/null");
}

void
listener_free_reserve_fd(void)
{
	if (reserve_fd >= 0)
		close(reserve_fd);
	reserve_fd = -1;
}

static void
name_peer(int fd, lb_transport transport, char *name, size_t size)
{
	struct ucred credentials;
	socklen_t length = sizeof(credentials);
	struct sockaddr_storage address;
	char host[INET6_ADDRSTRLEN + 20] = "?";
	char port[8] = "?";

	if (transport == LB_TRANSPORT_SHM)
	{
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0)
			snprintf(name, size, "process %d of user %u", (int) credentials.pid, credentials.uid);
		else
			snprintf(name, size, "a local process");
		return;
	}
	length = sizeof(address);
	if (getpeername(fd, (struct sockaddr *) &address, &length) == 0)
		getnameinfo((struct sockaddr *) &address, length, host, sizeof(host), port, sizeof(port),
					NI_NUMERICHOST | NI_NUMERICSERV);
	if (strchr(host, ':'))
		snprintf(name, size, "[%s]:%s", host, port);
	else
		snprintf(name, size, "%s:%s", host, port);
}

/* Say why, as far as that is possible without a session, and close. */
static void
turn_away(listener *listener, int fd, const char *reason)
{
	lb_error error = {.error = LB_ERR_LIMIT};
	uint8_t frame[LB_HEADER_SIZE + LB_BODY_MAX];
	char peer[PEER_NAME_SIZE];
	size_t length;

	name_peer(fd, listener->uri->transport, peer, sizeof(peer));
	log_limited(LOG_WARNING, "%s: refused: %s", peer, reason);
	listener->node->refused_sessions++;
	snprintf(error.message, sizeof(error.message), "%s", reason);
	length = lb_encode_error(frame + LB_HEADER_SIZE, &error);
	lb_encode_header(frame, LB_ERROR, 0, frame + LB_HEADER_SIZE, length, 0);
	if (send(fd, frame, LB_HEADER_SIZE + length, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		shutdown(fd, SHUT_WR);
	close(fd);
}

static void
pause_accepting(listener *listener)
{
	event_del(listener->event);
	listener->paused = true;
}

/*
 * No descriptor is left for the connection that waits. If it were left waiting, the event loop would turn round it
 * without end; so it is refused, with the descriptor that is kept for this.
 */
static void
refuse_without_descriptor(listener *listener)
{
	lb_status status;
	int fd;

	listener_free_reserve_fd();
	fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		turn_away(listener, fd, "this memory node is out of descriptors");
	if (!listener_reserve_fd(&status) || fd < 0)
		pause_accepting(listener);
}

static void
welcome_connection(listener *listener, int fd)
{
	node *node = listener->node;
	char peer[PEER_NAME_SIZE];
	int timeout_ms = TCP_USER_TIMEOUT_MS;

	if (LB_FAULT("memnode.accept"))
	{
		close(fd);
		return;
	}
	if (node->session_count >= node->options->max_sessions + SESSIONS_BEYOND_LIMIT)
	{
		turn_away(listener, fd, "this memory node has too many sessions");
		return;
	}
	/* best effort: without it, a peer that vanished is noticed later */
	if (listener->uri->transport != LB_TRANSPORT_SHM)
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
	name_peer(fd, listener->uri->transport, peer, sizeof(peer));
	if (!session_open(node, fd, listener->uri->transport, peer))
		log_limited(LOG_WARNING, "%s: refused: out of memory", peer);
}

static void
on_connection(evutil_socket_t listening_fd, short what, void *arg)
{
	listener *self = arg;

	(void) what;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++)
	{
		int fd = accept4(listening_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
		{
			welcome_connection(self, fd);
			continue;
		}
		switch (errno)
		{
			case EAGAIN:
				return;
			case EMFILE:
			case ENFILE:
				refuse_without_descriptor(self);
				return;
			case ENOBUFS:
			case ENOMEM:
				log_limited(LOG_WARNING, "cannot accept connections: %s", strerror(errno));
				pause_accepting(self);
				return;
			default:
				break; /* the connection that waited is gone: an error of its own, not of the listener */
		}
	}
}

static void
write_bound_uri(listener *listener)
{
	const lb_uri *uri = listener->uri;
	const struct sockaddr *address = (const struct sockaddr *) &listener->bound.storage;
	unsigned port = uri->port;

	if (uri->transport == LB_TRANSPORT_SHM)
	{
		snprintf(listener->bound_uri, sizeof(listener->bound_uri), "%s", uri->text);
		return;
	}
	if (address->sa_family == AF_INET)
		port = ntohs(((const struct sockaddr_in *) address)->sin_port);
	else if (address->sa_family == AF_INET6)
		port = ntohs(((const struct sockaddr_in6 *) address)->sin6_port);
	snprintf(listener->bound_uri, sizeof(listener->bound_uri),
			 strchr(uri->host, ':') ? "%s://[%s]:%u" : "%s://%s:%u",
			 lb_transport_name(uri->transport), uri->host, port);
}

bool
listener_open(listener *listener, node *node, const lb_uri *uri, lb_status *status)
{
	lb_address address;
	struct stat socket_file;

	listener->node = node;
	listener->uri = uri;
	listener->fd = -1;
	if (!lb_net_resolve(uri, true, &address, status))
		return false;
	listener->fd = lb_net_listen(uri, &address, &listener->bound, status);
	if (listener->fd < 0)
		return false;
	write_bound_uri(listener);
	if (uri->transport == LB_TRANSPORT_SHM && stat(uri->path, &socket_file) == 0)
	{
		listener->socket_device = socket_file.st_dev;
		listener->socket_inode = socket_file.st_ino;
	}
	listener->event =
		event_new(node->base, listener->fd, EV_READ | EV_PERSIST, on_connection, listener);
	listener->paused = true;
	return listener->event ? true : lb_fail(status, LB_SYSTEM, "out of memory");
}

void
listener_resume(listener *listener)
{
	if (!listener->paused)
		return;
	event_add(listener->event, NULL);
	listener->paused = false;
}

void
listener_close(listener *listener)
{
	struct stat socket_file;

	if (listener->event)
		event_free(listener->event);
	if (listener->fd < 0)
		return;
	if (listener->uri->transport == LB_TRANSPORT_SHM &&
		stat(listener->uri->path, &socket_file) == 0 &&
		socket_file.st_dev == listener->socket_device &&
		socket_file.st_ino == listener->socket_inode)
		unlink(listener->uri->path);
	close(listener->fd);
}
