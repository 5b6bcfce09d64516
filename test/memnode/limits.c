/*
 * limits.c
 *	  Many sessions, many connects, few descriptors; and what memory the node takes for itself. MEMNODE is an ordinary
 *	  build here: sanitizers would take memory of their own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "lb_clock.h"
#include "node_process.h"
#include "tap.h"

#define SESSIONS 1000
#define CONNECTS 10000

static client sessions[SESSIONS];

static uint64_t
status_field(const node_process *node, const char *name)
{
	char path[64];
	char line[256];
	char format[64];
	uint64_t found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int) node->pid);
	snprintf(format, sizeof(format), "%s: %%" SCNu64, name);
	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, format, &found) == 1)
			break;
	if (file)
		fclose(file);
	return found;
}

/* All memory but the slabs', which is shared. */
static uint64_t
own_kb(const node_process *node)
{
	return node_memory_kb(node, "Pss_Anon") + node_memory_kb(node, "Pss_File") +
		   status_field(node, "VmPTE");
}

static void
read_all_at_once(uint32_t slab, int count)
{
	lb_read_batch batch = {.count = LB_BATCH_MAX};
	uint8_t body[LB_BODY_MAX];
	bool right = true;

	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		batch.slots[i] = (lb_slot_ref){slab, i};
	for (int i = 0; i < count; i++)
		client_send(&sessions[i], LB_READ, body, lb_encode_read(body, &batch));
	for (int i = 0; i < count; i++)
		right = right && client_receive(&sessions[i]) == LB_READ_REPLY &&
				is_page(sessions[i].frame.bulk + 63 * LB_PAGE_SIZE, 64);
	ok(right, "%d backends read 64 pages each at once", count);
}

static void
test_sessions(node_process *node)
{
	push_plan plan = {.count = 64, .relation = 1, .version = 1, .seed = 1};
	lb_slab_list granted;
	lb_push_ack ack;
	uint64_t before_kb;
	uint64_t after_kb;
	unsigned answered = 0;
	client agent;

	agent_open(&agent, node->shm_uri, 1, 1);
	client_request_slabs(&agent, 256, 1, &granted);
	client_push(&agent, &plan, &ack);
	before_kb = own_kb(node);
	for (int i = 0; i < SESSIONS; i++)
		backend_open(&sessions[i], i % 2 ? node->shm_uri : node->tcp_uri, 1, 1,
					 agent.welcome.token);
	for (int i = 0; i < SESSIONS; i++)
		answered += client_ping(&sessions[i]) == LB_PONG;
	is_number(answered, SESSIONS, "%d backend sessions at once", SESSIONS);
	is_number(status_field(node, "Threads"), 1, "... without a thread each");
	after_kb = own_kb(node);
	note("memory: %" PRIu64 " kB before, %" PRIu64 " kB with them: %.1f kB a session", before_kb,
		 after_kb, (double) (after_kb - before_kb) / SESSIONS);
	ok(after_kb - before_kb < 12 * SESSIONS, "... in less than 12 kB each");

	for (int i = 0; i < SESSIONS; i++)
	{
		client_close(&sessions[i]);
		if (i < 200)
			backend_open(&sessions[i], node->tcp_uri, 1, 1, agent.welcome.token);
	}
	read_all_at_once(granted.slabs[0], 200);
	after_kb = own_kb(node);
	note("memory after 100 MB of answers: %" PRIu64 " kB", after_kb);
	ok(after_kb < before_kb + 16384, "answers leave no memory behind");
	for (int i = 0; i < 200; i++)
		client_close(&sessions[i]);
	client_return_slabs(&agent, granted.slabs, 1);
	client_close(&agent);
}

