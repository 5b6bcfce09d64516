/*
 * node_client.h
 *	  This process's connections to memory nodes, made when they are first needed.
 *
 * Nothing here raises ERROR or serves interrupts, and nothing connects in a critical section: a process that would have to is
 * told that the node is not available. Waits end at the deadline (lb_now_ns), and at once when an interrupt is pending that
 * the caller's next ordinary check will serve: a barrier, for one, must not wait for a memory node.
 *
 * A node of transport rdma is read over tcp for a while where a queue pair is not to be had; NodeTableNoteFallback tells the agent,
 * which says so in the log.
 */
#ifndef LEGOBASE_NODE_CLIENT_H
#define LEGOBASE_NODE_CLIENT_H

#include "lb_data_plane.h"

/* The deadline for something that begins now: a quarter of legobase.node_timeout. */
extern uint64 NodeClientDeadline(uint64 now);

/*
 * Read one slot, which the caller has pinned, into dest. *began_ns gets when the read itself began (lb_now_ns), which is after
 * connecting if that was necessary. False if the node is down, can't be connected to, failed, or if an interrupt is pending: go
 * to storage.
 */
extern bool NodeClientRead(int node, const lb_slot_ref *slot, void *dest, uint64 deadline,
						   uint64 *began_ns);

/*
 * What is read from now on can't be read elsewhere: waits do not end for interrupts, and a node that has failed is tried again at
 * once. (The page is dirty.) Deadlines hold as ever.
 */
extern void NodeClientBePatient(bool patient);

/*
 * Start reading slots ahead of time. Returns a ticket, 0 if that is not possible just now; *connection says which of this
 * process's connections to the node it belongs to. The slots need no pins: what arrives must be verified against the
 * directory. Destinations must stay valid until NodeClientWait has returned.
 */
extern uint64 NodeClientSubmit(int node, const lb_read_target *targets, int count,
							   uint32 *connection);

/* Wait for a ticket. False: the batch is abandoned, and its destinations are not written to any more. */
extern bool NodeClientWait(int node, uint32 connection, uint64 ticket, uint64 deadline);

/* Is the node beyond this host, so that reading ahead from there saves time? Any of the configured nodes? */
extern bool NodeClientIsFar(int node);
extern bool NodeClientAnyFar(void);

/* Drop mappings of slabs that were returned, if there are any such since the last call. */
extern void NodeClientUnmapReturned(void);

#endif /* LEGOBASE_NODE_CLIENT_H */
