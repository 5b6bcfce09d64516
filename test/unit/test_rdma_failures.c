/*
 * test_rdma_failures.c
 *	  The verbs layer over stubs of libibverbs and librdmacm: each call that can fail fails, at each place where it is made, and every
 *	  event and completion that says so comes. Nothing may be left behind, and the status has to say what it was.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw_frame.h"
#include "rdma_fixture.h"
#include "verbs_stubs.h"

/* ---- calls that fail ---- */

static bool
read_batch(int first, int count)
{
	uint64_t id;
	int found;

	if (!pair_post(&pair, first, count, 1, &status))
		return false;
	found = lb_rdma_poll(reader(), &id, &status);
	assert_int_not_equal(found, 0);
	return found == 1 && (!pair.pull || lb_rdma_arm(pair.accepted, &status));
}

/* Everything that there is to do, once. */
static bool
whole_path(void)
{
	return pair_listen(&pair, &status) && pair_connect(&pair, &status) && read_batch(0, 1) &&
		   read_batch(1, 16) && lb_rdma_check(pair.connection, &status);
}

/*
 * Let each call of this function fail in turn, until one more would be needed than there are. Returns how many there are. What is done
 * at the end (drain, disconnect) goes on whatever fails there.
 */
static int
sweep(stub_call call, int error, bool pull, bool may_fail)
{
	for (int n = 1; n < 100; n++)
	{
		bool good;

		memset(&status, 0, sizeof(status));
		pair_prepare(&pair, pull);
		stub_fail(call, n, error);
		good = whole_path();
		if (good && stub_has_failed() && !may_fail)
			fail_msg("nobody has noticed that call %d of %s failed", n, stub_call_name(call));
		if (!good && !stub_has_failed())
			fail_msg("%s", status.message);
		if (!good)
		{
			expect_failure();
			/* Who is broken stays broken. (That the listener's channel failed is no matter of connections.) */
			if (call != CALL_rdma_get_cm_event && pair.connection && pair.accepted &&
				lb_rdma_check(pair.connection, &status) && lb_rdma_check(pair.accepted, &status) &&
				pair_serve(&pair, &status) && pair.ended == 0)
				fail_msg("call %d of %s failed, and nobody is broken", n, stub_call_name(call));
		}
		pair_close(&pair);
		if (stub_all_alive() > 0 || count_open_descriptors() != descriptors)
			fail_msg("call %d of %s failed (%s), and there is left: %s; descriptors: %d of %d", n,
					 stub_call_name(call), status.message, stub_alive_text(),
					 count_open_descriptors(), descriptors);
		if (!stub_has_failed())
			return n - 1;
	}
	fail_msg("%s is called for ever", stub_call_name(call));
	return 0;
}

/* Nothing depends on these: a timeout that is longer, a farewell that is not said. */
static bool
is_best_effort(stub_call call)
{
	return call == CALL_rdma_set_option || call == CALL_rdma_disconnect || call == CALL_rdma_reject;
}

static void
test_each_call_fails(void **state)
{
	static const int errors[] = {EIO, ENOMEM, EINVAL, ENODEV, EPERM};
	int used = 0;

	(void) state;
	for (int call = 0; call < CALLS; call++)
		for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
			for (int pull = 0; pull <= 1; pull++)
				used += sweep((stub_call) call, errors[i], pull, is_best_effort((stub_call) call));
	print_message("%d calls failed\n", used);
	assert_true(used > 300);
}

/*
 * The first use of RDMA in a process; done in one of its own, as it is remembered.
 */
static void
test_fork_init_fails(void **state)
{
	int result;
	pid_t child;

	(void) state;
	pair_prepare(&pair, false);
	child = fork();
	assert_true(child >= 0);
	if (child == 0)
	{
		stub_fail(CALL_ibv_fork_init, 1, EINVAL);
		_exit(!pair_listen(&pair, &status) && status.code != LB_OK && stub_has_failed() &&
					  stub_all_alive() == 0
				  ? 0
				  : 1);
	}
	assert_int_equal(waitpid(child, &result, 0), child);
	assert_int_equal(result, 0);
}

/* An accept that fails is told to the other side. */
static void
test_accept_fails(void **state)
{
	static const stub_call calls[] = {CALL_ibv_create_comp_channel, CALL_ibv_create_cq,
									  CALL_rdma_accept};

	(void) state;
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
	{
		pair_prepare(&pair, true);
		assert_true(pair_listen(&pair, &status) && pair_ask(&pair, &status));
		for (int n = 0; n < 3; n++)
			assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
		stub_fail(calls[i], 1, ENOMEM);
		assert_false(pair_serve(&pair, &status));
		assert_null(pair.accepted);
		expect_failure();
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
		expect_code(LB_CLOSED);
		pair_close(&pair);
	}
}

