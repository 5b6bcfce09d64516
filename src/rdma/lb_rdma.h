/*
 * lb_rdma.h
 *	  One-sided RDMA over reliable connections (libibverbs, librdmacm). The only files that know these libraries are those of
 *	  src/rdma; where they are not there at build time, lb_rdma_absent.c stands in, and everything here says so.
 *
 * Nothing here blocks but where it is said, and nothing starts threads. Descriptors are close-on-exec. Whoever forks without
 * exec must not use what was made before in the child, and may not have there what is registered. Memory that is given for registration should be
 * MADV_DONTFORK or shared.
 *
 * A connection, on the side that asks for it (the compute node):
 *
 *	  resolving		the address, then the route: rdma_cm is at it
 *	  connecting	the request is with the node
 *	  established	reads may be posted
 *	  broken		a call, a read or the connection failed: nothing can be posted any more
 *
 *	 resolving ──> connecting ──> established ──> broken. Each of them ──> closed, by lb_rdma_close alone.
 *
 * On the side that accepts (the memory node) it is made as connecting by lb_rdma_accept; the same from there on, and reads may be posted at
 * once. An object is used by one thread.
 *
 * Reads complete in the order in which they were posted. lb_rdma_close returns when the device will not touch the memory on its
 * account any more: the queue pair is in the error state, its work requests are flushed (within a limit), and it is destroyed.
 * Until then whatever was the target of a read that was posted and has not completed may change at any time.
 */
#ifndef LB_RDMA_H
#define LB_RDMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lb_net.h"
#include "lb_wire.h"

/* Work requests that may be under way on one connection. */
#define LB_RDMA_READS_MAX 128

typedef struct lb_rdma_connection lb_rdma_connection;
typedef struct lb_rdma_listener lb_rdma_listener;
typedef struct lb_rdma_domain
	lb_rdma_domain; /* a protection domain, and what is registered in it */
typedef struct lb_rdma_region lb_rdma_region; /* registered memory */

/* Counted by the data plane itself, one for each call's worth: tests assert on them. Never reset. */
typedef struct lb_rdma_counters
{
	uint64_t work_requests; /* reads posted */
	uint64_t doorbells;     /* ibv_post_send calls */
	uint64_t completions;   /* taken from completion queues */
} lb_rdma_counters;

/* Was rdma-core there when this was built? If not, this and everything below fails with LB_INVALID and says so. */
extern bool lb_rdma_available(lb_status *status);

/*
 * May this process lock so much memory (RLIMIT_MEMLOCK, unless it has CAP_IPC_LOCK, and not in a user namespace of its own)? False with LB_SYSTEM
 * and a message that names limit and need. Registering fails with a message of the same kind if it is refused all the same.
 */
extern bool lb_rdma_may_lock(uint64_t bytes, lb_status *status);

/* ---- the compute node's side ---- */

/* Memory of the caller's that a connection registers, in a protection domain of its own: page-aligned. */
typedef struct lb_rdma_memory
{
	void *start;
	size_t length;
	bool remote_read; /* the node reads from here; else: reads that we post end here */
} lb_rdma_memory;

/*
 * Begin to connect to the node's address (the one that its control connection goes to) and the invitation's port. Null with a
 * status. The memory must stay until lb_rdma_close.
 */
extern lb_rdma_connection *lb_rdma_connect_start(const lb_address *address,
												 const lb_rdma_invitation *invitation,
												 const lb_rdma_memory *memory, lb_status *status);

/*
 * Go on connecting, as far as events have come. 1: established. 0: not yet, call again when lb_rdma_event_fd is readable.
 * -1: failed; close it. LB_SYSTEM, among others: no device for this address (says how to get one), or one that is neither InfiniBand nor RoCE; memory
 * could not be locked. LB_REFUSED with LB_ERR_LIMIT: this host's device has no queue pair left. LB_CLOSED: nobody listens there, or the node has
 * rejected it.
 */
extern int lb_rdma_connect_continue(lb_rdma_connection *connection, lb_status *status);

/* ---- either side, established ---- */

/* Where events of the connection come (accepted ones: lb_rdma_listener_fd). Readable: call lb_rdma_check. */
extern int lb_rdma_event_fd(const lb_rdma_connection *connection);

/* Take the connection's events, if there are any. False with a status if it is broken: disconnected, or its device is gone. */
extern bool lb_rdma_check(lb_rdma_connection *connection, lb_status *status);

/* Of the memory given to lb_rdma_connect_start. */
extern uint32_t lb_rdma_local_key(const lb_rdma_connection *connection);
extern uint32_t lb_rdma_remote_key(const lb_rdma_connection *connection);

typedef struct lb_rdma_read
{
	void *
		dest; /* LB_PAGE_SIZE bytes within memory that is registered in the connection's domain ... */
	uint32_t local_key; /* ... with this key */
	uint64_t address;   /* the peer's */
	uint32_t remote_key;
} lb_rdma_read;

/*
 * Post 1 to LB_BATCH_MAX reads as one chain of work requests with one doorbell; the last one alone is signalled, and completes
 * as id. The caller sees to it that no more than LB_RDMA_READS_MAX are under way, and never does it where it is the peer that reads (remote_read, or
 * accepted without may_read): there is no room for any. False: the connection is broken.
 */
