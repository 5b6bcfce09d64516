/*
 * rdma_pull.c
 *	  PUSH over rdma: pages are pulled by RDMA READ, some time after the PUSH was received; what comes behind it has to wait. It
 *	  needs a device. memnode.rdma.pull=fail is a pull that never completes.
 */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data_directory.h"
#include "lb_clock.h"
#include "rdma_peer.h"
#include "tap.h"

static node_process node;
static client monitor;
static rdma_peer agent;
static rdma_peer backend;
static uint64_t epoch;

static void
start(const char *faults, const char *const *options)
{
	lb_slab_list granted;

	rdma_node_start(&node, faults, options);
	monitor_open(&monitor, node.tcp_uri);
	epoch = 1;
	rdma_agent_open(&agent, node.rdma_uri, 1, epoch);
	client_request_slabs(&agent.client, 256, 2, &granted);
	if (granted.count != 2)
		bail_out("%u slabs", granted.count);
	rdma_backend_open(&backend, node.rdma_uri, 1, epoch, agent.client.welcome.token);
}

static void
stop(void)
{
	rdma_peer_close(&backend);
	rdma_peer_close(&agent);
	client_close(&monitor);
	is_number((uint64_t) node_stop(&node), 0, "clean exit");
	node_clean(&node);
}

static lb_node_figures
figures(void)
{
	lb_node_figures found;

	if (client_status(&monitor, &found) != LB_STATUS_REPLY)
		bail_out("no answer to STATUS");
	return found;
}

/* The agent's connection ends, if it has not; a new one resumes. */
static void
resume(void)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 1, ++epoch, agent.client.welcome.token);
	lb_rdma_invitation invitation;
	lb_status status;

	hello.resume = agent.client.welcome.incarnation;
	rdma_peer_close(&backend);
	rdma_peer_close(&agent);
	rdma_peer_open(&agent, node.rdma_uri, &hello);
	if (!agent.client.welcome.resumed)
		bail_out("not resumed");
	if (rdma_invite(&agent, &invitation) != LB_RDMA_OPENED ||
		!rdma_join(&agent, &invitation, true, &status))
		bail_out("no queue pair");
	rdma_announce(&agent, NULL);
	rdma_backend_open(&backend, node.rdma_uri, 1, epoch, agent.client.welcome.token);
}

/* Is what the backend reads there what was pushed with this seed? */
static bool
reads(uint32_t slab, uint32_t page, uint32_t count, uint64_t seed)
{
	lb_status status;

	if (!rdma_read(&backend, slab, page, count, &status))
	{
		note("%s", status.message);
		return false;
	}
	for (uint32_t i = 0; i < count; i++)
		if (!is_page(backend.memory + (size_t) i * LB_PAGE_SIZE, seed + i))
			return false;
	return true;
}

