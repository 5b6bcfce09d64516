/*
 * test_rdma_connection.c
 *	  The verbs layer, both sides of it, over stubs of libibverbs and librdmacm: reads, counts, who may do what, and the end.
 *	  test_rdma_failures.c has what can fail, test_rdma_device.c devices.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw_frame.h"
#include "rdma_fixture.h"
#include "verbs_stubs.h"

static void
post(int first, int count, uint64_t id)
{
	if (!pair_post(&pair, first, count, id, &status))
		fail_msg("%s", status.message);
}

static void
expect_batch(uint64_t expected)
{
	uint64_t id = 0;

	assert_int_equal(lb_rdma_poll(reader(), &id, &status), 1);
	assert_int_equal(id, expected);
}

static void
expect_nothing(void)
{
	uint64_t id;

	assert_int_equal(lb_rdma_poll(reader(), &id, &status), 0);
}

static void
expect_counters(uint64_t work_requests, uint64_t doorbells, uint64_t completions)
{
	lb_rdma_counters counters = lb_rdma_get_counters(reader());
	stub_reads reads = stub_get_reads();

	assert_int_equal(counters.work_requests, work_requests);
	assert_int_equal(counters.doorbells, doorbells);
	assert_int_equal(counters.completions, completions);

	/* The layer's own counts are what the device has seen. */
	assert_int_equal(reads.work_requests, work_requests);
	assert_int_equal(reads.posts, doorbells);
	assert_int_equal(reads.completions, completions);
	assert_int_equal(reads.signalled, completions);
}

static void
read_and_count(bool pull)
{
	connect_pair(pull);
	assert_true(lb_rdma_available(&status));
	assert_int_equal(pair.established, 1);
	expect_nothing();
	post(3, 1, 77);
	expect_batch(77);
	expect_counters(1, 1, 1);
	assert_true(pair_has_page(&pair, 3));
	post(10, 16, 78);
	expect_batch(78);
	expect_counters(17, 2, 2);
	for (int page = 10; page < 26; page++)
		assert_true(pair_has_page(&pair, page));
	expect_nothing();
	assert_true(lb_rdma_check(pair.connection, &status));
	assert_true(lb_rdma_check(pair.accepted, &status));
}

static void
test_backend_reads(void **state)
{
	(void) state;
	read_and_count(false);
}

static void
test_node_pulls(void **state)
{
	(void) state;
	read_and_count(true);
}

/* No queue pair lets its peer write, and only that of the side that is read from lets it read. */
static void
test_rights(void **state)
{
	(void) state;
	for (int pull = 0; pull <= 1; pull++)
	{
		connect_pair(pull);
		assert_int_equal(stub_alive(STUB_QP), 2);
		assert_int_equal(stub_qps_writable(), 0);
		assert_int_equal(stub_qps_readable(), 1);
		pair_close(&pair);
	}
}

/* The side that is read from posts nothing, and has no room for it. */
static void
test_one_side_posts(void **state)
{
	lb_rdma_read read = {0};

	(void) state;
	for (int pull = 0; pull <= 1; pull++)
	{
		pid_t child;
		int result;

		connect_pair(pull);
		assert_int_equal(stub_send_room(), LB_RDMA_READS_MAX + 1);
		child = fork();
		assert_true(child >= 0);
		if (child == 0)
		{
			close(STDERR_FILENO);
			lb_rdma_post_reads(pull ? pair.connection : pair.accepted, &read, 1, 1, &status);
			_exit(0);
		}
		assert_int_equal(waitpid(child, &result, 0), child);
		assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGABRT);
		pair_close(&pair);
	}
}

/* As many as can be under way, over and over, in batches of all sizes: in order, and nothing overruns. */
static void
test_full(void **state)
{
	uint64_t posted = 0;

	(void) state;
	connect_pair(false);
	for (int round = 1; round <= 40; round++)
	{
		uint64_t first = posted + 1;
		int under_way = 0;

		stub_withhold(true);
		while (under_way < LB_RDMA_READS_MAX)
		{
			int count = 1 + (int) (posted * 7 + (uint64_t) round) % LB_BATCH_MAX;

			if (count > LB_RDMA_READS_MAX - under_way)
				count = LB_RDMA_READS_MAX - under_way;
			post(under_way, count, ++posted);
			under_way += count;
		}
		expect_nothing();
		assert_int_equal(stub_reads_pending(), LB_RDMA_READS_MAX);
		stub_withhold(false);
		for (uint64_t id = first; id <= posted; id++)
			expect_batch(id);
		expect_nothing();
	}
	assert_int_equal(lb_rdma_get_counters(pair.connection).completions, posted);
	for (int page = 0; page < LB_RDMA_READS_MAX; page++)
		assert_true(pair_has_page(&pair, page));
}