/* No queue pair left: that is a limit, with which one can live. */
static void
test_limits(void **state)
{
	(void) state;
	pair_prepare(&pair, false);
	assert_true(pair_listen(&pair, &status));
	stub_fail(CALL_rdma_create_qp, 1, ENOMEM);
	assert_false(pair_connect(&pair, &status));
	expect_code(LB_REFUSED);
	assert_int_equal(status.wire_error, LB_ERR_LIMIT);
	assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
	expect_code(LB_REFUSED);
	lb_rdma_close(pair.connection);

	stub_fail(CALL_ibv_reg_mr, 1, ENOMEM);
	assert_false(pair_connect(&pair, &status));
	expect_code(LB_SYSTEM);
}

/* With a limit of 64 kB on locked memory. */
static bool
says_what_may_be_locked(void)
{
	return lb_rdma_may_lock(65536, &status) && !lb_rdma_may_lock(65537, &status) &&
		   status.code == LB_SYSTEM && strstr(status.message, "64 kB") != NULL;
}

static bool
says_what_was_locked(void)
{
	stub_fail(CALL_ibv_reg_mr, 1, ENOMEM);
	return !pair_listen(&pair, &status) && status.code == LB_SYSTEM &&
		   strstr(status.message, "64 kB") != NULL;
}

/* Whoever may lock what it wants is told of the limit all the same when it could not. */
static bool
with_privileges(void)
{
	return says_what_was_locked();
}

static bool
without_privileges(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	return syscall(SYS_capset, &header, data) == 0 && says_what_may_be_locked() &&
		   says_what_was_locked();
}

/* All capabilities, but of a user namespace of one's own: the kernel does not count them. (Some kernels let nobody have one.) */
static bool
with_privileges_of_no_use(void)
{
	return unshare(CLONE_NEWUSER) != 0 || (says_what_may_be_locked() && says_what_was_locked());
}

static void
test_locked_memory(void **state)
{
	static bool (*const cases[])(void) = {with_privileges, without_privileges,
										  with_privileges_of_no_use};

	(void) state;
	pair_prepare(&pair, false);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		struct rlimit limit = {65536, 65536};
		pid_t child = fork();
		int result;

		assert_true(child >= 0);
		if (child == 0)
			_exit(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && cases[i]() ? 0 : 1);
		assert_int_equal(waitpid(child, &result, 0), child);
		if (result != 0)
			fail_msg("case %zu", i);
	}
}

/* Of a chain the first half was posted when the device refused the rest: it must be drained too. */
static void
test_half_posted(void **state)
{
	uint64_t id;

	(void) state;
	connect_pair(false);
	stub_withhold(true);
	stub_fail(CALL_ibv_post_send, 1, ENOMEM);
	assert_false(pair_post(&pair, 0, 16, 1, &status));
	expect_code(LB_SYSTEM);
	assert_int_equal(stub_reads_pending(), 8);
	assert_int_equal(lb_rdma_get_counters(pair.connection).work_requests, 8);
	assert_int_equal(lb_rdma_poll(pair.connection, &id, &status), -1);
	assert_false(pair_post(&pair, 0, 1, 2, &status));
	lb_rdma_close(pair.connection);
	pair.connection = NULL;
	assert_int_equal(stub_reads_pending(), 0);
	assert_int_equal(stub_get_reads().completions, 8);
}

/* ---- events that come instead ---- */

typedef struct bad_event
{
	enum rdma_cm_event_type expected;
	enum rdma_cm_event_type instead;
	int status;
	lb_code code;
} bad_event;

