/*
 * rdma_pair.h
 *	  For the tests of the verbs layer: both sides of a connection in one process, over the stand-in of verbs_stubs.h.
 */
#ifndef RDMA_PAIR_H
#define RDMA_PAIR_H

#include "lb_rdma.h"

#define PAIR_PAGES 160

typedef struct rdma_pair
{
	/* the memory node's side */
	lb_rdma_listener *listener;
	lb_rdma_domain *domain;
	lb_rdma_region *region;
	uint8_t (*slab)[LB_PAGE_SIZE]; /* PAIR_PAGES, registered; all bytes of page n are n + 1 */
	lb_rdma_connection *accepted;
	bool refuse_secret; /* as if another secret were known */
	int established;    /* events of the accepted connection */
	int ended;
	int device_gone;

	/* the compute node's side */
	uint8_t (*memory)[LB_PAGE_SIZE]; /* PAIR_PAGES; all bytes 0xee */
	lb_rdma_connection *connection;
	bool pull; /* the node reads from the compute node's memory, instead of the other way round */
} rdma_pair;

/* Memory alone. Everything else is null. */
extern void pair_prepare(rdma_pair *pair, bool pull);

/* Listener, domain and region; the connection. False, with what was made left for pair_close; the status says why. */
extern bool pair_listen(rdma_pair *pair, lb_status *status);
extern bool pair_ask(rdma_pair *pair, lb_status *status);
extern bool
pair_connect(rdma_pair *pair,
			 lb_status *status); /* goes on until it is established on both sides, or failed */

/* Take what events there are on the node's side. */
extern bool pair_serve(rdma_pair *pair, lb_status *status);

/* All that was made, in the order that the contract asks for; and the memory. */
extern void pair_close(rdma_pair *pair);

/* Reads of page first and so on into the same pages of the memory. */
extern bool pair_post(rdma_pair *pair, int first, int count, uint64_t id, lb_status *status);

/* Has page n arrived; is it as it was before? */
extern bool pair_has_page(const rdma_pair *pair, int page);
extern bool pair_is_untouched(const rdma_pair *pair);

#endif /* RDMA_PAIR_H */