static void
test_results(void)
{
	push_plan plan = {.count = 64, .relation = 100, .version = 5, .seed = 1};
	lb_push_ack ack;
	bool all = true;

	is_number((uint64_t) client_push(&agent.client, &plan, &ack), LB_PUSH_ACK, "64 pages");
	for (uint32_t i = 0; i < ack.count; i++)
		all = ack.results[i] == LB_PUSH_PUBLISHED && all;
	ok(all && ack.count == 64 && reads(0, 0, 64, 1), "are published, and read");
	is_number(figures().used_pages, 64, "... as many as they are");

	client_push(&agent.client, &plan, &ack);
	is_number(ack.results[63], LB_PUSH_OLD_VERSION, "the same again");
	plan = (push_plan){.page = 254, .count = 4, .relation = 200, .version = 1, .seed = 500};
	client_push(&agent.client, &plan, &ack);
	ok(ack.results[0] == LB_PUSH_PUBLISHED && ack.results[1] == LB_PUSH_PUBLISHED &&
		   ack.results[2] == LB_PUSH_NO_SLOT && ack.results[3] == LB_PUSH_NO_SLOT &&
		   reads(0, 254, 2, 500),
	   "two into slots, two beyond the end of the slab");
	plan = (push_plan){.page = 100, .count = 3, .relation = 300, .version = 1, .seed = 600};
	plan.wrong_checksum = true;
	client_push(&agent.client, &plan, &ack);
	ok(ack.results[0] == LB_PUSH_BAD_CHECKSUM && ack.results[1] == LB_PUSH_PUBLISHED &&
		   ack.results[2] == LB_PUSH_PUBLISHED && reads(0, 101, 2, 601),
	   "a wrong checksum, two right ones");
	plan = (push_plan){.page = 0, .count = 1, .relation = 999, .version = 1, .seed = 7};
	plan.wrong_checksum = true;
	client_push(&agent.client, &plan, &ack);
	is_number(figures().used_pages, 64 + 2 + 2 - 1, "the slot of a damaged page is empty");
	plan.dirty = true;
	plan.wrong_checksum = false;
	plan.version = 2;
	client_push(&agent.client, &plan, &ack);
	is_number(ack.results[0], LB_PUSH_NO_STORAGE, "dirty, without storage");
}

/* Two pages to these slots, in these versions, of these blocks. */
static bool
send_two(const uint32_t slots[2], const uint64_t versions[2], const uint32_t blocks[2])
{
	lb_push_batch batch = {.count = 2};
	uint8_t body[LB_BODY_MAX];

	for (uint32_t i = 0; i < 2; i++)
	{
		uint8_t *page = agent.memory + (size_t) i * LB_PAGE_SIZE;

		make_page(page, 70 + i);
		batch.pushes[i] = (lb_push){.slab = 1,
									.page = slots[i],
									.tag = {1663, 5, 400, 0, blocks[i]},
									.version = versions[i],
									.checksum = lb_page_checksum(page),
									.buffer = i};
	}
	return client_send(&agent.client, LB_PUSH, body, lb_encode_push(body, &batch));
}

static void
expect_refused(const uint32_t slots[2], const uint64_t versions[2], const uint32_t blocks[2],
			   const char *what)
{
	uint64_t used = figures().used_pages;

	send_two(slots, versions, blocks);
	ok(client_receive(&agent.client) == LB_ERROR && agent.client.error.error == LB_ERR_MALFORMED,
	   "%s: %s", what, agent.client.error.message);
	is_number(figures().used_pages, used, "... and nothing changed");
	resume();
}

static void
test_conflicts(void)
{
	uint64_t used = figures().used_pages;
	lb_push_ack ack;

	send_two((uint32_t[]){10, 11}, (uint64_t[]){1, 2}, (uint32_t[]){9, 9});
	ok(client_receive(&agent.client) == LB_PUSH_ACK &&
		   lb_decode_push_ack(agent.client.frame.body, agent.client.frame.header.body_length,
							  &ack) &&
		   ack.results[0] == LB_PUSH_PUBLISHED && ack.results[1] == LB_PUSH_PUBLISHED,
	   "two versions of a page in one PUSH");
	ok(figures().used_pages == used + 1 && reads(1, 11, 1, 71), "the newer one stays");
	expect_refused((uint32_t[]){20, 21}, (uint64_t[]){2, 1}, (uint32_t[]){8, 8},
				   "the older version behind the newer");
	expect_refused((uint32_t[]){20, 21}, (uint64_t[]){1, 1}, (uint32_t[]){8, 8},
				   "the same version twice");
	expect_refused((uint32_t[]){20, 20}, (uint64_t[]){1, 1}, (uint32_t[]){8, 7},
				   "the same slot twice");
}

