/*
 * test_data_plane_rdma.c
 *	  The rdma data plane over stubs of libibverbs and librdmacm, against a node that behaves, and against nodes that do not.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <string.h>

#include "lb_clock.h"
#include "lb_data_plane.h"
#include "raw_frame.h"
#include "rdma_node.h"
#include "verbs_stubs.h"

#define MS UINT64_C(1000000)
#define LIMIT (lb_now_ns() + 5000 * MS)

static const lb_hello identity = {
	.role = LB_ROLE_AGENT, .system_identifier = 11, .uuid = {1, 2, 3}, .epoch = 4, .token = 5};

static lb_status status;
static rdma_node node;
static lb_data_plane *plane;
static int descriptors;
static int cancel_after; /* calls of the callback; 0: never */
static int cancel_asked;
static bool (*standstill)(void);  /* the callback lasts, once, when this is true, ... */
static uint64_t standstill_until; /* ... until then */
static uint8_t pages[LB_BATCHES_MAX + 1][LB_BATCH_MAX][LB_PAGE_SIZE];

static bool
asked_often_enough(void *arg)
{
	(void) arg;
	cancel_asked++;
	if (standstill != NULL && standstill())
	{
		while (lb_now_ns() < standstill_until)
			sched_yield();
		standstill = NULL;
	}
	return cancel_after > 0 && cancel_asked >= cancel_after;
}

static int
begin(void **state)
{
	(void) state;
	stub_reset();
	memset(&node, 0, sizeof(node));
	memset(&status, 0, sizeof(status));
	memset(pages, 0xee, sizeof(pages));
	cancel_after = cancel_asked = 0;
	standstill = NULL;
	plane = NULL;
	descriptors = count_open_descriptors();
	return 0;
}

static int
end(void **state)
{
	(void) state;
	if (plane)
		lb_data_plane_close(plane);
	rdma_node_stop(&node);
	assert_string_equal(stub_alive_text(), "");
	assert_int_equal(count_open_descriptors(), descriptors);
	return 0;
}

/* The next round of a test: with another node. */
static void
renew(void)
{
	end(NULL);
	begin(NULL);
}

static void
try_connect(int limit_ms)
{
	plane = lb_data_plane_connect(LB_TRANSPORT_RDMA, fake_node_address(node.fake), &identity,
								  asked_often_enough, NULL, lb_now_ns() + (uint64_t) limit_ms * MS,
								  &status);
}

static void
connect_plane(void)
{
	rdma_node_start(&node);
	try_connect(5000);
	if (plane == NULL)
		fail_msg("%s", status.message);
	assert_false(lb_data_plane_fell_back(plane));
	assert_string_equal(plane->ops->name, "rdma");
}

/* Pages first and so on of a slab, into a row of the pages. */
static uint64_t
submit_to(int row, uint32_t slab, uint32_t first, int count, uint64_t deadline_ns)
{
	lb_read_target targets[LB_BATCH_MAX];

	for (int i = 0; i < count; i++)
		targets[i] = (lb_read_target){{slab, first + (uint32_t) i}, pages[row][i]};
	return lb_data_plane_submit(plane, targets, count, deadline_ns, &status);
}

static uint64_t
submit(int row, uint32_t slab, uint32_t first, int count)
{
	uint64_t ticket = submit_to(row, slab, first, count, LIMIT);

	if (ticket == 0)
		fail_msg("%s", status.message);
	return ticket;
}

static void
wait_for(uint64_t ticket)
{
	if (!lb_data_plane_wait(plane, ticket, LIMIT, &status))
		fail_msg("%s", status.message);
}

static void
expect_bytes(const uint8_t *page, uint8_t fill)
{
	for (int i = 0; i < LB_PAGE_SIZE; i++)
		if (page[i] != fill)
			fail_msg("byte %d is %d, not %d", i, page[i], fill);
}

static void
expect_pages(int row, uint32_t slab, uint32_t first, int count, uint8_t salt)
{
	for (int i = 0; i < count; i++)
		expect_bytes(pages[row][i], rdma_node_fill(slab, first + (uint32_t) i, salt));
}