static void
test_bad_events(void **state)
{
	static const bad_event events[] = {
		{RDMA_CM_EVENT_ADDR_RESOLVED, RDMA_CM_EVENT_ADDR_ERROR, -ENODEV, LB_SYSTEM},
		{RDMA_CM_EVENT_ADDR_RESOLVED, RDMA_CM_EVENT_ADDR_ERROR, -ETIMEDOUT, LB_TIMEOUT},
		{RDMA_CM_EVENT_ADDR_RESOLVED, RDMA_CM_EVENT_DEVICE_REMOVAL, 0, LB_SYSTEM},
		{RDMA_CM_EVENT_ROUTE_RESOLVED, RDMA_CM_EVENT_ROUTE_ERROR, -ENETUNREACH, LB_SYSTEM},
		{RDMA_CM_EVENT_ROUTE_RESOLVED, RDMA_CM_EVENT_ROUTE_ERROR, -ETIMEDOUT, LB_TIMEOUT},
		{RDMA_CM_EVENT_ROUTE_RESOLVED, RDMA_CM_EVENT_DEVICE_REMOVAL, 0, LB_SYSTEM},
		{RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, LB_TIMEOUT},
		{RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL, LB_SYSTEM},
		{RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_REJECTED, 28, LB_CLOSED},
		{RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_REJECTED, 99, LB_CLOSED},
		{RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_DISCONNECTED, 0, LB_CLOSED},
		{RDMA_CM_EVENT_ESTABLISHED, RDMA_CM_EVENT_DEVICE_REMOVAL, 0, LB_SYSTEM},
	};

	(void) state;
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
	{
		pair_prepare(&pair, false);
		assert_true(pair_listen(&pair, &status));
		stub_replace_event(events[i].expected, events[i].instead, events[i].status);
		assert_false(pair_connect(&pair, &status));
		expect_code(events[i].code);
		/* It stays so. */
		memset(&status, 0, sizeof(status));
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
		expect_code(events[i].code);
		pair_close(&pair);
		stub_reset(); /* a device that was said to be gone is of no use any more */
	}
}

/* Events that never come: the caller's patience is what ends it. */
static void
test_missing_events(void **state)
{
	static const enum rdma_cm_event_type events[] = {
		RDMA_CM_EVENT_ADDR_RESOLVED, RDMA_CM_EVENT_ROUTE_RESOLVED, RDMA_CM_EVENT_ESTABLISHED};

	(void) state;
	for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
	{
		pair_prepare(&pair, false);
		assert_true(pair_listen(&pair, &status));
		stub_replace_event(events[i], STUB_NEVER, 0);
		assert_false(pair_connect(&pair, &status));
		assert_string_equal(status.message, "nothing happens");
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
		pair_close(&pair);
		assert_int_equal(stub_all_alive(), 0);
	}
}

static void
test_wrong_secret(void **state)
{
	(void) state;
	pair_prepare(&pair, false);
	assert_true(pair_listen(&pair, &status));
	pair.refuse_secret = true;
	assert_false(pair_connect(&pair, &status));
	expect_code(LB_CLOSED);
	assert_null(pair.accepted);
}

static void
test_nobody_listens(void **state)
{
	lb_rdma_invitation invitation = {.port = 9};
	lb_address address = {.length = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *) &address.storage;
	lb_rdma_memory memory;

	(void) state;
	pair_prepare(&pair, false);
	memory = (lb_rdma_memory){.start = pair.memory, .length = PAIR_PAGES * LB_PAGE_SIZE};
	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	pair.connection = lb_rdma_connect_start(&address, &invitation, &memory, &status);
	assert_non_null(pair.connection);
	for (int i = 0; i < 2; i++)
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
	expect_code(LB_CLOSED);
	lb_rdma_close(pair.connection);

	/* No device leads there; there is none at all; and that is no address. */
	in->sin_addr.s_addr = htonl(0xc0000201);
	pair.connection = lb_rdma_connect_start(&address, &invitation, &memory, &status);
	assert_non_null(pair.connection);
	assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
	expect_code(LB_SYSTEM);
	lb_rdma_close(pair.connection);
	stub_set_devices(0);
	pair.connection = lb_rdma_connect_start(&address, &invitation, &memory, &status);
	assert_null(pair.connection);
	expect_code(LB_SYSTEM);
	stub_set_devices(2);
	in->sin_family = AF_UNIX;
	assert_null(lb_rdma_connect_start(&address, &invitation, &memory, &status));
	expect_code(LB_INVALID);
}

