/*
 * node_link.h
 *	  The buffer agent's control connection to one memory node: attaching, pushing, granting, flushing, fencing, and what
 *	  happens when it is lost.
 *
 * States of a link:
 *
 *	  waiting	   not connected; an attempt is made when its time has come
 *	  connecting   connect() is under way, or the answer to HELLO is awaited; over rdma, the queue pair after that (node_rdma.c)
 *	  reloading	   the node has kept the pages of the server's former life: it proves its storage again, and lists them; they are put into
 *				   the page directory as they come. The node is "down" for everybody else, and the gate is closed (pool_gate.h)
 *	  reloaded	   all is listed; pool_reload.c checks it, and attaches all links when all are settled
 *	  attached	   the node is "up" or "suspect" in the node table
 *	  resuming	   the connection broke, or the agent is a successor: it is made again, to go on with what is at the node. The
 *				   node is "suspect"; its slabs stay, and so does what was queued and sent
 *	  fencing	   it could not be resumed, and something was only there: legobase.fence_command, then PANIC (rule R4)
 *	  draining	   lost: what was sent has been given up, and the node's pages are forgotten until nobody uses its slots
 *
 *     waiting ──> connecting ──────────────────────> attached ──> draining ──> waiting (empty)
 *      ^  ^          │  │                              ^  │
 *      │  └─ failed ─┘  └──> reloading ──> reloaded ───┘  └──> resuming ──> attached
 *      │                         │             │                  ├──> draining
 *      └────── discarded ────────┴─────────────┘                  └──> fencing ──> PANIC
 *
 * Only the first attempt of the first agent in a life of the server asks for the pages of the former life (life_wanted), and only while the
 * gate is closed. Whatever goes wrong with that attempt, or while reloading, ends it: the pages of this node are discarded, and the next
 * attempt begins empty. So a link is *settled* when it neither wants them nor is reloading.
 *
 * A node that has proved that it sees our data directory, and has dirty pages or may be writing a page that is being fenced, is
 * resumed; any other is drained at once, but after an end of the agent, when all that are attached are resumed.
 *
 * Naming checkpoints to an attached node (docs/recovery.md, rule C1), node_control.c:
 *
 *	  scan		   the redo points to name are taken; then each entry is asked for what there is to release, and that is sent
 *	  control	   CONTROL is sent, CONTROLLED awaited
 *	  named		   until the next checkpoint; L1 is told with the same redo points
 *
 * A break of the connection ends each of these: after resuming it begins with a scan, of everything that was released before as well,
 * because RELEASEs may be lost.
 *
 * node_link.c has the frames and time limits of a link, node_attach.c attaching and resuming, node_loss.c being lost,
 * node_push.c pushing, node_flush.c proving storage, flushing and fencing, node_reload.c what the node lists, node_control.c naming
 * checkpoints, node_rdma.c the queue pair.
 *
 * All functions run in the agent's process and never block, but for the resolver of nodes that are named by host name. They
 * raise no ERROR; they PANIC when another server has taken the instance over (rule R10), and when a node is lost that had the
 * newest version of a page (rule R4).
 */
#ifndef LEGOBASE_NODE_LINK_H
#define LEGOBASE_NODE_LINK_H

#include "instance.h"
#include "lb_net.h"
#include "lb_rdma.h"
#include "lb_stream.h"
#include "page_fence.h"

#define PUSHES_OUTSTANDING 2 /* PUSH messages that may wait for their answers on one link */
#define LINK_SOCKETS_MAX 2
#define LINK_REASON_MAX 256

typedef enum LinkState
{
	LINK_WAITING,
	LINK_CONNECTING,
	LINK_RELOADING,
	LINK_RELOADED,
	LINK_ATTACHED,
	LINK_RESUMING,
	LINK_FENCING,
	LINK_DRAINING
} LinkState;

/* Of an rdma link's connection: see node_rdma.c. */
typedef enum LinkRdma
{
	LINK_RDMA_NONE,
	LINK_RDMA_OPENING,
	LINK_RDMA_JOINING,
	LINK_RDMA_JOINED
} LinkRdma;

/* A socket to wait for, and the WaitEventSet events that matter. */
typedef struct LinkSocket
{
	pgsocket socket;
	uint32 events;
} LinkSocket;

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

/* What a node has listed of the server's former life. */
typedef struct LinkReload
{
	lb_welcome welcome; /* for when it is attached */
	lb_control control; /* the node's record */
	bool began;         /* the record has come, and is good */
	bool listed;        /* all of it has come */
	bool warned;        /* of dirty pages that can't be */
	uint64 newest;      /* the highest LSN in a page */
	uint64 proof_until; /* without a proof of storage by then, it goes on without */
	uint64 pages;       /* listed */
	uint64 discarded;   /* of these */
} LinkReload;

