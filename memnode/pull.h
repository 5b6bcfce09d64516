/*
 * pull.h
 *	  How the memory node gets the pages that a compute node pushes: one small table of operations per transport.
 *	  A pushed page is always pulled into memory that only the node can write.
 *
 * shm: from the agent's comm buffer region, which is mapped read-only. tcp: from the bulk of the PUSH frame.
 */
#ifndef MEMNODE_PULL_H
#define MEMNODE_PULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lb_stream.h"
#include "lb_uri.h"
#include "lb_wire.h"

typedef struct pull_ops pull_ops;

/* Where one agent's pages come from. */
typedef struct pull_source
{
	const pull_ops *ops;
	const uint8_t *region; /* shm: the mapping, or null before COMM_BUFFERS */
	lb_comm_region layout; /* shm */
} pull_source;

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

	/* Copy one page of a checked batch. */
	void (*pull)(const pull_source *source, const lb_push_batch *batch, uint32_t index,
				 const lb_frame *frame, void *dest);
};

extern void pull_source_init(pull_source *source, lb_transport transport);
extern void pull_source_close(pull_source *source);

#endif /* MEMNODE_PULL_H */