static void
expect_untouched(int row)
{
	for (int i = 0; i < LB_BATCH_MAX; i++)
		expect_bytes(pages[row][i], 0xee);
}

static void
read_one(uint32_t slab, uint32_t page, uint8_t salt)
{
	wait_for(submit(0, slab, page, 1));
	expect_pages(0, slab, page, 1, salt);
}

static void
expect_counters(uint64_t work_requests, uint64_t doorbells, uint64_t completions)
{
	const lb_data_plane_counters *counters = lb_data_plane_counted(plane);

	assert_int_equal(counters->work_requests, work_requests);
	assert_int_equal(counters->doorbells, doorbells);
	assert_int_equal(counters->completions, completions);
	assert_int_equal(stub_get_reads().work_requests, work_requests);
	assert_int_equal(stub_get_reads().posts, doorbells);
	assert_int_equal(stub_get_reads().completions, completions);
}

static void
expect_code(lb_code code)
{
	if (status.code != code)
		fail_msg("code %d, not %d: %s", status.code, code, status.message);
	assert_true(strlen(status.message) > 5);
}

/* ---- reading ---- */

/* A page costs one work request, doorbell and completion; and no message, once the keys are known. */
static void
test_counts(void **state)
{
	(void) state;
	connect_plane();
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 2);
	read_one(3, 7, 0);
	expect_counters(1, 1, 1);
	wait_for(submit(1, 0, 100, 16));
	expect_pages(1, 0, 100, 16, 0);
	expect_counters(17, 2, 2);
	wait_for(submit(2, 3, 256 - 64, 64));
	expect_pages(2, 3, 256 - 64, 64, 0);
	expect_counters(81, 3, 3);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 2);
	assert_int_equal(lb_data_plane_counted(plane)->pages, 81);
	assert_int_equal(lb_data_plane_counted(plane)->batches, 3);
	assert_int_equal(node.keys_asked, 1);
	assert_int_equal(node.reads_asked, 0);
	assert_int_equal(stub_qps_writable(), 0);
}

/* Batches of all sizes, as many under way as there may be, around the ring of bounce buffers many times. */
static void
test_ring(void **state)
{
	struct
	{
		uint64_t ticket;
		uint32_t slab;
		uint32_t first;
		int count;
	} batches[LB_BATCHES_MAX];
	uint32_t random = 1;

	(void) state;
	connect_plane();
	for (uint32_t n = 0; n < 400; n++)
	{
		int row = (int) (n % LB_BATCHES_MAX);

		if (n >= LB_BATCHES_MAX)
		{
			wait_for(batches[row].ticket);
			expect_pages(row, batches[row].slab, batches[row].first, batches[row].count, 0);
		}
		random = random * 1664525 + 1013904223;
		batches[row].slab = random >> 31 ? 3 : 0;
		batches[row].count = n % 5 == 0 ? LB_BATCH_MAX : 1 + (int) (random >> 20) % LB_BATCH_MAX;
		batches[row].first = (random >> 10) % (LB_SLAB_PAGES_MIN - LB_BATCH_MAX);
		batches[row].ticket =
			submit(row, batches[row].slab, batches[row].first, batches[row].count);
		assert_int_equal(batches[row].ticket, n + 1);
	}
	wait_for(batches[399 % LB_BATCHES_MAX].ticket);
	assert_true(lb_data_plane_idle(plane));
}

/* Batches are copied out in their order, whoever is waited for. */
static void
test_order(void **state)
{
	uint64_t tickets[LB_BATCHES_MAX];

	(void) state;
	connect_plane();
	stub_withhold(true);
	for (int i = 0; i < LB_BATCHES_MAX; i++)
		tickets[i] = submit(i, i % 2 ? 3 : 0, (uint32_t) i * 10, 16);
	assert_int_equal(stub_reads_pending(), 128);
	stub_withhold(false);
	wait_for(tickets[3]);
	for (int i = 0; i < 4; i++)
		expect_pages(i, i % 2 ? 3 : 0, (uint32_t) i * 10, 16, 0);
	for (int i = 4; i < LB_BATCHES_MAX; i++)
		expect_untouched(i);
	wait_for(tickets[7]);
	for (int i = 0; i < LB_BATCHES_MAX; i++)
		expect_pages(i, i % 2 ? 3 : 0, (uint32_t) i * 10, 16, 0);
}

