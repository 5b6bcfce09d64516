/*
 * test_memnode_rdma.c
 *	  The memory node over stubs of libibverbs and librdmacm: queue pairs and slabs of which there are many, and that take long to let go
 *	  of, while others want to be served; and the end of all of it. What needs a device is in test/memnode/rdma.c.
 *
 * The node runs in a thread of this process, and nothing takes time for the test's own thread.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lb_clock.h"
#include "raw_frame.h"
#include "rdma_peer.h"
#include "server.h"
#include "verbs_stubs.h"

#define BACKENDS 12 /* and the node's limit */
#define SLAB_PAGES 256
#define THIRD_SLABS 10 /* of instance 3 */

/* Each of the many things takes this long. Others may wait for one or two of them, on a machine that has other things to do too. */
#define ONE_MS 150
#define ONE_NS (UINT64_C(1000000) * ONE_MS)
#define PATIENCE_NS (5 * ONE_NS)

static char tcp_uri[60];
static char rdma_uri[60];
static options node_options;
static pthread_t node_thread;
static int node_exit_code;
static client monitor;
static client other; /* another instance's agent, over tcp */
static int descriptors;

/* As much memory may be locked as anybody wants. */
int
fake_getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
	(void) resource;
	limit->rlim_cur = limit->rlim_max = RLIM_INFINITY;
	return 0;
}

/* ---- the node ---- */

static uint16_t
free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, length), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *) &address, &length), 0);
	close(fd);
	return ntohs(address.sin_port);
}

static void *
run_node(void *arg)
{
	(void) arg;
	node_exit_code = server_run(&node_options);
	return NULL;
}

static void
wait_until_listening(const char *uri)
{
	lb_address address;
	lb_status status;
	lb_uri parsed;
	int fd = -1;

	assert_true(lb_uri_parse(uri, false, &parsed, &status) &&
				lb_net_resolve(&parsed, false, &address, &status));
	for (int i = 0; i < 500 && fd < 0; i++)
	{
		fd = lb_net_connect(&address, lb_now_ns() + UINT64_C(1000000000), &status);
		if (fd < 0)
			usleep(20000);
	}
	if (fd < 0)
		fail_msg("%s", status.message);
	close(fd);
}

static int
begin(void **state)
{
	static char limit[10];
	char *arguments[] = {"memnode",  "--listen",        tcp_uri,
						 "--listen", rdma_uri,          "--memory",
						 "64MB",     "--no-huge-pages", "--max-rdma-connections",
						 limit};
	lb_status status;

	(void) state;
	stub_reset();
	snprintf(tcp_uri, sizeof(tcp_uri), "tcp://127.0.0.1:%u", free_port());
	snprintf(rdma_uri, sizeof(rdma_uri), "rdma://127.0.0.1:%u", free_port());
	snprintf(limit, sizeof(limit), "%d", BACKENDS);
	optind = 0; /* begin anew */
	if (!options_parse(sizeof(arguments) / sizeof(arguments[0]), arguments, &node_options, &status))
		fail_msg("%s", status.message);
	descriptors = count_open_descriptors();
	assert_int_equal(pthread_create(&node_thread, NULL, run_node, NULL), 0);
	wait_until_listening(tcp_uri);
	wait_until_listening(rdma_uri);
	monitor_open(&monitor, tcp_uri);
	agent_open(&other, tcp_uri, 2, 1);
	return 0;
}

static void
stop_node(void)
{
	kill(getpid(), SIGTERM);
	pthread_join(node_thread, NULL);
	assert_int_equal(node_exit_code, 0);
}

static int
end(void **state)
{
	(void) state;
	stub_take_time(0);
	client_close(&monitor);
	client_close(&other);
	stop_node();
	assert_string_equal(stub_alive_text(), "");
	assert_int_equal(count_open_descriptors(), descriptors);
	return 0;
}

/* ---- its peers ---- */

static lb_node_figures
figures(void)
{
	lb_node_figures found;

	assert_int_equal(client_status(&monitor, &found), LB_STATUS_REPLY);
	return found;
}

