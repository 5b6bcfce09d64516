/*
 * rdma_memory.h
 *	  A tenant's memory as RDMA sees it: a protection domain of its own, in which all of its slabs are registered, and its sessions'
 *	  queue pairs are made. So no queue pair reaches anything but the memory of its session's tenant.
 *
 * The domain is there from the first session that wants a queue pair until the tenant has neither such sessions nor memory. As
 * long as it is there, every slab that was granted is registered in it.
 */
#ifndef MEMNODE_RDMA_MEMORY_H
#define MEMNODE_RDMA_MEMORY_H

#include "slab.h"
#include "tenant.h"

/* One more session wants a queue pair. False with a status if the domain, or the registration of what is there, failed. */
extern bool rdma_memory_join(tenant *tenant, slab_pool *pool, lb_rdma_listener *listener,
							 lb_status *status);

/* One session fewer; its queue pair is destroyed. */
extern void rdma_memory_leave(tenant *tenant);

/* The tenant has given up all its memory, which is not registered any more. */
extern void rdma_memory_release(tenant *tenant);

/* The device is gone, and no session has a queue pair any more. */
extern void rdma_memory_lose(tenant *tenant, slab_pool *pool);

#endif /* MEMNODE_RDMA_MEMORY_H */
