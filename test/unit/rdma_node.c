/*
 * rdma_node.c
 *	  A memory node over rdma, which behaves or does not.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "raw_frame.h"
#include "rdma_node.h"

static const uint8_t secret[LB_RDMA_SECRET_SIZE] = {1, 2, 3, 5, 8, 13};

static void
require(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "rdma node: %s\n", what);
	abort();
}

uint8_t
rdma_node_fill(uint32_t slab, uint32_t page, uint8_t salt)
{
	return (uint8_t) (slab * 31 + page * 3 + salt);
}

void
rdma_node_add(rdma_node *node, uint32_t slab, uint8_t salt)
{
	size_t length = (size_t) LB_SLAB_PAGES_MIN * LB_PAGE_SIZE;
	lb_status status;

	node->memory[slab] = aligned_alloc(4096, length);
	for (uint32_t page = 0; page < LB_SLAB_PAGES_MIN; page++)
		memset(node->memory[slab] + (size_t) page * LB_PAGE_SIZE, rdma_node_fill(slab, page, salt),
			   LB_PAGE_SIZE);
	node->regions[slab] = lb_rdma_register(node->domain, node->memory[slab], length, &status);
	require(node->regions[slab] != NULL, "no region");
}

void
rdma_node_remove(rdma_node *node, uint32_t slab)
{
	lb_rdma_deregister(node->regions[slab]);
	free(node->memory[slab]);
	node->regions[slab] = NULL;
	node->memory[slab] = NULL;
}

static void
answer_open(rdma_node *node, int socket, uint64_t sequence)
{
	lb_rdma_invitation invitation = {.port = lb_rdma_listener_port(node->listener)};
	uint8_t body[LB_BODY_MAX];
	size_t length;

	memcpy(invitation.secret, secret, sizeof(secret));
	if (node->open == OPEN_WRONG_SECRET)
		invitation.secret[0]++;
	if (node->open == OPEN_MALFORMED)
		invitation.port = 0;
	length = lb_encode_rdma_invitation(body, &invitation);
	switch (node->open)
	{
		case OPEN_REFUSED:
			fake_send_error(socket, sequence, LB_ERR_LIMIT, "too many queue pairs");
			break;
		case OPEN_NO_DEVICE:
			fake_send_error(socket, sequence, LB_ERR_INTERNAL, "no device just now");
			break;
		case OPEN_SILENT:
			break;
		case OPEN_CLOSED:
			shutdown(socket, SHUT_RDWR);
			break;
		default:
			fake_send_frame(socket, LB_RDMA_OPENED, sequence, body, length, -1, 0);
			break;
	}
}

static void
answer_keys(rdma_node *node, int socket, uint64_t sequence, uint32_t from)
{
	static lb_slab_keys keys;
	uint8_t body[LB_BODY_MAX];

	node->keys_asked++;
	keys = (lb_slab_keys){0};
	for (uint32_t slab = from; slab < NODE_SLABS; slab++)
	{
		if (node->regions[slab] == NULL)
			continue;
		if (node->keys == KEYS_IN_PARTS && keys.count == 1)
		{
			keys.more = true;
			keys.next = slab;
			break;
		}
		keys.slabs[keys.count++] =
			(lb_slab_key){.slab = slab,
						  .pages = LB_SLAB_PAGES_MIN,
						  .address = (uintptr_t) node->memory[slab],
						  .key = lb_rdma_region_remote_key(node->regions[slab])};
	}
	if (node->keys == KEYS_FOR_EVER)
		keys = (lb_slab_keys){.more = true, .next = from};
	if (node->keys == KEYS_MALFORMED)
		keys.slabs[0].pages = 1;
	if (node->keys == KEYS_REFUSED)
		fake_send_error(socket, sequence, LB_ERR_ROLE, "no queue pair");
	else if (node->keys != KEYS_SILENT)
		fake_send_frame(socket, LB_SLAB_KEYS_REPLY, sequence, body,
						lb_encode_slab_keys(body, &keys), -1, 0);
}

static void
answer_read(rdma_node *node, int socket, uint64_t sequence, const lb_read_batch *batch)
{
	uint8_t body[4];
	raw_frame *reply = raw_frame_make(LB_READ_REPLY, sequence, body,
									  lb_encode_count(body, batch->count), (int) batch->count, 0);

	node->reads_asked++;
	for (uint32_t i = 0; i < batch->count; i++)
		memcpy(reply->bytes + LB_HEADER_SIZE + 4 + (size_t) i * LB_PAGE_SIZE,
			   node->memory[batch->slots[i].slab] + (size_t) batch->slots[i].page * LB_PAGE_SIZE,
			   LB_PAGE_SIZE);
	fake_send(socket, reply->bytes, reply->length);
	free(reply);
}

/* False when the other side has closed. */
static bool
answer_frame(rdma_node *node, int socket)
{
	uint8_t body[LB_BODY_MAX];
	lb_read_batch batch;
	lb_header header;
	uint32_t from;

	if (!fake_receive(socket, &header, body))
		return false;
	if (header.type == LB_RDMA_OPEN && header.body_length == 0)
		answer_open(node, socket, header.sequence);
	else if (header.type == LB_SLAB_KEYS && lb_decode_slab_number(body, header.body_length, &from))
		answer_keys(node, socket, header.sequence, from);
	else if (header.type == LB_READ && lb_decode_read(body, header.body_length, &batch))
		answer_read(node, socket, header.sequence, &batch);
	else
		require(false, "received something else than was expected");
	return true;
}

