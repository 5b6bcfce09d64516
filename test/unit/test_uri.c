/*
 * test_uri.c
 *	  Addresses of memory nodes: what is accepted, and what the message says of what is not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "lb_uri.h"

static void
accept_host(const char *text, bool for_listening, lb_transport transport, const char *host,
			uint16_t port)
{
	lb_uri uri;
	lb_status status;

	if (!lb_uri_parse(text, for_listening, &uri, &status))
		fail_msg("%s: %s", text, status.message);
	assert_int_equal(uri.transport, transport);
	assert_string_equal(uri.host, host);
	assert_int_equal(uri.port, port);
	assert_string_equal(uri.path, "");
	assert_string_equal(uri.text, text);
}

static void
accept_path(const char *text, const char *path)
{
	lb_uri uri;
	lb_status status;

	if (!lb_uri_parse(text, false, &uri, &status))
		fail_msg("%s: %s", text, status.message);
	assert_int_equal(uri.transport, LB_TRANSPORT_SHM);
	assert_string_equal(uri.path, path);
	assert_string_equal(uri.host, "");
	assert_int_equal(uri.port, 0);
}

static void
refuse(const char *text, bool for_listening, const char *because)
{
	lb_uri uri;
	lb_status status = {0};

	if (lb_uri_parse(text, for_listening, &uri, &status))
		fail_msg("%s was accepted", text);
	assert_int_equal(status.code, LB_INVALID);
	if (strstr(status.message, because) == NULL)
		fail_msg("%s: \"%s\" does not say \"%s\"", text, status.message, because);
}

static void
test_accepted(void **state)
{
	(void) state;
	accept_host("tcp://127.0.0.1:9876", false, LB_TRANSPORT_TCP, "127.0.0.1", 9876);
	accept_host("tcp://node-1.example.com:1", false, LB_TRANSPORT_TCP, "node-1.example.com", 1);
	accept_host("rdma://NODE_2:65535", false, LB_TRANSPORT_RDMA, "NODE_2", 65535);
	accept_host("tcp://[::1]:9876", false, LB_TRANSPORT_TCP, "::1", 9876);
	accept_host("rdma://[fe80::1%eth0]:9876", false, LB_TRANSPORT_RDMA, "fe80::1%eth0", 9876);
	accept_host("tcp://*:9876", true, LB_TRANSPORT_TCP, "*", 9876);
	accept_host("tcp://localhost:0", true, LB_TRANSPORT_TCP, "localhost", 0);
	accept_path("shm:///run/legobase/node.sock", "/run/legobase/node.sock");
	accept_path("shm://./pgsql_tmp_legobase/memnode.sock", "./pgsql_tmp_legobase/memnode.sock");
}

static void
test_refused(void **state)
{
	(void) state;
	refuse("", false, "begins with none of");
	refuse("embedded", false, "begins with none of");
	refuse("http://a:1", false, "begins with none of");
	refuse("TCP://a:1", false, "begins with none of");
	refuse("tcp:/a:1", false, "begins with none of");
	refuse("tcp://", false, "host is missing");
	refuse("tcp://:9876", false, "host is missing");
	refuse("tcp://a", false, "port is missing");
	refuse("tcp://a:", false, "bad port");
	refuse("tcp://a:x", false, "bad port");
	refuse("tcp://a:1x", false, "bad port");
	refuse("tcp://a:-1", false, "bad port");
	refuse("tcp://a:+1", false, "bad port");
	refuse("tcp://a:65536", false, "bad port");
	refuse("tcp://a:99999999999999999999", false, "bad port");
	refuse("tcp://a:0", false, "port 0 is for listening");
	refuse("tcp://*:1", false, "for listening");
	refuse("tcp://a/b:1", false, "bad character");
	refuse("tcp://a@b:1", false, "bad character");
	refuse("tcp://a:1/", false, "bad port");
	refuse("tcp://::1:9876", false, "host is missing");
	refuse("tcp://fe80::1:9876", false, "bad port");
	refuse("tcp://[::1:9876", false, "without \"]\"");
	refuse("tcp://[::1]", false, "port is missing");
	refuse("tcp://[::1]9876", false, "port is missing");
	refuse("tcp://[127.0.0.1]:1", false, "not an IPv6 address");
	refuse("tcp://[]:1", false, "not an IPv6 address");
	refuse("tcp://a :1", false, "a space");
	refuse("tcp://a\n:1", false, "a space");
	refuse("shm://", false, "absolute");
	refuse("shm://relative/path", false, "absolute");
	refuse("shm:///", false, "names a folder");
	refuse("shm:///run/", false, "names a folder");
}

static void
test_lengths(void **state)
{
	char text[2 * LB_URI_MAX];

	(void) state;
	memset(text, 0, sizeof(text));
	strcpy(text, "shm:///");
	memset(text + 7, 'a', 106);
	accept_path(text, text + 6);
	text[7 + 106] = 'a';
	refuse(text, false, "at most 107 bytes");

	memset(text, 0, sizeof(text));
	strcpy(text, "tcp://");
	memset(text + 6, 'a', LB_HOST_MAX - 1);
	strcpy(text + 6 + LB_HOST_MAX - 1, ":1");
	{
		char host[LB_HOST_MAX] = {0};

		memset(host, 'a', LB_HOST_MAX - 1);
		accept_host(text, false, LB_TRANSPORT_TCP, host, 1);
	}
	memset(text + 6, 'a', LB_HOST_MAX);
	strcpy(text + 6 + LB_HOST_MAX, ":1");
	refuse(text, false, "host is too long");
	memset(text + 6, 'a', LB_URI_MAX);
	text[6 + LB_URI_MAX] = '\0';
	refuse(text, false, "longer than 299 bytes");
	memcpy(text, "tcp://[", 7);
	memset(text + 7, ':', LB_HOST_MAX);
	strcpy(text + 7 + LB_HOST_MAX, "]:1");
	refuse(text, false, "host is too long");
}

static void
test_names(void **state)
{
	(void) state;
	assert_string_equal(lb_transport_name(LB_TRANSPORT_SHM), "shm");
	assert_string_equal(lb_transport_name(LB_TRANSPORT_TCP), "tcp");
	assert_string_equal(lb_transport_name(LB_TRANSPORT_RDMA), "rdma");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