/* How far a node has been told which checkpoints its pages are good for. */
typedef struct LinkControl
{
	bool telling; /* a scan is under way, or CONTROL was sent after one: */
	lb_control record;
	uint64 serial;
	uint32 position;         /* of the scan: the next entry */
	bool named;              /* over this connection: */
	uint64 named_serial;     /* of the checkpoint */
	lb_control named_record; /* as it was sent last */
	uint64 sequence;         /* of the CONTROL that waits for its answer, or 0 */
	uint64 sent_at;
} LinkControl;

typedef struct NodeLink
{
	int node;
	lb_uri uri;
	Instance *instance;
	LinkState state;

	int connecting_fd; /* while connect() is under way, else -1 */
	lb_stream *stream; /* from then on */
	LinkRdma rdma_state;
	lb_rdma_connection *rdma; /* joining, joined */
	uint64 rdma_sequence;     /* of the RDMA_OPEN, opening */
	lb_welcome welcome;       /* opening, joining: what the node has said */
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
	uint64 resume_until;          /* resuming: when to give up, ... */
	uint64 resume_at_most;        /* ... and when if it answers all the time */
	int complaints;               /* ERRORs and senseless frames, in quick succession */
	char reason[LINK_REASON_MAX]; /* why it is not attached any more */

	uint64 sequence; /* of the last request */
	SentPush sent[PUSHES_OUTSTANDING];
	int sent_count;
	Push *queue; /* for this node, not sent yet: room for all comm buffers */
	uint32 queued_count;
	uint64 pushed_at;     /* when the last PUSH was sent */
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
	bool proof_waits;    /* for room in the checkpointer's queue */
	SentFence fences[FENCE_REQUESTS];

	uint64 ping_sequence; /* of the PING that waits for its answer, or 0 */
	uint64 ping_at;
	bool ping_of_suspect; /* it was sent because the node is suspect: its answer clears it */
	uint64 heard_at;
	uint64 slab_request_at;     /* a SLAB_REQUEST waits since then, or 0 */
	uint64 refused_slabs_until; /* the node had no more memory for us; ask again then */

	bool life_wanted;       /* the next attempt asks for the pages of the server's former life */
	uint64 reload_sequence; /* of the RELOAD that waits for its answer, or 0 */
	uint64 reload_at;
	lb_slot_ref reload_from; /* where it began */
	uint32 slab_found;       /* the slab of the slot that was looked up last */
	LinkReload reload;
	LinkControl control;
} NodeLink;

/*
 * The first agent after shared memory was made begins with nothing, or, life_wanted, with what the node has kept of the server's former life; a
 * successor goes on with the node's pages, if it was attached, or goes on forgetting them.
 */
extern void NodeLinkInit(NodeLink *link, int node, const lb_uri *uri, Instance *instance,
						 bool life_wanted);

/* Nothing of the former life is to be expected from this node any more, but for what it has listed. */
extern bool NodeLinkSettled(const NodeLink *link);

/*
 * A reloaded link: say which slabs are kept; then, again and again until it returns true, send RELEASE for what was discarded in them; then
 * it is attached. If the connection breaks meanwhile it is not reloaded any more, and its pages are discarded. Or all of it is discarded.
 */
extern bool NodeLinkKeepSlabs(NodeLink *link);
extern bool NodeLinkReleaseDiscarded(NodeLink *link);
extern void NodeLinkAttachReloaded(NodeLink *link);
extern void NodeLinkDiscardReloaded(NodeLink *link);

/* Do what time asks for: attempts, time limits, pings, storage proofs, forgetting the pages of a lost node. */
extern void NodeLinkTick(NodeLink *link, uint64 now);

/* The agent itself stood still for so long (stopped, or the machine was): that must not count against the nodes. */
extern void NodeLinkForgive(NodeLink *link, uint64 standstill_ns);

/* What to wait for: returns how many sockets. */
extern int NodeLinkSockets(const NodeLink *link, LinkSocket sockets[LINK_SOCKETS_MAX]);

/* One of the sockets has these events. */
extern void NodeLinkReady(NodeLink *link, uint32 events);

/* A page is to be pushed to this node; it is ended as failed if the node is lost. */
extern void NodeLinkQueuePush(NodeLink *link, uint32 buffer, uint32 entry);

/* A successor: the same for a page that its predecessor had taken from the queue, and perhaps sent. */
extern void NodeLinkRecoverPush(NodeLink *link, uint32 buffer, uint32 entry);

/* Send what is queued, as far as outstanding answers, and waiting for more to send along, allow. */
extern void NodeLinkSendPushes(NodeLink *link);

/*
 * How many further pages have to be queued for a message to be sent at once? 0: none is sent before something has come from the node.
 * *until: when the answer will be another, or what is queued will be sent, with nothing else happening; 0: never.
 */
extern uint32 NodeLinkPagesAwaited(const NodeLink *link, uint64 *until);

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

/*
 * Name the checkpoints that are to be named, as far as that is possible just now; call it again and again. Returns in how many milliseconds
 * there is more to do, unless something comes from the node before; -1: nothing to do.
 */
extern int NodeLinkTell(NodeLink *link, uint64 now);

/* Has the node been told up to this serial, or is it not attached any more? */
extern bool NodeLinkTold(const NodeLink *link, uint64 serial);

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
