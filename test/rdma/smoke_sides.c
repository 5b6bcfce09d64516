/*
 * smoke_sides.c
 *	  See smoke_sides.h.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lb_clock.h"
#include "smoke_sides.h"

const uint8_t good_secret[LB_RDMA_SECRET_SIZE] = "let me in, now!";
lb_address node_address;

/* ---- TAP ---- */

static int tests_run;
static int tests_failed;

bool
ok(bool good, const char *name)
{
	tests_run++;
	if (!good)
		tests_failed++;
	printf("%s %d - %s\n", good ? "ok" : "not ok", tests_run, name);
	fflush(stdout);
	return good;
}

void
note_status(const lb_status *status)
{
	printf("# code %d, wire error %d: %s\n", status->code, status->wire_error, status->message);
	fflush(stdout);
}

_Noreturn void
bail_out(const char *what, const char *why)
{
	printf("Bail out! %s: %s\n", what, why);
	exit(1);
}

int
done_testing(void)
{
	printf("1..%d\n", tests_run);
	return tests_failed == 0 ? 0 : 1;
}

bool
failed_with(const lb_status *status, lb_code code, int wire_error, const char *part)
{
	note_status(status);
	return status->code == code && status->wire_error == wire_error &&
		   strstr(status->message, part) != NULL;
}

/* ---- the memory node ---- */

unsigned char *
map_pages(int count)
{
	void *pages = mmap(NULL, (size_t) count * LB_PAGE_SIZE, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		bail_out("mmap", "no memory");
	return pages;
}

unsigned char
page_byte(int tenant, int page)
{
	return (unsigned char) (tenant * 131 + page + 1);
}

bool
node_start(node *n, const char *device, lb_status *status)
{
	memset(n, 0, sizeof(*n));
	n->listener = lb_rdma_listen(&node_address, device, status);
	if (n->listener == NULL)
		return false;
	for (int i = 0; i < TENANTS; i++)
	{
		n->memory[i] = map_pages(SLAB_PAGES);
		for (int page = 0; page < SLAB_PAGES; page++)
			memset(n->memory[i] + page * LB_PAGE_SIZE, page_byte(i, page), LB_PAGE_SIZE);
		n->domains[i] = lb_rdma_domain_create(n->listener, status);
		if (n->domains[i] == NULL)
			return false;
		n->slabs[i] =
			lb_rdma_register(n->domains[i], n->memory[i], SLAB_PAGES * LB_PAGE_SIZE, status);
		if (n->slabs[i] == NULL)
			return false;
	}
	return true;
}

void
node_stop(node *n)
{
	lb_rdma_close(n->accepted);
	for (int i = 0; i < TENANTS; i++)
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
	n->accepted =
		lb_rdma_accept(n->listener, event, n->domains[n->tenant], n->may_read, n, &status);
	if (n->accepted == NULL)
		note_status(&status);
}

void
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
		bail_out("the node's events", status.message);
}

bool
node_wait(node *n, const bool *flag)
{
	uint64_t deadline = lb_now_ns() + PATIENCE;

	node_run(n);
	while (!*flag && lb_now_ns() < deadline)
	{
		struct pollfd fd = {.fd = lb_rdma_listener_fd(n->listener), .events = POLLIN};

		poll(&fd, 1, 1000);
		node_run(n);
	}
	return *flag;
}

/* ---- the compute node ---- */

lb_rdma_connection *
client_start(client *c, uint16_t port, const uint8_t *secret, bool remote_read, lb_status *status)
{
	lb_rdma_invitation invitation = {.port = port};
	lb_rdma_memory memory = {
		.start = c->bounce,
		.length = BOUNCE_PAGES * LB_PAGE_SIZE,
		.remote_read = remote_read,
	};

	memcpy(invitation.secret, secret, sizeof(invitation.secret));
	c->connection = lb_rdma_connect_start(&node_address, &invitation, &memory, status);
	return c->connection;
}