static void
expect_bad_layout(uint32_t count, uint32_t stride, uint64_t length, uint64_t address,
				  const char *what)
{
	lb_comm_region layout = {count, stride, length, address, 1};
	lb_hello hello = make_hello(LB_ROLE_AGENT, 7, ++epoch, 0);
	lb_rdma_invitation invitation;
	rdma_peer peer;
	lb_status status;

	rdma_peer_open(&peer, node.rdma_uri, &hello);
	rdma_invite(&peer, &invitation);
	rdma_join(&peer, &invitation, true, &status);
	rdma_announce(&peer, &layout);
	ok(client_receive(&peer.client) == LB_ERROR && peer.client.error.error == LB_ERR_MALFORMED,
	   "comm buffers: %s: %s", what, peer.client.error.message);
	rdma_peer_close(&peer);
}

static void
test_comm_buffers(void)
{
	push_plan plan = {.count = 1, .relation = 1, .version = 1};
	lb_hello hello = make_hello(LB_ROLE_AGENT, 7, 1, 0);
	uint64_t largest = UINT64_MAX - 8192;
	uint8_t body[LB_BODY_MAX];
	lb_comm_region layout;
	rdma_peer peer;

	rdma_peer_open(&peer, node.rdma_uri, &hello);
	peer.client.region = peer.memory;
	layout = (lb_comm_region){1, LB_PAGE_SIZE, LB_PAGE_SIZE, 4096, 1};
	client_send_push(&peer.client, &plan);
	ok(client_receive(&peer.client) == LB_ERROR && peer.client.error.error == LB_ERR_MALFORMED,
	   "PUSH before comm buffers");
	rdma_peer_close(&peer);
	hello.epoch = 2;
	rdma_peer_open(&peer, node.rdma_uri, &hello);
	client_send(&peer.client, LB_COMM_BUFFERS, body, lb_encode_comm_region(body, &layout));
	ok(client_receive(&peer.client) == LB_ERROR && peer.client.error.error == LB_ERR_MALFORMED,
	   "comm buffers before a queue pair");
	rdma_peer_close(&peer);
	expect_bad_layout(0, 8192, 8192, 4096, "none");
	expect_bad_layout(2, 8192, 8192, 4096, "more than there is room for");
	expect_bad_layout(2, 4096, 16384, 4096, "smaller than a page");
	expect_bad_layout(2, 8192, UINT64_C(1) << 40, 4096, "a region too large");
	expect_bad_layout(2, 8192, 16384, largest, "beyond all addresses");
}

/* Pages pulled from where the node may not read: the session ends, the slots stay empty, all else goes on. */
static void
test_wrong_key(void)
{
	push_plan plan = {.page = 40, .count = 4, .relation = 500, .version = 1, .seed = 1};
	lb_hello hello = make_hello(LB_ROLE_AGENT, 8, 1, 0);
	lb_rdma_invitation invitation;
	lb_comm_region layout;
	lb_slab_list granted;
	rdma_peer peer;
	lb_status status;
	lb_push_ack ack;

	rdma_peer_open(&peer, node.rdma_uri, &hello);
	rdma_invite(&peer, &invitation);
	rdma_join(&peer, &invitation, true, &status);
	layout = rdma_layout(&peer);
	layout.key ^= 0x5500;
	rdma_announce(&peer, &layout);
	client_request_slabs(&peer.client, 256, 1, &granted);
	is_number((uint64_t) client_push(&peer.client, &plan, &ack), CLIENT_CLOSED,
			  "a wrong key of the comm buffers: closed");
	rdma_peer_close(&peer);
	is_number(client_ping(&agent.client), LB_PONG, "the others go on");
}

