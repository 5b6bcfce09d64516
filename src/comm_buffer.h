/*
 * comm_buffer.h
 *	  Comm buffers: copies of pages on their way to a memory node. (Communication buffer of the LegoBase paper.)
 *
 * The pages lie in a region of their own, an anonymous file that the postmaster makes and all its children share, so that
 * memory nodes on this host can pull from it (shm), and the agent can have a network card read from it (rdma).
 *
 * States of a buffer, and who changes them:
 *
 *	  free		in the list
 *	  filling	one backend writes the page into it
 *	  queued	waiting for the agent
 *	  sent		the agent has announced it to the memory node and waits for the answer
 *
 * References: one for filling, queued and sent together, one for each reader (PageDirectoryPin). The last one to let go
 * puts the buffer into the free list. Only a buffer that readers could find through a linked entry has readers, and an
 * entry stops naming its buffer before the agent lets go: so no reader arrives after that.
 */
#ifndef LEGOBASE_COMM_BUFFER_H
#define LEGOBASE_COMM_BUFFER_H

#include "storage/latch.h"

#include "lb_wire.h"

extern Size CommBufferShmemSize(void);
extern void CommBufferShmemInit(void);

/* Buffers in all; free ones (momentary). */
extern uint32 CommBufferCount(void);
extern uint32 CommBufferFree(void);

/*
 * The region: what LB_COMM_BUFFERS tells a memory node of this host, and its descriptor (valid in children of the postmaster). It begins at the
 * page of buffer 0, page-aligned; all processes have it at the same place.
 */
extern int CommBufferRegion(lb_comm_region *region);

/* Take a buffer to fill; INVALID_COMM_BUFFER if all are in use. Never waits. */
extern uint32 CommBufferTake(void);
extern char *CommBufferPage(uint32 buffer);

/* References. Retain only where something else keeps a reference meanwhile. */
extern void CommBufferRetain(uint32 buffer);
extern void CommBufferRelease(uint32 buffer);

/* Hand a filled buffer to the agent: the page of this linked entry. Wakes the agent if it sleeps, and enough is queued for that. */
extern void CommBufferQueue(uint32 buffer, uint32 entry);

/* Agent: take up to max queued buffers, oldest first, and mark them as sent; entries[i] says for which entry. */
extern uint32 CommBufferTakeQueued(uint32 max, uint32 *buffers, uint32 *entries);

/*
 * Agent: this push is about to be ended. Called before PageDirectoryPushEnded, and before the agent's reference goes: a
 * reader may keep the buffer for a while, and a successor must not push it once more.
 */
extern void CommBufferNotSent(uint32 buffer);

/*
 * Agent, at its start: find the buffers that a predecessor had taken from the queue and not ended (it ended by an ERROR or a signal:
 * after a kill, shared memory is new). They stay sent. Whether the memory node has them nobody knows.
 */
extern void CommBufferRecover(void (*found)(uint32 buffer, uint32 entry));

/*
 * Tier-1 checkpointer: may the buffer have a page that was linked before this version (PageDirectoryNextVersion, read before), and whose
 * push has not ended? Yes also while somebody fills it; once the answer was no, it stays no. No lock.
 */
extern bool CommBufferMayHoldOlder(uint32 buffer, uint64 version);

/* Agent: register the latch that CommBufferQueue sets; null when the agent ends. */
extern void CommBufferSetAgent(struct Latch *latch);

/* Is there an agent? */
extern bool CommBufferHasAgent(void);

/*
 * Agent: tell that it is about to sleep, and to be woken when at least so many buffers are queued; 0: it is awake. Returns true if so many
 * are queued already: then do not sleep.
 */
extern bool CommBufferAgentSleeps(uint32 wake_at);

/* Wake the agent for another reason (a node has become suspect). */
extern void CommBufferWakeAgent(void);

#endif /* LEGOBASE_COMM_BUFFER_H */
