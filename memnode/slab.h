/*
 * slab.h
 *	  The memory of the pool: slabs, each a memfd of its own, and the accounting over all of them.
 *
 * Why a memfd for each slab: it is the unit that one tenant's backends may map, so nothing else can ever be seen through
 * its descriptor; and a new tenant's memory is zeroed by the kernel, because a slab is destroyed when it is returned and
 * never handed on.
 *
 * Life: slab_create, slab_fill until it is ready (each call does a small piece of the work, so that the event loop serves
 * others in between), then it may be granted; slab_doom when it is given back, and slab_pool_reap some time later.
 * A ready slab has all its memory: allocated, zeroed, charged to this process, so that neither a push nor a reader's
 * access can fail for want of it; and it is sealed: no one but this process can ever write to it or change its size.
 *
 * For RDMA a ready slab is registered, as one region (slab_register). When it is destroyed it is deregistered first, one
 * slab at a time: unpinning takes long. Until then its key is good, and for its own tenant's queue pairs alone.
 *
 * Where the machine has free huge pages (hugetlb, 2 MB) a slab lies in them, else in ordinary pages.
 */
#ifndef MEMNODE_SLAB_H
#define MEMNODE_SLAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lb_rdma.h"
#include "lb_status.h"
#include "slot_table.h"

typedef struct slab
{
	int fd;
	bool huge;
	uint32_t pages;
	uint8_t *memory;        /* pages * LB_PAGE_SIZE bytes */
	size_t filled;          /* bytes of it that are allocated */
	slot *slots;            /* what each page holds; the tenant's slot table knows */
	lb_rdma_region *region; /* null: not registered */
	struct slab *next_doomed;
} slab;

typedef struct slab_pool
{
	bool use_huge_pages;
	bool noted_no_huge_pages;
	uint64_t capacity_pages;
	uint64_t held_pages;       /* in slabs being filled, granted, or doomed */
	uint64_t doomed_pages;     /* of these, in slabs that are to be destroyed */
	uint64_t huge_pages;       /* of those held, in huge pages */
	uint64_t registered_pages; /* of those held, registered for RDMA */
	slab *doomed;
} slab_pool;

typedef enum slab_progress
{
	SLAB_FILLING, /* call slab_fill again */
	SLAB_READY,
	SLAB_FAILED /* status says why; doom it */
} slab_progress;

extern void slab_pool_init(slab_pool *pool, uint64_t capacity_pages, bool use_huge_pages);

/* Make and destroy one small slab, to learn at the start whether this kernel can do all that slabs need. */
extern bool slab_pool_probe(slab_pool *pool, lb_status *status);

/* Pages that can be had for new slabs, counting doomed ones as free. */
extern uint64_t slab_pool_free_pages(const slab_pool *pool);

/* Null with a status if the system refuses. The caller has checked that capacity is left. pages: a power of two. */
extern slab *slab_create(slab_pool *pool, uint32_t pages, lb_status *status);
extern slab_progress slab_fill(slab_pool *pool, slab *slab, lb_status *status);

/* Register a ready slab in its tenant's protection domain; it is not registered yet. */
extern bool slab_register(slab_pool *pool, slab *slab, lb_rdma_domain *domain, lb_status *status);

/* If it is registered: not any more. */
extern void slab_deregister(slab_pool *pool, slab *slab);

/* No longer used by anyone here. Mappings, and those who know a slab's key until it is destroyed, can only read; mappings keep the memory until they end. */
extern void slab_doom(slab_pool *pool, slab *slab);

/* Destroy one doomed slab; false if there was none. */
extern bool slab_pool_reap(slab_pool *pool);

static inline uint8_t *
slab_page(const slab *slab, uint32_t page)
{
	return slab->memory + (size_t) page * LB_PAGE_SIZE;
}

#endif /* MEMNODE_SLAB_H */
