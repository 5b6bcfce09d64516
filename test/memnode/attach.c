/*
 * attach.c
 *	  Who may come in: HELLO, its refusals, and what each role may do.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "node_process.h"
#include "tap.h"

static node_process node;

/* Say HELLO on a new connection and expect to be refused for this reason. The ERROR stays in the client. */
static void
expect_refusal(client *client, const char *uri, const lb_hello *hello, lb_wire_error error,
			   const char *name)
{
	client_open(client, uri);
	client->error.error = LB_ERR_NONE;
	if (!ok(client_hello(client, hello) == LB_ERROR && client->error.error == error, "%s: refused",
			name))
		note("got %s: %s", lb_wire_error_name(client->error.error), client->error.message);
	ok(client_receive(client) == CLIENT_CLOSED, "%s: then closed", name);
	lb_stream_close(client->stream);
	client->stream = NULL;
}

static void
test_agent(const char *uri)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 1, 5, 0);
	client agent;
	client other;

	client_open(&agent, uri);
	is_number(client_hello(&agent, &hello), LB_WELCOME, "agent attaches over %s", uri);
	is_number(agent.welcome.version, LB_PROTOCOL_VERSION, "version");
	is_number(agent.welcome.epoch, 5, "epoch");
	ok(agent.welcome.token != 0 && agent.welcome.incarnation != 0, "token and incarnation");
	is_number(agent.welcome.capacity_pages, 32 * 128, "capacity is the quota");
	is_number(agent.welcome.free_pages, 32 * 128, "all of it is free");
	is_number(agent.welcome.timeout_ms, 300000, "tenant timeout");

	hello.epoch = 6;
	expect_refusal(&other, uri, &hello, LB_ERR_HELD, "second agent");
	ok(strstr(other.error.message, "db1.example:5432, process 77") != NULL, "the holder is named");
	note("%s", other.error.message);
	hello.epoch = 5;
	expect_refusal(&other, uri, &hello, LB_ERR_EPOCH, "equal epoch");
	is_number(other.error.epoch, 5, "the epoch in force is told");
	hello.take_over = true;
	expect_refusal(&other, uri, &hello, LB_ERR_EPOCH, "equal epoch with take-over");
	hello.epoch = 6;
	hello.system_identifier++;
	expect_refusal(&other, uri, &hello, LB_ERR_SYSTEM_ID, "other system identifier");
	is_number(client_ping(&agent), LB_PONG, "the agent is undisturbed");
	client_close(&agent);

	hello.system_identifier--;
	hello.take_over = false;
	client_open(&agent, uri);
	is_number(client_hello(&agent, &hello), LB_WELCOME,
			  "a server that restarts is let in at once, also if its former end was just now");
	client_close(&agent);
	hello.epoch = 4;
	expect_refusal(&other, uri, &hello, LB_ERR_EPOCH, "old epoch while detached");
	is_number(other.error.epoch, 6, "the epoch in force is told");
}

static void
test_take_over(const char *uri)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 2, 10, 0);
	lb_slab_list granted;
	uint64_t first_token;
	client first;
	client second;
	client backend;

	agent_open(&first, uri, 2, 9);
	first_token = first.welcome.token;
	client_request_slabs(&first, 256, 3, &granted);
	is_number(granted.count, 3, "first agent has slabs");
	backend_open(&backend, uri, 2, 9, first_token);

	hello.take_over = true;
	client_open(&second, uri);
	is_number(client_hello(&second, &hello), LB_WELCOME, "take-over");
	ok(second.welcome.token != first_token, "a new token");
	is_number(second.welcome.free_pages, 32 * 128, "nothing of the former memory is left");
	is_number(client_receive(&first), LB_ERROR, "the former agent is told");
	is_number(first.error.error, LB_ERR_EPOCH, "... that its epoch is over");
	is_number(first.error.epoch, 10, "... and which is in force");
	is_number(client_receive(&first), CLIENT_CLOSED, "... and closed");
	is_number(client_receive(&backend), CLIENT_CLOSED, "the former backends are closed");
	client_close(&first);
	client_close(&backend);

	hello = make_hello(LB_ROLE_AGENT, 2, 9, 0);
	expect_refusal(&first, uri, &hello, LB_ERR_EPOCH, "the former agent comes back");
	hello = make_hello(LB_ROLE_BACKEND, 2, 9, first_token);
	expect_refusal(&backend, uri, &hello, LB_ERR_EPOCH, "a former backend comes back");
	is_number(backend.error.epoch, 10, "the epoch in force is told");
	client_close(&second);
}