/* Who asks with rdma_cm itself, without a secret, or through another device. */
static void
ask_as_stranger(uint32_t address, bool with_secret)
{
	struct rdma_event_channel *channel = rdma_create_event_channel();
	struct sockaddr_in in = {.sin_family = AF_INET,
							 .sin_port = htons(lb_rdma_listener_port(pair.listener)),
							 .sin_addr.s_addr = htonl(address)};
	uint8_t secret[LB_RDMA_SECRET_SIZE] = {7, 1, 9, 4};
	struct rdma_conn_param parameters = {.private_data = with_secret ? secret : NULL,
										 .private_data_len = with_secret ? sizeof(secret) : 0};
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;
	struct ibv_qp_init_attr attributes = {
		.qp_type = IBV_QPT_RC, .cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1}};
	struct ibv_pd *domain;

	assert_int_equal(rdma_create_id(channel, &id, NULL, RDMA_PS_TCP), 0);
	assert_int_equal(rdma_resolve_addr(id, NULL, (struct sockaddr *) &in, 1000), 0);
	assert_int_equal(rdma_get_cm_event(channel, &event), 0);
	rdma_ack_cm_event(event);
	assert_int_equal(rdma_resolve_route(id, 1000), 0);
	assert_int_equal(rdma_get_cm_event(channel, &event), 0);
	rdma_ack_cm_event(event);
	domain = ibv_alloc_pd(id->verbs);
	attributes.send_cq = attributes.recv_cq = ibv_create_cq(id->verbs, 1, NULL, NULL, 0);
	assert_int_equal(rdma_create_qp(id, domain, &attributes), 0);
	assert_int_equal(rdma_connect(id, &parameters), 0);

	/* Rejected without the owner having heard of it. */
	assert_true(pair_serve(&pair, &status));
	assert_null(pair.accepted);
	assert_int_equal(rdma_get_cm_event(channel, &event), 0);
	assert_int_equal(event->event, RDMA_CM_EVENT_REJECTED);
	rdma_ack_cm_event(event);
	rdma_destroy_qp(id);
	ibv_destroy_cq(attributes.send_cq);
	ibv_dealloc_pd(domain);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(channel);
}

static void
test_strangers(void **state)
{
	lb_address any = {.length = sizeof(struct sockaddr_in)};

	(void) state;
	((struct sockaddr_in *) &any.storage)->sin_family = AF_INET;
	pair_prepare(&pair, false);
	pair.listener = lb_rdma_listen(&any, "stub0", &status);
	assert_non_null(pair.listener);
	ask_as_stranger(INADDR_LOOPBACK, false);
	ask_as_stranger(0x0a010101, true);
}

/* ---- completions that fail ---- */

static void
test_each_status(void **state)
{
	(void) state;
	for (int bad = IBV_WC_LOC_LEN_ERR; bad <= IBV_WC_TM_RNDV_INCOMPLETE; bad++)
	{
		lb_code code = LB_SYSTEM;
		uint64_t id;

		if (bad == IBV_WC_REM_ACCESS_ERR)
			code = LB_REFUSED;
		if (bad == IBV_WC_RETRY_EXC_ERR || bad == IBV_WC_RNR_RETRY_EXC_ERR ||
			bad == IBV_WC_RESP_TIMEOUT_ERR)
			code = LB_TIMEOUT;
		if (bad == IBV_WC_WR_FLUSH_ERR)
			code = LB_CLOSED;
		connect_pair(false);
		stub_complete_with(1, (enum ibv_wc_status) bad);
		assert_true(pair_post(&pair, 0, 1, 1, &status));
		for (int i = 0; i < 3; i++)
		{
			assert_int_equal(lb_rdma_poll(pair.connection, &id, &status), -1);
			expect_code(code);
			assert_int_equal(status.wire_error, code == LB_REFUSED ? LB_ERR_SLAB : 0);
		}
		if (code == LB_SYSTEM)
			assert_non_null(strstr(status.message, ibv_wc_status_str((enum ibv_wc_status) bad)));
		assert_false(lb_rdma_check(pair.connection, &status));
		pair_close(&pair);
	}
}

/* One read among many fails, at each place in turn: batches before it are good, none after it is, and all room is there for the flushed ones. */
static void
test_one_of_many_fails(void **state)
{
	(void) state;
	for (int bad = 1; bad <= 128; bad += 9)
	{
		uint64_t id = 0;
		int complete = 0;

		connect_pair(bad % 2 == 0);
		stub_withhold(true);
		for (int batch = 0; batch < 8; batch++)
			assert_true(pair_post(&pair, batch * 16, 16, (uint64_t) batch + 1, &status));
		stub_complete_with(bad, IBV_WC_REM_ACCESS_ERR);
		stub_withhold(false);
		while (lb_rdma_poll(reader(), &id, &status) == 1)
			assert_int_equal(id, ++complete);
		expect_code(LB_REFUSED);
		assert_int_equal(complete, (bad - 1) / 16);
		for (int page = 0; page < complete * 16; page++)
			assert_true(pair_has_page(&pair, page));
		pair_close(&pair);
	}
}

static void
expect_poll_fails(lb_code code)
{
	uint64_t id;

	assert_int_equal(lb_rdma_poll(pair.connection, &id, &status), -1);
	expect_code(code);
}

