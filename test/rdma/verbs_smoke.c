/*
 * verbs_smoke.c
 *	  The verbs layer over a real device: connecting, reading, refusals, losses, leaks. TAP on standard output.
 *
 *	  verbs_smoke ADDRESS [DEVICE]
 *
 * Both sides are in this process, and take turns, but where one of them is to be killed. With DEVICE, a soft-RoCE device that is on a network
 * interface named d0, this device is removed and added again, at the end.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lb_clock.h"
#include "lb_rdma_internal.h"

#define SECONDS UINT64_C(1000000000)
#define PATIENCE (20 * SECONDS)
#define SLAB_PAGES 64
#define BOUNCE_PAGES 64

/* ---- TAP ---- */

static int tests_run;
static int tests_failed;

static bool
ok(bool good, const char *name)
{
	tests_run++;
	if (!good)
		tests_failed++;
	printf("%s %d - %s\n", good ? "ok" : "not ok", tests_run, name);
	fflush(stdout);
	return good;
}

static void
note_status(const lb_status *status)
{
	printf("# code %d, wire error %d: %s\n", status->code, status->wire_error, status->message);
	fflush(stdout);
}

static _Noreturn void
bail_out(const char *what, const lb_status *status)
{
	printf("Bail out! %s: %s\n", what, status->message);
	exit(1);
}

/* ---- the memory node ---- */

typedef struct node
{
	lb_rdma_listener *listener;
	lb_rdma_domain *domains[2]; /* of two tenants */
	lb_rdma_region *slabs[2];
	unsigned char *memory[2];
	int tenant;    /* of the next connection */
	bool may_read; /* the next connection */
	lb_rdma_connection *accepted;
	bool established;
	bool ended;
	bool device_gone;
	int rejected;
} node;

static const uint8_t good_secret[LB_RDMA_SECRET_SIZE] = "let me in, now!";
static lb_address address;

