/*
 * node.h
 *	  The state of the running memory node, shared by server, sessions and requests. All of it belongs to the one thread
 *	  of the event loop.
 */
#ifndef MEMNODE_NODE_H
#define MEMNODE_NODE_H

#include <event2/event.h>
#include <stdint.h>
#include <sys/queue.h>
#include "flusher.h"
#include "options.h"
#include "slab.h"
#include "tenant.h"

struct rdma_port;
struct session;
TAILQ_HEAD(session_list, session);

typedef struct node
{
	const options *options;
	struct event_base *base;
	slab_pool pool;
	tenant_table tenants;
	uint64_t incarnation;
	uint64_t started_ns;
	flusher *flusher;
	struct rdma_port *rdma; /* null: there is no --listen rdma:// */
	bool registering;       /* a tenant's slabs are, see rdma_memory.h: work for the event below */

	/* Every session is in one of these, the oldest first. */
	struct session_list strangers; /* not yet told who they are */
	struct session_list settled;   /* the others */
	uint32_t stranger_count;
	uint32_t session_count; /* all of both */

	/*
	 * Work that is done in small pieces between events: destroying doomed queue pairs, and letting go of a device that is gone; then
	 * destroying doomed slabs; registering; and filling slabs for those tenants whose grant is active, in turns. The
	 * event is active while there is any.
	 */
	struct event *work;
	TAILQ_HEAD(granting_list, tenant) granting;

	/* for STATUS */
	uint64_t pushes;
	uint64_t reads;
	uint64_t rejected_pushes;
	uint64_t refused_sessions;
	uint64_t malformed_frames;
	uint64_t flushed_pages;
	uint64_t flush_failures;
} node;

/* How long ago; 0 if that is after now, as what happens while "now" is being acted upon may be. */
static inline uint64_t
elapsed_ns(uint64_t now_ns, uint64_t since_ns)
{
	return now_ns > since_ns ? now_ns - since_ns : 0;
}

/* There is work: let the event loop come to it. */
static inline void
node_wake_worker(node *node)
{
	static const struct timeval now = {0, 0};

	event_add(node->work, &now);
}

#endif /* MEMNODE_NODE_H */