static bool
is_readable(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	return poll(&wait, 1, 0) == 1;
}

/* The node is told of completions when it asked for it, once for each time that it asked. */
static void
test_completion_events(void **state)
{
	int fd;

	(void) state;
	connect_pair(true);
	fd = lb_rdma_completion_fd(pair.accepted);
	assert_false(is_readable(fd));
	post(0, 8, 1);
	assert_true(is_readable(fd));
	post(8, 8, 2);
	assert_true(lb_rdma_arm(pair.accepted, &status));
	assert_false(is_readable(fd)); /* both had completed before */
	expect_batch(1);
	expect_batch(2);
	expect_nothing();
	stub_withhold(true);
	post(16, 8, 3);
	assert_false(is_readable(fd));
	stub_withhold(false);
	assert_true(is_readable(fd));
	assert_true(lb_rdma_arm(pair.accepted, &status));
	assert_true(lb_rdma_arm(pair.accepted, &status));
	expect_batch(3);

	/* An event that was never taken is no obstacle to the end. */
	post(24, 1, 4);
	assert_true(is_readable(fd));
}

/* Reads may be posted as soon as the node has accepted; they wait for the other side. */
static void
test_early_pull(void **state)
{
	(void) state;
	pair_prepare(&pair, true);
	assert_true(pair_listen(&pair, &status) && pair_ask(&pair, &status));
	while (pair.accepted == NULL)
	{
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
		assert_true(pair_serve(&pair, &status));
	}
	post(0, 4, 1);
	expect_nothing();
	assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 1);
	expect_batch(1);
}

/* Descriptors are not inherited by programs that the process starts. */
static void
test_descriptors(void **state)
{
	int before = count_inheritable_descriptors();

	(void) state;
	connect_pair(true);
	assert_int_equal(count_inheritable_descriptors(), before);
	assert_true(lb_rdma_event_fd(pair.connection) >= 0);
	assert_true(lb_rdma_listener_fd(pair.listener) >= 0);
}

/* Whatever was the target of a read that did not complete does not change any more when lb_rdma_close has returned. */
static void
close_under_way(bool pull)
{
	uint8_t(*targets)[LB_PAGE_SIZE];

	connect_pair(pull);
	targets = pull ? pair.slab : pair.memory;
	stub_withhold(true);
	post(0, 64, 1);
	post(64, 64, 2);
	lb_rdma_close(reader());
	if (pull)
		pair.accepted = NULL;
	else
		pair.connection = NULL;
	assert_int_equal(stub_reads_pending(), 0);
	for (int page = 0; page < PAIR_PAGES; page++)
		memset(targets[page], pull ? page + 1 : 0xee, LB_PAGE_SIZE);
	stub_withhold(false);
	assert_true(pair_is_untouched(&pair));
	stub_withhold(true);
	pair_close(&pair);
	stub_withhold(false);
}

static void
test_close_under_way(void **state)
{
	(void) state;
	close_under_way(false);
	close_under_way(true);
	stub_fail(CALL_rdma_disconnect, 1, EIO);
	close_under_way(false);
	/* The first two take rights back. */
	stub_fail(CALL_ibv_modify_qp, 3, EIO);
	close_under_way(false);
	assert_true(stub_has_failed());
}

/* One side closes, the other hears of it, and can do nothing but close as well. */
static void
test_node_closes(void **state)
{
	uint64_t id;

	(void) state;
	connect_pair(false);
	lb_rdma_close(pair.accepted);
	pair.accepted = NULL;
	assert_true(is_readable(lb_rdma_event_fd(pair.connection)));
	assert_false(lb_rdma_check(pair.connection, &status));
	assert_int_equal(status.code, LB_CLOSED);
	assert_int_equal(lb_rdma_poll(pair.connection, &id, &status), -1);
	assert_int_equal(status.code, LB_CLOSED);
	assert_false(pair_post(&pair, 0, 1, 1, &status));
	assert_int_equal(status.code, LB_CLOSED);
	assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
}

