/*
 * verbs_smoke.c
 *	  The verbs layer over a real device: reading, what is refused, losses, leaks. TAP on standard output.
 *
 *	  verbs_smoke ADDRESS DEVICE
 *
 * DEVICE is a soft-RoCE device on a network interface of its own that has ADDRESS, and the only one of the machine: it is removed at the end, and
 * added again. To be run as root in the VM of softroce-vm.sh.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "smoke_sides.h"

/* ---- reading ---- */

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

static void
test_reads(node *n, client *c)
{
	lb_rdma_read reads[LB_BATCH_MAX];
	lb_status status;
	lb_rdma_counters before = lb_rdma_get_counters(c->connection);

	plan_slab_reads(reads, c, n, 0, 7, 1);
	ok(client_read(c, reads, 1, 4711, &status) == 1 && pages_are_right(c->bounce, 0, 7, 1),
	   "a page");
	ok(counted(before, lb_rdma_get_counters(c->connection), 1),
	   "costs 1 work request, 1 doorbell, 1 completion");

	before = lb_rdma_get_counters(c->connection);
	plan_slab_reads(reads, c, n, 0, 20, 16);
	ok(client_read(c, reads, 16, 4712, &status) == 1 && pages_are_right(c->bounce, 0, 20, 16),
	   "a batch of 16");
	ok(counted(before, lb_rdma_get_counters(c->connection), 16),
	   "costs 16 work requests, 1 doorbell, 1 completion");
}

/* As many as may be under way, in batches of different sizes. */
static void
test_order(node *n, client *c)
{
	static const int sizes[] = {1, 64, 2, 30, 31};
	bool right = true;
	int page = 0;
	lb_status status;

	for (int round = 0; round < 3; round++)
	{
		page = 0;
		for (int i = 0; i < 5; i++)
		{
			lb_rdma_read reads[LB_BATCH_MAX];

			plan_slab_reads(reads, c, n, 0, page, sizes[i]);
			for (int k = 0; k < sizes[i]; k++)
				reads[k].dest = c->bounce + (page + k) * LB_PAGE_SIZE;
			right = right && lb_rdma_post_reads(c->connection, reads, sizes[i],
												(uint64_t) (round * 10 + i), &status);
			page += sizes[i];
		}
		for (int i = 0; i < 5; i++)
			right = right && await(c->connection, (uint64_t) (round * 10 + i), &status) == 1;
	}
	ok(right && page == LB_RDMA_READS_MAX && pages_are_right(c->bounce, 0, 0, page),
	   "as many reads as may be under way complete in the order of posting");
}

/* The node reads from the compute node, and waits for the completion event. */
static void
test_pull(node *n, client *c)
{
	lb_rdma_read reads[16];
	lb_status status;
	lb_rdma_counters before;
	struct pollfd fd;
	uint64_t id = 0;

	client_leave(c, n);
	memset(n->memory[0], 0, 16 * LB_PAGE_SIZE);
	for (int page = 0; page < 16; page++)
		memset(c->bounce + page * LB_PAGE_SIZE, page_byte(0, page), LB_PAGE_SIZE);
	if (!client_connect(c, n, good_secret, true, &status) || !node_wait(n, &n->established))
		bail_out("connect", status.message);
	for (int i = 0; i < 16; i++)
		reads[i] = (lb_rdma_read){
			.dest = n->memory[0] + i * LB_PAGE_SIZE,
			.local_key = lb_rdma_region_local_key(n->slabs[0]),
			.address = (uintptr_t) (c->bounce + i * LB_PAGE_SIZE),
			.remote_key = lb_rdma_remote_key(c->connection),
		};
	before = lb_rdma_get_counters(n->accepted);
	fd = (struct pollfd){.fd = lb_rdma_completion_fd(n->accepted), .events = POLLIN};
	ok(lb_rdma_arm(n->accepted, &status) &&
		   lb_rdma_post_reads(n->accepted, reads, 16, 99, &status) && poll(&fd, 1, 20000) == 1,
	   "a pull wakes the node up");
	ok(lb_rdma_arm(n->accepted, &status) && lb_rdma_poll(n->accepted, &id, &status) == 1 &&
		   id == 99 && pages_are_right(n->memory[0], 0, 0, 16),
	   "and is complete");
	ok(counted(before, lb_rdma_get_counters(n->accepted), 16),
	   "with 16 work requests, 1 doorbell, 1 completion");
	ok(poll(&fd, 1, 0) == 0, "its event is taken");
}

/* ---- what is refused ---- */

