/*
 * node_link.h
 *	  The buffer agent's control connection to one memory node: attaching, pushing, granting, and what happens when it is lost.
 *
 * States of a link:
 *
 *	  waiting	   not connected; an attempt is made when its time has come
 *	  connecting   connect() is under way, or the answer to HELLO is awaited
 *	  attached	   the node is "up" or "suspect" in the node table
 *	  draining	   lost: what was sent has been given up, and the node's pages are forgotten until nobody uses its slots
 *
 * All functions run in the agent's process and never block, but for the resolver of nodes that are named by host name. They
 * raise no ERROR, and PANIC when another server has taken the instance over (rule R10).
 */
#ifndef LEGOBASE_NODE_LINK_H
#define LEGOBASE_NODE_LINK_H

#include "instance.h"
#include "lb_net.h"
#include "lb_stream.h"

#define PUSHES_OUTSTANDING 2 /* PUSH messages that may wait for their answers on one link */

typedef enum LinkState
{
	LINK_WAITING,
	LINK_CONNECTING,
	LINK_ATTACHED,
	LINK_DRAINING
} LinkState;

/* A PUSH that waits for its answer: whose buffers, for which entries. */
typedef struct SentPush
{
	uint64 sequence;
	uint64 sent_at; /* lb_now_ns */
	uint32 count;
	uint32 buffers[LB_BATCH_MAX];
	uint32 entries[LB_BATCH_MAX];
} SentPush;

typedef struct NodeLink
{
	int node;
	lb_uri uri;
	Instance *instance;
	LinkState state;

	int connecting_fd; /* while connect() is under way, else -1 */
	lb_stream *stream; /* from then on */
	lb_address address;
	uint64 epoch;       /* of this attachment */
	uint64 token;       /* of the last attachment: shows the node that we are the same holder */
	uint64 incarnation; /* of the node */
	uint64 capacity_pages;
	uint64 deadline; /* connecting: when to give up */
	uint64 next_attempt;
	int failures;               /* attempts since it was attached last */
	bool resolved;              /* address is known; looked up again after some failures */
	bool complained;            /* the present outage is in the log */
	bool complained_of_holder;  /* and that another server holds the instance */
	uint64 started_at;          /* when an embedded node was started last, or 0 */
	uint64 attached_or_lost_at; /* when it was attached last, or the agent started */

	uint64 sequence; /* of the last request */
	SentPush sent[PUSHES_OUTSTANDING];
	int sent_count;
	uint32 *queued_buffers; /* for this node, not sent yet: room for all comm buffers */
	uint32 *queued_entries;
	uint32 queued_count;

	uint64 ping_sequence; /* of the PING that waits for its answer, or 0 */
	uint64 ping_at;
	bool ping_of_suspect; /* it was sent because the node is suspect: its answer clears it */
	uint64 heard_at;
	uint64 slab_request_at;     /* a SLAB_REQUEST waits since then, or 0 */
	uint64 refused_slabs_until; /* the node had no more memory for us; ask again then */
} NodeLink;

extern void NodeLinkInit(NodeLink *link, int node, const lb_uri *uri, Instance *instance);

/* Do what time asks for: attempts, time limits, pings, forgetting the pages of a lost node. */
extern void NodeLinkTick(NodeLink *link, uint64 now);

/* The agent itself stood still for so long (stopped, or the machine was): that must not count against the nodes. */
extern void NodeLinkForgive(NodeLink *link, uint64 standstill_ns);

/* The socket to wait for and the WaitEventSet events that matter; PGINVALID_SOCKET if there is none. */
extern pgsocket NodeLinkSocket(const NodeLink *link, uint32 *events);

/* The socket has these events. */
extern void NodeLinkReady(NodeLink *link, uint32 events);

/* A page is to be pushed to this node; it is ended as failed if the link is not attached. */
extern void NodeLinkQueuePush(NodeLink *link, uint32 buffer, uint32 entry);

/* Send what is queued, as far as outstanding answers allow. */
extern void NodeLinkSendPushes(NodeLink *link);

/* Would a further page be sent at once? */
extern bool NodeLinkCanSend(const NodeLink *link);

/* Attached, and nothing waits to be sent: the time for what is not urgent. */
extern bool NodeLinkIdle(const NodeLink *link);

/* Ask for slabs, if no request is outstanding. Granted slabs appear in the slab table. */
extern void NodeLinkRequestSlabs(NodeLink *link, uint32 count);

/* Give a drained slab back, by the node's number for it. */
extern void NodeLinkReturnSlab(NodeLink *link, uint32 node_slab);

/* Tell which slots hold nothing any more. */
extern void NodeLinkRelease(NodeLink *link, const lb_release_batch *batch);

/* The agent ends: give everything up without waiting. */
extern void NodeLinkShutdown(NodeLink *link);

#endif /* LEGOBASE_NODE_LINK_H */