bool
client_finish(client *c, node *n, lb_status *status)
{
	uint64_t deadline = lb_now_ns() + PATIENCE;
	int done = 0;

	while (done == 0 && lb_now_ns() < deadline)
	{
		struct pollfd fds[2] = {
			{.fd = lb_rdma_event_fd(c->connection), .events = POLLIN},
			{.fd = n != NULL ? lb_rdma_listener_fd(n->listener) : -1, .events = POLLIN},
		};

		poll(fds, 2, 1000);
		if (n != NULL)
			node_run(n);
		done = lb_rdma_connect_continue(c->connection, status);
	}
	if (done == 1)
		return true;
	if (done == 0)
		lb_fail(status, LB_TIMEOUT, "the test's patience is over");
	lb_rdma_close(c->connection);
	c->connection = NULL;
	return false;
}

bool
client_connect(client *c, node *n, const uint8_t *secret, bool remote_read, lb_status *status)
{
	n->may_read = remote_read;
	return client_start(c, lb_rdma_listener_port(n->listener), secret, remote_read, status) !=
			   NULL &&
		   client_finish(c, n, status);
}

bool
client_leave(client *c, node *n)
{
	bool noticed;

	lb_rdma_close(c->connection);
	c->connection = NULL;
	noticed = n->accepted == NULL || node_wait(n, &n->ended);
	lb_rdma_close(n->accepted);
	n->accepted = NULL;
	return noticed;
}

void
join_again(client *c, node *n)
{
	lb_status status;

	client_leave(c, n);
	if (!client_connect(c, n, good_secret, false, &status))
		bail_out("connect", status.message);
}

int
await(lb_rdma_connection *connection, uint64_t id, lb_status *status)
{
	uint64_t deadline = lb_now_ns() + PATIENCE;

	while (lb_now_ns() < deadline)
	{
		uint64_t completed = 0;
		int done = lb_rdma_poll(connection, &completed, status);

		if (done < 0)
			return -1;
		if (done > 0)
			return completed == id ? 1 : -1;
	}
	lb_fail(status, LB_TIMEOUT, "the test's patience is over");
	return -1;
}

int
client_read(client *c, const lb_rdma_read *reads, int count, uint64_t id, lb_status *status)
{
	if (!lb_rdma_post_reads(c->connection, reads, count, id, status))
		return -1;
	return await(c->connection, id, status);
}

bool
client_wait_broken(client *c, lb_status *status)
{
	uint64_t deadline = lb_now_ns() + PATIENCE;

	while (lb_rdma_check(c->connection, status))
	{
		struct pollfd fd = {.fd = lb_rdma_event_fd(c->connection), .events = POLLIN};

		if (lb_now_ns() >= deadline)
			return false;
		poll(&fd, 1, 1000);
	}
	return true;
}

void
plan_reads(lb_rdma_read *reads, const client *c, uint64_t start, uint32_t key, int count)
{
	for (int i = 0; i < count; i++)
		reads[i] = (lb_rdma_read){
			.dest = c->bounce + i * LB_PAGE_SIZE,
			.local_key = lb_rdma_local_key(c->connection),
			.address = start + (uint64_t) i * LB_PAGE_SIZE,
			.remote_key = key,
		};
}

void
plan_slab_reads(lb_rdma_read *reads, const client *c, const node *n, int tenant, int page,
				int count)
{
	plan_reads(reads, c, (uintptr_t) (n->memory[tenant] + page * LB_PAGE_SIZE),
			   lb_rdma_region_remote_key(n->slabs[tenant]), count);
}

bool
pages_are_right(const unsigned char *pages, int tenant, int page, int count)
{
	for (int i = 0; i < count * LB_PAGE_SIZE; i++)
		if (pages[i] != page_byte(tenant, page + i / LB_PAGE_SIZE))
			return false;
	return true;
}
