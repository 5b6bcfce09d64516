/*
 * rdma_pair.c
 *	  Both sides of a connection in one process.
 */
#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "rdma_pair.h"

static const uint8_t secret[LB_RDMA_SECRET_SIZE] = {7, 1, 9, 4};

static lb_address
local_address(void)
{
	lb_address address = {.length = sizeof(struct sockaddr_in)};
	struct sockaddr_in *in = (struct sockaddr_in *) &address.storage;

	in->sin_family = AF_INET;
	in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return address;
}

void
pair_prepare(rdma_pair *pair, bool pull)
{
	memset(pair, 0, sizeof(*pair));
	pair->pull = pull;
	pair->slab = aligned_alloc(4096, PAIR_PAGES * LB_PAGE_SIZE);
	pair->memory = aligned_alloc(4096, PAIR_PAGES * LB_PAGE_SIZE);
	for (int i = 0; i < PAIR_PAGES; i++)
	{
		memset(pair->slab[i], i + 1, LB_PAGE_SIZE);
		memset(pair->memory[i], 0xee, LB_PAGE_SIZE);
	}
}

bool
pair_listen(rdma_pair *pair, lb_status *status)
{
	lb_address address = local_address();

	pair->listener = lb_rdma_listen(&address, NULL, status);
	if (pair->listener == NULL)
		return false;
	pair->domain = lb_rdma_domain_create(pair->listener, status);
	if (pair->domain == NULL)
		return false;
	pair->region = lb_rdma_register(pair->domain, pair->slab, PAIR_PAGES * LB_PAGE_SIZE, status);
	return pair->region != NULL;
}

bool
pair_ask(rdma_pair *pair, lb_status *status)
{
	lb_address address = local_address();
	lb_rdma_invitation invitation = {.port = lb_rdma_listener_port(pair->listener)};
	lb_rdma_memory memory = {
		.start = pair->memory, .length = PAIR_PAGES * LB_PAGE_SIZE, .remote_read = pair->pull};

	memcpy(invitation.secret, secret, sizeof(secret));
	if (pair->refuse_secret)
		invitation.secret[3]++;
	pair->connection = lb_rdma_connect_start(&address, &invitation, &memory, status);
	return pair->connection != NULL;
}

static bool
handle_request(rdma_pair *pair, const lb_rdma_event *event, lb_status *status)
{
	if (memcmp(event->secret, secret, sizeof(secret)) != 0 || pair->accepted)
	{
		lb_rdma_reject(event);
		return true;
	}
	pair->accepted = lb_rdma_accept(pair->listener, event, pair->domain, pair->pull, pair, status);
	return pair->accepted != NULL && (!pair->pull || lb_rdma_arm(pair->accepted, status));
}

bool
pair_serve(rdma_pair *pair, lb_status *status)
{
	lb_rdma_event event;
	int taken;

	while ((taken = lb_rdma_listener_next(pair->listener, &event, status)) == 1)
	{
		switch (event.kind)
		{
			case LB_RDMA_REQUESTED:
				if (!handle_request(pair, &event, status))
					return false;
				break;
			case LB_RDMA_ESTABLISHED:
				assert(event.owner == pair);
				pair->established++;
				break;
			case LB_RDMA_ENDED:
				assert(event.owner == pair);
				pair->ended++;
				break;
			case LB_RDMA_DEVICE_GONE:
				pair->device_gone++;
				break;
		}
	}
	return taken == 0;
}

bool
pair_connect(rdma_pair *pair, lb_status *status)
{
	int state;

	if (!pair_ask(pair, status))
		return false;
	while ((state = lb_rdma_connect_continue(pair->connection, status)) == 0)
	{
		struct pollfd waits[2] = {
			{.fd = lb_rdma_event_fd(pair->connection), .events = POLLIN},
			{.fd = lb_rdma_listener_fd(pair->listener), .events = POLLIN},
		};

		/* Either side has something to do, or nothing ever happens. */
		if (poll(waits, 2, 0) == 0)
			return lb_fail(status, LB_TIMEOUT, "nothing happens");
		if (!pair_serve(pair, status))
			return false;
	}
	return state == 1 && pair_serve(pair, status);
}

void
pair_close(rdma_pair *pair)
{
	lb_rdma_close(pair->connection);
	lb_rdma_close(pair->accepted);
	lb_rdma_deregister(pair->region);
	lb_rdma_domain_destroy(pair->domain);
	lb_rdma_listener_close(pair->listener);
	free(pair->slab);
	free(pair->memory);
	memset(pair, 0, sizeof(*pair));
}

/* The destinations are the memory, or in the other direction the slab. */
bool
pair_post(rdma_pair *pair, int first, int count, uint64_t id, lb_status *status)
{
	lb_rdma_read reads[LB_BATCH_MAX];

	for (int i = 0; i < count; i++)
	{
		if (pair->pull)
			reads[i] = (lb_rdma_read){.dest = pair->slab[first + i],
									  .local_key = lb_rdma_region_local_key(pair->region),
									  .address = (uintptr_t) pair->memory[first + i],
									  .remote_key = lb_rdma_remote_key(pair->connection)};
		else
			reads[i] = (lb_rdma_read){.dest = pair->memory[first + i],
									  .local_key = lb_rdma_local_key(pair->connection),
									  .address = (uintptr_t) pair->slab[first + i],
									  .remote_key = lb_rdma_region_remote_key(pair->region)};
	}
	return lb_rdma_post_reads(pair->pull ? pair->accepted : pair->connection, reads, count, id,
							  status);
}

bool
pair_has_page(const rdma_pair *pair, int page)
{
	uint8_t fill = pair->pull ? 0xee : (uint8_t) (page + 1);

	for (int i = 0; i < LB_PAGE_SIZE; i++)
		if ((pair->pull ? pair->slab : pair->memory)[page][i] != fill)
			return false;
	return true;
}

bool
pair_is_untouched(const rdma_pair *pair)
{
	for (int page = 0; page < PAIR_PAGES; page++)
	{
		uint8_t fill = pair->pull ? (uint8_t) (page + 1) : 0xee;

		for (int i = 0; i < LB_PAGE_SIZE; i++)
			if ((pair->pull ? pair->slab : pair->memory)[page][i] != fill)
				return false;
	}
	return true;
}