static void
read_from(const void *address, uint32_t remote_key, void *dest, uint32_t local_key)
{
	lb_rdma_read read = {.dest = dest,
						 .local_key = local_key,
						 .address = (uintptr_t) address,
						 .remote_key = remote_key};

	assert_true(lb_rdma_post_reads(pair.connection, &read, 1, 1, &status));
}

/* Keys that are wrong, of another domain, not valid any more; bounds; and a local key that is wrong. */
static void
test_wrong_keys(void **state)
{
	static uint8_t others[LB_PAGE_SIZE] __attribute__((aligned(4096)));
	lb_rdma_domain *domain;
	lb_rdma_region *region;
	uint32_t key;
	uint32_t local;

	(void) state;
	for (int wrong = 0; wrong < 6; wrong++)
	{
		connect_pair(false);
		domain = lb_rdma_domain_create(pair.listener, &status);
		region = lb_rdma_register(domain, others, sizeof(others), &status);
		assert_non_null(region);
		key = lb_rdma_region_remote_key(pair.region);
		local = lb_rdma_local_key(pair.connection);
		switch (wrong)
		{
			case 0:
				read_from(pair.slab[0], key + 512, pair.memory, local);
				expect_poll_fails(LB_REFUSED);
				break;
			case 1: /* another tenant's */
				read_from(others, lb_rdma_region_remote_key(region), pair.memory, local);
				expect_poll_fails(LB_REFUSED);
				break;
			case 2: /* beyond the end */
				read_from(pair.slab[PAIR_PAGES - 1] + 1, key, pair.memory, local);
				expect_poll_fails(LB_REFUSED);
				break;
			case 3: /* the slab was given up meanwhile */
				stub_withhold(true);
				read_from(pair.slab[0], key, pair.memory, local);
				lb_rdma_deregister(pair.region);
				pair.region = NULL;
				stub_withhold(false);
				expect_poll_fails(LB_REFUSED);
				break;
			case 4:
				read_from(pair.slab[0], key, pair.memory, local + 512);
				expect_poll_fails(LB_SYSTEM);
				break;
			case 5: /* our own memory is not for others */
				assert_int_not_equal(lb_rdma_local_key(pair.connection), key);
				read_from(pair.slab[0], key, others, local);
				expect_poll_fails(LB_SYSTEM);
				break;
		}
		assert_true(pair_is_untouched(&pair));
		lb_rdma_deregister(region);
		lb_rdma_domain_destroy(domain);
		pair_close(&pair);
	}
}

/* The peer's queue pair is gone, and nobody said so. */
static void
test_peer_is_silent(void **state)
{
	(void) state;
	connect_pair(false);
	stub_complete_with(1, IBV_WC_RETRY_EXC_ERR);
	assert_true(pair_post(&pair, 0, 16, 1, &status));
	expect_poll_fails(LB_TIMEOUT);
}

/* Whoever lets nobody read is not accepted where the node wants to read. */
static void
test_nothing_to_pull(void **state)
{
	(void) state;
	pair_prepare(&pair, false);
	assert_true(pair_listen(&pair, &status) && pair_ask(&pair, &status));
	for (int n = 0; n < 3; n++)
		assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), 0);
	pair.pull = true;
	assert_false(pair_serve(&pair, &status));
	expect_code(LB_PROTOCOL);
	assert_int_equal(lb_rdma_connect_continue(pair.connection, &status), -1);
	expect_code(LB_CLOSED);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_fork_init_fails, begin, end), /* the first one */
		cmocka_unit_test_setup_teardown(test_each_call_fails, begin, end),
		cmocka_unit_test_setup_teardown(test_accept_fails, begin, end),
		cmocka_unit_test_setup_teardown(test_limits, begin, end),
		cmocka_unit_test_setup_teardown(test_locked_memory, begin, end),
		cmocka_unit_test_setup_teardown(test_half_posted, begin, end),
		cmocka_unit_test_setup_teardown(test_bad_events, begin, end),
		cmocka_unit_test_setup_teardown(test_missing_events, begin, end),
		cmocka_unit_test_setup_teardown(test_wrong_secret, begin, end),
		cmocka_unit_test_setup_teardown(test_nobody_listens, begin, end),
		cmocka_unit_test_setup_teardown(test_strangers, begin, end),
		cmocka_unit_test_setup_teardown(test_each_status, begin, end),
		cmocka_unit_test_setup_teardown(test_one_of_many_fails, begin, end),
		cmocka_unit_test_setup_teardown(test_wrong_keys, begin, end),
		cmocka_unit_test_setup_teardown(test_peer_is_silent, begin, end),
		cmocka_unit_test_setup_teardown(test_nothing_to_pull, begin, end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
