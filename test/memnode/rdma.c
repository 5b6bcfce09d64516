/*
 * rdma.c
 *	  Queue pairs: who gets one, what it reaches, what is left of it, and what becomes of all when the device goes away.
 *	  It needs a device. PUSH is in rdma_pull.c.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lb_clock.h"
#include "rdma_peer.h"
#include "tap.h"

#define RECONNECTS 200

static node_process node;
static client monitor;
static rdma_peer agent;

static void
start(const char *faults, const char *const *options)
{
	rdma_node_start(&node, faults, options);
	monitor_open(&monitor, node.tcp_uri);
}

static void
stop(void)
{
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

/* Wait until so many queue pairs are connected, and so many pages registered. */
static bool
settle(uint32_t connections, uint64_t registered)
{
	uint64_t deadline_ns = lb_now_ns() + UINT64_C(20000000000);
	lb_node_figures found;

	do
	{
		found = figures();
		if (found.rdma_connections == connections && found.registered_pages == registered)
			return true;
		usleep(20000);
	} while (lb_now_ns() < deadline_ns);
	note("%u connections, %lu registered pages", found.rdma_connections,
		 (unsigned long) found.registered_pages);
	return false;
}

static void
push(rdma_peer *peer, uint32_t slab, uint32_t count, uint64_t version)
{
	push_plan plan = {.slab = slab,
					  .count = count,
					  .relation = slab + 1,
					  .version = version,
					  .seed = 1000 * version + slab};
	lb_push_ack ack;

	if (client_push(&peer->client, &plan, &ack) != LB_PUSH_ACK ||
		ack.results[count - 1] != LB_PUSH_PUBLISHED)
		bail_out("cannot push");
}

static bool
has_pages(const rdma_peer *peer, uint32_t slab, uint32_t count, uint64_t version)
{
	for (uint32_t i = 0; i < count; i++)
		if (!is_page(peer->memory + (size_t) i * LB_PAGE_SIZE, 1000 * version + slab + i))
			return false;
	return true;
}

static void
request_slabs(rdma_peer *peer, uint32_t count)
{
	lb_slab_list granted;

	client_request_slabs(&peer->client, 256, count, &granted);
	if (granted.count != count)
		bail_out("%u slabs instead of %u", granted.count, count);
}

static void
test_reading(void)
{
	rdma_peer backend;
	lb_slot_ref slot = {1, 0};
	lb_status status;

	rdma_agent_open(&agent, node.rdma_uri, 1, 1);
	ok(settle(1, 0), "the agent has a queue pair, nothing is registered");
	request_slabs(&agent, 3);
	is_number(figures().registered_pages, 3 * 256, "what is granted is registered");
	push(&agent, 1, 64, 1);
	rdma_backend_open(&backend, node.rdma_uri, 1, 1, agent.client.welcome.token);
	is_number(backend.keys.count, 3, "keys of all slabs");
	ok(!backend.keys.more && backend.keys.slabs[0].key != backend.keys.slabs[1].key &&
		   backend.keys.slabs[1].pages == 256,
	   "one key each");
	ok(rdma_read(&backend, 1, 0, 1, &status) && has_pages(&backend, 1, 1, 1), "a page is read");
	ok(rdma_read(&backend, 1, 0, 64, &status) && has_pages(&backend, 1, 64, 1),
	   "64 pages are read");
	is_number(client_read(&backend.client, &slot, 1), LB_READ_REPLY, "READ over the same session");
	is_number(rdma_ask_keys(&backend, 2), LB_SLAB_KEYS_REPLY, "keys from slab 2 on");
	ok(backend.keys.count == 1 && backend.keys.slabs[0].slab == 2, "... that is one");
	rdma_ask_keys(&backend, 3);
	is_number(backend.keys.count, 0, "none from slab 3 on");
	ok(settle(2, 3 * 256), "2 queue pairs");

	rdma_ask_keys(&backend, 0);
	kill(node.pid, SIGSTOP);
	ok(rdma_read(&backend, 1, 0, 64, &status) && has_pages(&backend, 1, 64, 1),
	   "64 pages are read while the node is stopped");
	kill(node.pid, SIGCONT);
	is_number(client_ping(&backend.client), LB_PONG, "it goes on");
	rdma_peer_close(&backend);
	ok(settle(1, 3 * 256), "the queue pair ends with its session");
}

