/*
 * node_link.h
 *	  The buffer agent's control connection to one memory node: attaching, pushing, granting, flushing, fencing, and what
 *	  happens when it is lost.
 *
 * States of a link:
 *
 *	  waiting	   not connected; an attempt is made when its time has come
 *	  connecting   connect() is under way, or the answer to HELLO is awaited
 *	  attached	   the node is "up" or "suspect" in the node table
 *	  resuming	   the connection broke, or the agent is a successor: it is made again, to go on with what is at the node. The
 *				   node is "suspect"; its slabs stay, and so does what was queued and sent
 *	  fencing	   it could not be resumed, and something was only there: legobase.fence_command, then PANIC (rule R4)
 *	  draining	   lost: what was sent has been given up, and the node's pages are forgotten until nobody uses its slots
 *
 * A node that has proved that it sees our data directory, and has dirty pages or may be writing a page that is being fenced, is
 * resumed; any other is drained at once, but after an end of the agent, when all that are attached are resumed.
 *
 * node_link.c has the frames and time limits of a link, node_attach.c attaching and resuming, node_loss.c being lost,
 * node_push.c pushing, node_flush.c proving storage, flushing and fencing.
 *
 * All functions run in the agent's process and never block, but for the resolver of nodes that are named by host name. They
 * raise no ERROR; they PANIC when another server has taken the instance over (rule R10), and when a node is lost that had the
 * newest version of a page (rule R4).
 */
#ifndef LEGOBASE_NODE_LINK_H
#define LEGOBASE_NODE_LINK_H

#include "instance.h"
#include "lb_net.h"
#include "lb_stream.h"
#include "page_fence.h"

#define PUSHES_OUTSTANDING 2 /* PUSH messages that may wait for their answers on one link */
#define LINK_REASON_MAX 256

typedef enum LinkState
{
	LINK_WAITING,
	LINK_CONNECTING,
	LINK_ATTACHED,
	LINK_RESUMING,
	LINK_FENCING,
	LINK_DRAINING
} LinkState;

/* A page on its way to the node: in whose comm buffer, for which entry. */
typedef struct Push
{
	uint32 buffer;
	uint32 entry;
	bool dirty;       /* when it was sent */
	bool sent_before; /* over a connection that broke: the node may have it */
	uint8 refusals;
} Push;

/* A PUSH that waits for its answer. */
typedef struct SentPush
{
	uint64 sequence;
	uint64 sent_at; /* lb_now_ns */
	uint32 count;
	Push pushes[LB_BATCH_MAX];
} SentPush;

/* A FENCE, by the number of the request it was sent for. */
typedef struct SentFence
{
	uint64 serial; /* of the request's posting */
	uint64 sequence;
	bool answered;
} SentFence;

/* What the log was told of a node's way of writing, in this attachment. */
typedef enum ToldMode
{
	TOLD_NOTHING,
	TOLD_WRITE_THROUGH,
	TOLD_WRITE_BACK
} ToldMode;

typedef struct NodeLink
{
	int node;
	lb_uri uri;
	Instance *instance;
	LinkState state;

	int connecting_fd; /* while connect() is under way, else -1 */
	lb_stream *stream; /* from then on */
	lb_address address;
	int process;        /* the node's, if it is on this host and known, or 0 */
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

	uint64 refused_since;         /* resuming: nobody listens there since then; 0: not so */
	uint64 resume_until;          /* resuming: when to give up */
	int complaints;               /* ERRORs and senseless frames, in quick succession */
	char reason[LINK_REASON_MAX]; /* why it is not attached any more */

	uint64 sequence; /* of the last request */
	SentPush sent[PUSHES_OUTSTANDING];
	int sent_count;
	Push *queue; /* for this node, not sent yet: room for all comm buffers */
	uint32 queued_count;
	uint64 pushes_queued; /* of all time */
	uint64 pushes_ended;

	bool flush_due;       /* a FLUSH is to be sent, when ... */
	uint64 flush_behind;  /* ... so many pushes have ended, of all time, or ... */
	uint64 flush_due_at;  /* ... at this time at the latest */
	uint64 flush_news_at; /* when a FLUSH was sent, or a CLEAN came, last */

	bool proven;     /* the node has proved over this connection that it sees our data directory */
	bool may_write;  /* it has done so since it was attached: it may have dirty pages */
	bool must_fence; /* a fence was open when the agent began: who knows what it has */
	ToldMode told;
	uint64 storage_sequence; /* of the STORAGE that waits for its answer, or 0 */
	uint64 storage_asked_at;
	uint64 nonce_number; /* which of our nonces was in place when we asked */
	SentFence fences[FENCE_REQUESTS];

	uint64 ping_sequence; /* of the PING that waits for its answer, or 0 */
	uint64 ping_at;
	bool ping_of_suspect; /* it was sent because the node is suspect: its answer clears it */
	uint64 heard_at;
	uint64 slab_request_at;     /* a SLAB_REQUEST waits since then, or 0 */
	uint64 refused_slabs_until; /* the node had no more memory for us; ask again then */
} NodeLink;

/*
 * The first agent after shared memory was made begins with nothing; a successor goes on with the node's pages, if it was
 * attached, or goes on forgetting them.
 */
extern void NodeLinkInit(NodeLink *link, int node, const lb_uri *uri, Instance *instance);

/* Do what time asks for: attempts, time limits, pings, storage proofs, forgetting the pages of a lost node. */
extern void NodeLinkTick(NodeLink *link, uint64 now);

/* The agent itself stood still for so long (stopped, or the machine was): that must not count against the nodes. */
extern void NodeLinkForgive(NodeLink *link, uint64 standstill_ns);

/* The socket to wait for and the WaitEventSet events that matter; PGINVALID_SOCKET if there is none. */
extern pgsocket NodeLinkSocket(const NodeLink *link, uint32 *events);

/* The socket has these events. */
extern void NodeLinkReady(NodeLink *link, uint32 events);

/* A page is to be pushed to this node; it is ended as failed if the node is lost. */
extern void NodeLinkQueuePush(NodeLink *link, uint32 buffer, uint32 entry);

/* A successor: the same for a page that its predecessor had taken from the queue, and perhaps sent. */
extern void NodeLinkRecoverPush(NodeLink *link, uint32 buffer, uint32 entry);

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

/*
 * Somebody waits for dirty pages to become clean: have the node write what it has, unless it is at it. Flush sends the request when its
 * time has come; call it again and again.
 */
extern void NodeLinkWishFlush(NodeLink *link, uint64 now);
extern void NodeLinkFlush(NodeLink *link, uint64 now);

/* Tell the node how long our own reads from storage take. */
extern void NodeLinkStorageLoad(NodeLink *link, const lb_storage_load *load);

/*
 * This posting of a fence request: send it to the node, unless that was done. True when the node has answered, or there is
 * nothing to be feared from it.
 */
extern bool NodeLinkFence(NodeLink *link, int request, uint64 serial, const lb_fence *fence);

/* The agent ends: close the connection. What is at the node stays, for a successor. */
extern void NodeLinkShutdown(NodeLink *link);

#endif /* LEGOBASE_NODE_LINK_H */
