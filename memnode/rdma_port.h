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
 * A session and its queue pair end together. When the device goes away all sessions over rdma are closed, and listening is tried
 * again at each tick.
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
struct session;

typedef struct rdma_port rdma_port;

/* What a session has of it. All zero: none. */
typedef struct rdma_end
{
	TAILQ_ENTRY(session) link; /* invited */
	bool invited;
	uint8_t secret[LB_RDMA_SECRET_SIZE];
	uint64_t invited_ns;
	lb_rdma_connection *connection; /* null: not connected */
	struct event *completion;       /* agent, connected: of the completion channel */
} rdma_end;

/*
 * Listen at this address, with its port if that can be had, else any; also finds out whether all of the node's memory may be
 * locked. Null with a status.
 */
extern rdma_port *rdma_port_open(struct node *node, const lb_address *address, lb_status *status);

/* No session and no protection domain may be left. Null is allowed. */
extern void rdma_port_close(rdma_port *port);

/* Now and then: end invitations that nobody made use of; if the device is gone, try to listen. Null is allowed. */
extern void rdma_port_tick(rdma_port *port, uint64_t now_ns);

/* This process stood still for a while. Null is allowed. */
extern void rdma_port_forgive(rdma_port *port, uint64_t now_ns);

/*
 * Invite a settled session, which is not connected; a former invitation of it ends. False: LB_REFUSED with LB_ERR_LIMIT if there are as many as
 * may be; else it was the device, or its memory.
 */
extern bool rdma_port_invite(rdma_port *port, struct session *session,
							 lb_rdma_invitation *invitation, lb_status *status);

/*
 * End the session's invitation, or queue pair: when this returns the device does not touch the tenant's memory on account of this session any
 * more. Before the session leaves its tenant. It need not have any.
 */
extern void rdma_port_leave(struct session *session);

/* Queue pairs. Null is allowed. */
extern uint32_t rdma_port_connections(const rdma_port *port);

#endif /* MEMNODE_RDMA_PORT_H */
