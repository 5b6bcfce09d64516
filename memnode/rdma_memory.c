/*
 * rdma_memory.c
 *	  A tenant's memory as RDMA sees it.
 */
#include <assert.h>

#include "log.h"
#include "rdma_memory.h"

static slab *
first_unregistered(const tenant *tenant)
{
	for (uint32_t i = 0; i < tenant->slab_numbers; i++)
		if (tenant->slabs[i] && !tenant->slabs[i]->region)
			return tenant->slabs[i];
	return NULL;
}

/* It goes with the last slab that is registered in it, and the last doomed queue pair. */
static void
give_up_domain(tenant *tenant)
{
	lb_rdma_domain_destroy(tenant->domain);
	tenant->domain = NULL;
}

/* A slab that is still being filled is not registered yet, but is memory that is wanted in the domain. */
static void
destroy_if_unused(tenant *tenant)
{
	if (tenant->domain && tenant->rdma_sessions == 0 && tenant->held_pages == 0)
		give_up_domain(tenant);
}

bool
rdma_memory_join(tenant *tenant, slab_pool *pool, lb_rdma_listener *listener, lb_status *status)
{
	slab *unregistered = first_unregistered(tenant);

	if (!tenant->domain)
		tenant->domain = lb_rdma_domain_create(listener, status);
	if (!tenant->domain)
		return false;

	/* The first one at once: if it fails, whoever asks is told why. */
	if (unregistered && !slab_register(pool, unregistered, tenant->domain, status))
	{
		destroy_if_unused(tenant);
		return false;
	}
	if (unregistered && first_unregistered(tenant))
	{
		tenant->registering = true;
		lb_fail(status, LB_REFUSED, "the memory of this instance is being registered");
		status->wire_error = LB_ERR_LIMIT;
		return false;
	}
	tenant->rdma_sessions++;
	return true;
}

bool
rdma_memory_step(tenant *tenant, slab_pool *pool)
{
	slab *next;
	lb_status status;

	if (!tenant->registering)
		return false;
	next = tenant->domain ? first_unregistered(tenant) : NULL;
	if (next && slab_register(pool, next, tenant->domain, &status))
		return true;
	if (next)
		log_limited(LOG_WARNING, "instance %s: %s", tenant->name, status.message);
	tenant->registering = false;
	return false;
}

void
rdma_memory_leave(tenant *tenant)
{
	assert(tenant->rdma_sessions > 0);
	tenant->rdma_sessions--;
	destroy_if_unused(tenant);
}

void
rdma_memory_release(tenant *tenant)
{
	destroy_if_unused(tenant);
}

void
rdma_memory_lose(tenant *tenant)
{
	assert(tenant->rdma_sessions == 0);
	tenant->registering = false;
	if (tenant->domain)
		give_up_domain(tenant);
}

bool
rdma_memory_deregister_one(tenant *tenant, slab_pool *pool)
{
	for (uint32_t i = 0; i < tenant->slab_numbers; i++)
		if (tenant->slabs[i] && tenant->slabs[i]->region)
		{
			slab_deregister(pool, tenant->slabs[i]);
			return true;
		}
	return false;
}