/* Backends that ask for 8 batches of 512 kB each and never read. */
static void
test_slow_readers(node_process *node)
{
	enum
	{
		SLOW = 40
	};
	lb_read_batch batch = {.count = LB_BATCH_MAX};
	uint8_t body[LB_BODY_MAX];
	lb_slab_list granted;
	uint64_t before_kb;
	uint64_t after_kb;
	client agent;

	agent_open(&agent, node->tcp_uri, 2, 1);
	client_request_slabs(&agent, 256, 1, &granted);
	for (uint32_t i = 0; i < LB_BATCH_MAX; i++)
		batch.slots[i] = (lb_slot_ref){granted.slabs[0], i};
	before_kb = own_kb(node);
	for (int i = 0; i < SLOW; i++)
	{
		backend_open(&sessions[i], node->tcp_uri, 2, 1, agent.welcome.token);
		for (int j = 0; j < 64; j++)
			client_send(&sessions[i], LB_READ, body, lb_encode_read(body, &batch));
	}
	usleep(300000);
	is_number(client_ping(&agent), LB_PONG, "%d backends that don't read: others are served", SLOW);
	after_kb = own_kb(node);
	note("1280 MB asked for and not read: %.0f kB of memory each",
		 ((double) after_kb - (double) before_kb) / SLOW);
	ok(after_kb < before_kb + SLOW * 1100, "at most about one answer is kept for each");
	for (int i = 0; i < SLOW; i++)
		client_close(&sessions[i]);
	client_close(&agent);
}

static void
test_connects(node_process *node)
{
	static const uint8_t garbage[100] = {0xde, 0xad, 0xbe, 0xef};
	uint64_t memory_kb[3];
	int descriptors;
	client agent;
	client one;

	agent_open(&agent, node->tcp_uri, 3, 1);
	descriptors = node_open_descriptors(node);
	memory_kb[0] = own_kb(node);
	for (int round = 1; round <= 2; round++)
	{
		for (int i = 0; i < CONNECTS / 2; i++)
		{
			client_open(&one, i % 2 ? node->shm_uri : node->tcp_uri);
			if (i % 3 == 0 && send(lb_stream_fd(one.stream), garbage, sizeof(garbage), 0) < 0)
				bail_out("cannot send");
			client_close(&one);
		}
		client_ping(&agent);
		memory_kb[round] = own_kb(node);
	}
	note("memory: %" PRIu64 " kB, after %d connects %" PRIu64 " kB, after as many again %" PRIu64
		 " kB",
		 memory_kb[0], CONNECTS / 2, memory_kb[1], memory_kb[2]);
	ok(memory_kb[2] < memory_kb[1] + 512, "%d connects: memory is steady", CONNECTS);
	is_number(client_ping(&agent), LB_PONG, "the agent is undisturbed");
	for (int i = 0; i < 50 && node_open_descriptors(node) > descriptors; i++)
		usleep(20000);
	is_number((uint64_t) node_open_descriptors(node), (uint64_t) descriptors,
			  "no descriptor is left behind");

	/* connections that say nothing push each other out, and nobody else */
	for (int i = 0; i < SESSIONS; i++)
		client_open(&sessions[i], node->tcp_uri);
	is_number(client_ping(&agent), LB_PONG, "%d silent connections: the agent is undisturbed",
			  SESSIONS);
	ok(node_open_descriptors(node) < descriptors + 600, "at most 512 of them are kept");
	backend_open(&one, node->tcp_uri, 3, 1, agent.welcome.token);
	is_number(client_ping(&one), LB_PONG, "... and a backend gets in");
	client_close(&one);
	for (int i = 0; i < SESSIONS; i++)
		client_close(&sessions[i]);
	client_close(&agent);
	ok(node_log_count(node, "") < 2000, "the log was not flooded");
}

static void
test_session_limit(void)
{
	static const char *const options[] = {"--memory", "16MB", "--max-sessions", "10", NULL};
	lb_node_figures figures;
	node_process node;
	lb_hello hello;
	client agent;
	client one;

	node_start(&node, options);
	agent_open(&agent, node.tcp_uri, 1, 1);
	hello = make_hello(LB_ROLE_BACKEND, 1, 1, agent.welcome.token);
	for (int i = 0; i < 9; i++)
		backend_open(&sessions[i], node.tcp_uri, 1, 1, agent.welcome.token);
	client_open(&one, node.tcp_uri);
	ok(client_hello(&one, &hello) == LB_ERROR && one.error.error == LB_ERR_LIMIT,
	   "one more than --max-sessions is refused");
	note("%s", one.error.message);
	client_close(&one);
	monitor_open(&one, node.tcp_uri);
	is_number(client_status(&one, &figures), LB_STATUS_REPLY, "a monitor is let in");
	ok(figures.refused_sessions == 1, "the refusal was counted");
	client_close(&one);
	client_close(&sessions[0]);
	client_ping(&agent);
	usleep(100000);
	backend_open(&one, node.tcp_uri, 1, 1, agent.welcome.token);
	is_number(client_ping(&one), LB_PONG, "when one ends there is room for another");
	client_close(&one);
	for (int i = 1; i < 9; i++)
		client_close(&sessions[i]);
	client_close(&agent);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);
}