/* Instance 1 has three slabs, the second with pages. */
static void
test_isolation(void)
{
	rdma_peer backend;
	rdma_peer stranger;
	rdma_peer other_agent;
	lb_slab_key key;
	lb_status status;

	rdma_backend_open(&backend, node.rdma_uri, 1, 1, agent.client.welcome.token);
	key = backend.keys.slabs[1];
	rdma_agent_open(&other_agent, node.rdma_uri, 2, 1);
	request_slabs(&other_agent, 1);
	rdma_backend_open(&stranger, node.rdma_uri, 2, 1, other_agent.client.welcome.token);
	ok(rdma_read(&stranger, 0, 0, 64, &status) && is_zero(stranger.memory, 64 * LB_PAGE_SIZE),
	   "another instance reads its own memory, which is zero");
	ok(!rdma_read_by_key(&stranger, &key, 0, 1, &status) && status.code == LB_REFUSED &&
		   status.wire_error == LB_ERR_SLAB,
	   "with the key of instance 1 it reads nothing: %s", status.message);
	ok(is_zero(stranger.memory + LB_PAGE_SIZE - 8, 0) && stranger.memory[0] == 0xee,
	   "nothing was read");
	rdma_peer_close(&stranger);
	ok(rdma_read(&backend, 1, 0, 1, &status) && has_pages(&backend, 1, 1, 1),
	   "instance 1 is not disturbed");

	client_return_slabs(&agent.client, &(uint32_t){1}, 1);
	client_ping(&agent.client);
	ok(settle(3, 3 * 256), "a slab that is returned is not registered");
	ok(!rdma_read_by_key(&backend, &key, 0, 1, &status) && status.code == LB_REFUSED &&
		   status.wire_error == LB_ERR_SLAB,
	   "its key is worth nothing");
	rdma_peer_close(&backend);
	rdma_peer_close(&other_agent);
	ok(settle(1, 3 * 256), "the other instance's memory stays registered while it is kept");
}

/* Fill memory as instance 3, give it up; what instance 4 gets is zero. */
static void
test_zeroed(void)
{
	rdma_peer former;
	rdma_peer next;
	rdma_peer backend;
	bool zero = true;
	lb_status status;

	rdma_agent_open(&former, node.rdma_uri, 3, 1);
	request_slabs(&former, 20);
	for (uint32_t slab = 0; slab < 20; slab++)
		push(&former, slab, 64, 1);
	for (uint32_t slab = 0; slab < 20; slab++)
		client_return_slabs(&former.client, &slab, 1);
	client_ping(&former.client);
	rdma_agent_open(&next, node.rdma_uri, 4, 1);
	request_slabs(&next, 20);
	rdma_backend_open(&backend, node.rdma_uri, 4, 1, next.client.welcome.token);
	for (uint32_t slab = 0; slab < 20; slab++)
		zero = rdma_read(&backend, slab, 0, 64, &status) &&
			   is_zero(backend.memory, 64 * LB_PAGE_SIZE) && zero;
	ok(zero, "what another instance had is zero");
	rdma_peer_close(&backend);
	rdma_peer_close(&next);
	rdma_peer_close(&former);
}

/* A backend of instance 1 that has no queue pair. */
static void
open_backend(rdma_peer *peer)
{
	lb_hello hello = make_hello(LB_ROLE_BACKEND, 1, 1, agent.client.welcome.token);

	rdma_peer_open(peer, node.rdma_uri, &hello);
}

static void
expect_rejected(rdma_peer *peer, const lb_rdma_invitation *invitation, const char *what)
{
	lb_status status;

	ok(!rdma_join(peer, invitation, false, &status) && status.code == LB_CLOSED, "%s: %s", what,
	   status.message);
	is_number(client_ping(&peer->client), LB_PONG, "... the session goes on");
}