static unsigned char *
map_pages(int count)
{
	void *pages = mmap(NULL, (size_t) count * LB_PAGE_SIZE, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
	{
		printf("Bail out! mmap failed\n");
		exit(1);
	}
	return pages;
}

static bool
node_start(node *n, const char *device, lb_status *status)
{
	memset(n, 0, sizeof(*n));
	n->listener = lb_rdma_listen(&address, device, status);
	if (n->listener == NULL)
		return false;
	for (int i = 0; i < 2; i++)
	{
		n->memory[i] = map_pages(SLAB_PAGES);
		for (int page = 0; page < SLAB_PAGES; page++)
			memset(n->memory[i] + page * LB_PAGE_SIZE, i * 100 + page + 1, LB_PAGE_SIZE);
		n->domains[i] = lb_rdma_domain_create(n->listener, status);
		if (n->domains[i] == NULL)
			return false;
		n->slabs[i] = lb_rdma_register(n->domains[i], n->memory[i], SLAB_PAGES * LB_PAGE_SIZE,
									   status);
		if (n->slabs[i] == NULL)
			return false;
	}
	return true;
}

static void
node_stop(node *n)
{
	lb_rdma_close(n->accepted);
	for (int i = 0; i < 2; i++)
	{
		lb_rdma_deregister(n->slabs[i]);
		lb_rdma_domain_destroy(n->domains[i]);
		if (n->memory[i] != NULL)
			munmap(n->memory[i], SLAB_PAGES * LB_PAGE_SIZE);
	}
	lb_rdma_listener_close(n->listener);
	memset(n, 0, sizeof(*n));
}

static void
node_decide(node *n, const lb_rdma_event *event)
{
	lb_status status;

	if (memcmp(event->secret, good_secret, sizeof(good_secret)) != 0)
	{
		lb_rdma_reject(event);
		n->rejected++;
		return;
	}
	n->established = false;
	n->ended = false;
	n->accepted = lb_rdma_accept(n->listener, event, n->domains[n->tenant], n->may_read, n, &status);
	if (n->accepted == NULL)
		note_status(&status);
}

/* What the node does when there are events. */
static void
node_run(node *n)
{
	lb_rdma_event event;
	lb_status status;
	int taken;

	while ((taken = lb_rdma_listener_next(n->listener, &event, &status)) == 1)
	{
		switch (event.kind)
		{
			case LB_RDMA_REQUESTED:
				node_decide(n, &event);
				break;
			case LB_RDMA_ESTABLISHED:
				n->established = true;
				break;
			case LB_RDMA_ENDED:
				n->ended = true;
				break;
			case LB_RDMA_DEVICE_GONE:
				n->device_gone = true;
				break;
		}
	}
	if (taken < 0)
		bail_out("the node's events", &status);
}

/* ---- the compute node ---- */

typedef struct client
{
	lb_rdma_connection *connection;
	unsigned char *bounce;
} client;

static bool
client_connect(client *c, node *n, const uint8_t *secret, bool remote_read, lb_status *status)
{
	lb_rdma_invitation invitation = {.port = lb_rdma_listener_port(n->listener)};
	lb_rdma_memory memory = {.length = BOUNCE_PAGES * LB_PAGE_SIZE, .remote_read = remote_read};
	uint64_t deadline = lb_now_ns() + PATIENCE;
	int done = 0;

	memcpy(invitation.secret, secret, sizeof(invitation.secret));
	memory.start = c->bounce;
	n->may_read = remote_read;
	c->connection = lb_rdma_connect_start(&address, &invitation, &memory, status);
	if (c->connection == NULL)
		return false;
	while (done == 0 && lb_now_ns() < deadline)
	{
		struct pollfd fds[2] = {
			{.fd = lb_rdma_event_fd(c->connection), .events = POLLIN},
			{.fd = lb_rdma_listener_fd(n->listener), .events = POLLIN},
		};

		poll(fds, 2, 1000);
		node_run(n);
		done = lb_rdma_connect_continue(c->connection, status);
	}
	if (done == 0)
		lb_fail(status, LB_TIMEOUT, "the test's patience is over");
	return done == 1;
}

/* Post and poll until done. 1, or -1. */
static int
client_read(client *c, const lb_rdma_read *reads, int count, uint64_t id, lb_status *status)
{
	uint64_t deadline = lb_now_ns() + PATIENCE;
	uint64_t completed = 0;
	int done = 0;

	if (!lb_rdma_post_reads(c->connection, reads, count, id, status))
		return -1;
	while (done == 0 && lb_now_ns() < deadline)
		done = lb_rdma_poll(c->connection, &completed, status);
	if (done == 0)
		lb_fail(status, LB_TIMEOUT, "the test's patience is over");
	return done == 1 && completed == id ? 1 : -1;
}

/* Reads of a tenant's pages, from this one on, into the bounce buffers. */
static void
plan_reads(lb_rdma_read *reads, client *c, node *n, int tenant, int page, int count)
{
	for (int i = 0; i < count; i++)
		reads[i] = (lb_rdma_read){
			.dest = c->bounce + i * LB_PAGE_SIZE,
			.local_key = lb_rdma_local_key(c->connection),
			.address = (uintptr_t) (n->memory[tenant] + (page + i) * LB_PAGE_SIZE),
			.remote_key = lb_rdma_region_remote_key(n->slabs[tenant]),
		};
}

static bool
pages_are_right(const client *c, int tenant, int page, int count)
{
	for (int i = 0; i < count; i++)
		for (int at = 0; at < LB_PAGE_SIZE; at++)
			if (c->bounce[i * LB_PAGE_SIZE + at] != (unsigned char) (tenant * 100 + page + i + 1))
				return false;
	return true;
}

static bool
counted(lb_rdma_counters before, lb_rdma_counters after, unsigned requests)
{
	printf("# work requests %u, doorbells %u, completions %u\n",
		   (unsigned) (after.work_requests - before.work_requests),
		   (unsigned) (after.doorbells - before.doorbells),
		   (unsigned) (after.completions - before.completions));
	return after.work_requests - before.work_requests == requests &&
		   after.doorbells - before.doorbells == 1 && after.completions - before.completions == 1;
}

/* ---- tests ---- */

static void
test_reads(node *n, client *c)
{
	lb_rdma_read reads[16];
	lb_status status;
	lb_rdma_counters before;

	before = lb_rdma_get_counters(c->connection);
	plan_reads(reads, c, n, 0, 7, 1);
	ok(client_read(c, reads, 1, 4711, &status) == 1 && pages_are_right(c, 0, 7, 1), "a page");
	ok(counted(before, lb_rdma_get_counters(c->connection), 1),
	   "costs 1 work request, 1 doorbell, 1 completion");

	before = lb_rdma_get_counters(c->connection);
	plan_reads(reads, c, n, 0, 20, 16);
	ok(client_read(c, reads, 16, 4712, &status) == 1 && pages_are_right(c, 0, 20, 16),
	   "a batch of 16");
	ok(counted(before, lb_rdma_get_counters(c->connection), 16),
	   "costs 16 work requests, 1 doorbell, 1 completion");
}

int
main(int argc, char **argv)
{
	struct sockaddr_in *in = (struct sockaddr_in *) &address.storage;
	node n;
	client c = {0};
	lb_status status;

	if (argc < 2 || inet_pton(AF_INET, argv[1], &in->sin_addr) != 1)
		return 2;
	in->sin_family = AF_INET;
	address.length = sizeof(*in);
	c.bounce = map_pages(BOUNCE_PAGES);

	if (!node_start(&n, NULL, &status))
		bail_out("listen", &status);
	ok(true, "listening");
	if (!client_connect(&c, &n, good_secret, false, &status))
		bail_out("connect", &status);
	ok(true, "connected");
	test_reads(&n, &c);
	lb_rdma_close(c.connection);
	node_stop(&n);
	printf("1..%d\n", tests_run);
	return tests_failed == 0 ? 0 : 1;
}