/* A submit that finds no room, neither of batches nor of bounce buffers, waits for the oldest batch, until its deadline. */
static void
test_no_room(void **state)
{
	uint64_t before;

	(void) state;
	for (int large = 0; large <= 1; large++)
	{
		if (large)
			renew();
		connect_plane();
		stub_withhold(true);
		for (int i = 0; i < (large ? 2 : LB_BATCHES_MAX); i++)
			submit(i, 0, (uint32_t) i, large ? 64 : 1);
		before = lb_now_ns();
		assert_int_equal(submit_to(8, 3, 0, 1, lb_now_ns() + 30 * MS), 0);
		expect_code(LB_TIMEOUT);
		assert_true(lb_now_ns() - before >= 30 * MS && lb_now_ns() - before < 1000 * MS);
		for (int i = 0; i < 9; i++)
			expect_untouched(i);
	}
}

static void
test_room_again(void **state)
{
	uint64_t last = 0;

	(void) state;
	connect_plane();
	stub_withhold(true);
	submit(0, 0, 0, 64);
	submit(1, 0, 64, 64);
	stub_withhold(false);
	last = submit(2, 0, 128, 1);
	expect_pages(0, 0, 0, 64, 0); /* the submit had to take it */
	expect_untouched(1);
	wait_for(last);
	expect_pages(1, 0, 64, 64, 0);
	expect_pages(2, 0, 128, 1, 0);
}

/* ---- keys ---- */

static void
test_unknown_slab(void **state)
{
	(void) state;
	connect_plane();
	read_one(0, 1, 0);
	rdma_node_add(&node, 70, 9);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 2);
	read_one(70, 2, 9);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 3);
	read_one(70, 3, 9);
	read_one(3, 3, 0);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 3);

	/* The node does not know it either. */
	assert_int_equal(submit_to(0, 71, 0, 1, LIMIT), 0);
	expect_code(LB_REFUSED);
	assert_int_equal(status.wire_error, LB_ERR_SLAB);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 4);
}

static void
test_page_beyond_the_end(void **state)
{
	(void) state;
	connect_plane();
	assert_int_equal(submit_to(0, 3, LB_SLAB_PAGES_MIN, 1, LIMIT), 0);
	assert_int_not_equal(status.code, LB_OK);
	assert_int_equal(stub_get_reads().work_requests, 0);
}

static void
test_keys_in_parts(void **state)
{
	(void) state;
	node.keys = KEYS_IN_PARTS;
	connect_plane();
	assert_int_equal(node.keys_asked, 2);
	read_one(0, 1, 0);
	read_one(3, 1, 0);
}

/* After unmap the keys are asked for anew: a slab may be another one by then. */
static void
test_unmap(void **state)
{
	(void) state;
	connect_plane();
	read_one(3, 1, 0);
	lb_data_plane_unmap(plane);
	rdma_node_remove(&node, 3);
	rdma_node_add(&node, 3, 77);
	read_one(3, 1, 77);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 3);
	read_one(0, 1, 0);
	assert_int_equal(lb_data_plane_counted(plane)->round_trips, 3);
}

/* A slab that was returned, but nobody told us: "slab refused", as over tcp. */
static void
test_key_not_valid(void **state)
{
	uint64_t ticket;

	(void) state;
	connect_plane();
	read_one(3, 1, 0);
	memset(pages, 0xee, sizeof(pages));
	rdma_node_remove(&node, 3);
	ticket = submit(0, 3, 1, 16);
	assert_false(lb_data_plane_wait(plane, ticket, LIMIT, &status));
	expect_code(LB_REFUSED);
	assert_int_equal(status.wire_error, LB_ERR_SLAB);
	expect_untouched(0);
}

/* ---- failures while reading ---- */

static void
test_timeout(void **state)
{
	uint64_t before = 0;
	uint64_t ticket;

	(void) state;
	connect_plane();
	stub_withhold(true);
	ticket = submit(0, 0, 0, 16);
	before = lb_now_ns();
	assert_false(lb_data_plane_wait(plane, ticket, before + 40 * MS, &status));
	expect_code(LB_TIMEOUT);
	assert_true(lb_now_ns() - before >= 40 * MS && lb_now_ns() - before < 1000 * MS);

	/* What comes late finds nobody. */
	lb_data_plane_close(plane);
	plane = NULL;
	stub_withhold(false);
	expect_untouched(0);
	assert_int_equal(stub_reads_pending(), 0);
}

