/*
 * pool_gate.h
 *	  Nobody touches pages until the page directory is what the memory nodes have of the server's former life.
 *	  docs/recovery.md, section 4, has the states and why.
 */
#ifndef LEGOBASE_POOL_GATE_H
#define LEGOBASE_POOL_GATE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"

typedef enum GatePhase
{
	GATE_CLOSED,    /* what shared memory begins with */
	GATE_RELOADING, /* an agent is at it */
	GATE_OPEN
} GatePhase;

/* What became of the pool at this start, for the log and the view; written by the agent before it opens the gate. */
typedef struct ReloadFigures
{
	uint32 nodes;           /* that were asked */
	uint32 nodes_kept;      /* whose pages were kept */
	uint64 pages_listed;    /* grows while reloading: progress */
	uint64 pages_kept;      /* linked in the directory */
	uint64 pages_dirty;     /* of these, dirty */
	uint64 pages_discarded; /* listed and not kept */
	uint64 blocks_extended; /* added to files that were shorter than a page's number */
	XLogRecPtr tier1;       /* the lowest L1 that a kept node knew; 0: none */
	TimestampTz started;    /* 0: nothing was reloaded */
	uint64 elapsed_us;      /* of the whole, when open */
} ReloadFigures;

extern Size PoolGateShmemSize(void);
extern void PoolGateShmemInit(void);

/* Without shared memory of ours (single-user mode) it is open. */
extern GatePhase PoolGatePhase(void);

/*
 * Any process, before it looks at the directory or at a relation's files: wait until the gate is open. One atomic read when it
 * is. Serves no interrupts, but in the startup process its own (not in a critical section); ends the process if the postmaster is gone. The
 * agent never waits: whoever has called PoolGateBeginReload. Allowed in critical sections. Opens the gate itself if no agent
 * has come within 10 s (see the document).
 */
extern void PoolGateWait(void);

/*
 * Agent, each as soon as it has said that it is one (CommBufferSetAgent): CLOSED -> RELOADING. False: it was not closed; PoolGatePhase
 * says whether a predecessor is to be succeeded in the middle. From now on this process does not wait at the gate.
 */
extern bool PoolGateBeginReload(void);

/* Agent: RELOADING -> OPEN; the figures are what will be shown. */
extern void PoolGateOpen(const ReloadFigures *figures);

/* Agent: progress, while RELOADING. Any process: read. Consistent copies. */
extern void PoolGateSetFigures(const ReloadFigures *figures);
extern void PoolGateGetFigures(ReloadFigures *figures);

#endif /* LEGOBASE_POOL_GATE_H */