/* A fence, a release and a ping right behind a push, so that all are received in one go: each finds the page published. */
static void
test_order(void)
{
	push_plan plan = {.page = 128, .count = 64, .relation = 600, .version = 1, .seed = 1};
	lb_fence fence = fence_of_relation(600);
	uint64_t used = figures().used_pages;
	bool in_order = true;

	for (int i = 0; i < 20; i++)
	{
		plan.version = (uint64_t) i + 1;
		client_send_push(&agent.client, &plan);
		client_release(&agent.client, 0, 128, plan.version);
		client_fence(&agent.client, &fence);
		client_send(&agent.client, LB_PING, NULL, 0);
		in_order = client_receive(&agent.client) == LB_PUSH_ACK &&
				   client_receive(&agent.client) == LB_FENCED &&
				   client_receive(&agent.client) == LB_PONG && in_order;
		in_order = figures().used_pages == used + 63 && in_order;
	}
	ok(in_order, "what is behind a PUSH is handled when its pages are published");
	client_send_push(&agent.client, &plan);
	client_return_slabs(&agent.client, &(uint32_t){0}, 1);
	ok(client_receive(&agent.client) == LB_PUSH_ACK && client_ping(&agent.client) == LB_PONG,
	   "also SLAB_RETURN of the slab");
}

/* Dirty pages, FENCE and FLUSH right behind the PUSH. */
static void
test_dirty(void)
{
	push_plan plan = {.page = 0, .count = 32, .relation = 100, .version = 1, .seed = 1};
	lb_fence fence = fence_of_blocks(100, 0, 16);
	data_directory data;
	const char *options[] = {"--storage", NULL, NULL};

	data_make(&data, 1);
	data_make_file(&data, "base/5/100", 256);
	options[1] = data.root;
	start(NULL, options);
	ok(client_storage(&agent.client, NULL), "storage is found");
	plan.dirty = true;
	client_send_push(&agent.client, &plan);
	client_fence(&agent.client, &fence);
	client_flush(&agent.client);
	ok(client_receive(&agent.client) == LB_PUSH_ACK && client_receive(&agent.client) == LB_FENCED,
	   "dirty pages, and a fence behind them");
	ok(client_wait_clean(&agent.client, 16, 20000), "what was not fenced is flushed");
	client_listen(&agent.client, 500);
	is_number(agent.client.told->clean_count, 16, "... and nothing else");
	is_number(figures().dirty_pages, 0, "nothing is dirty");
	stop();
	data_remove(&data);
}

/* A pull that never completes: only that agent waits, for 10 s; then its session ends and the slots are empty. */
static void
test_late(void)
{
	push_plan plan = {.page = 0, .count = 8, .relation = 100, .version = 1, .seed = 1};
	uint64_t begin_ns;
	lb_push_ack ack;

	start("memnode.rdma.pull=fail@2", NULL);
	client_push(&agent.client, &plan, &ack);
	is_number(figures().used_pages, 8, "8 pages");
	plan.version = 2;
	plan.seed = 100;
	begin_ns = lb_now_ns();
	client_send_push(&agent.client, &plan);
	client_send(&agent.client, LB_PING, NULL, 0);
	is_number((uint64_t) client_receive_within(&agent.client, 1000), (uint64_t) CLIENT_SILENT,
			  "while pages are being pulled nothing else is answered");
	is_number(client_ping(&backend.client), LB_PONG, "others are answered");
	is_number(figures().used_pages, 0, "the slots are empty");
	is_number((uint64_t) client_receive_within(&agent.client, 20000), CLIENT_CLOSED,
			  "the session ends");
	ok(lb_now_ns() - begin_ns > UINT64_C(9000000000), "... not before 10 s");
	resume();
	is_number((uint64_t) client_push(&agent.client, &plan, &ack), LB_PUSH_ACK, "pushed again");
	ok(ack.results[7] == LB_PUSH_PUBLISHED && reads(0, 0, 8, 100), "... and there");
	stop();
}

