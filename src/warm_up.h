/*
 * warm_up.h
 *	  Reading back what was in shared_buffers before a restart (docs/recovery.md, section 7).
 */
#ifndef LEGOBASE_WARM_UP_H
#define LEGOBASE_WARM_UP_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef enum WarmUpState
{
	WARM_UP_NONE, /* nothing to read, or switched off, or skipped */
	WARM_UP_RUNNING,
	WARM_UP_DONE
} WarmUpState;

typedef struct WarmUpFigures
{
	WarmUpState state;
	uint64 listed;  /* pages in the list */
	uint64 read;    /* brought into shared_buffers */
	uint64 present; /* were there already */
	uint64 skipped; /* the relation or the page is gone, or there was no room */
	TimestampTz started;
	TimestampTz finished; /* 0: not yet */
} WarmUpFigures;

extern Size WarmUpShmemSize(void);
extern void WarmUpShmemInit(void);

/*
 * Tier-1 checkpointer: start the warm-up of this life, once. False if there is no room for its worker: call it again. (That worker is no static one: a
 * static worker that has ended for good does not come back when the server restarts itself after a crash.) Call it every few seconds anyway: it looks
 * whether the worker was started at all. That is not found out if the caller's process is another one by then.
 */
extern bool WarmUpStart(void);

extern void WarmUpGetFigures(WarmUpFigures *figures);

/*
 * Write the list: tags of all permanent pages in shared_buffers, hottest first, replacing the file. By the tier-1 checkpointer. False with a
 * LOG line if it can't be written. It returns true and does nothing while the list of the former life is better than what it would write:
 * until the warm-up has ended; and for a minute more if that was interrupted, skipped or not started, or is switched off.
 */
extern bool WarmUpWriteList(void);

/* The same at the end of the process, which somebody waits for: not if a list was written a moment ago, or writing takes long. */
extern void WarmUpWriteFinalList(void);

extern PGDLLEXPORT void WarmUpLauncherMain(Datum arg);
extern PGDLLEXPORT void WarmUpWorkerMain(Datum arg);

#endif /* LEGOBASE_WARM_UP_H */