static bool
reads_complete(void)
{
	stub_withhold(false);
	return true;
}

/* A process that has no processor until after the deadline finds what came meanwhile. */
static void
test_standstill(void **state)
{
	uint64_t deadline;
	uint64_t ticket;

	(void) state;
	connect_plane();
	stub_withhold(true);
	ticket = submit(0, 0, 0, 16);
	deadline = lb_now_ns() + 200 * MS;
	standstill = reads_complete;
	standstill_until = deadline + 5 * MS;
	if (!lb_data_plane_wait(plane, ticket, deadline, &status))
		fail_msg("%s", status.message);
	assert_null(standstill);
	expect_pages(0, 0, 0, 16, 0);
}

static void
test_cancel(void **state)
{
	uint64_t before;
	uint64_t ticket;

	(void) state;
	connect_plane();
	stub_withhold(true);
	ticket = submit(0, 0, 0, 1);
	cancel_asked = 0;
	cancel_after = 3;
	before = lb_now_ns();
	assert_false(lb_data_plane_wait(plane, ticket, LIMIT, &status));
	expect_code(LB_CANCELLED);
	assert_true(lb_now_ns() - before < 500 * MS);
	assert_int_equal(cancel_asked, 3);
	expect_untouched(0);
}

/* Closing abandons what is under way, complete or not: nothing is written to the destinations. */
static void
test_close_under_way(void **state)
{
	(void) state;
	connect_plane();
	submit(0, 0, 0, 64); /* complete, but nobody has waited for it */
	stub_withhold(true);
	submit(1, 3, 0, 64);
	lb_data_plane_close(plane);
	plane = NULL;
	expect_untouched(0);
	expect_untouched(1);
	stub_withhold(false);
	expect_untouched(1);
}

static void
test_completion_errors(void **state)
{
	static const struct
	{
		enum ibv_wc_status status;
		lb_code code;
	} errors[] = {
		{IBV_WC_RETRY_EXC_ERR, LB_TIMEOUT},  {IBV_WC_WR_FLUSH_ERR, LB_CLOSED},
		{IBV_WC_REM_ACCESS_ERR, LB_REFUSED}, {IBV_WC_GENERAL_ERR, LB_SYSTEM},
		{IBV_WC_LOC_PROT_ERR, LB_SYSTEM},
	};

	(void) state;
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
	{
		uint64_t first;
		uint64_t second;

		if (i > 0)
			renew();
		connect_plane();
		stub_withhold(true);
		first = submit(0, 0, 0, 16);
		second = submit(1, 3, 0, 16);
		stub_complete_with(20, errors[i].status);
		stub_withhold(false);
		assert_false(lb_data_plane_wait(plane, second, LIMIT, &status));
		expect_code(errors[i].code);
		assert_true(lb_data_plane_wait(plane, first, LIMIT, &status)); /* that one was good */
		expect_pages(0, 0, 0, 16, 0);
		expect_untouched(1);
		assert_int_equal(submit_to(2, 0, 0, 1, LIMIT), 0);
	}
}

/* The node has ended the queue pair, and its device will not answer: that is noticed long before the deadline. */
static void
test_node_drops(void **state)
{
	uint64_t before;
	uint64_t ticket;

	(void) state;
	connect_plane();
	stub_withhold(true);
	ticket = submit(0, 0, 0, 1);
	node.drop = true;
	before = lb_now_ns();
	assert_false(lb_data_plane_wait(plane, ticket, LIMIT, &status));
	expect_code(LB_CLOSED);
	assert_true(lb_now_ns() - before < 2000 * MS);
	expect_untouched(0);
}

static void
test_device_gone(void **state)
{
	uint64_t ticket;

	(void) state;
	connect_plane();
	stub_withhold(true);
	ticket = submit(0, 0, 0, 1);
	stub_remove_device(0);
	assert_false(lb_data_plane_wait(plane, ticket, LIMIT, &status));
	assert_int_not_equal(status.code, LB_OK);
	expect_untouched(0);
}