/* Wait for so many queue pairs and registered pages, while the others are served all the time. */
static void
settle(uint32_t connections, uint64_t registered)
{
	uint64_t begin_ns = lb_now_ns();
	lb_node_figures found;

	do
	{
		uint64_t asked_ns = lb_now_ns();

		assert_int_equal(client_ping(&other), LB_PONG);
		found = figures();
		assert_true(lb_now_ns() - asked_ns < PATIENCE_NS);
		if (lb_now_ns() - begin_ns > UINT64_C(20000000000))
			fail_msg("%u queue pairs, %lu pages registered", found.rdma_connections,
					 (unsigned long) found.registered_pages);
		usleep(2000);
	} while (found.rdma_connections != connections || found.registered_pages != registered);
}

static void
request_slabs(client *agent, uint32_t count)
{
	lb_slab_list granted;

	assert_int_equal(client_request_slabs(agent, SLAB_PAGES, count, &granted), LB_SLAB_GRANT);
	assert_int_equal(granted.count, count);
}

static void
push(rdma_peer *agent, uint64_t version)
{
	push_plan plan = {.count = 8, .relation = 1, .version = version, .seed = 100 * version};
	lb_push_ack ack;

	assert_int_equal(client_push(&agent->client, &plan, &ack), LB_PUSH_ACK);
	assert_int_equal(ack.results[7], LB_PUSH_PUBLISHED);
}

static bool
reads(rdma_peer *backend, uint64_t version)
{
	lb_status status;

	return rdma_read(backend, 0, 0, 8, &status) && is_page(backend->memory, 100 * version) &&
		   is_page(backend->memory + 7 * LB_PAGE_SIZE, 100 * version + 7);
}

static void
open_backends(rdma_peer *backends, uint64_t epoch, const rdma_peer *agent)
{
	for (int i = 0; i < BACKENDS; i++)
		rdma_backend_open(&backends[i], rdma_uri, 1, epoch, agent->client.welcome.token);
}

static void
close_backends(rdma_peer *backends)
{
	for (int i = 0; i < BACKENDS; i++)
		rdma_peer_close(&backends[i]);
}

/* Instance 1 with an agent and all the backends that may be, which read. */
static void
open_instance(rdma_peer *agent, rdma_peer *backends)
{
	rdma_agent_open(agent, rdma_uri, 1, 1);
	request_slabs(&agent->client, 2);
	push(agent, 1);
	open_backends(backends, 1, agent);
	for (int i = 0; i < BACKENDS; i++)
		assert_true(reads(&backends[i], 1));
	settle(1 + BACKENDS, 2 * SLAB_PAGES);
}

/* ---- tests ---- */

/* Another agent takes the instance over. */
static void
take_over(rdma_peer *agent, uint64_t epoch)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 1, epoch, 0);

	hello.take_over = true;
	rdma_peer_open(agent, rdma_uri, &hello);
}

static void
join(rdma_peer *agent)
{
	lb_rdma_invitation invitation;
	lb_status status;

	assert_int_equal(rdma_invite(agent, &invitation), LB_RDMA_OPENED);
	assert_true(rdma_join(agent, &invitation, true, &status));
	rdma_announce(agent, NULL);
}

/* What opens a backend, which waits for the node, in a thread of its own. */
typedef struct opening
{
	pthread_t thread;
	rdma_peer *backend;
	uint64_t token;
} opening;

static void *
run_opening(void *arg)
{
	opening *self = arg;

	rdma_backend_open(self->backend, rdma_uri, 1, 2, self->token);
	return NULL;
}

/* All that may be, all together: the node gets many requests in one turn. It never has more queue pairs than its limit allows. */
static void
open_at_once(rdma_peer *backends, const rdma_peer *agent)
{
	opening openings[BACKENDS];

	for (int i = 0; i < BACKENDS; i++)
	{
		openings[i].backend = &backends[i];
		openings[i].token = agent->client.welcome.token;
		assert_int_equal(pthread_create(&openings[i].thread, NULL, run_opening, &openings[i]), 0);
	}
	while (stub_called(CALL_rdma_accept) < 2 + 2 * BACKENDS)
		assert_true(figures().rdma_connections <= 1 + BACKENDS);
	assert_true(figures().rdma_connections <= 1 + BACKENDS);
	for (int i = 0; i < BACKENDS; i++)
		pthread_join(openings[i].thread, NULL);
}

/*
 * All former backends are out at once, their queue pairs one after the other; the last of them still reads what its directory knows. There is
 * room for new ones, though never more on the device than the limit.
 */