/* Calls that fail are seen by the other side: it is rejected, or hears nothing. */
static void
serve_queue_pairs(rdma_node *node)
{
	lb_rdma_event event;
	lb_status status;

	while (node->open != OPEN_NOT_JOINED &&
		   lb_rdma_listener_next(node->listener, &event, &status) == 1)
	{
		if (event.kind != LB_RDMA_REQUESTED)
			continue;
		if (memcmp(event.secret, secret, sizeof(secret)) == 0 && node->accepted == NULL)
			node->accepted =
				lb_rdma_accept(node->listener, &event, node->domain, false, node, &status);
		else
			lb_rdma_reject(&event);
	}
}

static void
serve(int socket, void *arg)
{
	rdma_node *node = arg;
	lb_hello hello;

	fake_welcome(socket, &hello);
	require(hello.role == LB_ROLE_BACKEND && hello.token == 5, "a wrong HELLO");
	for (;;)
	{
		struct pollfd waits[2] = {{.fd = socket, .events = POLLIN},
								  {.fd = lb_rdma_listener_fd(node->listener), .events = POLLIN}};

		poll(waits, node->open == OPEN_NOT_JOINED ? 1 : 2, 2);
		serve_queue_pairs(node);
		if (node->drop && !node->dropped)
		{
			lb_rdma_close(node->accepted);
			node->accepted = NULL;
			node->dropped = true;
		}
		if (waits[0].revents && !answer_frame(node, socket))
			break;
	}
	lb_rdma_close(node->accepted);
	node->accepted = NULL;
}

void
rdma_node_start(rdma_node *node)
{
	lb_address address = {.length = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *) &address.storage;
	lb_status status;

	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	node->listener = lb_rdma_listen(&address, NULL, &status);
	require(node->listener != NULL, "cannot listen");
	node->domain = lb_rdma_domain_create(node->listener, &status);
	require(node->domain != NULL, "no domain");
	rdma_node_add(node, 0, 0);
	rdma_node_add(node, 3, 0);
	node->fake = fake_node_start_many(LB_TRANSPORT_RDMA, serve, node);
}

void
rdma_node_stop(rdma_node *node)
{
	fake_node_stop(node->fake);
	for (uint32_t slab = 0; slab < NODE_SLABS; slab++)
		if (node->memory[slab])
			rdma_node_remove(node, slab);
	lb_rdma_domain_destroy(node->domain);
	lb_rdma_listener_close(node->listener);
}