extern bool lb_rdma_post_reads(lb_rdma_connection *connection, const lb_rdma_read *reads, int count,
							   uint64_t id, lb_status *status);

/*
 * Has the next batch completed? 1: the one with *id. 0: not yet. -1: the connection is broken, and no batch that is still under way will
 * complete:
 *	 LB_REFUSED with LB_ERR_SLAB	the peer's key is not valid (any more), or not for us
 *	 LB_TIMEOUT						no answer from the peer's device within the transport's retries
 *	 LB_CLOSED						the connection was ended, or the work request flushed
 *	 LB_SYSTEM						anything else, with the name of the completion's status
 */
extern int lb_rdma_poll(lb_rdma_connection *connection, uint64_t *id, lb_status *status);

extern lb_rdma_counters lb_rdma_get_counters(const lb_rdma_connection *connection);

/* Disconnect, drain, destroy, deregister, free. Waits at most for a moment (100 ms) for flushed work requests. Null is allowed. */
extern void lb_rdma_close(lb_rdma_connection *connection);

/* ---- the memory node's side ---- */

/*
 * Listen with rdma_cm. The device: the one with this name, or if that is null the one that has this address; for "any address" the only one
 * there is. Null with LB_INVALID if there is none, or it can't be chosen (the message says what is there), or is neither InfiniBand nor RoCE.
 * *address's port may be 0, and need not be free for TCP.
 */
extern lb_rdma_listener *lb_rdma_listen(const lb_address *address, const char *device_name,
										lb_status *status);
extern void lb_rdma_listener_close(lb_rdma_listener *listener);

extern uint16_t lb_rdma_listener_port(const lb_rdma_listener *listener);
extern const char *lb_rdma_listener_device(const lb_rdma_listener *listener);

/* Readable: call lb_rdma_listener_next until it returns 0. It is non-blocking, and stays readable while there are events. */
extern int lb_rdma_listener_fd(const lb_rdma_listener *listener);

typedef enum lb_rdma_event_kind
{
	LB_RDMA_REQUESTED,   /* somebody wants to connect: lb_rdma_accept or lb_rdma_reject */
	LB_RDMA_ESTABLISHED, /* an accepted connection is complete */
	LB_RDMA_ENDED, /* an accepted connection was disconnected, or did not come about: close it */
	LB_RDMA_DEVICE_GONE /* close all connections, regions and domains, then the listener; there is a driver that waits for it */
} lb_rdma_event_kind;

typedef struct lb_rdma_event
{
	lb_rdma_event_kind kind;
	uint8_t secret[LB_RDMA_SECRET_SIZE]; /* REQUESTED: what was shown */
	void *owner;                         /* ESTABLISHED, ENDED: what lb_rdma_accept was given */
	void *request;                       /* REQUESTED: private */
	uint8_t reads_from_peer;             /* REQUESTED: private */
	uint8_t reads_by_peer;               /* REQUESTED: private */
} lb_rdma_event;

/*
 * The next event. 1: *event is it. 0: none. Requests that come through another device, or without private data of ours, are
 * rejected here, and never seen. -1: the event channel failed.
 */
extern int lb_rdma_listener_next(lb_rdma_listener *listener, lb_rdma_event *event,
								 lb_status *status);

/*
 * Accept: a queue pair in this domain, whose peer can read what is registered there. may_read: we post reads too; then there is a completion channel.
 * Null with a status: it was rejected.
 */
extern lb_rdma_connection *lb_rdma_accept(lb_rdma_listener *listener, const lb_rdma_event *event,
										  lb_rdma_domain *domain, bool may_read, void *owner,
										  lb_status *status);
extern void lb_rdma_reject(const lb_rdma_event *event);

/*
 * Of a connection that may read: readable when there are completions since lb_rdma_arm. Take its event with lb_rdma_arm, which takes what has
 * come and asks for the next one; then poll: what completed before lb_rdma_arm may not be told of.
 */
extern int lb_rdma_completion_fd(const lb_rdma_connection *connection);
extern bool lb_rdma_arm(lb_rdma_connection *connection, lb_status *status);

/*
 * A protection domain of the listener's device. Connections in it, and regions, may outlive lb_rdma_domain_destroy, which gives it up: it goes with the
 * last of them. All of that before the listener is closed.
 */
extern lb_rdma_domain *lb_rdma_domain_create(lb_rdma_listener *listener, lb_status *status);
extern void lb_rdma_domain_destroy(lb_rdma_domain *domain);

/*
 * Register memory: for reading by the domain's peers, and as the destination of our own reads. Never for writing by anybody else. Takes up to
 * a microsecond for each 4 kB page of the system (pages are pinned), in one go; deregistering about a quarter of that; huge pages, little. Null with a status.
 */
extern lb_rdma_region *lb_rdma_register(lb_rdma_domain *domain, void *start, size_t length,
										lb_status *status);

/* From now on its key is not valid: reads that are under way fail at the peer. */
extern void lb_rdma_deregister(lb_rdma_region *region);

extern uint32_t lb_rdma_region_local_key(const lb_rdma_region *region);
extern uint32_t lb_rdma_region_remote_key(const lb_rdma_region *region);

#endif /* LB_RDMA_H */
