/*
 * test_net.c
 *	  Sockets: listening, leftovers, permissions, connecting within a time limit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_net.h"

#define MS UINT64_C(1000000)

static lb_status status;
static char folder[] = "/tmp/test_net.XXXXXX";
static lb_uri socket_uri;
static lb_address socket_address;

static int
make_folder(void **state)
{
	char text[100];

	(void) state;
	if (mkdtemp(folder) == NULL)
		return -1;
	snprintf(text, sizeof(text), "shm://%s/node.sock", folder);
	return lb_uri_parse(text, true, &socket_uri, &status) &&
				   lb_net_resolve(&socket_uri, true, &socket_address, &status)
			   ? 0
			   : -1;
}

static int
remove_folder(void **state)
{
	(void) state;
	unlink(socket_uri.path);
	return rmdir(folder);
}

static int
listen_on_socket(void)
{
	lb_address bound;

	return lb_net_listen(&socket_uri, &socket_address, &bound, &status);
}

static int
listen_on_loopback(const char *text, lb_address *bound)
{
	lb_uri uri;
	lb_address address;

	assert_true(lb_uri_parse(text, true, &uri, &status));
	assert_true(lb_net_resolve(&uri, true, &address, &status));
	return lb_net_listen(&uri, &address, bound, &status);
}

static void
test_unix_socket(void **state)
{
	struct stat file;
	mode_t before = umask(0);
	int listening = listen_on_socket();
	int connected;

	(void) state;
	umask(before);
	assert_true(listening >= 0);
	assert_int_equal(fcntl(listening, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(listening, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_int_equal(stat(socket_uri.path, &file), 0);
	assert_int_equal(file.st_mode & 0777, 0600);
	connected = lb_net_connect(&socket_address, lb_now_ns() + 1000 * MS, &status);
	assert_true(connected >= 0);
	assert_int_equal(fcntl(connected, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(connected, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	close(connected);

	/* In use as long as somebody listens, a leftover afterwards. */
	assert_int_equal(listen_on_socket(), -1);
	assert_int_equal(status.code, LB_SYSTEM);
	assert_non_null(strstr(status.message, "Address already in use"));
	close(listening);
	assert_int_equal(lb_net_connect(&socket_address, lb_now_ns() + 1000 * MS, &status), -1);
	assert_non_null(strstr(status.message, "Connection refused"));
	listening = listen_on_socket();
	assert_true(listening >= 0);
	close(listening);
	unlink(socket_uri.path);
}

static void
test_not_a_socket(void **state)
{
	int fd = open(socket_uri.path, O_CREAT | O_RDWR, 0600);

	(void) state;
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(listen_on_socket(), -1);
	assert_non_null(strstr(status.message, "is not a socket"));
	assert_int_equal(access(socket_uri.path, F_OK), 0);
	unlink(socket_uri.path);
}

static void
test_no_folder(void **state)
{
	lb_uri uri;
	lb_address address;
	lb_address bound;

	(void) state;
	assert_true(lb_uri_parse("shm:///no/such/folder/node.sock", true, &uri, &status));
	assert_true(lb_net_resolve(&uri, true, &address, &status));
	assert_int_equal(lb_net_listen(&uri, &address, &bound, &status), -1);
	assert_non_null(strstr(status.message, "\"/no/such/folder\""));
}

/* A listener whose queue is full: connecting ends at the deadline. */
static void
test_full_queue(void **state)
{
	int listening = listen_on_socket();
	int waiting[2];
	uint64_t before;

	(void) state;
	assert_true(listening >= 0);
	assert_int_equal(listen(listening, 0), 0);
	waiting[0] = lb_net_connect(&socket_address, lb_now_ns() + 1000 * MS, &status);
	assert_true(waiting[0] >= 0);
	before = lb_now_ns();
	waiting[1] = lb_net_connect(&socket_address, before + 60 * MS, &status);
	assert_int_equal(waiting[1], -1);
	assert_true(lb_now_ns() - before >= 50 * MS);
	assert_true(lb_now_ns() - before < 2000 * MS);
	close(waiting[0]);
	close(listening);
	unlink(socket_uri.path);
}

static int
tcp_option(int fd, int level, int option)
{
	int value = 0;
	socklen_t length = sizeof(value);

	assert_int_equal(getsockopt(fd, level, option, &value, &length), 0);
	return value;
}

static void
test_tcp(void **state)
{
	lb_address bound;
	int listening = listen_on_loopback("tcp://127.0.0.1:0", &bound);
	struct sockaddr_in *in = (struct sockaddr_in *) &bound.storage;
	char text[64];
	int connected;
	int accepted;
	lb_address other;

	(void) state;
	assert_true(listening >= 0);
	assert_int_not_equal(in->sin_port, 0);
	connected = lb_net_connect(&bound, lb_now_ns() + 1000 * MS, &status);
	assert_true(connected >= 0);
	accepted = accept(listening, NULL, NULL);
	assert_true(accepted >= 0);
	for (int i = 0; i < 2; i++)
	{
		int fd = i == 0 ? connected : accepted;

		assert_true(tcp_option(fd, IPPROTO_TCP, TCP_NODELAY));
		assert_true(tcp_option(fd, SOL_SOCKET, SO_KEEPALIVE));
		assert_int_equal(tcp_option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 10);
	}

	snprintf(text, sizeof(text), "tcp://127.0.0.1:%d", ntohs(in->sin_port));
	assert_int_equal(listen_on_loopback(text, &other), -1);
	assert_non_null(strstr(status.message, "Address already in use"));
	assert_non_null(strstr(status.message, text));
	close(connected);
	close(accepted);
	close(listening);
	assert_int_equal(lb_net_connect(&bound, lb_now_ns() + 1000 * MS, &status), -1);
	assert_non_null(strstr(status.message, "Connection refused"));

	/* Connections in TIME_WAIT do not keep a restarted node from its port. */
	listening = listen_on_loopback(text, &other);
	assert_true(listening >= 0);
	close(listening);
}

static void
test_names(void **state)
{
	lb_uri uri;
	lb_address address;
	int fd;

	(void) state;
	assert_true(lb_uri_parse("tcp://localhost:5", false, &uri, &status));
	assert_true(lb_net_resolve(&uri, false, &address, &status));
	assert_true(lb_uri_parse("tcp://no-such-host.invalid:5", false, &uri, &status));
	assert_false(lb_net_resolve(&uri, false, &address, &status));
	assert_int_equal(status.code, LB_SYSTEM);
	assert_non_null(strstr(status.message, "no-such-host.invalid"));
	assert_true(lb_uri_parse("tcp://[::1]:5", false, &uri, &status));
	assert_true(lb_net_resolve(&uri, false, &address, &status));
	assert_int_equal(address.storage.ss_family, AF_INET6);

	/* All addresses: only resolved, not listened on, because tests stay on this machine. */
	assert_true(lb_uri_parse("tcp://*:5", true, &uri, &status));
	assert_true(lb_net_resolve(&uri, true, &address, &status));
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	assert_int_equal(address.storage.ss_family, fd >= 0 ? AF_INET6 : AF_INET);
	if (fd >= 0)
		close(fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unix_socket), cmocka_unit_test(test_not_a_socket),
		cmocka_unit_test(test_no_folder),   cmocka_unit_test(test_full_queue),
		cmocka_unit_test(test_tcp),         cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
