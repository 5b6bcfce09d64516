/*
 * lb_data_plane.h
 *	  How a server process reads pages out of a memory node's slots: one table of operations, one implementation per
 *	  transport (shm: lb_data_plane_shm.c, tcp: lb_data_plane_tcp.c, rdma: src/rdma/lb_data_plane_rdma.c). Nothing above
 *	  this knows which one it uses.
 *
 * The caller holds a pin on the directory entry of a slot that it reads, from submit until the batch is complete or the
 * connection is closed: that is what keeps the compute node from giving the slot to another page. Reading ahead it may go
 * without, and look afterwards whether the entry still stands. In both cases it verifies the page's checksum itself.
 *
 * A connection belongs to one process and is used by one thread. Batches complete in the order of their submission.
 * After any failure, also LB_TIMEOUT and LB_CANCELLED, the connection must be closed; closing abandons all batches, and
 * nothing is written to their destinations afterwards. What a destination has when its batch failed is undefined.
 */
#ifndef LB_DATA_PLANE_H
#define LB_DATA_PLANE_H

#include "lb_net.h"
#include "lb_wire.h"

/* Asked about every 10 ms during a wait: true means stop waiting (LB_CANCELLED). It must not longjmp. */
typedef bool (*lb_cancel_fn)(void *arg);

typedef struct lb_read_target
{
	lb_slot_ref slot;
	void *dest; /* LB_PAGE_SIZE bytes; must stay valid until the batch is complete or closed */
} lb_read_target;

typedef struct lb_data_plane lb_data_plane;

typedef struct lb_data_plane_ops
{
	const char *name; /* "shm", "tcp", "rdma" */
	size_t size;      /* of the implementation's connection, which begins with an lb_data_plane */
	int descriptors;  /* file descriptors that a connection takes */

	/* Further ones that the first connection opens, and that stay open in the process. */
	int process_descriptors;

	/* Does a page read ahead of time save anything? Not where a read is a copy within this machine's memory. */
	bool read_ahead_helps;

	/*
	 * See the wrappers below. connect gets the memory with its head filled in and the rest zero; if it fails it leaves
	 * nothing open. close frees the memory.
	 */
	bool (*connect)(lb_data_plane *plane, const lb_address *address, const lb_hello *hello,
					uint64_t deadline_ns, lb_status *status);
	bool (*submit)(lb_data_plane *plane, const lb_read_target *targets, int count,
				   uint64_t deadline_ns, lb_status *status);
	bool (*wait)(lb_data_plane *plane, uint64_t ticket, uint64_t deadline_ns, lb_status *status);
	void (*unmap)(lb_data_plane *plane);
	void (*close)(lb_data_plane *plane);
} lb_data_plane_ops;

typedef struct lb_data_plane_counters
{
	uint64_t pages;       /* read targets completed */
	uint64_t batches;     /* batches submitted */
	uint64_t round_trips; /* requests that needed an answer */

	/* rdma, see lb_rdma_counters; else 0 */
	uint64_t work_requests;
	uint64_t doorbells;
	uint64_t completions;
} lb_data_plane_counters;

/* Common head of every implementation's connection; fields are private to the implementations. */
struct lb_data_plane
{
	const lb_data_plane_ops *ops;
	lb_cancel_fn cancel;
	void *cancel_arg;
	uint64_t submitted; /* ticket of the last batch submitted; tickets count from 1 */
	uint64_t completed; /* ticket of the last batch completed */
	bool tcp_would_do;  /* rdma: connecting failed, but not for a reason that would stop tcp */
	bool fell_back;     /* tcp: in place of rdma */
	lb_data_plane_counters counters;
};

#define LB_BATCHES_MAX \
	8 /* batches under way on one connection; submit waits for the oldest beyond that */

/*
 * Connect as LB_ROLE_BACKEND and wait for the WELCOME. Of the hello the identity, epoch and token are used; role,
 * versions and page size are this build's. Allocates with malloc. Null with a status: LB_REFUSED if the node
 * answered with an ERROR, LB_TIMEOUT, LB_SYSTEM and so on.
 *
 * A node of transport rdma serves reads over tcp as well. Where there can be no queue pair (the node's limit, this host's device or
 * locked memory) the connection that is returned is one over tcp: lb_data_plane_fell_back() says so, and the status why.
 */
extern lb_data_plane *lb_data_plane_connect(lb_transport transport, const lb_address *address,
											const lb_hello *hello, lb_cancel_fn cancel,
											void *cancel_arg, uint64_t deadline_ns,
											lb_status *status);

/*
 * Start reading 1 to LB_BATCH_MAX slots with one message. Returns the ticket to wait for, or 0 with a status. deadline_ns
 * limits how long sending, or waiting for an older batch, may block.
 */
static inline uint64_t
lb_data_plane_submit(lb_data_plane *plane, const lb_read_target *targets, int count,
					 uint64_t deadline_ns, lb_status *status)
{
	return plane->ops->submit(plane, targets, count, deadline_ns, status) ? plane->submitted : 0;
}

/* Wait until the batch and all earlier ones are complete. LB_TIMEOUT at the deadline, LB_CANCELLED by the callback. */
static inline bool
lb_data_plane_wait(lb_data_plane *plane, uint64_t ticket, uint64_t deadline_ns, lb_status *status)
{
	return plane->completed >= ticket || plane->ops->wait(plane, ticket, deadline_ns, status);
}

/* Give up mappings of slabs (shm), or their keys (rdma); they come back by themselves when needed. Called when slabs were returned. */
static inline void
lb_data_plane_unmap(lb_data_plane *plane)
{
	if (plane->ops->unmap)
		plane->ops->unmap(plane);
}

/* Is no batch under way? */
static inline bool
lb_data_plane_idle(const lb_data_plane *plane)
{
	return plane->completed == plane->submitted;
}

/* Is this a connection over tcp in place of one over rdma? */
static inline bool
lb_data_plane_fell_back(const lb_data_plane *plane)
{
	return plane->fell_back;
}

static inline const lb_data_plane_counters *
lb_data_plane_counted(const lb_data_plane *plane)
{
	return &plane->counters;
}

static inline void
lb_data_plane_close(lb_data_plane *plane)
{
	plane->ops->close(plane);
}

/* Null for a transport that this build does not have. */
extern const lb_data_plane_ops *lb_data_plane_ops_for(lb_transport transport);

#endif /* LB_DATA_PLANE_H */
