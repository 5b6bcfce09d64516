/*
 * lb_net.c
 *	  Sockets: resolving, listening, connecting.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_net.h"

/*
 * A peer whose machine or network is gone is noticed by keepalive after 10 + 3 * 5 seconds of silence; the sides'
 * own time limits are shorter, but an idle connection has none.
 */
#define KEEPALIVE_IDLE_S 10
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_PROBES 3

#define FOLDER_LOCK_TRIES 100 /* 10 ms apart */

static void
sleep_10_ms(void)
{
	struct timespec pause = {.tv_nsec = 10 * 1000000};

	nanosleep(&pause, NULL);
}

static void
unix_address(const char *path, lb_address *address)
{
	struct sockaddr_un *un = (struct sockaddr_un *) &address->storage;

	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, strlen(path) + 1);
	address->length = sizeof(*un);
}

/* All addresses of this machine: IPv6 with IPv4 in it where the kernel has IPv6, else IPv4. */
static void
any_address(uint16_t port, lb_address *address)
{
	int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (probe >= 0)
	{
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *) &address->storage;

		close(probe);
		in6->sin6_family = AF_INET6;
		in6->sin6_addr = in6addr_any;
		in6->sin6_port = htons(port);
		address->length = sizeof(*in6);
	}
	else
	{
		struct sockaddr_in *in = (struct sockaddr_in *) &address->storage;

		in->sin_family = AF_INET;
		in->sin_addr.s_addr = htonl(INADDR_ANY);
		in->sin_port = htons(port);
		address->length = sizeof(*in);
	}
}

static void
nth_address(const struct addrinfo *found, unsigned number, lb_address *address)
{
	const struct addrinfo *chosen = found;
	unsigned count = 0;

	for (const struct addrinfo *each = found; each; each = each->ai_next)
		count++;
	for (unsigned i = 0; i < number % count; i++)
		chosen = chosen->ai_next;
	memcpy(&address->storage, chosen->ai_addr, chosen->ai_addrlen);
	address->length = chosen->ai_addrlen;
}

static bool
resolve(const lb_uri *uri, bool for_listening, unsigned number, lb_address *address,
		lb_status *status)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	char port[8];
	int error;

	memset(address, 0, sizeof(*address));
	if (uri->transport == LB_TRANSPORT_SHM)
	{
		unix_address(uri->path, address);
		return true;
	}
	if (strcmp(uri->host, "*") == 0)
	{
		any_address(uri->port, address);
		return true;
	}

	snprintf(port, sizeof(port), "%u", uri->port);
	hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST;
	if (for_listening)
		hints.ai_flags |= AI_PASSIVE;
	error = getaddrinfo(uri->host, port, &hints, &found);
	if (error == EAI_NONAME)
	{
		hints.ai_flags &= ~AI_NUMERICHOST;
		error = getaddrinfo(uri->host, port, &hints, &found);
	}
	if (error == EAI_SYSTEM)
		return lb_fail_errno(status, "could not resolve host \"%s\"", uri->host);
	if (error != 0)
		return lb_fail(status, LB_SYSTEM, "could not resolve host \"%s\": %s", uri->host,
					   gai_strerror(error));
	nth_address(found, number, address);
	freeaddrinfo(found);
	return true;
}

bool
lb_net_resolve(const lb_uri *uri, bool for_listening, lb_address *address, lb_status *status)
{
	return resolve(uri, for_listening, 0, address, status);
}

bool
lb_net_resolve_nth(const lb_uri *uri, unsigned number, lb_address *address, lb_status *status)
{
	return resolve(uri, false, number, address, status);
}

/* Close after a failure that errno or *status already describes. */
static int
give_up(int fd)
{
	int saved_errno = errno;

	if (fd >= 0)
		close(fd);
	errno = saved_errno;
	return -1;
}

static bool
set_option(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

/* Accepted sockets inherit these from the listening one. */
static bool
set_tcp_options(int fd)
{
	return set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) &&
		   set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1) &&
		   set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S) &&
		   set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S) &&
		   set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

static int
open_socket(const lb_address *address, lb_status *status)
{
	int family = address->storage.ss_family;
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || (family != AF_UNIX && !set_tcp_options(fd)))
	{
		lb_fail_errno(status, "could not create a socket");
		return give_up(fd);
	}
	return fd;
}

static bool
start_listening(int fd, const lb_uri *uri, const lb_address *address, lb_status *status)
{
	if (bind(fd, (const struct sockaddr *) &address->storage, address->length) != 0)
		return lb_fail_errno(status, "could not bind to \"%s\"", uri->text);
	if (listen(fd, SOMAXCONN) != 0)
		return lb_fail_errno(status, "could not listen on \"%s\"", uri->text);
	return true;
}

/*
 * Lock the folder that a socket lies in. Two nodes that start at the same moment must not both find a leftover socket
 * and remove it, because the second would remove the first one's new one. Locking the folder leaves no file behind.
 */
static int
lock_folder(const char *path, lb_status *status)
{
	char folder[LB_HOST_MAX];
	char *slash;
	int fd;

	strcpy(folder, path);
	slash = strrchr(folder, '/');
	slash[slash == folder ? 1 : 0] = '\0';
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
	{
		lb_fail_errno(status, "could not open folder \"%s\"", folder);
		return -1;
	}
	for (int i = 0; i < FOLDER_LOCK_TRIES; i++)
	{
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		sleep_10_ms();
	}
	lb_fail_errno(status, "could not lock folder \"%s\"", folder);
	return give_up(fd);
}