static void
test_expelled(void **state)
{
	rdma_peer agents[2];
	rdma_peer former[BACKENDS];
	rdma_peer backends[BACKENDS];
	uint64_t begin_ns;

	(void) state;
	open_instance(&agents[0], former);
	stub_take_time(ONE_MS);
	begin_ns = lb_now_ns();
	take_over(&agents[1], 2);
	assert_true(lb_now_ns() - begin_ns < PATIENCE_NS);
	for (int i = 0; i < BACKENDS; i++)
		assert_int_equal(client_receive(&former[i].client), CLIENT_CLOSED);
	assert_true(figures().rdma_connections > BACKENDS / 2);
	assert_true(reads(&former[BACKENDS - 1], 1));

	join(&agents[1]);
	open_at_once(backends, &agents[1]);
	request_slabs(&agents[1].client, 1);
	push(&agents[1], 7);
	settle(1 + BACKENDS, SLAB_PAGES);
	for (int i = 0; i < BACKENDS; i++)
	{
		assert_int_equal(rdma_ask_keys(&backends[i], 0), LB_SLAB_KEYS_REPLY);
		assert_true(reads(&backends[i], 7));
		assert_false(reads(&former[i], 1));
	}
	close_backends(former);
	close_backends(backends);
	rdma_peer_close(&agents[0]);
	rdma_peer_close(&agents[1]);
	settle(0, SLAB_PAGES);
}

/* The peers end as well, while their queue pairs are doomed: what the listener tells of them finds no session. */
static void
test_doomed_end(void **state)
{
	rdma_peer agents[2];
	rdma_peer backends[BACKENDS];
	uint64_t begin_ns;

	(void) state;
	open_instance(&agents[0], backends);
	stub_take_time(ONE_MS);
	begin_ns = lb_now_ns();
	take_over(&agents[1], 2);
	close_backends(backends);
	rdma_peer_close(&agents[0]);
	assert_true(figures().rdma_connections > BACKENDS / 2);
	rdma_peer_close(&agents[1]);
	settle(0, 0);
	assert_true(lb_now_ns() - begin_ns >= (BACKENDS + 2) * ONE_NS);
}

/* The memory is given up while queue pairs in its domain are doomed, and nobody is attached. */
static void
test_domain(void **state)
{
	rdma_peer agents[2];
	rdma_peer backends[BACKENDS];

	(void) state;
	open_instance(&agents[0], backends);
	stub_take_time(ONE_MS);
	take_over(&agents[1], 2);
	assert_int_equal(stub_alive(STUB_DOMAIN), 2 + BACKENDS);
	join(&agents[1]);
	assert_int_equal(stub_alive(STUB_DOMAIN), 4 + BACKENDS); /* its own, on both sides */
	settle(1, 0);
	close_backends(backends);
	rdma_peer_close(&agents[0]);
	assert_int_equal(stub_alive(STUB_DOMAIN), 2);
	rdma_peer_close(&agents[1]);
	settle(0, 0);
	assert_int_equal(stub_alive(STUB_DOMAIN), 0);
}

static void
invite_until(rdma_peer *peer, lb_rdma_invitation *invitation)
{
	uint64_t deadline_ns = lb_now_ns() + UINT64_C(10000000000);

	while (rdma_invite(peer, invitation) != LB_RDMA_OPENED)
	{
		assert_true(lb_now_ns() < deadline_ns);
		usleep(50000);
	}
}

/* A backend over rdma of instance 3, which has its agent over tcp. */
static void
open_third(rdma_peer *backend, const client *agent)
{
	lb_hello hello = make_hello(LB_ROLE_BACKEND, 3, 1, agent->welcome.token);

	rdma_peer_open(backend, rdma_uri, &hello);
}

static void
join_third(rdma_peer *backend)
{
	lb_rdma_invitation invitation;
	lb_status status;

	invite_until(backend, &invitation);
	assert_true(rdma_join(backend, &invitation, false, &status));
	assert_int_equal(rdma_ask_keys(backend, 0), LB_SLAB_KEYS_REPLY);
}

static void
expect_no_invitation(rdma_peer *peer)
{
	lb_rdma_invitation invitation;

	assert_int_equal(rdma_invite(peer, &invitation), LB_ERROR);
	assert_int_equal(peer->client.error.error, LB_ERR_INTERNAL);
}