static void
test_keys(node *n, client *c)
{
	lb_rdma_read reads[8];
	uint32_t key;
	lb_status status;

	join_again(c, n);
	plan_slab_reads(reads, c, n, 0, 0, 8);
	reads[5].remote_key ^= 0x5a;
	ok(client_read(c, reads, 8, 1, &status) == -1 &&
		   failed_with(&status, LB_REFUSED, LB_ERR_SLAB, "key"),
	   "a wrong key is refused, in the middle of a batch");
	ok(!lb_rdma_post_reads(c->connection, reads, 1, 2, &status) &&
		   failed_with(&status, LB_REFUSED, LB_ERR_SLAB, "key"),
	   "the connection is broken then, and says why again");

	join_again(c, n);
	plan_slab_reads(reads, c, n, 1, 0, 1);
	ok(client_read(c, reads, 1, 1, &status) == -1 &&
		   failed_with(&status, LB_REFUSED, LB_ERR_SLAB, "key"),
	   "the key of another tenant is refused");

	join_again(c, n);
	plan_slab_reads(reads, c, n, 0, SLAB_PAGES - 1, 2);
	ok(client_read(c, reads, 2, 1, &status) == -1 &&
		   failed_with(&status, LB_REFUSED, LB_ERR_SLAB, "key"),
	   "a page beyond the slab is refused");

	join_again(c, n);
	plan_slab_reads(reads, c, n, 0, 3, 1);
	ok(client_read(c, reads, 1, 1, &status) == 1, "a good read");
	key = lb_rdma_region_remote_key(n->slabs[0]);
	lb_rdma_deregister(n->slabs[0]);
	n->slabs[0] = NULL;
	reads[0].remote_key = key;
	ok(client_read(c, reads, 1, 2, &status) == -1 &&
		   failed_with(&status, LB_REFUSED, LB_ERR_SLAB, "key"),
	   "the same one with its slab deregistered is refused");
	n->slabs[0] = lb_rdma_register(n->domains[0], n->memory[0], SLAB_PAGES * LB_PAGE_SIZE, &status);
	if (n->slabs[0] == NULL)
		bail_out("register", status.message);
}

/* Try with plain verbs; the status of the completion, or -1. */
static int
raw_request(client *c, node *n, enum ibv_wr_opcode opcode)
{
	lb_rdma_queue *queue = &c->connection->queue;
	struct ibv_sge piece = {
		.addr = (uintptr_t) c->bounce,
		.length = opcode == IBV_WR_RDMA_WRITE ? LB_PAGE_SIZE : 8,
		.lkey = lb_rdma_local_key(c->connection),
	};
	struct ibv_send_wr request = {
		.sg_list = &piece,
		.num_sge = 1,
		.opcode = opcode,
		.send_flags = IBV_SEND_SIGNALED,
	};
	struct ibv_send_wr *bad;
	struct ibv_wc completion = {0};

	if (opcode == IBV_WR_RDMA_WRITE)
	{
		request.wr.rdma.remote_addr = (uintptr_t) n->memory[0];
		request.wr.rdma.rkey = lb_rdma_region_remote_key(n->slabs[0]);
	}
	else
	{
		request.wr.atomic.remote_addr = (uintptr_t) n->memory[0];
		request.wr.atomic.rkey = lb_rdma_region_remote_key(n->slabs[0]);
		request.wr.atomic.compare_add = 1;
	}
	if (ibv_post_send(queue->id->qp, &request, &bad) != 0)
		return -1;
	for (int tries = 0; tries < 20000; tries++)
	{
		struct timespec pause = {.tv_nsec = 1000000};

		if (ibv_poll_cq(queue->cq, 1, &completion) == 1)
		{
			printf("# %s\n", ibv_wc_status_str(completion.status));
			return (int) completion.status;
		}
		nanosleep(&pause, NULL);
	}
	return -1;
}

static void
test_writes(node *n, client *c)
{
	struct ibv_qp_attr lax = {
		.qp_access_flags =
			IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC,
	};
	unsigned char before = n->memory[0][0];

	join_again(c, n);
	memset(c->bounce, before + 1, LB_PAGE_SIZE);
	ok(raw_request(c, n, IBV_WR_RDMA_WRITE) > IBV_WC_SUCCESS, "a write is refused");

	join_again(c, n);
	ibv_modify_qp(n->accepted->queue.id->qp, &lax, IBV_QP_ACCESS_FLAGS);
	ok(raw_request(c, n, IBV_WR_RDMA_WRITE) > IBV_WC_SUCCESS,
	   "by the region, even if the queue pair would let it pass");

	join_again(c, n);
	ibv_modify_qp(n->accepted->queue.id->qp, &lax, IBV_QP_ACCESS_FLAGS);
	ok(raw_request(c, n, IBV_WR_ATOMIC_FETCH_AND_ADD) > IBV_WC_SUCCESS,
	   "an atomic operation is refused");
	ok(pages_are_right(n->memory[0], 0, 0, SLAB_PAGES), "the slab is as it was");
}

static void
test_secret(node *n, client *c)
{
	static const uint8_t wrong[LB_RDMA_SECRET_SIZE] = "let me in, then";
	lb_status status;

	client_leave(c, n);
	ok(!client_connect(c, n, wrong, false, &status) &&
		   failed_with(&status, LB_CLOSED, 0, "rejected") && n->rejected == 1 &&
		   n->accepted == NULL,
	   "a wrong secret is rejected");
	n->tenant = 1;
	ok(client_connect(c, n, good_secret, false, &status), "the next one with a good one is not");
	n->tenant = 0;
}

/* ---- devices and addresses ---- */