static void
test_descriptors(void)
{
	static const char *const options[] = {"--memory", "16MB", NULL};
	lb_slab_list granted;
	node_process node;
	unsigned refused = 0;
	client agent;
	client one;

	node_start_limited(&node, options, 40);
	agent_open(&agent, node.tcp_uri, 1, 1);
	for (int i = 0; i < 100; i++)
		client_open(&sessions[i], i % 2 ? node.tcp_uri : node.shm_uri);
	for (int i = 0; i < 100; i++)
		if (client_receive_within(&sessions[i], i == 0 ? 500 : 5) == LB_ERROR &&
			sessions[i].error.error == LB_ERR_LIMIT)
			refused++;
	note("%u of 100 connections refused", refused);
	ok(refused >= 60, "out of descriptors: refused with an ERROR");
	is_number(client_ping(&agent), LB_PONG, "the agent is undisturbed");
	is_number(client_request_slabs(&agent, 256, 1, &granted), LB_SLAB_GRANT,
			  "SLAB_REQUEST without a descriptor is answered");
	is_number(granted.count, 0, "... with no slab");
	for (int i = 0; i < 100; i++)
		client_close(&sessions[i]);
	usleep(200000);
	client_request_slabs(&agent, 256, 1, &granted);
	is_number(granted.count, 1, "with descriptors again, there is a slab");
	backend_open(&one, node.tcp_uri, 1, 1, agent.welcome.token);
	is_number(client_ping(&one), LB_PONG, "... and a backend gets in");
	client_close(&one);
	client_close(&agent);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);
}

/* What the node takes beyond the pool itself, when all of it is granted and every slot is used. */
static void
test_overhead(void)
{
	static const char *const options[] = {"--memory", "1GB", "--no-huge-pages", NULL};
	lb_slab_list granted;
	uint64_t published = 0;
	uint64_t all_kb;
	uint64_t begin_ns;
	node_process node;
	lb_push_ack ack;
	client agent;

	node_start(&node, options);
	agent_open(&agent, node.shm_uri, 1, 1);
	client_request_slabs(&agent, 4096, 32, &granted);
	is_number(granted.count, 32, "1 GB in 32 slabs");
	begin_ns = lb_now_ns();
	for (uint32_t slab = 0; slab < granted.count; slab++)
		for (uint32_t page = 0; page < 4096; page += 64)
		{
			push_plan plan = {
				.slab = slab, .page = page, .count = 64, .relation = 1, .version = 1, .seed = page};

			client_push(&agent, &plan, &ack);
			published += ack.count;
		}
	is_number(published, 131072, "all slots used");
	note("%.0f pages a second pushed, one batch at a time",
		 131072 / ((double) (lb_now_ns() - begin_ns) / 1e9));
	all_kb = node_memory_kb(&node, "Pss") + status_field(&node, "VmPTE");
	note("Pss %" PRIu64 " kB (anonymous %" PRIu64 ", files %" PRIu64 ", shared %" PRIu64
		 "), page tables %" PRIu64 " kB: %.2f %% over the pool",
		 node_memory_kb(&node, "Pss"), node_memory_kb(&node, "Pss_Anon"),
		 node_memory_kb(&node, "Pss_File"), node_memory_kb(&node, "Pss_Shmem"),
		 status_field(&node, "VmPTE"), 100.0 * ((double) all_kb - 1048576) / 1048576);
	ok(all_kb > 1048576 && all_kb - 1048576 < 1048576 / 50, "at most 2 %% over the pool");
	client_close(&agent);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);
}

int
main(void)
{
	static const char *const options[] = {"--memory", "64MB", "--no-huge-pages", NULL};
	struct rlimit limit;
	node_process node;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < SESSIONS + 100)
		bail_out("at least %d descriptors are needed (ulimit -Hn)", SESSIONS + 100);

	node_start(&node, options);
	test_sessions(&node);
	test_slow_readers(&node);
	test_connects(&node);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);
	test_session_limit();
	test_descriptors();
	test_overhead();
	return done_testing();
}
