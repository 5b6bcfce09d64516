/*
 * lb_rdma_internal.h
 *	  What the files of the verbs layer share, and nobody else includes.
 *
 *	  lb_rdma_device.c		devices, their limits, protection domains, registered memory
 *	  lb_rdma_queue.c		queue pairs: posting, completions, draining
 *	  lb_rdma_connection.c	connections, and how the compute node makes one
 *	  lb_rdma_listener.c	how the memory node makes one
 *
 * Functions that return bool are false with a status, those that return a pointer null with one, unless said otherwise. Whatever
 * a failed function has made is undone.
 */
#ifndef LB_RDMA_INTERNAL_H
#define LB_RDMA_INTERNAL_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <sys/types.h>

#include "lb_rdma.h"

/* RDMA READs that a queue pair has under way on the wire, at most: more are of no use, and cost the card memory. */
#define LB_RDMA_DEPTH_MAX 16

struct lb_rdma_domain
{
	struct ibv_pd *pd;
	uint32_t regions;
	uint32_t queue_pairs;
	bool given_up; /* by its owner; it goes with the last of both */
};

struct lb_rdma_region
{
	struct ibv_mr *mr;
	lb_rdma_domain *domain;
};

/* ---- lb_rdma_device.c ---- */

/* Before a process touches its first device. */
extern bool lb_rdma_prepare(lb_status *status);

/* An event channel of rdma_cm whose descriptor is non-blocking and close-on-exec. no_device: the code if this host has no device. */
extern struct rdma_event_channel *lb_rdma_channel_open(lb_code no_device, lb_status *status);

/*
 * Use of a device's context, which librdmacm opens, and shares among all ids. When the device has gone it closes it late: not before it meets a device
 * that it does not know (so never, if none comes), and then at once, or with the context's last id. Drivers that can't take a device away from under
 * its users (soft-RoCE) wait for it to be closed; so who uses one holds it, and the last one that lets go of a device that was removed closes its
 * descriptors.
 *
 * Release when everything of the holder's on the device was destroyed but the id: with that the context may be freed. Close when the id was destroyed:
 * librdmacm gives back what it has made on the device for it. Accepted connections have an id without a hold: they are closed before their
 * listener, whose hold is the last one.
 */
typedef struct lb_rdma_hold
{
	struct ibv_context *verbs; /* null: holds none */
	bool removed;
	struct lb_rdma_hold *next;
	/* released, as the last one of a device that was removed: the context's descriptors, and which file the first one is */
	bool to_close;
	int cmd_fd;
	int async_fd;
	dev_t file_system;
	ino_t inode;
} lb_rdma_hold;

extern void lb_rdma_device_hold(lb_rdma_hold *hold, struct ibv_context *verbs);
extern void lb_rdma_device_removed(struct ibv_context *verbs);
extern void lb_rdma_device_release(lb_rdma_hold *hold);
extern void lb_rdma_device_close(lb_rdma_hold *hold);

extern bool lb_rdma_set_nonblocking(int fd, lb_status *status);

/* The numeric address, without the port, or a description of what it is not. */
#define LB_RDMA_ADDRESS_TEXT 64
extern void lb_rdma_address_text(const struct sockaddr *address, char text[LB_RDMA_ADDRESS_TEXT]);

/* The devices that are here, as a list for messages: "rxe0, rxe1", or "none". */
#define LB_RDMA_NAMES_TEXT 96
extern void lb_rdma_device_names(char text[LB_RDMA_NAMES_TEXT]);

extern const char *lb_rdma_device_name(const struct ibv_context *verbs);

/*
 * Is it a device for what we do with it, InfiniBand or RoCE? Over iWARP the peer of a READ writes to where it ends, and would need the right to; nobody
 * grants that here.
 */
static inline bool
lb_rdma_is_fit(const struct ibv_device *device)
{
	return device->transport_type == IBV_TRANSPORT_IB;
}

/* The same, with unfit as the code if it is not. */
extern bool lb_rdma_device_is_fit(const struct ibv_context *verbs, lb_code unfit,
								  lb_status *status);

/* How many READs a queue pair of this device can have under way, and how many it can serve at a time. */
typedef struct lb_rdma_depths
{
	uint8_t posted;
	uint8_t served;
} lb_rdma_depths;

extern bool lb_rdma_device_depths(struct ibv_context *verbs, lb_rdma_depths *depths,
								  lb_status *status);

/* The device did not make one of these, and errno says why: LB_REFUSED with LB_ERR_LIMIT if it has none left. */
extern bool lb_rdma_fail_make(lb_status *status, struct ibv_context *verbs, const char *what);