static void
test_invitations(void)
{
	lb_rdma_invitation invitation;
	lb_rdma_invitation wrong;
	lb_rdma_invitation second;
	rdma_peer peer;
	rdma_peer other;
	lb_status status;

	open_backend(&peer);
	open_backend(&other);
	ok(rdma_ask_keys(&peer, 0) == LB_ERROR && peer.client.error.error == LB_ERR_ROLE,
	   "no keys without a queue pair");
	is_number(rdma_invite(&peer, &invitation), LB_RDMA_OPENED, "an invitation");
	wrong = invitation;
	wrong.secret[LB_RDMA_SECRET_SIZE - 1] ^= 1;
	expect_rejected(&peer, &wrong, "a wrong secret");
	is_number(rdma_invite(&peer, &second), LB_RDMA_OPENED, "a second invitation");
	ok(memcmp(invitation.secret, second.secret, LB_RDMA_SECRET_SIZE) != 0, "... with a new secret");
	expect_rejected(&peer, &invitation, "the first one is good for nothing any more");
	ok(rdma_join(&peer, &second, false, &status), "the second one is");
	expect_rejected(&other, &second, "but only once");
	ok(rdma_invite(&peer, &invitation) == LB_ERROR && peer.client.error.error == LB_ERR_LIMIT,
	   "RDMA_OPEN in a session that has a queue pair");
	is_number(client_ping(&peer.client), LB_PONG, "... which goes on");
	is_number(rdma_invite(&other, &invitation), LB_RDMA_OPENED, "an invitation");
	rdma_peer_close(&other);
	open_backend(&other);
	client_ping(&other.client);
	expect_rejected(&other, &invitation, "it ended with its session");
	rdma_peer_close(&other);
	lb_rdma_close(peer.connection);
	peer.connection = NULL;
	is_number((uint64_t) client_receive(&peer.client), CLIENT_CLOSED,
			  "a session ends with its queue pair");
	rdma_peer_close(&peer);
	settle(1, figures().registered_pages);
}

static void
test_limit(void)
{
	static const char *const options[] = {"--max-rdma-connections", "2", NULL};
	lb_rdma_invitation invitation;
	lb_slot_ref slot = {0, 0};
	rdma_peer peers[3];
	lb_status status;

	start(NULL, options);
	rdma_agent_open(&agent, node.rdma_uri, 1, 1);
	request_slabs(&agent, 1);
	for (int i = 0; i < 3; i++)
		open_backend(&peers[i]);
	ok(rdma_invite(&peers[0], &invitation) == LB_RDMA_OPENED &&
		   rdma_join(&peers[0], &invitation, false, &status),
	   "the first backend; the agent is not counted");
	is_number(rdma_invite(&peers[1], &invitation), LB_RDMA_OPENED, "the second one is invited");
	ok(rdma_invite(&peers[2], &invitation) == LB_ERROR &&
		   peers[2].client.error.error == LB_ERR_LIMIT,
	   "the third one is not: %s", peers[2].client.error.message);
	is_number(client_read(&peers[2].client, &slot, 1), LB_READ_REPLY, "... but reads by READ");
	is_number(rdma_invite(&peers[1], &invitation), LB_RDMA_OPENED,
			  "the second one's new invitation takes the place of its former");
	rdma_peer_close(&peers[1]);
	ok(settle(2, 256), "the second one ends");
	is_number(rdma_invite(&peers[2], &invitation), LB_RDMA_OPENED, "the third one has its place");
	ok(rdma_join(&peers[2], &invitation, false, &status), "... and connects");
	rdma_peer_close(&peers[0]);
	rdma_peer_close(&peers[2]);
	ok(settle(1, 256), "they end");
	stop();
}

#define FORMER 8