/* ---- failures while connecting ---- */

/* Over tcp instead, with the reason why; and it reads. */
static void
expect_fallback(lb_code reason)
{
	try_connect(5000);
	if (plane == NULL)
		fail_msg("%s", status.message);
	assert_true(lb_data_plane_fell_back(plane));
	assert_string_equal(plane->ops->name, "tcp");
	expect_code(reason);
	wait_for(submit(0, 3, 5, 16));
	expect_pages(0, 3, 5, 16, 0);
	assert_int_equal(node.reads_asked, 1);
	assert_int_equal(stub_get_reads().work_requests, 0);
	assert_int_equal(stub_alive(STUB_QP), 0);
	lb_data_plane_unmap(plane);
}

static void
test_fallback_on_limit(void **state)
{
	(void) state;
	node.open = OPEN_REFUSED;
	rdma_node_start(&node);
	expect_fallback(LB_REFUSED);
	assert_int_equal(status.wire_error, LB_ERR_LIMIT);
}

static void
test_fallback_on_no_device_there(void **state)
{
	(void) state;
	node.open = OPEN_NO_DEVICE;
	rdma_node_start(&node);
	expect_fallback(LB_REFUSED);
}

static void
test_fallback_on_rejection(void **state)
{
	(void) state;
	node.open = OPEN_WRONG_SECRET;
	rdma_node_start(&node);
	expect_fallback(LB_CLOSED);
}

static void
test_fallback_on_locked_memory(void **state)
{
	(void) state;
	rdma_node_start(&node);
	stub_fail(CALL_ibv_reg_mr, 1, ENOMEM);
	expect_fallback(LB_SYSTEM);
	assert_true(stub_has_failed());
}

static void
test_fallback_on_queue_pairs_here(void **state)
{
	(void) state;
	rdma_node_start(&node);
	stub_fail(CALL_rdma_create_qp, 1, ENOMEM);
	expect_fallback(LB_REFUSED);
}

static void
test_fallback_on_no_device_here(void **state)
{
	(void) state;
	rdma_node_start(&node);
	stub_set_devices(0);
	expect_fallback(LB_SYSTEM);
	stub_set_devices(2);
}

static void
test_fallback_on_iwarp(void **state)
{
	(void) state;
	rdma_node_start(&node);
	stub_set_transport(0, IBV_TRANSPORT_IWARP);
	expect_fallback(LB_SYSTEM);
}

/* The node answers over TCP, but the fabric is not passable: half of the time is kept for reading all the same. */
static void
test_fallback_when_not_joined(void **state)
{
	(void) state;
	node.open = OPEN_NOT_JOINED;
	rdma_node_start(&node);
	expect_fallback(LB_TIMEOUT);
}

/* It does when the request was sent. */
static bool
joins(void)
{
	if (stub_called(CALL_rdma_connect) == 0)
		return false;
	node.open = OPEN_GOOD;
	return true;
}

/* The same, but the connection comes about while this process has no processor. */
static void
test_joined_in_standstill(void **state)
{
	(void) state;
	node.open = OPEN_NOT_JOINED;
	rdma_node_start(&node);
	/* half of the time is for it */
	standstill = joins;
	standstill_until = lb_now_ns() + 1200 * MS;
	try_connect(2000);
	if (plane == NULL)
		fail_msg("%s", status.message);
	assert_null(standstill);
	assert_false(lb_data_plane_fell_back(plane));
}

/* What is no matter of RDMA is no reason for tcp. */
static void
expect_no_connection(int limit_ms, lb_code code)
{
	try_connect(limit_ms);
	assert_null(plane);
	expect_code(code);
	assert_int_equal(node.reads_asked, 0);
	assert_int_equal(stub_alive(STUB_REGION), 2);
}

typedef struct bad_node
{
	open_conduct open;
	keys_conduct keys;
	lb_code code;
} bad_node;