extern lb_rdma_domain *lb_rdma_domain_on(struct ibv_context *verbs, lb_status *status);

/* access: of ibv_access_flags. Never remote write or atomic. */
extern lb_rdma_region *lb_rdma_register_for(lb_rdma_domain *domain, void *start, size_t length,
											unsigned access, lb_status *status);

/* ---- lb_rdma_queue.c ---- */

/*
 * A queue pair and where its completions go. Work requests are numbered from 1 in the order of posting, and the number is the id that the
 * device knows; so an error completion of an unsignalled one does not pass for that of its batch.
 */
typedef struct lb_rdma_queue
{
	struct rdma_cm_id *id;               /* whose queue pair it is; null: there is none */
	lb_rdma_domain *domain;              /* that it is in */
	struct ibv_cq *cq;                   /* null if it never posts */
	struct ibv_comp_channel *completion; /* null: completions are polled only */
	uint64_t posted;                     /* number of the last work request posted ... */
	uint64_t completed;                  /* ... and of the last one known to be complete */
	uint64_t ids
		[LB_RDMA_READS_MAX]; /* the caller's, of the batch that ends with the work request that has this number modulo the size */
	lb_rdma_counters counters;
} lb_rdma_queue;

/* Queue pairs that never post use the idle completion queue; those that do (idle null) have one of their own, with a channel if asked. */
extern bool lb_rdma_queue_create(lb_rdma_queue *queue, struct rdma_cm_id *id,
								 lb_rdma_domain *domain, struct ibv_cq *idle, bool with_channel,
								 lb_status *status);

/* For queue pairs that never post: room for nothing, as nothing ever completes. */
extern struct ibv_cq *lb_rdma_idle_cq_create(struct ibv_context *verbs, lb_status *status);

/* Connected: take the rights back that rdma_cm gives to the peer of every queue pair (remote write, atomic). */
extern bool lb_rdma_queue_restrict(lb_rdma_queue *queue, bool remote_read, lb_status *status);

/* Disconnect, flush (for 100 ms at most), destroy. It need not have been made. */
extern void lb_rdma_queue_destroy(lb_rdma_queue *queue);

/* ---- lb_rdma_connection.c ---- */

typedef enum lb_rdma_state
{
	LB_RDMA_RESOLVING,
	LB_RDMA_CONNECTING,
	LB_RDMA_ESTABLISHED_STATE,
	LB_RDMA_BROKEN
} lb_rdma_state;

struct lb_rdma_connection
{
	lb_rdma_state state;
	lb_status failure; /* broken: why */
	struct rdma_cm_id *id;
	lb_rdma_queue queue;

	/* the side that asked */
	struct rdma_event_channel *channel; /* null on the side that accepted */
	lb_rdma_hold hold;
	struct sockaddr_storage peer;
	lb_rdma_domain *domain;
	lb_rdma_region *region;
	lb_rdma_memory memory;
	struct ibv_cq *idle; /* of a queue pair that never posts, as the peer reads from the memory */
	uint8_t secret[LB_RDMA_SECRET_SIZE];

	/* the side that accepted */
	void *owner;
	bool ended; /* the owner was told */
};

/* Mark as broken for this reason; *status gets the first such reason. Returns false. */
extern bool lb_rdma_break(lb_rdma_connection *connection, lb_status *status);

/* An event of rdma_cm, copied. */
typedef struct lb_rdma_cm_event
{
	enum rdma_cm_event_type type;
	int status;
	struct rdma_cm_id *id;
	uint8_t responder_resources; /* READs that the peer wants to have under way */
	uint8_t initiator_depth;     /* READs that the peer serves at a time */
	uint8_t private_length;      /* of what came; only so much as a secret has is kept */
	uint8_t private_data[LB_RDMA_SECRET_SIZE];
} lb_rdma_cm_event;

/* Take the next event, and acknowledge it, so that nothing waits for that when its id is destroyed. 1, 0 if there is none, -1. */
extern int lb_rdma_next_cm_event(struct rdma_event_channel *channel, lb_rdma_cm_event *event,
								 lb_status *status);

/* Transport timeouts of a connection that is about to be asked for or accepted. Best effort. */
extern void lb_rdma_set_ack_timeout(struct rdma_cm_id *id);

/* What both sides say when they connect. */
extern struct rdma_conn_param lb_rdma_conn_param(uint8_t initiator_depth,
												 uint8_t responder_resources);

#endif /* LB_RDMA_INTERNAL_H */