/* All backends of an instance are out at once, and there is room for as many, though their queue pairs may take a moment to go. */
static void
test_take_over(void)
{
	static const char *const options[] = {"--max-rdma-connections", "8", NULL};
	lb_hello hello = make_hello(LB_ROLE_AGENT, 1, 2, 0);
	lb_rdma_invitation invitation;
	rdma_peer former[FORMER];
	rdma_peer peers[FORMER];
	rdma_peer next;
	lb_slab_list granted;
	lb_status status;

	start(NULL, options);
	rdma_agent_open(&agent, node.rdma_uri, 1, 1);
	ok(client_request_slabs(&agent.client, 2 * LB_RDMA_SLAB_PAGES_MAX, 1, &granted) == LB_ERROR &&
		   agent.client.error.error == LB_ERR_SLAB,
	   "slabs that take too long to register are refused");
	request_slabs(&agent, 2);
	push(&agent, 0, 64, 1);
	for (int i = 0; i < FORMER; i++)
		rdma_backend_open(&former[i], node.rdma_uri, 1, 1, agent.client.welcome.token);
	ok(settle(1 + FORMER, 512), "an agent and %d backends", FORMER);
	hello.take_over = true;
	rdma_peer_open(&next, node.rdma_uri, &hello);
	for (int i = 0; i < FORMER; i++)
		is_number((uint64_t) client_receive(&former[i].client), CLIENT_CLOSED, "one is out");
	is_number(rdma_invite(&next, &invitation), LB_RDMA_OPENED, "the next agent is invited");
	ok(rdma_join(&next, &invitation, true, &status), "... and connects");
	rdma_announce(&next, NULL);
	for (int i = 0; i < FORMER; i++)
		rdma_backend_open(&peers[i], node.rdma_uri, 1, 2, next.client.welcome.token);
	ok(figures().rdma_connections <= 1 + FORMER, "the node keeps to its limit");
	request_slabs(&next, 1);
	push(&next, 0, 64, 2);
	ok(settle(1 + FORMER, 256), "nothing of the former ones is left");
	for (int i = 0; i < FORMER; i++)
		ok(rdma_ask_keys(&peers[i], 0) == LB_SLAB_KEYS_REPLY &&
			   rdma_read(&peers[i], 0, 0, 64, &status) && has_pages(&peers[i], 0, 64, 2),
		   "a new one reads");
	ok(!rdma_read(&former[0], 0, 0, 1, &status), "a former one does not: %s", status.message);
	for (int i = 0; i < FORMER; i++)
	{
		rdma_peer_close(&former[i]);
		rdma_peer_close(&peers[i]);
	}
	rdma_peer_close(&next);
	ok(settle(0, 256), "they end");
	stop();
}

/* Not accepted, not registered: the session goes on without. */
static void
test_fault_points(void)
{
	lb_rdma_invitation invitation;
	lb_slab_list granted;
	rdma_peer peer;
	lb_status status;
	client tcp;

	start("memnode.rdma.accept=fail@2,memnode.rdma.register=fail@2", NULL);
	rdma_agent_open(&agent, node.rdma_uri, 1, 1);
	client_request_slabs(&agent.client, 256, 2, &granted);
	is_number(granted.count, 1, "register=fail: a slab that is not registered is not granted");
	open_backend(&peer);
	rdma_invite(&peer, &invitation);
	expect_rejected(&peer, &invitation, "accept=fail");
	rdma_invite(&peer, &invitation);
	ok(rdma_join(&peer, &invitation, false, &status), "... and the next is accepted");
	rdma_peer_close(&peer);
	stop();

	start("memnode.rdma.register=fail@1", NULL);
	agent_open(&tcp, node.tcp_uri, 1, 1);
	client_request_slabs(&tcp, 256, 2, &granted);
	agent.client.welcome.token = tcp.welcome.token;
	open_backend(&peer);
	ok(rdma_invite(&peer, &invitation) == LB_ERROR && peer.client.error.error == LB_ERR_INTERNAL,
	   "register=fail: RDMA_OPEN refused: %s", peer.client.error.message);
	is_number(figures().registered_pages, 0, "... and nothing is registered");
	ok(rdma_invite(&peer, &invitation) == LB_ERROR && peer.client.error.error == LB_ERR_LIMIT,
	   "memory that was there before is registered slab by slab; until then: %s",
	   peer.client.error.message);
	ok(settle(0, 512), "all of it is");
	ok(rdma_invite(&peer, &invitation) == LB_RDMA_OPENED &&
		   rdma_join(&peer, &invitation, false, &status),
	   "the next is accepted, beside an agent over tcp");
	rdma_peer_close(&peer);
	client_close(&tcp);
	stop();
}

/* Queue pairs that the system has. */
static int
queue_pairs(void)
{
	FILE *output = popen("rdma resource show qp 2>/dev/null | grep -c 'type RC'", "r");
	int count = -1;

	if (!output || fscanf(output, "%d", &count) != 1)
		count = -1;
	if (output)
		pclose(output);
	return count;
}