/* The agent's process is killed while its pages are being pulled; and one that resumes meanwhile takes its place. */
static void
test_killed_agent(void)
{
	push_plan plan = {.page = 0, .count = 8, .relation = 100, .version = 1, .seed = 1};
	lb_push_ack ack;
	uint64_t begin_ns;
	int told[2];
	char byte;
	pid_t child;

	start("memnode.rdma.pull=fail@1", NULL);
	if (pipe(told) < 0 || (child = fork()) < 0)
		bail_out("cannot fork");
	if (child == 0)
	{
		rdma_peer peer;
		lb_slab_list granted;

		rdma_agent_open(&peer, node.rdma_uri, 3, 1);
		client_request_slabs(&peer.client, 256, 1, &granted);
		client_send_push(&peer.client, &plan);
		if (write(told[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	if (read(told[0], &byte, 1) != 1)
		bail_out("the agent did not get so far");
	close(told[0]);
	close(told[1]);
	begin_ns = lb_now_ns();
	is_number(figures().rdma_connections, 3, "an agent's process is killed");
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	while (figures().rdma_connections != 2 && lb_now_ns() - begin_ns < UINT64_C(8000000000))
		usleep(20000);
	is_number(figures().rdma_connections, 2, "... and its session ends at once");
	is_number((uint64_t) client_push(&agent.client, &plan, &ack), LB_PUSH_ACK, "others go on");
	stop();

	start("memnode.rdma.pull=fail@1", NULL);
	client_send_push(&agent.client, &plan);
	resume();
	is_number((uint64_t) client_push(&agent.client, &plan, &ack), LB_PUSH_ACK,
			  "resumed while a pull was under way");
	ok(ack.results[0] == LB_PUSH_PUBLISHED && reads(0, 0, 8, 1), "... pushed again");
	stop();
}

/* The node is stopped before it handles what was received: nobody's time runs out in that time. */
static void
test_standstill(void)
{
	push_plan plan = {.page = 0, .count = 8, .relation = 100, .version = 1, .seed = 1};

	start("memnode.rdma.pull=fail@1", NULL);
	client_send_push(&agent.client, &plan);
	usleep(300000);
	kill(node.pid, SIGSTOP);
	sleep(11);
	kill(node.pid, SIGCONT);
	is_number((uint64_t) client_receive_within(&agent.client, 5000), (uint64_t) CLIENT_SILENT,
			  "after a standstill the limit of a pull begins anew");
	is_number((uint64_t) client_receive_within(&agent.client, 20000), CLIENT_CLOSED,
			  "... and ends");
	stop();
}

static void
test_fault_points(void)
{
	push_plan plan = {.page = 0, .count = 8, .relation = 100, .version = 1, .seed = 1};
	lb_push_ack ack;

	start("memnode.rdma.pulled=fail@1,memnode.pulled=fail@2", NULL);
	is_number((uint64_t) client_push(&agent.client, &plan, &ack), CLIENT_CLOSED,
			  "rdma.pulled=fail: closed");
	is_number(figures().used_pages, 0, "... nothing is published");
	resume();
	client_push(&agent.client, &plan, &ack);
	ok(ack.results[0] == LB_PUSH_PUBLISHED && ack.results[1] == LB_PUSH_BAD_CHECKSUM,
	   "pulled=fail: one page");
	stop();

	start("memnode.published=fail@3", NULL);
	is_number((uint64_t) client_push(&agent.client, &plan, &ack), CLIENT_CLOSED,
			  "published=fail: closed");
	is_number(figures().used_pages, 3, "... three are published");
	stop();

	start("memnode.rdma.pulled=kill@1", NULL);
	is_number((uint64_t) client_push(&agent.client, &plan, &ack), CLIENT_CLOSED,
			  "rdma.pulled=kill: closed");
	is_number((uint64_t) node_wait(&node, 10000), (uint64_t) -1, "... as the node is gone");
	node_clean(&node);
	rdma_peer_close(&backend);
	rdma_peer_close(&agent);
	client_close(&monitor);
}

int
main(void)
{
	start(NULL, NULL);
	test_results();
	test_conflicts();
	test_comm_buffers();
	test_wrong_key();
	test_order();
	stop();
	test_dirty();
	test_late();
	test_killed_agent();
	test_standstill();
	test_fault_points();
	return done_testing();
}