/* An agent shows the token of its last attachment, and is told from it apart from a stranger, and from one that was replaced. */
static void
test_tokens(const char *uri)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 44, 20, UINT64_C(0x1234567890));
	uint64_t token;
	client lost;
	client back;
	client other;

	client_open(&lost, uri);
	is_number(client_hello(&lost, &hello), LB_WELCOME,
			  "an agent that this node does not know, with a token");
	token = lost.welcome.token;
	ok(token == UINT64_C(0x1234567890), "it keeps its token over a restart of the node");

	/* Its connection breaks in a way that the node does not notice. */
	hello.epoch = 21;
	client_open(&back, uri);
	is_number(client_hello(&back, &hello), LB_WELCOME,
			  "the same holder is back though its former session looks alive");
	ok(back.welcome.token == token, "with the same token");
	is_number(client_receive(&lost), CLIENT_CLOSED, "the former session is closed");
	client_close(&lost);
	client_close(&back);

	/* Another server, without a token, takes the instance while the first is away. */
	agent_open(&other, uri, 44, 22);
	ok(other.welcome.token != token, "another holder has another token");
	hello.epoch = 23;
	expect_refusal(&back, uri, &hello, LB_ERR_EPOCH, "the first is back, with a higher epoch");
	ok(strstr(back.error.message, "taken over") != NULL, "it is told that it was replaced");
	hello.take_over = true;
	expect_refusal(&back, uri, &hello, LB_ERR_EPOCH, "also if it would take over");
	client_close(&other);
	expect_refusal(&back, uri, &hello, LB_ERR_EPOCH, "also when nobody is attached");
}

static void
test_backend(const char *uri)
{
	lb_hello hello;
	client agent;
	client backend;

	hello = make_hello(LB_ROLE_BACKEND, 3, 1, 99);
	expect_refusal(&backend, uri, &hello, LB_ERR_TOKEN, "backend of an unknown instance");
	agent_open(&agent, uri, 3, 1);
	hello = make_hello(LB_ROLE_BACKEND, 3, 1, agent.welcome.token ^ 1);
	expect_refusal(&backend, uri, &hello, LB_ERR_TOKEN, "wrong token");
	hello = make_hello(LB_ROLE_BACKEND, 3, 1, 0);
	expect_refusal(&backend, uri, &hello, LB_ERR_TOKEN, "no token");
	hello = make_hello(LB_ROLE_BACKEND, 3, 2, agent.welcome.token);
	expect_refusal(&backend, uri, &hello, LB_ERR_EPOCH, "wrong epoch");
	hello = make_hello(LB_ROLE_BACKEND, 3, 1, agent.welcome.token);
	hello.system_identifier++;
	expect_refusal(&backend, uri, &hello, LB_ERR_SYSTEM_ID, "backend of another system");
	backend_open(&backend, uri, 3, 1, agent.welcome.token);
	is_number(backend.welcome.token, 0, "the token is not told to backends");
	is_number(backend.welcome.incarnation, agent.welcome.incarnation, "incarnation");
	hello = make_hello(LB_ROLE_BACKEND, 3, 1, agent.welcome.token);
	client_close(&agent);
	is_number(client_ping(&backend), LB_PONG, "a backend outlives its agent's connection");
	client_close(&backend);
	expect_refusal(&backend, uri, &hello, LB_ERR_TOKEN, "no agent is attached");
}

static void
test_versions(const char *uri)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, 4, 1, 0);
	uint8_t body[LB_BODY_MAX] = {0};
	client agent;

	hello.version_min = LB_PROTOCOL_VERSION + 1;
	hello.version_max = LB_PROTOCOL_VERSION + 2;
	expect_refusal(&agent, uri, &hello, LB_ERR_VERSION, "later version");
	note("%s", agent.error.message);
	hello.version_min = hello.version_max = LB_PROTOCOL_VERSION - 1;
	expect_refusal(&agent, uri, &hello, LB_ERR_VERSION, "earlier version");
	hello.version_min = 1;
	hello.version_max = LB_PROTOCOL_VERSION + 1;
	client_open(&agent, uri);
	is_number(client_hello(&agent, &hello), LB_WELCOME, "a range that has our version");
	is_number(agent.welcome.version, LB_PROTOCOL_VERSION, "ours is chosen");
	client_close(&agent);
	hello.page_size = 16384;
	expect_refusal(&agent, uri, &hello, LB_ERR_PAGE_SIZE, "other page size");
	note("%s", agent.error.message);

	body[0] = body[2] = 7;
	client_open(&agent, uri);
	client_send(&agent, LB_HELLO, body, 9);
	ok(client_receive(&agent) == LB_ERROR && agent.error.error == LB_ERR_VERSION,
	   "a HELLO of another version, in a form that we don't know");
	client_close(&agent);
}

/* A request that the session may not make, and that leaves it usable. */
static void
expect_role_error(client *client, lb_frame_type type, const void *body, size_t length,
				  const char *who)
{
	client->error.error = LB_ERR_NONE;
	client_send(client, type, body, length);
	ok(client_receive(client) == LB_ERROR && client->error.error == LB_ERR_ROLE,
	   "%s may not send %s", who, lb_frame_type_name(type));
}

