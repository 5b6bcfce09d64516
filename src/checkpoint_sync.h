/*
 * checkpoint_sync.h
 *	  The tier-2 checkpoint: PostgreSQL's checkpoint waits until every page that was dirty in remote memory is durable in its
 *	  file (rule R1; docs/write_back.md, section 5).
 */
#ifndef LEGOBASE_CHECKPOINT_SYNC_H
#define LEGOBASE_CHECKPOINT_SYNC_H

#include "datatype/timestamp.h"

extern Size CheckpointSyncShmemSize(void);
extern void CheckpointSyncShmemInit(void);

/* From _PG_init: put our handler into the server's table of sync handlers. Refuses to start where that can't be done. */
extern void CheckpointSyncInstall(void);

/*
 * Agent: from now on the handler runs in every checkpoint. Needed before the first node is proven, and for naming checkpoints to the nodes.
 * False if the checkpointer's queue is full: try again. Once it has succeeded it does nothing.
 */
extern bool CheckpointSyncRegister(void);

/*
 * Wait until every page that is dirty now is durable in its file: for immedsync, legobase_drain and legobase_evict. Serves
 * interrupts if it may; ERROR with the cause if storage fails or nothing gets on. Not in critical sections.
 */
extern void CheckpointSyncDrain(void);

/* For the view: how many checkpoints waited here, when the last one ended, and how long it took. */
typedef struct CheckpointSyncFigures
{
	uint64 count;
	uint64 failures;
	uint64 waited_us;      /* in all */
	TimestampTz last_time; /* 0: none yet */
	bool waiting;          /* one waits just now */
} CheckpointSyncFigures;

extern void CheckpointSyncGetFigures(CheckpointSyncFigures *figures);

#endif /* LEGOBASE_CHECKPOINT_SYNC_H */
