/*
 * wal_reach.c
 *	  Does this data directory's WAL reach a given position?
 *
 * Records are read, with their checksums and links to the one before, from a little before the position. Segments are recycled, so
 * there may be old WAL behind the end; but its pages say what address they are for, and the reader compares that.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "storage/fd.h"

#include "wal_reach.h"

/* Most records are smaller. */
#define LAST_BIT (32 * XLOG_BLCKSZ)

/* The callbacks' private_data. */
typedef struct Wal
{
	TimeLineID timeline;
	XLogSegNo segment;
	int fd; /* of that segment, or -1 */
} Wal;

static bool
open_segment(Wal *wal, XLogSegNo segment)
{
	char path[MAXPGPATH];

	if (wal->fd >= 0 && wal->segment == segment)
		return true;
	if (wal->fd >= 0)
		close(wal->fd);
	XLogFilePath(path, wal->timeline, segment, wal_segment_size);
	wal->segment = segment;
	wal->fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	return wal->fd >= 0;
}

static int
read_page(XLogReaderState *reader, XLogRecPtr page, int wanted, XLogRecPtr record, char *buffer)
{
	Wal *wal = reader->private_data;
	XLogSegNo segment;

	XLByteToSeg(page, segment, wal_segment_size);
	if (!open_segment(wal, segment) ||
		pg_pread(wal->fd, buffer, XLOG_BLCKSZ, XLogSegmentOffset(page, wal_segment_size)) !=
			XLOG_BLCKSZ)
		return -1;
	reader->seg.ws_tli = wal->timeline;
	return XLOG_BLCKSZ;
}

/* Read records until one ends at lsn or behind it. start: where one begins, or, if it is not exact, anywhere. */
static bool
read_up_to(XLogReaderState *reader, XLogRecPtr start, bool exact, XLogRecPtr lsn)
{
	char *error;

	if (exact)
		XLogBeginRead(reader, start);
	else if (XLogFindNextRecord(reader, start) == InvalidXLogRecPtr)
		return false;
	while (XLogReadRecord(reader, &error) != NULL)
	{
		if (reader->EndRecPtr >= lsn)
			return true;
	}
	return false;
}

bool
WalReaches(TimeLineID timeline, XLogRecPtr from, XLogRecPtr lsn)
{
	Wal wal = {.timeline = timeline, .fd = -1};
	XLogReaderState *reader =
		XLogReaderAllocate(wal_segment_size, NULL, XL_ROUTINE(.page_read = read_page), &wal);
	XLogRecPtr last_bit = lsn - lsn % XLOG_BLCKSZ;
	bool reached;

	if (reader == NULL)
		return false;
	last_bit -= Min(last_bit, (XLogRecPtr) LAST_BIT);
	reached = (last_bit > from && read_up_to(reader, last_bit, false, lsn)) ||
			  read_up_to(reader, from, true, lsn);
	XLogReaderFree(reader);
	if (wal.fd >= 0)
		close(wal.fd);
	return reached;
}
