/*
 * lb_data_plane_shm.c
 *	  The shm data plane: slabs are files in memory whose descriptors the node passes over its Unix socket; a read is a
 *	  copy from their mapping.
 *
 * A slab is mapped when it is first read from, which takes one round trip. After that the socket is not used, and it does
 * not matter if the node closes it: the mapping keeps the memory, and whether a slot is still of worth is for the
 * directory to say.
 *
 * A file that shrinks under a mapping would end the process with SIGBUS. So a slab is accepted only with the seal that
 * forbids it, and its size is what the kernel says, not what anybody claims.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* F_GET_SEALS */
#endif
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lb_data_plane_socket.h"

#define POPULATE_MAX ((size_t) 64 * 1024 * 1024)

#define SLAB_NUMBERS_MAX (1 << 20) /* a node's numbers are dense: beyond this one is not a number */

typedef struct slab_mapping
{
	const uint8_t *start; /* null if not mapped */
	size_t pages;
} slab_mapping;

typedef struct shm_plane
{
	lb_data_plane head;
	int fd;
	uint64_t sequence;   /* of the last SLAB_MAP */
	slab_mapping *slabs; /* by slab number */
	uint32_t slab_count;
} shm_plane;

static bool
shm_connect(lb_data_plane *plane, const lb_address *address, const lb_hello *hello,
			uint64_t deadline_ns, lb_status *status)
{
	shm_plane *shm = (shm_plane *) plane;

	shm->fd = lb_data_plane_socket_open(plane, address, hello, deadline_ns, status);
	return shm->fd >= 0;
}

/* Ask the node for the slab's descriptor; -1 with a status if it does not give one. */
static int
request_slab(shm_plane *shm, uint32_t slab, uint64_t deadline_ns, lb_status *status)
{
	uint8_t body[LB_BODY_MAX];
	size_t length = lb_encode_slab_number(body, slab);
	uint32_t answered;
	int fd;

	shm->sequence++;
	shm->head.counters.round_trips++;
	if (!lb_data_plane_socket_send(&shm->head, shm->fd, LB_SLAB_MAP, shm->sequence, body, length,
								   deadline_ns, status) ||
		!lb_data_plane_socket_answer(&shm->head, shm->fd, LB_SLAB_MAPPED, shm->sequence, body,
									 &length, &fd, deadline_ns, status))
		return -1;
	if (fd >= 0 && lb_decode_slab_number(body, length, &answered) && answered == slab)
		return fd;
	if (fd >= 0)
		close(fd);
	lb_fail(status, LB_PROTOCOL, "the node's SLAB_MAPPED is malformed");
	return -1;
}

/* Map what the node passed, if it is what it must be. */
static bool
map_descriptor(int fd, slab_mapping *mapping, lb_status *status)
{
	struct stat file;
	size_t length;
	int flags = MAP_SHARED;
	int seals;
	void *start;

	if (fstat(fd, &file) != 0)
		return lb_fail_errno(status, "could not examine a slab");
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0)
		return lb_fail(status, LB_PROTOCOL,
					   "the node passed a slab without a seal against shrinking");
	if (file.st_size < LB_PAGE_SIZE || file.st_size > (off_t) LB_SLAB_PAGES_MAX * LB_PAGE_SIZE ||
		file.st_size % LB_PAGE_SIZE != 0)
		return lb_fail(status, LB_PROTOCOL, "the node passed a slab of %lld bytes",
					   (long long) file.st_size);
	length = (size_t) file.st_size;

	/*
	 * Filling the page table for the whole slab at once costs a tenth of a millisecond for 8 MB; page by page, as they are
	 * touched, several times as much, in every new process. For slabs so large that one would notice, it is left to that.
	 */
	if (length <= POPULATE_MAX)
		flags |= MAP_POPULATE;
	start = mmap(NULL, length, PROT_READ, flags, fd, 0);
	if (start == MAP_FAILED)
		return lb_fail_errno(status, "could not map a slab of %zu bytes", length);

	/* Processes that this one starts have no use for the pages. */
	(void) madvise(start, length, MADV_DONTFORK);
	mapping->start = start;
	mapping->pages = length / LB_PAGE_SIZE;
	return true;
}