static void
test_bad_nodes(void **state)
{
	static const bad_node nodes[] = {
		{OPEN_MALFORMED, KEYS_GOOD, LB_PROTOCOL}, {OPEN_SILENT, KEYS_GOOD, LB_TIMEOUT},
		{OPEN_CLOSED, KEYS_GOOD, LB_CLOSED},      {OPEN_GOOD, KEYS_MALFORMED, LB_PROTOCOL},
		{OPEN_GOOD, KEYS_FOR_EVER, LB_PROTOCOL},  {OPEN_GOOD, KEYS_REFUSED, LB_REFUSED},
		{OPEN_GOOD, KEYS_SILENT, LB_TIMEOUT},
	};

	(void) state;
	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
	{
		if (i > 0)
			renew();
		node.open = nodes[i].open;
		node.keys = nodes[i].keys;
		rdma_node_start(&node);
		expect_no_connection(100, nodes[i].code);
	}
}

static void
test_cancel_connecting(void **state)
{
	(void) state;
	node.open = OPEN_NOT_JOINED;
	rdma_node_start(&node);
	cancel_after = 4;
	expect_no_connection(5000, LB_CANCELLED);
}

/*
 * Each call fails in turn, on whichever side it is made: it ends with a connection over one transport or the other, or a failure with
 * a reason; and nothing is left behind.
 */
static bool
connect_and_read(void)
{
	try_connect(1000);
	if (plane == NULL)
		return false;
	for (int row = 0; row < 3; row++)
	{
		uint64_t ticket = submit_to(row, 3, 10, 16, LIMIT);

		if (ticket == 0 || !lb_data_plane_wait(plane, ticket, LIMIT, &status))
			return false;
		expect_pages(row, 3, 10, 16, 0);
	}
	return true;
}

static void
test_each_call_fails(void **state)
{
	int failed = 0;

	(void) state;
	for (int call = CALL_rdma_create_event_channel; call < CALLS; call++)
	{
		for (int n = 1; n < 30; n++)
		{
			bool hit;

			if (node.fake)
				renew();
			rdma_node_start(&node);
			stub_fail((stub_call) call, n, ENOMEM);
			if (!connect_and_read())
			{
				assert_int_not_equal(status.code, LB_OK);
				assert_true(strlen(status.message) > 5);
			}
			hit = stub_has_failed();
			stub_fail((stub_call) call, 0, 0);
			if (!hit)
				break;
			failed++;
		}
	}
	print_message("%d calls failed\n", failed);
	assert_true(failed > 30);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_counts, begin, end),
		cmocka_unit_test_setup_teardown(test_ring, begin, end),
		cmocka_unit_test_setup_teardown(test_order, begin, end),
		cmocka_unit_test_setup_teardown(test_no_room, begin, end),
		cmocka_unit_test_setup_teardown(test_room_again, begin, end),
		cmocka_unit_test_setup_teardown(test_unknown_slab, begin, end),
		cmocka_unit_test_setup_teardown(test_page_beyond_the_end, begin, end),
		cmocka_unit_test_setup_teardown(test_keys_in_parts, begin, end),
		cmocka_unit_test_setup_teardown(test_unmap, begin, end),
		cmocka_unit_test_setup_teardown(test_key_not_valid, begin, end),
		cmocka_unit_test_setup_teardown(test_timeout, begin, end),
		cmocka_unit_test_setup_teardown(test_standstill, begin, end),
		cmocka_unit_test_setup_teardown(test_cancel, begin, end),
		cmocka_unit_test_setup_teardown(test_close_under_way, begin, end),
		cmocka_unit_test_setup_teardown(test_completion_errors, begin, end),
		cmocka_unit_test_setup_teardown(test_node_drops, begin, end),
		cmocka_unit_test_setup_teardown(test_device_gone, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_limit, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_no_device_there, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_rejection, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_locked_memory, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_queue_pairs_here, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_no_device_here, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_on_iwarp, begin, end),
		cmocka_unit_test_setup_teardown(test_fallback_when_not_joined, begin, end),
		cmocka_unit_test_setup_teardown(test_joined_in_standstill, begin, end),
		cmocka_unit_test_setup_teardown(test_bad_nodes, begin, end),
		cmocka_unit_test_setup_teardown(test_cancel_connecting, begin, end),
		cmocka_unit_test_setup_teardown(test_each_call_fails, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
