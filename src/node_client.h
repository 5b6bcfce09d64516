/*
 * node_client.h
 *	  This process's connections to memory nodes, made when they are first needed.
 *
 * Nothing here raises ERROR, and nothing is allocated in a critical section: a process that would have to connect there is
 * told that the node is not available. Waits end at the deadline, and when an interrupt is pending that could be
 * served; then the connection is closed, and the caller should serve it with CHECK_FOR_INTERRUPTS().
 */
#ifndef LEGOBASE_NODE_CLIENT_H
#define LEGOBASE_NODE_CLIENT_H

#include "lb_data_plane.h"

typedef enum NodeReadResult
{
	NODE_READ_DONE,
	NODE_READ_UNAVAILABLE, /* down, lost, not to be connected to, or failed: go to storage */
	NODE_READ_INTERRUPTED  /* an interrupt is pending; go to storage after serving it */
} NodeReadResult;

/*
 * Read one slot, which the caller has pinned, into dest. *elapsed_ns gets what the read itself took, without what connecting
 * took if that was necessary.
 */
extern NodeReadResult NodeClientRead(int node, const lb_slot_ref *slot, void *dest,
									 uint64 *elapsed_ns);

/*
 * Start reading slots ahead of time. Returns a ticket, 0 if that is not possible just now; *connection says which of this
 * process's connections to the node it belongs to. The slots need no pins: what arrives must be verified against the
 * directory. Destinations must stay valid until NodeClientWait has returned.
 */
extern uint64 NodeClientSubmit(int node, const lb_read_target *targets, int count,
							   uint32 *connection);

/* Wait for a ticket. Anything but NODE_READ_DONE: the batch is abandoned, and its destinations are not written to. */
extern NodeReadResult NodeClientWait(int node, uint32 connection, uint64 ticket);

/* Does reading ahead from this node save time? */
extern bool NodeClientReadAheadHelps(int node);

/* Drop mappings of slabs that were returned, if there are any such since the last call. */
extern void NodeClientUnmapReturned(void);

#endif /* LEGOBASE_NODE_CLIENT_H */
