/*
 * rdma_memory.c
 *	  A tenant's memory as RDMA sees it.
 */
#include <assert.h>

#include "rdma_memory.h"

static void
deregister_all(tenant *tenant, slab_pool *pool)
{
	for (uint32_t i = 0; i < tenant->slab_numbers; i++)
		if (tenant->slabs[i])
			slab_deregister(pool, tenant->slabs[i]);
}

static bool
register_all(tenant *tenant, slab_pool *pool, lb_status *status)
{
	for (uint32_t i = 0; i < tenant->slab_numbers; i++)
		if (tenant->slabs[i] && !slab_register(pool, tenant->slabs[i], tenant->domain, status))
			return false;
	return true;
}

static void
destroy_domain(tenant *tenant)
{
	lb_rdma_domain_destroy(tenant->domain);
	tenant->domain = NULL;
}

bool
rdma_memory_join(tenant *tenant, slab_pool *pool, lb_rdma_listener *listener, lb_status *status)
{
	if (!tenant->domain)
	{
		tenant->domain = lb_rdma_domain_create(listener, status);
		if (!tenant->domain)
			return false;
		if (!register_all(tenant, pool, status))
		{
			deregister_all(tenant, pool);
			destroy_domain(tenant);
			return false;
		}
	}
	tenant->rdma_sessions++;
	return true;
}

/* A slab that is still being filled is not registered yet, but is memory that is wanted in the domain. */
static void
destroy_if_unused(tenant *tenant)
{
	if (tenant->domain && tenant->rdma_sessions == 0 && tenant->held_pages == 0)
		destroy_domain(tenant);
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
rdma_memory_lose(tenant *tenant, slab_pool *pool)
{
	assert(tenant->rdma_sessions == 0);
	if (!tenant->domain)
		return;
	deregister_all(tenant, pool);
	destroy_domain(tenant);
}
