/*
 * control_record.h
 *	  Which checkpoints the pages at the memory nodes are good for: the compute node's side of CONTROL (docs/recovery.md, section 2).
 */
#ifndef LEGOBASE_CONTROL_RECORD_H
#define LEGOBASE_CONTROL_RECORD_H

#include "postgres.h"

#include "access/xlogdefs.h"

#include "lb_wire.h"

extern Size ControlRecordShmemSize(void);

/* Takes the snapshot of pg_control, and looks for backup_label. */
extern void ControlRecordShmemInit(void);

/* Is the pool kept across restarts at all? Not with fsync off or wal_level minimal. */
extern bool ControlRecordKept(void);

/*
 * The redo point of pg_control when shared memory was made, and whether the server had been shut down then. 0: not known, or recovery
 * does not begin there, because there is a backup_label.
 */
extern XLogRecPtr ControlRecordRedoAtStart(void);
extern bool ControlRecordWasShutDown(void);

/* Could a page with this LSN have been written before that? See wal_reach.h. May have to read WAL. */
extern bool ControlRecordIsPast(XLogRecPtr lsn);

/* Was this file changed after pg_control was written last, as it was when shared memory was made? False if there is no such file. */
extern bool ControlRecordIsOlderThan(const char *path);

/* Is what this node's record says good for the data directory as it was at start? If not, *reason says why, for people. */
extern bool ControlRecordMatches(const lb_control *record, const char **reason);

/* Was the record told by a server on this kernel, since it was booted? */
extern bool ControlRecordSameBoot(const lb_control *record);

/*
 * Checkpointer, at the end of its sync handler: name this checkpoint's redo point (GetRedoRecPtr) to all attached nodes, and wait until it is
 * done; given up when nothing gets on for twice node_timeout. A node that it can't be told to keeps its old record: no error. Raises no
 * ERROR.
 */
extern void ControlRecordTellCheckpoint(void);

/*
 * Agent. The serial rises with each checkpoint that is to be named; fill gives what to tell now, and is taken after the serial. Told: all
 * nodes that can be told have been, up to this serial. Progress: telling gets on.
 */
extern uint64 ControlRecordSerial(void);
extern void ControlRecordFill(lb_control *record);
extern void ControlRecordProgress(void);
extern void ControlRecordTold(uint64 serial);

/* Tier-1 checkpointer: L1; agent: the former life's, when all nodes have kept their pages. Any process: read it (0: none known). */
extern void ControlRecordSetTier1(XLogRecPtr lsn);
extern XLogRecPtr ControlRecordTier1(void);

#endif /* LEGOBASE_CONTROL_RECORD_H */
