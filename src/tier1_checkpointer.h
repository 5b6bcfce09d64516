/*
 * tier1_checkpointer.h
 *	  The background worker that keeps remote memory close behind shared_buffers (LFT daemon, tier-1 checkpoint of the LegoBase paper), and
 *	  writes down which pages are in shared_buffers. docs/recovery.md, sections 5 and 7.
 */
#ifndef LEGOBASE_TIER1_CHECKPOINTER_H
#define LEGOBASE_TIER1_CHECKPOINTER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

typedef struct Tier1Figures
{
	uint64 count;    /* completed */
	uint64 failures; /* given up: an ERROR, or answers that did not come */
	uint64 pages;    /* flushed */
	XLogRecPtr lsn;  /* L1 */
	TimestampTz last_time;
	uint64 last_us;       /* how long the last one took */
	uint64 waited_us;     /* for answers, all together */
	uint32 running_pages; /* to flush in the one under way; 0: none is */
	uint32 running_done;
} Tier1Figures;

extern Size Tier1ShmemSize(void);
extern void Tier1ShmemInit(void);

/* Register the worker. From _PG_init. */
extern void Tier1Register(void);

extern void Tier1GetFigures(Tier1Figures *figures);

extern PGDLLEXPORT void Tier1CheckpointerMain(Datum arg);

#endif /* LEGOBASE_TIER1_CHECKPOINTER_H */
