/*
 * rdma_node.h
 *	  A memory node over rdma for the tests of the data plane: frames on a real socket (fake_node.h), queue pairs by the real verbs
 *	  layer over the stand-in of verbs_stubs.h. Reading over tcp is served as well.
 */
#ifndef RDMA_NODE_H
#define RDMA_NODE_H

#include <stdatomic.h>

#include "fake_node.h"
#include "lb_rdma.h"

#define NODE_SLABS 80 /* numbers below that */

typedef enum open_conduct
{
	OPEN_GOOD,
	OPEN_REFUSED,   /* RDMA_OPEN: by the limit */
	OPEN_NO_DEVICE, /* ... internal */
	OPEN_MALFORMED,
	OPEN_SILENT,
	OPEN_CLOSED,       /* the connection is closed */
	OPEN_WRONG_SECRET, /* the one that is told is not the one that is known */
	OPEN_NOT_JOINED    /* requests are not answered */
} open_conduct;

typedef enum keys_conduct
{
	KEYS_GOOD,
	KEYS_IN_PARTS, /* one slab at a time */
	KEYS_REFUSED,
	KEYS_MALFORMED,
	KEYS_FOR_EVER, /* goes on with the number that was asked for */
	KEYS_SILENT
} keys_conduct;

typedef struct rdma_node
{
	_Atomic open_conduct open;
	keys_conduct keys;
	atomic_bool drop;       /* end the queue pair, without a word on the socket */
	atomic_int keys_asked;  /* SLAB_KEYS received */
	atomic_int reads_asked; /* READs received */
	atomic_bool dropped;

	fake_node *fake;
	lb_rdma_listener *listener;
	lb_rdma_domain *domain;
	lb_rdma_connection *accepted;
	uint8_t *memory[NODE_SLABS]; /* null: there is no such slab */
	lb_rdma_region *regions[NODE_SLABS];
} rdma_node;

/* All zero but the conduct. Failures end the test. */
extern void rdma_node_start(rdma_node *node);
extern void rdma_node_stop(rdma_node *node);

/* Slabs of LB_SLAB_PAGES_MIN pages, each byte of a page as rdma_node_fill says. Only while no frame is being answered. */
extern void rdma_node_add(rdma_node *node, uint32_t slab, uint8_t salt);
extern void rdma_node_remove(rdma_node *node, uint32_t slab);
extern uint8_t rdma_node_fill(uint32_t slab, uint32_t page, uint8_t salt);

#endif /* RDMA_NODE_H */