static void
test_reconnects(void)
{
	int descriptors;
	int pairs;
	rdma_peer peer;

	start(NULL, NULL);
	rdma_agent_open(&agent, node.rdma_uri, 1, 1);
	request_slabs(&agent, 1);
	rdma_backend_open(&peer, node.rdma_uri, 1, 1, agent.client.welcome.token);
	rdma_peer_close(&peer);
	ok(settle(1, 256), "one agent");
	descriptors = node_open_descriptors(&node);
	pairs = queue_pairs();
	for (int i = 0; i < RECONNECTS; i++)
	{
		rdma_backend_open(&peer, node.rdma_uri, 1, 1, agent.client.welcome.token);
		rdma_peer_close(&peer);
	}
	ok(settle(1, 256), "%d backends later", RECONNECTS);
	is_number((uint64_t) node_open_descriptors(&node), (uint64_t) descriptors,
			  "there are as many descriptors as before");
	is_number((uint64_t) queue_pairs(), (uint64_t) pairs, "... and queue pairs");
	for (uint64_t epoch = 2; epoch < RECONNECTS / 4; epoch++)
	{
		rdma_peer_close(&agent);
		rdma_agent_open(&agent, node.rdma_uri, 1, epoch);
	}
	ok(settle(1, 0), "many agents later, each with a new life");
	is_number((uint64_t) node_open_descriptors(&node), (uint64_t) descriptors - 1,
			  "there are as many descriptors as before, but the slab's");
	is_number((uint64_t) queue_pairs(), (uint64_t) pairs, "... and queue pairs");
	stop();
}

/*
 * The command waits for all who have the device open: it runs beside, while we see the node let it go, and do so ourselves.
 */
static pid_t
take_device_away(void)
{
	pid_t child = fork();

	if (child < 0)
		bail_out("cannot fork");
	if (child == 0)
	{
		execlp("rdma", "rdma", "link", "delete", "rxe0", NULL);
		_exit(127);
	}
	return child;
}

static bool
is_taken_away(pid_t child)
{
	int status;

	for (int i = 0; i < 300; i++)
	{
		if (waitpid(child, &status, WNOHANG) == child)
			return status == 0;
		usleep(100000);
	}
	return false;
}

/* The device can be taken away here only if it is the one of the test's machine. */
static void
test_device_gone(void)
{
	struct stat device;
	lb_slot_ref slot = {0, 0};
	rdma_peer peer;
	client tcp;
	int descriptors;
	pid_t taking;

	if (stat("/sys/class/infiniband/rxe0", &device) < 0 || stat("/sys/class/net/d0", &device) < 0 ||
		access("/sys/class/net/d0/mtu", W_OK) < 0)
	{
		note("no device that may be taken away");
		return;
	}
	start(NULL, NULL);
	descriptors = node_open_descriptors(&node);
	rdma_agent_open(&agent, node.rdma_uri, 1, 1);
	request_slabs(&agent, 2);
	rdma_backend_open(&peer, node.rdma_uri, 1, 1, agent.client.welcome.token);
	backend_open(&tcp, node.tcp_uri, 1, 1, agent.client.welcome.token);
	taking = take_device_away();
	is_number((uint64_t) client_receive(&agent.client), CLIENT_CLOSED, "the agent is closed");
	is_number((uint64_t) client_receive(&peer.client), CLIENT_CLOSED, "the backend is closed");
	is_number(client_read(&tcp, &slot, 1), LB_READ_REPLY, "a backend over tcp goes on");
	ok(settle(0, 0), "nothing is registered, nothing connected");
	is_number((uint64_t) node_log_count(&node, "rdma: device rxe0"), 1, "said once");
	rdma_peer_close(&peer);
	rdma_peer_close(&agent);
	if (!ok(is_taken_away(taking), "the node has let it go"))
		bail_out("nothing more can be done with the device");
	sleep(2);
	is_number((uint64_t) node_log_count(&node, "rdma: listening"), 1, "not back yet");
	if (system("rdma link add rxe0 type rxe netdev d0") != 0)
		bail_out("cannot give the device back");
	for (int i = 0; i < 200 && node_log_count(&node, "rdma: listening again") == 0; i++)
		usleep(100000);
	is_number((uint64_t) node_log_count(&node, "rdma: listening again"), 1, "it is back");
	rdma_agent_open(&agent, node.rdma_uri, 1, 2);
	request_slabs(&agent, 1);
	push(&agent, 0, 64, 1);
	ok(settle(1, 256), "and works");
	client_close(&tcp);
	rdma_peer_close(&agent);
	ok(settle(0, 256), "its agent ends");
	is_number((uint64_t) node_open_descriptors(&node), (uint64_t) descriptors + 1,
			  "there are as many descriptors as at first, and the slab's");
	stop();
}

int
main(void)
{
	start(NULL, NULL);
	test_reading();
	test_isolation();
	test_zeroed();
	test_invitations();
	stop();
	test_limit();
	test_take_over();
	test_fault_points();
	test_reconnects();
	test_device_gone();
	return done_testing();
}
