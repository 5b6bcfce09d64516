/*
 * slabs.c
 *	  Memory: grants, quota, sizes, return, time-outs; and that others are served while memory is prepared.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h"
#include "lb_clock.h"
#include "node_process.h"
#include "tap.h"

#define MB_PAGES 128

static lb_node_figures
figures_of(const node_process *node)
{
	lb_node_figures figures;
	client monitor;

	monitor_open(&monitor, node->tcp_uri);
	client_status(&monitor, &figures);
	client_close(&monitor);
	return figures;
}

static void
expect_error(client *client, int answer, lb_wire_error error, const char *name)
{
	ok(answer == LB_ERROR && client->error.error == error, "%s", name);
	is_number(client_ping(client), LB_PONG, "... and the session goes on");
}

static void
test_sizes(node_process *node)
{
	static const uint32_t bad[] = {0, 1, 255, 257, 128, 300, 262144, UINT32_MAX};
	lb_slab_list granted;
	client agent;

	agent_open(&agent, node->shm_uri, 1, 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ok(client_request_slabs(&agent, bad[i], 1, &granted) == LB_ERROR &&
			   agent.error.error == LB_ERR_SLAB,
		   "slabs of %u pages are refused", bad[i]);
	client_request_slabs(&agent, 512, 1, &granted);
	is_number(granted.count, 1, "slabs of 512 pages");
	expect_error(&agent, client_request_slabs(&agent, 256, 1, &granted), LB_ERR_SLAB,
				 "slabs of another size in the same session");
	client_close(&agent);
	agent_open(&agent, node->shm_uri, 1, 2);
	client_request_slabs(&agent, 256, 1, &granted);
	is_number(granted.count, 1, "slabs of another size in the next session");
	client_return_slabs(&agent, granted.slabs, 1);
	client_ping(&agent);
	client_close(&agent);
}

static void
test_quota_and_return(node_process *node)
{
	static const uint32_t twice[] = {3, 3};
	static const uint32_t unknown[] = {4, 99};
	static const uint32_t some[] = {7, 2, 5};
	lb_slab_list granted;
	client agent;

	agent_open(&agent, node->shm_uri, 2, 1);
	client_request_slabs(&agent, 256, 10, &granted);
	is_number(granted.count, 10, "10 slabs of 2 MB");
	client_request_slabs(&agent, 256, 64, &granted);
	is_number(granted.count, 6, "the quota of 32 MB allows 6 more");
	client_request_slabs(&agent, 256, 1, &granted);
	is_number(granted.count, 0, "... and then none");
	is_number(figures_of(node).granted_pages, 32 * MB_PAGES, "32 MB are granted");

	client_return_slabs(&agent, twice, 2);
	expect_error(&agent, client_receive(&agent), LB_ERR_SLAB, "the same slab twice in SLAB_RETURN");
	client_return_slabs(&agent, unknown, 2);
	expect_error(&agent, client_receive(&agent), LB_ERR_SLAB, "an unknown slab in SLAB_RETURN");
	is_number(figures_of(node).granted_pages, 32 * MB_PAGES, "nothing was returned");
	client_return_slabs(&agent, some, 3);
	client_ping(&agent);
	is_number(figures_of(node).granted_pages, 26 * MB_PAGES, "3 slabs returned");
	client_request_slabs(&agent, 256, 4, &granted);
	ok(granted.count == 3 && granted.slabs[0] == 2 && granted.slabs[1] == 5 &&
		   granted.slabs[2] == 7,
	   "their numbers are used again");
	client_close(&agent);
}

/* What one gave up, by whatever way, another gets. */
static void
test_memory_changes_hands(node_process *node)
{
	uint64_t begin_ns;
	lb_slab_list granted;
	client agents[3];

	agent_open(&agents[0], node->shm_uri, 3, 1);
	client_request_slabs(&agents[0], 256, 16, &granted);
	is_number(granted.count, 16, "the first has 32 MB");
	agent_open(&agents[1], node->tcp_uri, 4, 1);
	client_request_slabs(&agents[1], 256, 16, &granted);
	is_number(granted.count, 16, "the second too");
	agent_open(&agents[2], node->tcp_uri, 5, 1);
	is_number(agents[2].welcome.free_pages, 0, "a third is told that there is none");
	client_request_slabs(&agents[2], 256, 16, &granted);
	is_number(granted.count, 0, "... and gets none");

	client_close(&agents[0]);
	begin_ns = lb_now_ns();
	do
	{
		usleep(100000);
		client_request_slabs(&agents[2], 256, 16, &granted);
	} while (granted.count == 0 && lb_now_ns() - begin_ns < UINT64_C(6000000000));
	ok(lb_now_ns() - begin_ns > UINT64_C(900000000), "the memory is kept for 1 s after the end");
	ok(lb_now_ns() - begin_ns < UINT64_C(3000000000), "... and then freed");
	client_close(&agents[2]);
	usleep(200000);

	/* the third's is kept now; so only what it had itself can serve the second when it comes back */
	client_close(&agents[1]);
	agent_open(&agents[1], node->tcp_uri, 4, 2);
	is_number(agents[1].welcome.free_pages, 32 * MB_PAGES, "who comes back finds its memory free");
	client_request_slabs(&agents[1], 256, 16, &granted);
	is_number(granted.count, 16, "... and gets it");
	client_close(&agents[1]);
}

