/*
 * wal_reach.h
 *	  Does this data directory's WAL reach a given position?
 *
 * A page never leaves shared_buffers before WAL is durable up to its LSN. So if a page has an LSN that WAL does not reach, it was not
 * written by this data directory's past, but by its future: an older copy of the directory, a snapshot, was put back in its place.
 * With it came the instance's identity, epoch and redo point as they still were: nothing else tells the two apart.
 */
#ifndef LEGOBASE_WAL_REACH_H
#define LEGOBASE_WAL_REACH_H

#include "postgres.h"

#include "access/xlogdefs.h"

/*
 * Is there valid WAL in pg_wal, of this timeline, up to lsn at least? from: where a record begins, below lsn. Usually reads the last bit
 * alone; all from there on if that is not conclusive. False also if it can't be read: what is only in an archive does not count. No ERROR but for
 * memory.
 */
extern bool WalReaches(TimeLineID timeline, XLogRecPtr from, XLogRecPtr lsn);

#endif /* LEGOBASE_WAL_REACH_H */
