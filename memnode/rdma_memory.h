/*
 * rdma_memory.h
 *	  A tenant's memory as RDMA sees it: a protection domain of its own, in which all of its slabs are registered, and its sessions'
 *	  queue pairs are made. So no queue pair reaches anything but the memory of its session's tenant.
 *
 * The domain is there from the first session that wants a queue pair until the tenant has neither such sessions nor memory. Slabs are
 * registered in it before they are granted. Those that were granted before there was a domain (the agent came by another transport, or the device was
 * away) are registered one after the other, between other events; until that is done nobody gets a queue pair.
 *
 * "There" means that the tenant has it. What was made in a domain that the tenant has given up may be left for a while: doomed slabs, doomed queue
 * pairs (rdma_port.h), and all slabs when the device is gone. The domain goes with the last of that. A later one of the same tenant is another one.
 */
#ifndef MEMNODE_RDMA_MEMORY_H
#define MEMNODE_RDMA_MEMORY_H

#include "slab.h"
#include "tenant.h"

/*
 * One more session wants a queue pair. False with a status if the domain, or a registration, failed; LB_REFUSED with LB_ERR_LIMIT if there are slabs
 * that have to be registered first, which takes its time: call rdma_memory_step again and again.
 */
extern bool rdma_memory_join(tenant *tenant, slab_pool *pool, lb_rdma_listener *listener,
							 lb_status *status);

/* Register one slab of those that have to be. False if there is nothing (more) to do for this tenant. */
extern bool rdma_memory_step(tenant *tenant, slab_pool *pool);

/* One session fewer: its queue pair is destroyed, or doomed. */
extern void rdma_memory_leave(tenant *tenant);

/* The tenant has given up all its memory. */
extern void rdma_memory_release(tenant *tenant);

/*
 * The device is gone, and no session has a queue pair any more: from now on the tenant has no domain. What is registered is deregistered by
 * rdma_memory_deregister_one, slab by slab; until that is done everywhere, nobody may join.
 */
extern void rdma_memory_lose(tenant *tenant);

/* False if no slab of this tenant is registered (any more). Doomed slabs are not the tenant's. */
extern bool rdma_memory_deregister_one(tenant *tenant, slab_pool *pool);

#endif /* MEMNODE_RDMA_MEMORY_H */