/* A second request while the first is being worked on; and the end of the agent while it is. */
static void
test_requests_under_way(node_process *node)
{
	lb_slab_request request = {32768, 3};
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_request(body, &request);
	client agent;

	agent_open(&agent, node->tcp_uri, 1, 1);
	client_send(&agent, LB_SLAB_REQUEST, body, length);
	client_send(&agent, LB_SLAB_REQUEST, body, length);
	ok(client_receive(&agent) == LB_ERROR && agent.error.error == LB_ERR_LIMIT &&
		   agent.frame.header.sequence == agent.sequence,
	   "a second SLAB_REQUEST before the first was answered");
	ok(client_receive_within(&agent, 30000) == LB_SLAB_GRANT &&
		   agent.frame.header.sequence == agent.sequence - 1,
	   "the first is answered");
	client_close(&agent);

	agent_open(&agent, node->tcp_uri, 1, 2);
	client_send(&agent, LB_SLAB_REQUEST, body, length);
	usleep(20000);
	client_close(&agent);
	agent_open(&agent, node->tcp_uri, 1, 3);
	is_number(agent.welcome.free_pages, 1024 * MB_PAGES, "nothing is left of an unfinished grant");
	client_close(&agent);
}

/* While 768 MB are prepared for one, another gets its answers. */
static void
test_others_are_served(node_process *node)
{
	lb_slab_request request = {32768, 3};
	uint8_t body[LB_BODY_MAX];
	uint64_t longest_ns = 0;
	uint64_t begin_ns;
	unsigned pings = 0;
	client agent;
	client other;

	agent_open(&agent, node->tcp_uri, 6, 1);
	agent_open(&other, node->tcp_uri, 7, 1);
	client_send(&agent, LB_SLAB_REQUEST, body, lb_encode_slab_request(body, &request));
	begin_ns = lb_now_ns();
	while (client_receive_within(&agent, 0) == CLIENT_SILENT)
	{
		uint64_t asked_ns = lb_now_ns();

		if (client_ping(&other) != LB_PONG)
			break;
		if (lb_now_ns() - asked_ns > longest_ns)
			longest_ns = lb_now_ns() - asked_ns;
		pings++;
	}
	is_number(agent.frame.header.type, LB_SLAB_GRANT, "768 MB were granted");
	note("in %.0f ms; meanwhile %u pings, the longest %.1f ms",
		 (double) (lb_now_ns() - begin_ns) / 1e6, pings, (double) longest_ns / 1e6);
	ok(pings > 20 && longest_ns < 200000000, "others were served meanwhile");
	client_close(&agent);
	client_close(&other);
}

/* Whether there are huge pages depends on the machine; what is said of them must be true. */
static void
test_huge_pages(void)
{
	static const char *const with[] = {"--memory", "64MB", NULL};
	static const char *const without[] = {"--memory", "64MB", "--no-huge-pages", NULL};
	node_process node;
	lb_slab_list granted;
	unsigned free_pages = 0;
	char line[128];
	client agent;
	FILE *file = fopen("/proc/meminfo", "r");

	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "HugePages_Free: %u", &free_pages);
	if (file)
		fclose(file);

	node_start(&node, with);
	agent_open(&agent, node.tcp_uri, 1, 1);
	client_request_slabs(&agent, 256, 4, &granted);
	is_number(granted.count, 4, "4 slabs, with %u huge pages free", free_pages);
	if (free_pages == 0 || free_pages >= 4)
		is_number(figures_of(&node).huge_pages, free_pages >= 4 ? 1024 : 0, "pages in huge pages");
	client_close(&agent);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);

	node_start(&node, without);
	agent_open(&agent, node.tcp_uri, 1, 1);
	client_request_slabs(&agent, 256, 4, &granted);
	is_number(granted.count, 4, "4 slabs");
	is_number(figures_of(&node).huge_pages, 0, "--no-huge-pages");
	client_close(&agent);
	node_stop(&node);
	node_clean(&node);
}

int
main(void)
{
	static const char *const small[] = {"--memory",         "64MB", "--tenant-quota",  "32MB",
										"--tenant-timeout", "1",    "--no-huge-pages", NULL};
	static const char *const large[] = {"--memory", "1GB", "--no-huge-pages", NULL};
	node_process node;

	node_start(&node, small);
	test_sizes(&node);
	test_quota_and_return(&node);
	usleep(1800000);
	is_number(figures_of(&node).granted_pages, 0, "all was freed after 1 s");
	test_memory_changes_hands(&node);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);

	node_start(&node, large);
	test_requests_under_way(&node);
	test_others_are_served(&node);
	is_number(node_stop(&node), 0, "clean exit");
	node_clean(&node);

	test_huge_pages();
	return done_testing();
}
