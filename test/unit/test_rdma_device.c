/*
 * test_rdma_device.c
 *	  The verbs layer over stubs of libibverbs and librdmacm: which device is used, and what happens when it goes away, and comes back.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "raw_frame.h"
#include "rdma_fixture.h"
#include "verbs_stubs.h"

/* ---- choosing ---- */

static lb_rdma_listener *
listen_at(const char *address, uint16_t port, const char *device)
{
	lb_address at = {.length = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *) &at.storage;

	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	assert_int_equal(inet_pton(AF_INET, address, &in->sin_addr), 1);
	return lb_rdma_listen(&at, device, &status);
}

static void
expect_listener(const char *address, const char *device, const char *expected)
{
	lb_rdma_listener *listener = listen_at(address, 0, device);

	if (listener == NULL)
		fail_msg("%s", status.message);
	assert_string_equal(lb_rdma_listener_device(listener), expected);
	assert_int_not_equal(lb_rdma_listener_port(listener), 0);
	lb_rdma_listener_close(listener);
}

static void
expect_no_listener(const char *address, const char *device, const char *message)
{
	memset(&status, 0, sizeof(status));
	assert_null(listen_at(address, 0, device));
	assert_int_equal(status.code, LB_INVALID);
	if (strstr(status.message, message) == NULL)
		fail_msg("\"%s\" is not in \"%s\"", message, status.message);
}

static void
test_choice_of_device(void **state)
{
	lb_rdma_listener *listener;

	(void) state;
	expect_listener("127.0.0.1", NULL, "stub0");
	expect_listener("10.1.1.1", NULL, "stub1");
	expect_listener("10.1.1.1", "stub1", "stub1");
	expect_listener("0.0.0.0", "stub0", "stub0");
	expect_no_listener("127.0.0.1", "stub1", "stub1");
	expect_no_listener("0.0.0.0", NULL, "stub0, stub1");
	expect_no_listener("0.0.0.0", "other", "stub0, stub1");
	expect_no_listener("192.0.2.1", NULL, "192.0.2.1");
	stub_set_devices(1);
	expect_listener("0.0.0.0", NULL, "stub0");
	expect_no_listener("10.1.1.1", NULL, "stub0");
	stub_set_devices(0);
	expect_no_listener("127.0.0.1", NULL, "no RDMA device");

	/* A port of one's own, and one that is taken. */
	stub_set_devices(2);
	listener = listen_at("127.0.0.1", 4711, NULL);
	assert_non_null(listener);
	assert_int_equal(lb_rdma_listener_port(listener), 4711);
	assert_null(listen_at("127.0.0.1", 4711, NULL));
	assert_int_equal(status.code, LB_SYSTEM);
	lb_rdma_listener_close(listener);
}

/* Whoever is asked for one device, or says which there are, does not open the others: drivers may wait for us before they let one go. */
static void
test_other_devices_stay_closed(void **state)
{
	(void) state;
	expect_listener("0.0.0.0", "stub0", "stub0");
	expect_no_listener("0.0.0.0", "other", "stub0, stub1");
	expect_no_listener("192.0.2.1", NULL, "stub0, stub1");
	assert_true(stub_device_is_open(0));
	assert_false(stub_device_is_open(1));
}

/* An iWARP device can't serve or post READs as we need them: neither side uses it. */
static void
test_iwarp(void **state)
{
	(void) state;
	pair_prepare(&pair, false);
	assert_true(pair_listen(&pair, &status));
	stub_set_transport(0, IBV_TRANSPORT_IWARP);
	assert_false(pair_connect(&pair, &status));
	expect_code(LB_SYSTEM);
	assert_non_null(strstr(status.message, "stub0 is neither InfiniBand nor RoCE"));
	assert_int_equal(stub_alive(STUB_QP), 0);
	pair_close(&pair);

	pair_prepare(&pair, false);
	assert_false(pair_listen(&pair, &status));
	expect_code(LB_INVALID);
	assert_non_null(strstr(status.message, "stub0 is neither InfiniBand nor RoCE"));
}

/* ---- going away ---- */