static void
test_compute_node_closes(void **state)
{
	(void) state;
	connect_pair(true);
	lb_rdma_close(pair.connection);
	pair.connection = NULL;
	assert_true(is_readable(lb_rdma_listener_fd(pair.listener)));
	assert_true(pair_serve(&pair, &status));
	assert_int_equal(pair.ended, 1);
	assert_false(lb_rdma_check(pair.accepted, &status));
	assert_int_equal(status.code, LB_CLOSED);

	/* Later events are no second end. */
	stub_raise(RDMA_CM_EVENT_TIMEWAIT_EXIT, false);
	stub_raise(RDMA_CM_EVENT_DISCONNECTED, false);
	assert_true(pair_serve(&pair, &status));
	assert_int_equal(pair.ended, 1);
}

/* The compute node goes before it has heard that it was accepted; or while its request waits. */
static void
test_gives_up(void **state)
{
	(void) state;
	pair_prepare(&pair, false);
	assert_true(pair_listen(&pair, &status) && pair_ask(&pair, &status));
	while (pair.accepted == NULL)
	{
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
		assert_true(pair_serve(&pair, &status));
	}
	lb_rdma_close(pair.connection);
	pair.connection = NULL;
	assert_true(pair_serve(&pair, &status));
	/* closing takes the events that are there, and so may complete the connection before it ends it */
	assert_int_equal(pair.ended, 1);
	lb_rdma_close(pair.accepted);
	pair.accepted = NULL;

	assert_true(pair_ask(&pair, &status));
	for (int i = 0; i < 3; i++)
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
	lb_rdma_close(pair.connection);
	pair.connection = NULL;
	assert_false(pair_serve(&pair, &status));
	assert_null(pair.accepted);
	assert_true(pair_serve(&pair, &status));
}

/* A request that nobody has taken does not keep a listener, and ends with it. */
static void
test_listener_goes(void **state)
{
	(void) state;
	pair_prepare(&pair, false);
	assert_true(pair_listen(&pair, &status) && pair_ask(&pair, &status));
	for (int i = 0; i < 3; i++)
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
	lb_rdma_deregister(pair.region);
	lb_rdma_domain_destroy(pair.domain);
	lb_rdma_listener_close(pair.listener);
	pair.region = NULL;
	pair.domain = NULL;
	pair.listener = NULL;
	assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
	assert_int_equal(status.code, LB_CLOSED);
}

/* Nothing is left behind, however often. */
static void
test_reconnects(void **state)
{
	int alive;

	(void) state;
	connect_pair(false);
	alive = stub_all_alive();
	for (int n = 0; n < 1000; n++)
	{
		lb_rdma_close(pair.connection);
		lb_rdma_close(pair.accepted);
		pair.accepted = NULL;
		if (!pair_connect(&pair, &status))
			fail_msg("%s", status.message);
		post(n % 100, 1, 1);
		expect_batch(1);
	}
	assert_int_equal(stub_all_alive(), alive);
}

/* A bond changes its link, and the connection goes on. */
static void
test_address_change(void **state)
{
	(void) state;
	connect_pair(false);
	stub_raise(RDMA_CM_EVENT_ADDR_CHANGE, true);
	stub_raise(RDMA_CM_EVENT_ADDR_CHANGE, false);
	assert_true(lb_rdma_check(pair.connection, &status));
	assert_true(pair_serve(&pair, &status));
	assert_int_equal(pair.ended, 0);
	post(0, 1, 1);
	expect_batch(1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_backend_reads, begin, end),
		cmocka_unit_test_setup_teardown(test_node_pulls, begin, end),
		cmocka_unit_test_setup_teardown(test_rights, begin, end),
		cmocka_unit_test_setup_teardown(test_one_side_posts, begin, end),
		cmocka_unit_test_setup_teardown(test_full, begin, end),
		cmocka_unit_test_setup_teardown(test_completion_events, begin, end),
		cmocka_unit_test_setup_teardown(test_early_pull, begin, end),
		cmocka_unit_test_setup_teardown(test_descriptors, begin, end),
		cmocka_unit_test_setup_teardown(test_close_under_way, begin, end),
		cmocka_unit_test_setup_teardown(test_node_closes, begin, end),
		cmocka_unit_test_setup_teardown(test_compute_node_closes, begin, end),
		cmocka_unit_test_setup_teardown(test_gives_up, begin, end),
		cmocka_unit_test_setup_teardown(test_listener_goes, begin, end),
		cmocka_unit_test_setup_teardown(test_reconnects, begin, end),
		cmocka_unit_test_setup_teardown(test_address_change, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