/* Make the array of mappings long enough for the slab's number. */
static bool
reserve_slabs(shm_plane *shm, uint32_t slab, lb_status *status)
{
	uint32_t count = shm->slab_count > 0 ? shm->slab_count : 64;
	slab_mapping *larger;

	if (slab < shm->slab_count)
		return true;
	if (slab >= SLAB_NUMBERS_MAX)
		return lb_fail(status, LB_INVALID, "%u is not the number of a slab", slab);
	while (count <= slab)
		count *= 2;
	larger = realloc(shm->slabs, count * sizeof(*larger));
	if (larger == NULL)
		return lb_fail_errno(status, "could not allocate the list of slabs");
	memset(larger + shm->slab_count, 0, (count - shm->slab_count) * sizeof(*larger));
	shm->slabs = larger;
	shm->slab_count = count;
	return true;
}

static bool
map_slab(shm_plane *shm, uint32_t slab, uint64_t deadline_ns, lb_status *status)
{
	bool mapped;
	int fd;

	if (!reserve_slabs(shm, slab, status))
		return false;
	fd = request_slab(shm, slab, deadline_ns, status);
	if (fd < 0)
		return false;
	mapped = map_descriptor(fd, &shm->slabs[slab], status);
	close(fd);
	return mapped;
}

/* A batch is complete when it was submitted. */
static bool
shm_submit(lb_data_plane *plane, const lb_read_target *targets, int count, uint64_t deadline_ns,
		   lb_status *status)
{
	shm_plane *shm = (shm_plane *) plane;

	assert(count > 0 && count <= LB_BATCH_MAX);
	for (int i = 0; i < count; i++)
	{
		lb_slot_ref slot = targets[i].slot;

		if ((slot.slab >= shm->slab_count || shm->slabs[slot.slab].start == NULL) &&
			!map_slab(shm, slot.slab, deadline_ns, status))
			return false;
		if (slot.page >= shm->slabs[slot.slab].pages)
			return lb_fail(status, LB_PROTOCOL, "slab %u has %zu pages: no page %u", slot.slab,
						   shm->slabs[slot.slab].pages, slot.page);
		memcpy(targets[i].dest, shm->slabs[slot.slab].start + (size_t) slot.page * LB_PAGE_SIZE,
			   LB_PAGE_SIZE);
	}
	plane->completed = ++plane->submitted;
	plane->counters.batches++;
	plane->counters.pages += (uint64_t) count;
	return true;
}

static bool
shm_wait(lb_data_plane *plane, uint64_t ticket, uint64_t deadline_ns, lb_status *status)
{
	(void) deadline_ns;
	if (ticket > plane->completed)
		return lb_fail(status, LB_INVALID, "no such batch");
	return true;
}

static void
shm_unmap(lb_data_plane *plane)
{
	shm_plane *shm = (shm_plane *) plane;

	for (uint32_t i = 0; i < shm->slab_count; i++)
	{
		slab_mapping *mapping = &shm->slabs[i];

		if (mapping->start)
			munmap((void *) mapping->start, mapping->pages * LB_PAGE_SIZE);
		mapping->start = NULL;
	}
}

static void
shm_close(lb_data_plane *plane)
{
	shm_plane *shm = (shm_plane *) plane;

	shm_unmap(plane);
	close(shm->fd);
	free(shm->slabs);
	free(shm);
}

const lb_data_plane_ops lb_data_plane_shm = {
	.name = "shm",
	.size = sizeof(shm_plane),
	.descriptors = 1,
	.read_ahead_helps = false,
	.connect = shm_connect,
	.submit = shm_submit,
	.wait = shm_wait,
	.unmap = shm_unmap,
	.close = shm_close,
};
