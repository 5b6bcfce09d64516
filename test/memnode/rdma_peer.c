/*
 * rdma_peer.c
 *	  A peer of the memory node over rdma.
 */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lb_clock.h"
#include "lb_net.h"
#include "rdma_peer.h"
#include "tap.h"

#define MEMORY_BYTES ((size_t) REGION_BUFFERS * LB_PAGE_SIZE)
#define OPTIONS_MAX 24

/* All is emulated where these tests run. */
#define WITHIN_NS (20 * UINT64_C(1000000000))

void
rdma_node_start(node_process *node, const char *faults, const char *const *options)
{
	const char *address = getenv("RDMA_ADDRESS");
	const char *all[OPTIONS_MAX];
	char uri[100];
	int count = 0;

	if (!address)
		bail_out("RDMA_ADDRESS is not set");
	snprintf(uri, sizeof(uri), "rdma://%s:0", address);
	all[count++] = "--listen";
	all[count++] = uri;
	all[count++] = "--memory";
	all[count++] = "64MB";
	if (faults)
	{
		all[count++] = "--fault-points";
		all[count++] = faults;
	}
	while (options && *options && count < OPTIONS_MAX - 1)
		all[count++] = *options++;
	all[count] = NULL;
	node_start(node, all);
	if (node->rdma_uri[0] == '\0')
		bail_out("the memory node does not say where it listens for rdma");
}

void
rdma_peer_open(rdma_peer *peer, const char *uri, const lb_hello *hello)
{
	memset(peer, 0, sizeof(*peer));
	snprintf(peer->uri, sizeof(peer->uri), "%s", uri);
	client_open(&peer->client, uri);
	if (client_hello(&peer->client, hello) != LB_WELCOME)
		bail_out("HELLO refused: %s", peer->client.error.message);
	peer->memory =
		mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (peer->memory == MAP_FAILED)
		bail_out("out of memory");
}

void
rdma_peer_close(rdma_peer *peer)
{
	lb_rdma_close(peer->connection);
	if (peer->client.region == peer->memory)
		peer->client.region = NULL;
	client_close(&peer->client);
	if (peer->memory)
		munmap(peer->memory, MEMORY_BYTES);
	memset(peer, 0, sizeof(*peer));
}

int
rdma_invite(rdma_peer *peer, lb_rdma_invitation *invitation)
{
	client *client = &peer->client;
	int answer;

	if (!client_send(client, LB_RDMA_OPEN, NULL, 0))
		return CLIENT_CLOSED;
	answer = client_receive(client);
	if (answer == LB_RDMA_OPENED &&
		!lb_decode_rdma_invitation(client->frame.body, client->frame.header.body_length,
								   invitation))
		bail_out("the node sent a malformed RDMA_OPENED");
	return answer;
}

bool
rdma_join(rdma_peer *peer, const lb_rdma_invitation *invitation, bool remote_read,
		  lb_status *status)
{
	uint64_t deadline_ns = lb_now_ns() + WITHIN_NS;
	lb_rdma_memory memory = {peer->memory, MEMORY_BYTES, remote_read};
	lb_address address;
	lb_uri uri;
	int joined;

	if (!lb_uri_parse(peer->uri, false, &uri, status) ||
		!lb_net_resolve(&uri, false, &address, status))
		bail_out("%s", status->message);
	peer->connection = lb_rdma_connect_start(&address, invitation, &memory, status);
	if (!peer->connection)
		return false;
	while ((joined = lb_rdma_connect_continue(peer->connection, status)) == 0)
	{
		struct pollfd wait = {.fd = lb_rdma_event_fd(peer->connection), .events = POLLIN};

		if (poll(&wait, 1, lb_ms_until(deadline_ns)) <= 0)
		{
			lb_fail(status, LB_TIMEOUT, "not connected within 20 s");
			break;
		}
	}
	if (joined == 1)
		return true;
	lb_rdma_close(peer->connection);
	peer->connection = NULL;
	return false;
}

bool
rdma_is_gone(rdma_peer *peer, int timeout_ms)
{
	uint64_t deadline_ns = lb_now_ns() + (uint64_t) timeout_ms * 1000000;
	lb_status status;

	while (lb_rdma_check(peer->connection, &status))
	{
		struct pollfd wait = {.fd = lb_rdma_event_fd(peer->connection), .events = POLLIN};

		if (poll(&wait, 1, lb_ms_until(deadline_ns)) <= 0)
			return false;
	}
	return true;
}

