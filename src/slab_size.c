/*
 * slab_size.c
 *	  How large the slabs of a pool are.
 */
#include "lb_page.h"
#include "lb_wire.h"
#include "slab_size.h"

#define START_PAGES (8 * 1024 * 1024 / LB_PAGE_SIZE)

/* No more slabs than this, as long as their size may grow. */
#define SLABS_WANTED 1024
#define RDMA_SLABS_WANTED 64

uint32_t
slab_size_pages(uint64_t pool_pages, bool any_rdma_node)
{
	uint32_t most = any_rdma_node ? LB_RDMA_SLAB_PAGES_MAX : LB_SLAB_PAGES_MAX;
	uint32_t wanted = any_rdma_node ? RDMA_SLABS_WANTED : SLABS_WANTED;
	uint32_t slab = START_PAGES;

	while (slab > LB_SLAB_PAGES_MIN && slab > pool_pages)
		slab /= 2;
	while (slab < most && pool_pages / slab > wanted)
		slab *= 2;
	return slab;
}