static void
test_roles(void)
{
	lb_read_batch read = {.count = 1};
	lb_slab_request request = {256, 1};
	lb_control control = {.completed = 1};
	lb_reload reload = {.redo = 0};
	uint8_t body[LB_BODY_MAX];
	client agent;
	client shm;
	client tcp;
	client monitor;

	agent_open(&agent, node.tcp_uri, 5, 1);
	backend_open(&shm, node.shm_uri, 5, 1, agent.welcome.token);
	backend_open(&tcp, node.tcp_uri, 5, 1, agent.welcome.token);
	monitor_open(&monitor, node.shm_uri);
	expect_role_error(&agent, LB_READ, body, lb_encode_read(body, &read), "agent");
	expect_role_error(&agent, LB_SLAB_MAP, body, lb_encode_slab_number(body, 0), "agent");
	expect_role_error(&agent, LB_STATUS, NULL, 0, "agent");
	expect_role_error(&shm, LB_READ, body, lb_encode_read(body, &read), "backend over shm");
	expect_role_error(&tcp, LB_SLAB_MAP, body, lb_encode_slab_number(body, 0), "backend over tcp");
	expect_role_error(&tcp, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request),
					  "backend");
	expect_role_error(&tcp, LB_STATUS, NULL, 0, "backend");
	expect_role_error(&tcp, LB_RDMA_OPEN, NULL, 0, "backend over tcp");
	expect_role_error(&shm, LB_RDMA_OPEN, NULL, 0, "backend over shm");
	expect_role_error(&agent, LB_RDMA_OPEN, NULL, 0, "agent over tcp");
	expect_role_error(&monitor, LB_RDMA_OPEN, NULL, 0, "monitor");
	expect_role_error(&tcp, LB_SLAB_KEYS, body, lb_encode_slab_number(body, 0), "backend over tcp");
	expect_role_error(&tcp, LB_CONTROL, body, lb_encode_control(body, &control), "backend");
	expect_role_error(&tcp, LB_RELOAD, body, lb_encode_reload(body, &reload), "backend");
	expect_role_error(&monitor, LB_RELOAD, body, lb_encode_reload(body, &reload), "monitor");
	expect_role_error(&monitor, LB_READ, body, lb_encode_read(body, &read), "monitor");
	expect_role_error(&monitor, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request),
					  "monitor");
	ok(client_ping(&agent) == LB_PONG && client_ping(&shm) == LB_PONG &&
		   client_ping(&tcp) == LB_PONG && client_ping(&monitor) == LB_PONG,
	   "all of them go on");
	client_close(&agent);
	client_close(&shm);
	client_close(&tcp);
	client_close(&monitor);
}

static void
expect_malformed(client *client, const char *name)
{
	ok(client_receive(client) == LB_ERROR && client->error.error == LB_ERR_MALFORMED, "%s: refused",
	   name);
	ok(client_receive(client) == CLIENT_CLOSED, "%s: closed", name);
	client_close(client);
}

static void
test_malformed(void)
{
	lb_hello hello = make_hello(LB_ROLE_MONITOR, 0, 0, 0);
	uint8_t body[LB_BODY_MAX];
	client client;
	int fd = memfd_create("stray", MFD_CLOEXEC);

	client_open(&client, node.tcp_uri);
	client_send(&client, LB_PING, NULL, 0);
	expect_malformed(&client, "first frame is not HELLO");
	monitor_open(&client, node.tcp_uri);
	client_send(&client, LB_HELLO, body, lb_encode_hello(body, &hello));
	expect_malformed(&client, "second HELLO");
	monitor_open(&client, node.tcp_uri);
	client_send(&client, LB_PONG, NULL, 0);
	expect_malformed(&client, "an answer as a request");
	monitor_open(&client, node.shm_uri);
	client_send_bulk(&client, LB_PING, NULL, 0, NULL, 0, fd);
	expect_malformed(&client, "a descriptor where none belongs");
	close(fd);
}

int
main(void)
{
	static const char *const options[] = {"--memory", "64MB", "--tenant-quota", "32MB", NULL};
	node_process second_node;

	node_start(&node, options);
	test_agent(node.shm_uri);
	test_take_over(node.shm_uri);
	test_tokens(node.shm_uri);
	test_backend(node.shm_uri);
	test_versions(node.shm_uri);
	/* the node remembers the epochs of the instances */
	node_start(&second_node, options);
	test_agent(second_node.tcp_uri);
	test_take_over(second_node.tcp_uri);
	test_tokens(second_node.tcp_uri);
	test_backend(second_node.tcp_uri);
	test_versions(second_node.tcp_uri);
	is_number(node_stop(&second_node), 0, "clean exit");
	node_clean(&second_node);
	test_roles();
	test_malformed();
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);
	return done_testing();
}
