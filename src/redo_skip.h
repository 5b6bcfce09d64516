/*
 * redo_skip.h
 *	  Redo that skips records whose pages are in remote memory in a state that has them already (docs/recovery.md, section 6).
 */
#ifndef LEGOBASE_REDO_SKIP_H
#define LEGOBASE_REDO_SKIP_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

/* Of this life's redo; all zero if there was none. */
typedef struct RedoFigures
{
	bool running;
	bool finished;
	uint64 records;       /* given to the wrapped resource managers, and all others */
	uint64 skipped;       /* of these */
	uint64 bytes;         /* of WAL read */
	uint64 bytes_skipped; /* of the records skipped */
	uint64 compared;      /* legobase.redo = compare: pages compared ... */
	uint64 different;     /* ... and found to be different ... */
	uint64
		not_compared; /* ... and pages that would have let records be skipped, but could not be compared */
	XLogRecPtr start;
	XLogRecPtr end; /* of the last record seen */
	TimestampTz started;
	uint64 elapsed_us; /* so far, while it is running */
} RedoFigures;

extern Size RedoSkipShmemSize(void);
extern void RedoSkipShmemInit(void);

/* From _PG_init: has us called when redo starts and ends. All resource managers are wrapped then, in the startup process alone. */
extern void RedoSkipInstall(void);

/*
 * Startup process: has redo begun? Before that the gate is closed for it, and it must not wait there: after a crash the postmaster starts no agent
 * before.
 */
extern bool RedoSkipBegun(void);

/* A consistent copy is not promised while redo runs. */
extern void RedoSkipGetFigures(RedoFigures *figures);

#endif /* LEGOBASE_REDO_SKIP_H */
