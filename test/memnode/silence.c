/*
 * silence.c
 *	  Who says nothing for too long: a connection without HELLO (10 s), an agent (30 s). And a node that was stopped itself
 *	  doesn't hold that time against anybody.
 */
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "lb_clock.h"
#include "node_process.h"
#include "tap.h"

static double
seconds_since(uint64_t begin_ns)
{
	return (double) (lb_now_ns() - begin_ns) / 1e9;
}

/* One that sends a byte now and then gets no more time than one that sends nothing. */
static void
test_no_hello(const node_process *node)
{
	uint64_t begin_ns = lb_now_ns();
	client silent;
	client slow;

	client_open(&silent, node->tcp_uri);
	client_open(&slow, node->shm_uri);
	for (int i = 0; i < 9; i++)
	{
		if (send(lb_stream_fd(slow.stream), &"LGB1"[i % 4], 1, MSG_NOSIGNAL) != 1)
			break;
		client_receive_within(&slow, 1000);
	}
	is_number(client_receive_within(&silent, 12000), CLIENT_CLOSED, "no HELLO: closed");
	is_number(client_receive_within(&slow, 1000), CLIENT_CLOSED, "half a HELLO: closed");
	note("after %.1f s", seconds_since(begin_ns));
	ok(seconds_since(begin_ns) > 9.5 && seconds_since(begin_ns) < 12, "... after 10 s");
	client_close(&silent);
	client_close(&slow);
}

int
main(void)
{
	static const char *const options[] = {"--memory", "16MB", NULL};
	lb_hello hello = make_hello(LB_ROLE_AGENT, 1, 2, 0);
	lb_node_figures figures = {0};
	node_process node;
	node_process stopped;
	lb_slab_list granted;
	uint64_t begin_ns;
	client agent;
	client backend;
	client other;
	client monitor;

	node_start(&node, options);
	node_start(&stopped, options);
	agent_open(&agent, node.tcp_uri, 1, 1);
	client_request_slabs(&agent, 256, 1, &granted);
	begin_ns = lb_now_ns();
	backend_open(&backend, node.tcp_uri, 1, 1, agent.welcome.token);
	monitor_open(&monitor, node.shm_uri);
	agent_open(&other, stopped.tcp_uri, 1, 1);
	kill(stopped.pid, SIGSTOP);

	test_no_hello(&node);
	is_number(client_receive_within(&agent, 40000), CLIENT_CLOSED, "a silent agent is closed");
	note("after %.1f s", seconds_since(begin_ns));
	ok(seconds_since(begin_ns) > 29.5 && seconds_since(begin_ns) < 33, "... after 30 s");
	is_number((uint64_t) node_log_count(&node, "detached (silent for 30 s)"), 1, "the log says so");
	usleep(1200000);
	is_number(client_ping(&backend), LB_PONG, "a backend may be idle for as long as it likes");
	is_number(client_status(&monitor, &figures), LB_STATUS_REPLY, "so may a monitor");
	is_number(figures.granted_pages, 256, "the memory is kept for its time");
	client_close(&agent);
	client_open(&agent, node.tcp_uri);
	is_number(client_hello(&agent, &hello), LB_WELCOME, "it may attach again, with a new epoch");

	kill(stopped.pid, SIGCONT);
	usleep(1200000);
	is_number(client_ping(&other), LB_PONG, "after a standstill of the node nobody was silent");
	client_close(&agent);
	client_close(&backend);
	client_close(&other);
	client_close(&monitor);
	is_number(node_stop(&node), 0, "clean exit");
	is_number(node_stop(&stopped), 0, "clean exit");
	node_clean(&node);
	node_clean(&stopped);
	return done_testing();
}