/* Remove the socket of a node that is gone. The caller has locked the folder. */
static bool
remove_leftover(const lb_uri *uri, const lb_address *address, lb_status *status)
{
	struct stat found;
	int fd;
	int error = 0;

	if (lstat(uri->path, &found) != 0)
	{
		if (errno == ENOENT)
			return true;
		return lb_fail_errno(status, "could not examine \"%s\"", uri->path);
	}
	if (!S_ISSOCK(found.st_mode))
		return lb_fail(status, LB_SYSTEM, "\"%s\" exists and is not a socket", uri->path);

	fd = open_socket(address, status);
	if (fd < 0)
		return false;
	if (connect(fd, (const struct sockaddr *) &address->storage, address->length) != 0)
		error = errno;
	close(fd);
	if (error != ECONNREFUSED)
	{
		/* Answered, or too busy to answer (EAGAIN), or not ours to ask (EACCES). */
		errno = error == 0 || error == EAGAIN ? EADDRINUSE : error;
		return lb_fail_errno(status, "could not bind to \"%s\"", uri->text);
	}
	if (unlink(uri->path) != 0 && errno != ENOENT)
		return lb_fail_errno(status, "could not remove the leftover socket \"%s\"", uri->path);
	return true;
}

static bool
listen_unix(int fd, const lb_uri *uri, const lb_address *address, lb_status *status)
{
	int folder = lock_folder(uri->path, status);
	bool done;

	if (folder < 0)
		return false;
	/* The mode that the file gets at bind; so there is no moment at which others may connect. */
	if (fchmod(fd, 0600) != 0)
		done = lb_fail_errno(status, "could not set the permissions of \"%s\"", uri->path);
	else
		done = remove_leftover(uri, address, status) && start_listening(fd, uri, address, status);
	close(folder);
	return done;
}

static bool
listen_tcp(int fd, const lb_uri *uri, const lb_address *address, lb_status *status)
{
	/* Without SO_REUSEADDR a restarted node would wait for old connections to leave TIME_WAIT. */
	if (!set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) ||
		(address->storage.ss_family == AF_INET6 && !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)))
		return lb_fail_errno(status, "could not set the options of the socket for \"%s\"",
							 uri->text);
	return start_listening(fd, uri, address, status);
}

int
lb_net_listen(const lb_uri *uri, const lb_address *address, lb_address *bound, lb_status *status)
{
	int fd = open_socket(address, status);
	bool listening;

	if (fd < 0)
		return -1;
	if (uri->transport == LB_TRANSPORT_SHM)
		listening = listen_unix(fd, uri, address, status);
	else
		listening = listen_tcp(fd, uri, address, status);
	if (!listening)
		return give_up(fd);

	memset(bound, 0, sizeof(*bound));
	bound->length = sizeof(bound->storage);
	if (getsockname(fd, (struct sockaddr *) &bound->storage, &bound->length) != 0)
	{
		lb_fail_errno(status, "could not read the address of the socket for \"%s\"", uri->text);
		return give_up(fd);
	}
	return fd;
}

int
lb_net_connect_start(const lb_address *address, lb_status *status)
{
	int fd = open_socket(address, status);

	if (fd < 0)
		return -1;
	/* An interrupted connect goes on by itself, like one in progress. */
	if (connect(fd, (const struct sockaddr *) &address->storage, address->length) == 0 ||
		errno == EINPROGRESS || errno == EINTR)
		return fd;
	lb_fail_errno(status, "could not connect");
	return give_up(fd);
}

bool
lb_net_connected(int fd, lb_status *status)
{
	int error = 0;
	socklen_t length = sizeof(error);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
		error = errno;
	if (error == 0)
		return true;
	errno = error;
	return lb_fail_errno(status, "could not connect");
}

/* Wait until the descriptor is writable: 1, or 0 at the deadline, or -1 with errno. */
static int
wait_writable(int fd, uint64_t deadline_ns)
{
	for (;;)
	{
		struct pollfd wait = {.fd = fd, .events = POLLOUT};
		int left_ms = lb_ms_until(deadline_ns);
		int ready = poll(&wait, 1, left_ms);

		if (ready > 0)
			return 1;
		if (ready < 0 && errno != EINTR)
			return -1;
		if (left_ms == 0)
			return 0;
	}
}

int
lb_net_connect(const lb_address *address, uint64_t deadline_ns, lb_status *status)
{
	for (;;)
	{
		int fd = lb_net_connect_start(address, status);
		int ready;

		if (fd < 0)
		{
			/* A Unix socket whose queue of connections is full answers EAGAIN and is not to be waited for. */
			if (errno != EAGAIN || lb_ms_until(deadline_ns) == 0)
				return -1;
			sleep_10_ms();
			continue;
		}
		ready = wait_writable(fd, deadline_ns);
		if (ready == 1 && lb_net_connected(fd, status))
			return fd;
		if (ready == 0)
			lb_fail(status, LB_TIMEOUT, "could not connect in time");
		else if (ready < 0)
			lb_fail_errno(status, "could not wait for a connection");
		return give_up(fd);
	}
}

bool
lb_net_fail_transfer(lb_status *status, const char *what)
{
	switch (errno)
	{
		case EPIPE:
		case ECONNRESET:
			return lb_fail(status, LB_CLOSED, "the peer closed the connection");
		case ETIMEDOUT:
		case EHOSTUNREACH:
		case ENETUNREACH:
			lb_fail_errno(status, "the connection was lost");
			status->code = LB_CLOSED;
			return false;
		default:
			return lb_fail_errno(status, "could not %s", what);
	}
}
