/*
 * fault_points.c
 *	  The named places at which tests make the memory node stop, fail or wait. MEMNODE is a build that has them.
 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "lb_clock.h"
#include "node_process.h"
#include "tap.h"

static node_process node;
static client agent;
static client reader;

/* A node with this specification, an agent with one slab, and a reader. */
static void
start(const char *specification)
{
	const char *options[] = {"--memory", "16MB", "--fault-points", specification, NULL};
	lb_slab_list granted;

	node_start(&node, options);
	agent_open(&agent, node.tcp_uri, 1, 1);
	client_request_slabs(&agent, 256, 1, &granted);
	backend_open(&reader, node.tcp_uri, 1, 1, agent.welcome.token);
}

static void
stop(void)
{
	client_close(&agent);
	client_close(&reader);
	node_stop(&node);
	node_clean(&node);
}

static int
push(uint64_t version, lb_push_ack *ack)
{
	push_plan plan = {.count = 2, .relation = 1, .version = version, .seed = version};

	return client_push(&agent, &plan, ack);
}

static int
read_one(void)
{
	lb_slot_ref slot = {0, 0};

	return client_read(&reader, &slot, 1);
}

static uint64_t
used_pages(void)
{
	lb_node_figures figures = {0};
	client monitor;

	monitor_open(&monitor, node.tcp_uri);
	client_status(&monitor, &figures);
	client_close(&monitor);
	return figures.used_pages;
}

static void
test_kill(const char *specification)
{
	lb_push_ack ack;

	start(specification);
	is_number(push(1, &ack), CLIENT_CLOSED, "%s: the connection ends", specification);
	ok(node_wait(&node, 5000) == -1, "... because the node was killed");
	client_close(&agent);
	client_close(&reader);
	node_clean(&node);
}

static void
test_fail(void)
{
	lb_push_ack ack;

	start("memnode.received=fail");
	is_number(push(1, &ack), CLIENT_CLOSED, "received=fail: the connection ends");
	is_number(used_pages(), 0, "... nothing is published");
	stop();
	start("memnode.pulled=fail@1");
	push(1, &ack);
	ok(ack.results[0] == LB_PUSH_BAD_CHECKSUM && ack.results[1] == LB_PUSH_PUBLISHED,
	   "pulled=fail: as if the page had come damaged");
	stop();
	start("memnode.published=fail@1");
	is_number(push(1, &ack), CLIENT_CLOSED, "published=fail: the connection ends");
	is_number(used_pages(), 1, "... one page is published");
	stop();
	start("memnode.acknowledge=fail");
	is_number(push(1, &ack), CLIENT_CLOSED, "acknowledge=fail: the connection ends");
	is_number(used_pages(), 2, "... both pages are published");
	stop();
	start("memnode.read=fail@1");
	ok(read_one() == LB_ERROR && reader.error.error == LB_ERR_INTERNAL, "read=fail: ERROR");
	is_number(read_one(), LB_READ_REPLY, "... and the next is answered");
	stop();
	start("memnode.accept=fail@3");
	client_close(&reader);
	client_open(&reader, node.tcp_uri);
	is_number(client_receive(&reader), CLIENT_CLOSED, "accept=fail: closed");
	is_number(client_ping(&agent), LB_PONG, "... and the others go on");
	stop();
}

/* Only the request: a page of zeros to slot 0. */
static void
push_without_answer(void)
{
	static uint8_t page[LB_PAGE_SIZE];
	lb_push_batch batch = {.count = 1, .pushes = {{.version = 1}}};
	uint8_t body[LB_BODY_MAX];

	batch.pushes[0].checksum = lb_page_checksum(page);
	client_send_bulk(&agent, LB_PUSH, body, lb_encode_push(body, &batch), page, sizeof(page), -1);
}

static void
test_wait_and_stop(void)
{
	uint64_t begin_ns;

	start("memnode.read=wait:300");
	begin_ns = lb_now_ns();
	is_number(read_one(), LB_READ_REPLY, "read=wait: answered");
	ok(lb_now_ns() - begin_ns >= 300000000, "... after that time");
	stop();

	start("memnode.acknowledge=stop@1");
	push_without_answer();
	is_number(client_receive_within(&agent, 300), (uint64_t) CLIENT_SILENT,
			  "acknowledge=stop: no answer");
	kill(node.pid, SIGCONT);
	is_number(client_receive(&agent), LB_PUSH_ACK, "... until it goes on");
	is_number(client_ping(&agent), LB_PONG, "... and goes on");
	stop();
}

int
main(void)
{
	test_kill("memnode.received=kill");
	test_kill("memnode.pulled=kill@2");
	test_kill("memnode.published=kill@1");
	test_kill("memnode.acknowledge=kill@1");
	test_fail();
	test_wait_and_stop();
	return done_testing();
}
