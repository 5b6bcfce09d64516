/*
 * rdma_peer.h
 *	  A peer of the memory node over rdma: a client, and its queue pair.
 */
#ifndef RDMA_PEER_H
#define RDMA_PEER_H

#include "client.h"
#include "lb_rdma.h"
#include "node_process.h"

typedef struct rdma_peer
{
	client client;
	char uri[100];
	lb_rdma_connection *connection; /* null: none */
	uint8_t *memory;                /* of 64 pages: comm buffers, or where pages are read to */
	lb_slab_keys keys;              /* backend: what the node said last */
} rdma_peer;

/*
 * Start a node that also listens on rdma, at the address in the environment's RDMA_ADDRESS. faults: null, or fault points.
 * options: further ones, null at the end, or null.
 */
extern void rdma_node_start(node_process *node, const char *faults, const char *const *options);

/* Connect, and say HELLO; bails out if that is refused. There is no queue pair yet. */
extern void rdma_peer_open(rdma_peer *peer, const char *uri, const lb_hello *hello);
extern void rdma_peer_close(rdma_peer *peer);

/* RDMA_OPEN; the answer's type. */
extern int rdma_invite(rdma_peer *peer, lb_rdma_invitation *invitation);

/* Connect the queue pair. remote_read: the memory is for the node to read from. */
extern bool rdma_join(rdma_peer *peer, const lb_rdma_invitation *invitation, bool remote_read,
					  lb_status *status);

/* Is the queue pair gone within this time? */
extern bool rdma_is_gone(rdma_peer *peer, int timeout_ms);

/* COMM_BUFFERS with this layout, or with the right one if that is null. No answer. */
extern void rdma_announce(rdma_peer *peer, const lb_comm_region *layout);
extern lb_comm_region rdma_layout(const rdma_peer *peer);

/* All of it; bail out if something fails. */
extern void rdma_agent_open(rdma_peer *peer, const char *uri, uint8_t instance, uint64_t epoch);
extern void rdma_backend_open(rdma_peer *peer, const char *uri, uint8_t instance, uint64_t epoch,
							  uint64_t token);

/* SLAB_KEYS from this number on, to peer->keys; the answer's type. */
extern int rdma_ask_keys(rdma_peer *peer, uint32_t from);

/* Read pages of a slab, from the first one named on, to peer->memory, by the keys that this peer has, or by 'key'. */
extern bool rdma_read(rdma_peer *peer, uint32_t slab, uint32_t page, uint32_t count,
					  lb_status *status);
extern bool rdma_read_by_key(rdma_peer *peer, const lb_slab_key *key, uint32_t page, uint32_t count,
							 lb_status *status);

#endif /* RDMA_PEER_H */
