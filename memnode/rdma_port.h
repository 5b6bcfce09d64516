/*
 * rdma_port.h
 *	  Where the memory node accepts queue pairs: the rdma_cm side of --listen rdma://, whose control side is a listener as for tcp.
 *
 * A session that wants a queue pair is *invited*: it gets a secret, and a connection request that shows it is accepted, in the
 * protection domain of the session's tenant. An invitation is good for one connection; it ends with the session, after 30 s, or with
 * the next one of this session. From invitation to the end, backends' queue pairs count against --max-rdma-connections.
 *
 *	  rdma_end: none ──invite──> invited ──request with the secret──> connected ──leave──> none
 *	                                └──leave, too late, not accepted──> none
 *
 * A session and its queue pair end together, as far as the session is concerned. Destroying a queue pair takes a card up to a millisecond, and a
 * thousand may have to be destroyed when an instance is attached anew. So a backend's is *doomed* when its session leaves it: its place is free at
 * once, nothing refers to it, and rdma_port_step destroys it a moment later. Until then its peer may go on reading what is registered in its
 * domain. Docs/rdma.md, section 2, says why that does no harm.
 *
 *	  queue pair: ──accept──> connected ──agent leaves──────────────────> destroyed
 *	                              └──backend leaves──> doomed ──step, close──┘
 *
 * The device:
 *
 *	  listening ──it goes away──> losing ──step: nothing of it is left──> absent ──tick──> listening
 *
 * Losing: all sessions over rdma were closed, and the tenants have no domains any more; nobody is invited. Steps destroy what is doomed, then
 * deregister all slabs, one at a time; the domains go with the last of both; then the listener is closed, and with it the device. This
 * needs no event but the worker's own: a driver may keep its device from going until we have let go of it.
 */
#ifndef MEMNODE_RDMA_PORT_H
#define MEMNODE_RDMA_PORT_H

#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "lb_net.h"
#include "lb_rdma.h"

struct node;
struct queue_pair;
struct session;

typedef struct rdma_port rdma_port;

/* What a session has of it. All zero: none. */
typedef struct rdma_end
{
	TAILQ_ENTRY(session) link; /* invited */
	bool invited;
	uint8_t secret[LB_RDMA_SECRET_SIZE];
	uint64_t invited_ns;
	struct queue_pair *pair;  /* null: not connected */
	struct event *completion; /* agent, connected: of the completion channel */
} rdma_end;

/*
 * Listen at this address, with its port if that can be had, else any; also finds out whether all of the node's memory may be
 * locked. Null with a status.
 */
extern rdma_port *rdma_port_open(struct node *node, const lb_address *address, lb_status *status);

/* No session, no registered slab and no tenant's domain may be left. Destroys what is doomed. Null is allowed. */
extern void rdma_port_close(rdma_port *port);

/* Now and then: end invitations that nobody made use of; if the device is absent, try to listen. Null is allowed. */
extern void rdma_port_tick(rdma_port *port, uint64_t now_ns);

/* A piece of the node's work: destroy one queue pair, or let go of one slab of a device that is gone. False: nothing is left to do. Null is allowed. */
extern bool rdma_port_step(rdma_port *port);

/* This process stood still for a while. Null is allowed. */
extern void rdma_port_forgive(rdma_port *port, uint64_t now_ns);

/*
 * Invite a settled session, which is not connected; a former invitation of it ends. False: LB_REFUSED with LB_ERR_LIMIT if there are as many as
 * may be; else it was the device, or its memory.
 */
extern bool rdma_port_invite(rdma_port *port, struct session *session,
							 lb_rdma_invitation *invitation, lb_status *status);

/*
 * End the session's invitation, or queue pair, before the session leaves its tenant. When this returns the device does not write to the tenant's
 * memory on account of this session any more; a backend's peer may read for a moment. It need not have any.
 */
extern void rdma_port_leave(struct session *session);

/* Queue pairs that the device has for us, doomed ones among them. Null is allowed. */
extern uint32_t rdma_port_connections(const rdma_port *port);

#endif /* MEMNODE_RDMA_PORT_H */