lb_comm_region
rdma_layout(const rdma_peer *peer)
{
	return (lb_comm_region){.count = REGION_BUFFERS,
							.stride = LB_PAGE_SIZE,
							.length = MEMORY_BYTES,
							.address = (uint64_t) (uintptr_t) peer->memory,
							.key = lb_rdma_remote_key(peer->connection)};
}

void
rdma_announce(rdma_peer *peer, const lb_comm_region *layout)
{
	lb_comm_region right = layout ? *layout : rdma_layout(peer);
	uint8_t body[LB_BODY_MAX];

	client_send(&peer->client, LB_COMM_BUFFERS, body, lb_encode_comm_region(body, &right));
	peer->client.region = peer->memory;
}

static void
open_and_join(rdma_peer *peer, const char *uri, const lb_hello *hello, bool remote_read)
{
	lb_rdma_invitation invitation;
	lb_status status;

	rdma_peer_open(peer, uri, hello);
	if (rdma_invite(peer, &invitation) != LB_RDMA_OPENED)
		bail_out("RDMA_OPEN refused: %s", peer->client.error.message);
	if (!rdma_join(peer, &invitation, remote_read, &status))
		bail_out("no queue pair: %s", status.message);
}

void
rdma_agent_open(rdma_peer *peer, const char *uri, uint8_t instance, uint64_t epoch)
{
	lb_hello hello = make_hello(LB_ROLE_AGENT, instance, epoch, 0);

	open_and_join(peer, uri, &hello, true);
	rdma_announce(peer, NULL);
}

void
rdma_backend_open(rdma_peer *peer, const char *uri, uint8_t instance, uint64_t epoch,
				  uint64_t token)
{
	lb_hello hello = make_hello(LB_ROLE_BACKEND, instance, epoch, token);

	open_and_join(peer, uri, &hello, false);
	if (rdma_ask_keys(peer, 0) != LB_SLAB_KEYS_REPLY)
		bail_out("SLAB_KEYS refused: %s", peer->client.error.message);
}

int
rdma_ask_keys(rdma_peer *peer, uint32_t from)
{
	client *client = &peer->client;
	uint8_t body[LB_BODY_MAX];
	int answer;

	if (!client_send(client, LB_SLAB_KEYS, body, lb_encode_slab_number(body, from)))
		return CLIENT_CLOSED;
	answer = client_receive(client);
	if (answer == LB_SLAB_KEYS_REPLY &&
		!lb_decode_slab_keys(client->frame.body, client->frame.header.body_length, &peer->keys))
		bail_out("the node sent a malformed SLAB_KEYS_REPLY");
	return answer;
}

bool
rdma_read_by_key(rdma_peer *peer, const lb_slab_key *key, uint32_t page, uint32_t count,
				 lb_status *status)
{
	uint64_t deadline_ns = lb_now_ns() + WITHIN_NS;
	lb_rdma_read reads[LB_BATCH_MAX];
	uint64_t id;
	int polled;

	for (uint32_t i = 0; i < count; i++)
		reads[i] = (lb_rdma_read){.dest = peer->memory + (size_t) i * LB_PAGE_SIZE,
								  .local_key = lb_rdma_local_key(peer->connection),
								  .address = key->address + (uint64_t) (page + i) * LB_PAGE_SIZE,
								  .remote_key = key->key};
	memset(peer->memory, 0xee, (size_t) count * LB_PAGE_SIZE);
	if (!lb_rdma_post_reads(peer->connection, reads, (int) count, 7, status))
		return false;
	while ((polled = lb_rdma_poll(peer->connection, &id, status)) == 0)
	{
		if (lb_now_ns() > deadline_ns)
			return lb_fail(status, LB_TIMEOUT, "no completion within 20 s");
		sched_yield();
	}
	return polled == 1 && id == 7;
}

bool
rdma_read(rdma_peer *peer, uint32_t slab, uint32_t page, uint32_t count, lb_status *status)
{
	for (uint32_t i = 0; i < peer->keys.count; i++)
		if (peer->keys.slabs[i].slab == slab)
			return rdma_read_by_key(peer, &peer->keys.slabs[i], page, count, status);
	return lb_fail(status, LB_INVALID, "no key of slab %u", slab);
}
