/*
 * slab.c
 *	  The memory of the pool.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lb_fault.h"
#include "lb_wire.h"
#include "log.h"
#include "slab.h"

/* Newer than the C library of Debian 12; kernels that don't know a flag or an advice say EINVAL. */
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Allocated in one go: about a millisecond, which is what a reader may have to wait for. At least one huge page. */
#define FILL_BYTES ((size_t) 2 << 20)

_Static_assert((size_t) LB_SLAB_PAGES_MIN *LB_PAGE_SIZE % FILL_BYTES == 0,
			   "slabs are filled in whole pieces");

void
slab_pool_init(slab_pool *pool, uint64_t capacity_pages, bool use_huge_pages)
{
	*pool = (slab_pool){.use_huge_pages = use_huge_pages, .capacity_pages = capacity_pages};
}

uint64_t
slab_pool_free_pages(const slab_pool *pool)
{
	return pool->capacity_pages - pool->held_pages + pool->doomed_pages;
}

static size_t
slab_bytes(const slab *slab)
{
	return (size_t) slab->pages * LB_PAGE_SIZE;
}

/* Prefer a file that can't be executed; kernels before 6.3 don't have that. */
static int
create_memfd(unsigned flags)
{
	int fd = memfd_create("legobase slab", flags | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("legobase slab", flags);
	return fd;
}

static void
unmap_slab(slab *slab)
{
	if (slab->memory)
		munmap(slab->memory, slab_bytes(slab));
	if (slab->fd >= 0)
		close(slab->fd);
	slab->memory = NULL;
	slab->fd = -1;
	slab->filled = 0;
}

/* Mapping a hugetlb file reserves its huge pages, so it is here that a lack of them shows. */
static bool
map_slab(slab *slab, bool huge, lb_status *status)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	void *memory;

	slab->huge = huge;
	slab->fd = create_memfd(flags);
	if (slab->fd < 0)
		return lb_fail_errno(status, "cannot create a memory file for a slab");
	if (ftruncate(slab->fd, (off_t) slab_bytes(slab)) < 0)
	{
		lb_fail_errno(status, "cannot size a slab of %zu bytes", slab_bytes(slab));
		unmap_slab(slab);
		return false;
	}
	memory = mmap(NULL, slab_bytes(slab), PROT_READ | PROT_WRITE, MAP_SHARED, slab->fd, 0);
	if (memory == MAP_FAILED)
	{
		lb_fail_errno(status, "cannot map a slab of %zu bytes", slab_bytes(slab));
		unmap_slab(slab);
		return false;
	}
	slab->memory = memory;
	/* a core dump must neither hold users' data nor be as large as the pool */
	madvise(memory, slab_bytes(slab), MADV_DONTDUMP);
	return true;
}

static void
note_no_huge_pages(slab_pool *pool, const lb_status *status)
{
	if (!pool->noted_no_huge_pages)
		log_line(LOG_NOTE,
				 "no huge pages for a slab, using ordinary ones (%s); see vm.nr_hugepages",
				 status->message);
	pool->noted_no_huge_pages = true;
}

static bool
map_slab_anyhow(slab_pool *pool, slab *slab, lb_status *status)
{
	if (pool->use_huge_pages)
	{
		if (map_slab(slab, true, status))
		{
			pool->huge_pages += slab->pages;
			return true;
		}
		note_no_huge_pages(pool, status);
	}
	return map_slab(slab, false, status);
}

slab *
slab_create(slab_pool *pool, uint32_t pages, lb_status *status)
{
	slab *created = calloc(1, sizeof(slab));

	assert(pool->held_pages + pages <= pool->capacity_pages);
	if (created)
		created->slots = calloc(pages, sizeof(slot));
	if (!created || !created->slots)
	{
		free(created);
		lb_fail(status, LB_SYSTEM, "out of memory for the slots of a slab");
		return NULL;
	}
	created->pages = pages;
	created->fd = -1;
	if (!map_slab_anyhow(pool, created, status))
	{
		free(created->slots);
		free(created);
		return NULL;
	}
	pool->held_pages += pages;
	return created;
}

/* Huge pages that were reserved can still be refused, by a cgroup's hugetlb limit: then start over with ordinary ones. */
static slab_progress
refill_with_ordinary_pages(slab_pool *pool, slab *slab, lb_status *status)
{
	note_no_huge_pages(pool, status);
	pool->huge_pages -= slab->pages;
	unmap_slab(slab);
	return map_slab(slab, false, status) ? SLAB_FILLING : SLAB_FAILED;
}

slab_progress
slab_fill(slab_pool *pool, slab *slab, lb_status *status)
{
	if (fallocate(slab->fd, 0, (off_t) slab->filled, (off_t) FILL_BYTES) < 0)
	{
		if (errno == EINTR)
			return SLAB_FILLING;
		lb_fail_errno(status, "cannot allocate memory for a slab");
		return slab->huge ? refill_with_ordinary_pages(pool, slab, status) : SLAB_FAILED;
	}
	/*
	 * The kernel zeroes ordinary pages at the first access. Do that now, not at the first push. Kernels before 5.14
	 * can't, and zero later: nothing is lost but time.
	 */
	madvise(slab->memory + slab->filled, FILL_BYTES, MADV_POPULATE_WRITE);
	slab->filled += FILL_BYTES;
	if (slab->filled < slab_bytes(slab))
		return SLAB_FILLING;
	if (fcntl(slab->fd, F_ADD_SEALS,
			  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
	{
		lb_fail_errno(status, "cannot seal a slab against writing (Linux 5.1 or later is needed)");
		return SLAB_FAILED;
	}
	return SLAB_READY;
}

bool
slab_register(slab_pool *pool, slab *slab, lb_rdma_domain *domain, lb_status *status)
{
	assert(!slab->region && slab->filled == slab_bytes(slab));
	if (LB_FAULT("memnode.rdma.register"))
		return lb_fail(status, LB_SYSTEM, "fault point memnode.rdma.register");
	slab->region = lb_rdma_register(domain, slab->memory, slab_bytes(slab), status);
	if (!slab->region)
		return false;
	pool->registered_pages += slab->pages;
	return true;
}

void
slab_deregister(slab_pool *pool, slab *slab)
{
	if (!slab->region)
		return;
	lb_rdma_deregister(slab->region);
	slab->region = NULL;
	pool->registered_pages -= slab->pages;
}

void
slab_doom(slab_pool *pool, slab *slab)
{
	slab->next_doomed = pool->doomed;
	pool->doomed = slab;
	pool->doomed_pages += slab->pages;
}

bool
slab_pool_reap(slab_pool *pool)
{
	slab *reaped = pool->doomed;

	if (!reaped)
		return false;
	slab_deregister(pool, reaped);
	pool->doomed = reaped->next_doomed;
	pool->doomed_pages -= reaped->pages;
	pool->held_pages -= reaped->pages;
	if (reaped->huge)
		pool->huge_pages -= reaped->pages;
	unmap_slab(reaped);
	free(reaped->slots);
	free(reaped);
	return true;
}

bool
slab_pool_probe(slab_pool *pool, lb_status *status)
{
	slab *probe = slab_create(pool, LB_SLAB_PAGES_MIN, status);
	slab_progress progress;

	if (!probe)
		return false;
	do
		progress = slab_fill(pool, probe, status);
	while (progress == SLAB_FILLING);
	slab_doom(pool, probe);
	slab_pool_reap(pool);
	return progress == SLAB_READY;
}