static void
test_device_gone(void **state)
{
	uint64_t id;

	(void) state;
	for (int pull = 0; pull <= 1; pull++)
	{
		connect_pair(pull);
		stub_withhold(true);
		assert_true(pair_post(&pair, 0, 16, 1, &status));
		stub_remove_device(0);
		stub_withhold(false);
		assert_int_equal(lb_rdma_poll(reader(), &id, &status), -1);
		expect_failure();
		assert_false(lb_rdma_check(pair.connection, &status));
		expect_failure();
		assert_true(pair_serve(&pair, &status));
		assert_true(pair.device_gone > 0);
		assert_null(lb_rdma_domain_create(pair.listener, &status));
		expect_failure();
		pair_close(&pair);
		assert_int_equal(stub_all_alive(), 0);

		/* Listening fails until it is back. */
		pair_prepare(&pair, pull);
		assert_false(pair_listen(&pair, &status));
		expect_code(LB_INVALID);
		pair_close(&pair);
		stub_reset();
	}
}

/*
 * A device goes away and comes back, and librdmacm finds that out with the next connection. It frees the former device's context with the last id that
 * there is on it, ours; by then its descriptors must have been closed, and nothing of the new device be touched.
 */
static void
close_after_return(bool listener_first)
{
	rdma_pair first;
	uint64_t id;

	connect_pair(false);
	first = pair;
	stub_remove_device(0);
	assert_false(lb_rdma_check(first.connection, &status));
	assert_true(pair_serve(&first, &status));
	stub_return_device(0);
	connect_pair(false);

	if (listener_first)
	{
		lb_rdma_close(first.accepted);
		lb_rdma_deregister(first.region);
		lb_rdma_domain_destroy(first.domain);
		lb_rdma_listener_close(first.listener);
		first.accepted = NULL;
		first.region = NULL;
		first.domain = NULL;
		first.listener = NULL;
	}
	pair_close(&first);
	assert_true(stub_device_is_open(0));
	assert_true(pair_post(&pair, 0, 16, 1, &status));
	assert_int_equal(lb_rdma_poll(pair.connection, &id, &status), 1);
	assert_true(pair_has_page(&pair, 15));
	pair_close(&pair);
	assert_int_equal(stub_all_alive(), 0);
	assert_int_equal(count_open_descriptors(), descriptors);
}

static void
test_device_returns(void **state)
{
	(void) state;
	close_after_return(false);
	close_after_return(true);
}

/* Whoever is the last to use a device that is gone lets go of it; one that is there stays open. */
static void
test_device_let_go(void **state)
{
	(void) state;
	connect_pair(false);
	pair_close(&pair);
	assert_true(stub_device_is_open(0));
	for (int noticed = 0; noticed <= 1; noticed++)
	{
		connect_pair(false);
		stub_remove_device(0);
		if (noticed)
			assert_false(lb_rdma_check(pair.connection, &status));
		assert_true(stub_device_is_open(0));
		pair_close(&pair);
		assert_false(stub_device_is_open(0));
		stub_reset();
	}
}

/* A device that goes away is noticed by a listener at any address too, with nobody connected. */
static void
test_device_gone_from_any_address(void **state)
{
	lb_address any = {.length = sizeof(struct sockaddr_in)};

	(void) state;
	((struct sockaddr_in *) &any.storage)->sin_family = AF_INET;
	pair_prepare(&pair, false);
	pair.listener = lb_rdma_listen(&any, "stub0", &status);
	assert_non_null(pair.listener);
	stub_remove_device(0);
	assert_true(pair_serve(&pair, &status));
	assert_int_equal(pair.device_gone, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_choice_of_device, begin, end),
		cmocka_unit_test_setup_teardown(test_other_devices_stay_closed, begin, end),
		cmocka_unit_test_setup_teardown(test_iwarp, begin, end),
		cmocka_unit_test_setup_teardown(test_device_gone, begin, end),
		cmocka_unit_test_setup_teardown(test_device_returns, begin, end),
		cmocka_unit_test_setup_teardown(test_device_let_go, begin, end),
		cmocka_unit_test_setup_teardown(test_device_gone_from_any_address, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