static bool
listen_fails(const char *text, const char *device, const char *part)
{
	lb_address address = {.length = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *) &address.storage;
	lb_rdma_listener *listener;
	lb_status status;

	in->sin_family = AF_INET;
	inet_pton(AF_INET, text, &in->sin_addr);
	listener = lb_rdma_listen(&address, device, &status);
	if (listener == NULL)
		return failed_with(&status, LB_INVALID, 0, part);
	lb_rdma_listener_close(listener);
	return false;
}

static bool
listens_anywhere(const char *device, int family)
{
	lb_address address = {.length = sizeof(struct sockaddr_in6)};
	lb_rdma_listener *listener;
	bool good;
	lb_status status;

	address.storage.ss_family = (sa_family_t) family;
	listener = lb_rdma_listen(&address, device, &status);
	if (listener == NULL)
	{
		note_status(&status);
		return false;
	}
	good = lb_rdma_listener_port(listener) != 0 && lb_rdma_listener_device(listener) != NULL;
	lb_rdma_listener_close(listener);
	return good;
}

static void
test_addresses(const char *device, client *c)
{
	lb_address right = node_address;
	lb_status status;

	ok(listen_fails("192.0.2.1", NULL, device), "no such address: says which devices there are");
	ok(listen_fails("10.99.0.1", "mlx5_9", device), "the address of another device");
	ok(listen_fails("0.0.0.0", "mlx5_9", device), "no device with this name");
	ok(listens_anywhere(NULL, AF_INET), "any address, the only device");
	ok(listens_anywhere(device, AF_INET), "any address, device named");
	ok(listens_anywhere(NULL, AF_INET6), "any IPv6 address");

	inet_pton(AF_INET, "192.0.2.1", &((struct sockaddr_in *) &node_address.storage)->sin_addr);
	ok((client_start(c, 4711, good_secret, false, &status) == NULL ||
		!client_finish(c, NULL, &status)) &&
		   failed_with(&status, LB_SYSTEM, 0, "tcp://"),
	   "connecting where no device leads to");
	node_address = right;
	ok((client_start(c, 4711, good_secret, false, &status) == NULL ||
		!client_finish(c, NULL, &status)) &&
		   failed_with(&status, LB_CLOSED, 0, "nobody listens"),
	   "connecting where nobody listens");
}

/* ---- the end of connections ---- */

static void
test_ends(node *n, client *c)
{
	lb_rdma_read reads[LB_BATCH_MAX];
	struct timespec pause = {.tv_nsec = 200000000};
	lb_status status;

	join_again(c, n);
	ok(node_wait(n, &n->established) && client_leave(c, n), "the node hears of the end");

	join_again(c, n);
	lb_rdma_close(n->accepted);
	n->accepted = NULL;
	ok(client_wait_broken(c, &status) && failed_with(&status, LB_CLOSED, 0, "ended"),
	   "the compute node hears of the end");

	/* What is under way at the end does not touch the memory afterwards. */
	join_again(c, n);
	for (int i = 0; i < 2; i++)
	{
		plan_slab_reads(reads, c, n, 0, i * LB_BATCH_MAX, LB_BATCH_MAX);
		for (int k = 0; k < LB_BATCH_MAX; k++)
			reads[k].dest = c->bounce + (i * LB_BATCH_MAX + k) * LB_PAGE_SIZE;
		if (!lb_rdma_post_reads(c->connection, reads, LB_BATCH_MAX, 1, &status))
			bail_out("post", status.message);
	}
	lb_rdma_close(c->connection);
	c->connection = NULL;
	memset(c->bounce, 0xee, BOUNCE_PAGES * LB_PAGE_SIZE);
	nanosleep(&pause, NULL);
	for (int i = 0; i < BOUNCE_PAGES * LB_PAGE_SIZE; i++)
		if (c->bounce[i] != 0xee)
		{
			ok(false, "nothing is written after a close with reads under way");
			return;
		}
	ok(true, "nothing is written after a close with reads under way");
	client_leave(c, n);
}

int
main(int argc, char **argv)
{
	struct sockaddr_in *in = (struct sockaddr_in *) &node_address.storage;
	node n;
	client c = {0};
	lb_status status;

	if (argc < 3 || inet_pton(AF_INET, argv[1], &in->sin_addr) != 1)
		return 2;
	in->sin_family = AF_INET;
	node_address.length = sizeof(*in);
	if (argc > 3)
		return peer_main(argv[2], argv[3]);

	c.bounce = map_pages(BOUNCE_PAGES);
	if (!node_start(&n, argv[2], &status))
		bail_out("listen", status.message);
	if (!client_connect(&c, &n, good_secret, false, &status))
		bail_out("connect", status.message);
	ok(true, "connected");
	test_reads(&n, &c);
	test_order(&n, &c);
	test_pull(&n, &c);
	test_keys(&n, &c);
	test_writes(&n, &c);
	test_secret(&n, &c);
	client_leave(&c, &n);
	test_addresses(argv[2], &c);
	test_ends(&n, &c);
	test_peers(argv[0], argv[1], &n, &c);
	test_leaks(&n, &c);
	test_removal(argv[2], &n, &c);
	return done_testing();
}
