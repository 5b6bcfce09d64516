/*
 * pull.h
 *	  How the memory node gets the pages that a compute node pushes: one small table of operations per transport.
 *	  A pushed page is always pulled into memory that only the node can write.
 *
 * shm: from the agent's comm buffer region, which is mapped read-only. tcp: from the bulk of the PUSH frame. Both copy at once.
 * rdma (pull_rdma.c): by RDMA READ from the agent's comm buffer region; the pages are there some time later.
 */
#ifndef MEMNODE_PULL_H
#define MEMNODE_PULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lb_rdma.h"
#include "lb_stream.h"
#include "lb_uri.h"
#include "lb_wire.h"
#include "slab.h"

typedef struct pull_ops pull_ops;

/* Where one agent's pages come from. */
typedef struct pull_source
{
	const pull_ops *ops;
	const uint8_t *region; /* shm: the mapping, or null before COMM_BUFFERS */
	lb_comm_region layout; /* shm, rdma: all zero before COMM_BUFFERS */
	lb_rdma_connection
		*connection; /* rdma: the session's queue pair, or null; not the source's own */
} pull_source;

/* A page to be pulled. */
typedef struct pull_page
{
	uint32_t buffer;
	void *dest;       /* in ... */
	const slab *slab; /* ... this one */
} pull_page;

struct pull_ops
{
	/* The largest bulk of a PUSH. */
	size_t bulk_max;

	/* Null where there are no comm buffers. Takes a descriptor, which stays the caller's. */
	bool (*attach_region)(pull_source *source, const lb_comm_region *layout, int fd,
						  lb_status *status);
	void (*detach_region)(pull_source *source);

	/* Can every page of this batch be pulled? Called before any slot is touched. */
	bool (*check)(const pull_source *source, const lb_push_batch *batch, const lb_frame *frame,
				  lb_status *status);

	/* Copy one page of a checked batch. Null where pages come later. */
	void (*pull)(const pull_source *source, const lb_push_batch *batch, uint32_t index,
				 const lb_frame *frame, void *dest);

	/*
	 * Where pages come later, else null: begin to pull pages of a checked batch, one batch at a time. Until it has completed, or the
	 * session has left its queue pair (rdma_port_leave), what they are pulled to may change. False: the connection is broken.
	 */
	bool (*begin)(pull_source *source, const pull_page *pages, uint32_t count, lb_status *status);

	/* Call it at each event. 1: the batch that was begun has completed. 0: not yet. -1: the connection is broken. */
	int (*completed)(pull_source *source, lb_status *status);
};

extern const pull_ops pull_rdma_ops;

/* Do these buffers fit their region? */
extern bool pull_check_layout(const lb_comm_region *layout, lb_status *status);

/* Does each page of the batch come from a buffer that is there? */
extern bool pull_check_buffers(const pull_source *source, const lb_push_batch *batch,
							   lb_status *status);

extern void pull_source_init(pull_source *source, lb_transport transport);
extern void pull_source_close(pull_source *source);

#endif /* MEMNODE_PULL_H */
