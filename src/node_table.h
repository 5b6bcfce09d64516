/*
 * node_table.h
 *	  The memory nodes, as all processes of the server see them.
 *
 * States, changed by the agent alone but for "suspect", which any process may set on a node that is up:
 *
 *	  down		not connected, or being connected
 *	  up		attached: its slabs may be read and pushed to
 *	  suspect	a read took too long: reads go to storage until the node has answered the agent's next ping. Or its connection to
 *				the agent broke, and is being made again
 *	  lost		given up; its pages are being forgotten; down when nobody uses its slots any more
 *
 * "session" counts the attachments since server start, in all nodes together: a backend's connection belongs to one session,
 * and is closed when the node's session is another one. Address, token and epoch change only when a session begins; a backend
 * copies them with NodeTableSession, which gives a consistent set or none.
 */
#ifndef LEGOBASE_NODE_TABLE_H
#define LEGOBASE_NODE_TABLE_H

#include "port/atomics.h"

#include "lb_histogram.h"
#include "lb_net.h"
#include "lb_wire.h"
#include "settings.h"

typedef enum NodeState
{
	NODE_DOWN,
	NODE_UP,
	NODE_SUSPECT,
	NODE_LOST
} NodeState;

#define NODE_ERROR_MAX 200

/* What a backend needs to connect. */
typedef struct NodeSession
{
	uint32 session;
	lb_transport transport;
	lb_address address;
	lb_hello hello;
} NodeSession;

/* What an agent needs to go on with its predecessor's attachment. */
typedef struct NodeAttachment
{
	lb_address address;
	uint64 epoch;
	uint64 token;
	uint64 incarnation;
	uint64 capacity_pages;
	int process; /* the node's, or 0 */
} NodeAttachment;

/* For the view. */
typedef struct NodeRow
{
	char uri[LB_URI_MAX];
	lb_transport transport;
	NodeState state;
	uint64 incarnation;
	uint64 capacity_pages;
	uint64 reads;
	uint64 pushes;
	uint64 push_messages;
	uint64 work_requests; /* rdma: of this server's reads, as are the next two */
	uint64 doorbells;
	uint64 completions;
	uint64 tcp_fallbacks;
	uint64 latency[LB_HISTOGRAM_BUCKETS];
	char last_error[NODE_ERROR_MAX];
} NodeRow;

extern Size NodeTableShmemSize(void);
extern void NodeTableShmemInit(void);

extern int NodeTableCount(void);
extern const char *NodeTableUri(int node);
extern lb_transport NodeTableTransport(int node);
extern NodeState NodeTableState(int node);

/* The session in force; 0 if the node is neither up nor suspect. One atomic read. */
extern uint32 NodeTableSessionNumber(int node);

/* A consistent copy of what is needed to connect. False if the node is not up. */
extern bool NodeTableSession(int node, NodeSession *session);

/* Agent. process: the node's, if it is on this host and known, or 0. */
extern void NodeTableSetUp(int node, const lb_address *address, const lb_hello *backend_hello,
						   const lb_welcome *welcome, int process);
extern void NodeTableSetState(int node, NodeState state);
extern void NodeTableSetError(int node, const char *error);

/* Agent: the attachment that is in force, or was when its predecessor ended. False if the node is neither up nor suspect. */
extern bool NodeTableAttachment(int node, NodeAttachment *attachment);

/* Agent: the incarnation of a node that is attached, 0 of another. */
extern uint64 NodeTableIncarnation(int node);

/*
 * Agent: does legobase.take_over apply? Only until the node was attached for the first time since the postmaster started. After a
 * crash, or when it was itself taken over, a server does not take the instance back.
 */
extern bool NodeTableMayTakeOver(int node);

/* Any process: a read of this session of the node took too long. Returns true if that is news. */
extern bool NodeTableSuspect(int node, uint32 session);

/* Statistics. elapsed_ns is for all the pages together; 0 if it says nothing about the node (they were read ahead). */
extern void NodeTableCountReads(int node, uint32 pages, uint64 elapsed_ns);
extern void NodeTableCountPushes(int node, uint32 pages);
extern void NodeTableCountPushMessages(int node, uint32 messages);

/* rdma: work requests posted, doorbells rung and completions taken by this process for its reads. */
extern void NodeTableCountWork(int node, uint64 work_requests, uint64 doorbells,
							   uint64 completions);

/* rdma: this process reads the node over tcp for a while, because it got no queue pair. Raises nothing. */
extern void NodeTableNoteFallback(int node, const char *reason);

/* Agent: is there a fallback to be told of, the first one of the session? reason: NODE_ERROR_MAX bytes. */
extern bool NodeTableTakeFallback(int node, char *reason);

extern void NodeTableResetStats(void);
extern void NodeTableGetRow(int node, NodeRow *row);

/*
 * Costs, as moving averages in nanoseconds: of a page read from the node, and from storage itself. 0 while nothing is known.
 * Updates may be lost to each other: these are estimates.
 */
extern uint32 NodeTableReadCost(int node);
extern uint32 NodeTableStorageCost(void);
extern void NodeTableNoteStorageRead(uint64 elapsed_ns);
extern void NodeTableNoteTimeout(int node,
								 uint64 elapsed_ns); /* a read that took at least so long */

/*
 * How often does the kernel's cache have a page that is remote? Of 1024 looks, as a moving average; 1024 while nothing is
 * known.
 */
#define KERNEL_CACHE_LOOKS 1024
extern uint32 NodeTableKernelCacheHits(void);
extern void NodeTableNoteKernelCacheLook(bool hit);

/* A storage read that took so long was not served from the kernel's cache: only those tell what storage costs. */
#define COLD_READ_NS 10000

/* May this process probe a node that is slower than storage, to see if it still is? True once a second for each node. */
extern bool NodeTableMayProbe(int node);

/* Slabs were returned: processes should drop their mappings. A counter that only grows. */
extern uint32 NodeTableUnmapCounter(void);
extern void NodeTableAskUnmap(void);

#endif /* LEGOBASE_NODE_TABLE_H */
