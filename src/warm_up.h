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
	WARM_UP_NONE, /* nothing to read, or switched off */
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

/* Register the worker that starts the others. From _PG_init. */
extern void WarmUpRegister(void);

extern void WarmUpGetFigures(WarmUpFigures *figures);

/*
 * Write the list: tags of all permanent pages in shared_buffers, hottest first, replacing the file. By the tier-1 checkpointer. False with a
 * LOG line if it can't be written. Not before the list of the former life has been read (it returns true and does nothing until then).
 */
extern bool WarmUpWriteList(void);

extern PGDLLEXPORT void WarmUpLauncherMain(Datum arg);
extern PGDLLEXPORT void WarmUpWorkerMain(Datum arg);

#endif /* LEGOBASE_WARM_UP_H */