/* Everything on the device is let go of, one thing after the other, and by itself. Those who use no device go on. */
static void
test_device_gone(void **state)
{
	rdma_peer agent;
	rdma_peer backends[BACKENDS];
	rdma_peer third;
	client third_agent;
	uint64_t begin_ns;

	(void) state;
	agent_open(&third_agent, tcp_uri, 3, 1);
	request_slabs(&third_agent, THIRD_SLABS);
	open_third(&third, &third_agent);
	join_third(&third);
	settle(1, THIRD_SLABS * SLAB_PAGES);
	rdma_peer_close(&third);
	settle(0, THIRD_SLABS * SLAB_PAGES);

	rdma_agent_open(&agent, rdma_uri, 1, 1);
	request_slabs(&agent.client, 2);
	open_backends(backends, 1, &agent);
	settle(1 + BACKENDS, (THIRD_SLABS + 2) * SLAB_PAGES);

	stub_take_time(ONE_MS);
	begin_ns = lb_now_ns();
	stub_remove_device(0);
	assert_int_equal(client_receive(&agent.client), CLIENT_CLOSED);
	open_third(&third, &third_agent);
	expect_no_invitation(&third);
	request_slabs(&other, 1); /* others are granted memory meanwhile */
	assert_true(figures().registered_pages > 0);
	settle(0, 0);
	assert_true(lb_now_ns() - begin_ns >= (BACKENDS + THIRD_SLABS + 2) * ONE_NS);
	expect_no_invitation(&third);
	request_slabs(&third_agent, 1);
	assert_int_equal(figures().registered_pages, 0);
	close_backends(backends);
	rdma_peer_close(&agent);
	assert_int_equal(stub_alive(STUB_REGION) + stub_alive(STUB_DOMAIN) + stub_alive(STUB_CQ), 0);

	stub_return_device(0);
	join_third(&third);
	assert_int_equal(third.keys.count, THIRD_SLABS + 1);
	settle(1, (THIRD_SLABS + 1) * SLAB_PAGES);
	rdma_peer_close(&third);
	client_close(&third_agent);
}

/* Larger slabs would take too long to register. Over tcp they may be asked for, though there is not so much memory here. */
static void
test_slab_size(void **state)
{
	lb_slab_list granted;
	rdma_peer agent;

	(void) state;
	rdma_agent_open(&agent, rdma_uri, 1, 1);
	assert_int_equal(client_request_slabs(&agent.client, 2 * LB_RDMA_SLAB_PAGES_MAX, 1, &granted),
					 LB_ERROR);
	assert_int_equal(agent.client.error.error, LB_ERR_SLAB);
	assert_int_equal(client_request_slabs(&agent.client, LB_RDMA_SLAB_PAGES_MAX, 1, &granted),
					 LB_SLAB_GRANT);
	assert_int_equal(client_request_slabs(&other, LB_SLAB_PAGES_MAX, 1, &granted), LB_SLAB_GRANT);
	rdma_peer_close(&agent);
}

/* The node ends with queue pairs of all kinds. */
static void
test_exit(void **state)
{
	rdma_peer agents[2];
	rdma_peer former[BACKENDS];
	rdma_peer backends[BACKENDS];

	(void) state;
	open_instance(&agents[0], former);
	stub_take_time(ONE_MS);
	take_over(&agents[1], 2);
	join(&agents[1]);
	open_backends(backends, 2, &agents[1]);
	stop_node();
	assert_int_equal(stub_alive(STUB_QP), 2 + 2 * BACKENDS); /* those of the peers */
	close_backends(former);
	close_backends(backends);
	rdma_peer_close(&agents[0]);
	rdma_peer_close(&agents[1]);
	client_close(&monitor);
	client_close(&other);
	assert_string_equal(stub_alive_text(), "");
	assert_int_equal(count_open_descriptors(), descriptors);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_expelled, begin, end),
		cmocka_unit_test_setup_teardown(test_doomed_end, begin, end),
		cmocka_unit_test_setup_teardown(test_domain, begin, end),
		cmocka_unit_test_setup_teardown(test_device_gone, begin, end),
		cmocka_unit_test_setup_teardown(test_slab_size, begin, end),
		cmocka_unit_test_setup(test_exit, begin),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
