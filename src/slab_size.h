/*
 * slab_size.h
 *	  How large the slabs of a pool are.
 *
 * Without RDMA: 8 MB, as long as that makes no more than 1024 of them; then up to 1 GB. Small slabs let a small pool be resized in small
 * steps; few slabs keep the number of mappings and descriptors low. Pools under 8 MB have one of 2 or 4 MB.
 *
 * Where a node is reached by RDMA they are larger sooner, no more than 64: each is a region that the node's card has to know by heart. But
 * they are never above 256 MB: the node pins a slab in one go, and nobody is served meanwhile. So the largest pool, of 16 TB, has 65536 of them,
 * of which one node can have half (LB_SLAB_NUMBERS_MAX), 8 TB.
 */
#ifndef LEGOBASE_SLAB_SIZE_H
#define LEGOBASE_SLAB_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/* Pages in a slab of a pool of so many pages: a power of two. */
extern uint32_t slab_size_pages(uint64_t pool_pages, bool any_rdma_node);

#endif /* LEGOBASE_SLAB_SIZE_H */
