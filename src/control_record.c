/*
 * control_record.c
 *	  Which checkpoints the pages at the memory nodes are good for: the compute node's side of CONTROL.
 *
 * docs/recovery.md, section 2, has the rule (C1) and why it is enough. Two redo points are named:
 *
 * - *pending*: of the checkpoint whose sync handler ran last. Its buffers were written before. pg_control may name it at any moment
 *	 from then on, or never, if the checkpoint fails after all.
 * - *completed*: what pg_control names. CreateCheckPoint and CreateRestartPoint write it there after CheckPointGuts, so its buffers, too,
 *	 were written before it can be read here, in this life or a former one, whether or not our handler was called.
 *
 * C1 wants the node to be told of all that was unlinked up to the moment when those buffers were written. The agent takes both
 * redo points first, and then looks at every entry: that is later than those moments.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "postmaster/bgwriter.h"
#include "storage/lwlock.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "control_record.h"
#include "lb_clock.h"
#include "node_table.h"
#include "settings.h"
#include "wal_reach.h"
#include "write_back.h"

#define BOOT_ID_FILE "/proc/sys/kernel/random/boot_id"
#define POLL_MS 2

typedef struct ControlRecord
{
	/* Written by the postmaster, before there is anybody else. */
	XLogRecPtr redo_at_start; /* 0: of no use */
	TimeLineID timeline;
	bool backup_label;
	bool was_shut_down;
	uint32 checksums;
	uint8 boot_id[sizeof(((lb_control *) NULL)->boot_id)]; /* zero: unknown */
	struct timespec control_time; /* when pg_control had been written last */

	pg_atomic_uint64 tier1;

	slock_t lock; /* for what follows */
	XLogRecPtr pending;
	uint64 serial;   /* of pending; 0: none in this life */
	uint64 told;     /* the serial that all nodes have been told */
	uint64 progress; /* only rises */
} ControlRecord;

static ControlRecord *shared;

/* The server's own, in its shared memory: see ControlFileLock. */
static const ControlFileData *control_file;

Size
ControlRecordShmemSize(void)
{
	return sizeof(ControlRecord);
}

/* 32 hexadecimal digits, with dashes between some of them. Zero if it is not that. */
static void
read_boot_id(uint8 *id, int size)
{
	FILE *file = fopen(BOOT_ID_FILE, "r");
	char text[64] = "";
	int digits = 0;

	memset(id, 0, size);
	if (file == NULL)
		return;
	if (fgets(text, sizeof(text), file) == NULL)
		text[0] = '\0';
	fclose(file);
	for (const char *at = text; *at && *at != '\n' && digits < 2 * size; at++)
	{
		const char *all = "0123456789abcdef";
		const char *digit = strchr(all, *at);

		if (digit == NULL)
			continue;
		id[digits / 2] |= (uint8) ((digit - all) << (digits % 2 == 0 ? 4 : 0));
		digits++;
	}
	if (digits != 2 * size)
		memset(id, 0, size);
}

void
ControlRecordShmemInit(void)
{
	bool found;
	bool has_control_file;
	struct stat file;

	shared = ShmemInitStruct("legobase control record", sizeof(ControlRecord), &found);
	/* XLOGShmemInit has made it and copied the file's contents to it. */
	control_file = ShmemInitStruct("Control File", sizeof(ControlFileData), &has_control_file);
	if (found)
		return;
	memset(shared, 0, sizeof(ControlRecord));
	SpinLockInit(&shared->lock);
	pg_atomic_init_u64(&shared->tier1, 0);
	read_boot_id(shared->boot_id, sizeof(shared->boot_id));
	shared->backup_label = access(BACKUP_LABEL_FILE, F_OK) == 0;
	if (stat(XLOG_CONTROL_FILE, &file) == 0)
		shared->control_time = file.st_mtim;
	if (!has_control_file)
		return;
	shared->redo_at_start = control_file->checkPointCopy.redo;
	shared->timeline = control_file->checkPointCopy.ThisTimeLineID;
	shared->was_shut_down = control_file->state == DB_SHUTDOWNED;
	shared->checksums = control_file->data_checksum_version;
}

bool
ControlRecordIsOlderThan(const char *path)
{
	struct stat file;

	if (stat(path, &file) != 0)
		return false;
	if (file.st_mtim.tv_sec != shared->control_time.tv_sec)
		return file.st_mtim.tv_sec > shared->control_time.tv_sec;
	return file.st_mtim.tv_nsec > shared->control_time.tv_nsec;
}

bool
ControlRecordKept(void)
{
	return WriteBackFsyncAtStart() && wal_level > WAL_LEVEL_MINIMAL;
}

XLogRecPtr
ControlRecordRedoAtStart(void)
{
	return shared->backup_label ? InvalidXLogRecPtr : shared->redo_at_start;
}

bool
ControlRecordWasShutDown(void)
{
	return shared->was_shut_down;
}

/* After a shutdown all changes were in the files, and the checkpoint's record was the last one. */
bool
ControlRecordIsPast(XLogRecPtr lsn)
{
	if (lsn <= shared->redo_at_start)
		return true;
	return !shared->was_shut_down && WalReaches(shared->timeline, shared->redo_at_start, lsn);
}

bool
ControlRecordMatches(const lb_control *record, const char **reason)
{
	XLogRecPtr redo = ControlRecordRedoAtStart();

	*reason = NULL;
	if (redo == InvalidXLogRecPtr)
		*reason = "where recovery begins is not in pg_control";
	else if (record->completed == 0 && record->pending == 0)
		*reason = "it was not told which checkpoint they belong to";
	else if (record->completed != redo && record->pending != redo)
		*reason = "they belong to another checkpoint than the data directory";
	else if (record->checksums != shared->checksums)
		*reason = "data checksums were switched on or off";
	return *reason == NULL;
}

bool
ControlRecordSameBoot(const lb_control *record)
{
	static const uint8 unknown[sizeof(record->boot_id)];

	return memcmp(record->boot_id, unknown, sizeof(unknown)) != 0 &&
		   memcmp(record->boot_id, shared->boot_id, sizeof(unknown)) == 0;
}

/* ---- telling, the checkpointer's side ---- */

static bool
any_attached(void)
{
	for (int node = 0; node < NodeTableCount(); node++)
	{
		NodeState state = NodeTableState(node);

		if (state == NODE_UP || state == NODE_SUSPECT)
			return true;
	}
	return false;
}

/* Name the redo point, from now on. Returns the serial that has to be told; 0: that was done (two requests in one checkpoint). */
static uint64
set_pending(XLogRecPtr redo)
{
	uint64 serial = 0;

	SpinLockAcquire(&shared->lock);
	if (redo != shared->pending)
	{
		shared->pending = redo;
		shared->serial++;
	}
	if (shared->told < shared->serial)
		serial = shared->serial;
	SpinLockRelease(&shared->lock);
	return serial;
}

static bool
is_told(uint64 serial, uint64 *progress)
{
	bool told;

	SpinLockAcquire(&shared->lock);
	told = shared->told >= serial;
	*progress = shared->progress;
	SpinLockRelease(&shared->lock);
	return told;
}

/*
 * GetRedoRecPtr is the redo point of the checkpoint that this process is at: CreateCheckPoint (online, shutdown, end of recovery) and
 * CreateRestartPoint set XLogCtl->RedoRecPtr to it before they call CheckPointGuts, which calls the handler, and nobody else changes it
 * meanwhile: the startup process sets it once, before redo. At shutdown it is the position of the checkpoint record itself, which
 * CreateCheckPoint makes sure of.
 */
void
ControlRecordTellCheckpoint(void)
{
	uint64 limit = UINT64_C(2000000) * node_timeout_ms;
	uint64 since = lb_now_ns();
	uint64 serial;
	uint64 progress = 0;
	uint64 seen;

	if (!ControlRecordKept())
		return;
	serial = set_pending(GetRedoRecPtr());
	/* Who is attached later begins empty, and asks for what to tell then. */
	if (serial == 0 || !any_attached())
		return;
	CommBufferWakeAgent();
	while (!is_told(serial, &seen))
	{
		uint64 now = lb_now_ns();

		if (seen != progress)
		{
			progress = seen;
			since = now;
		}
		if (now > since + limit)
		{
			ereport(DEBUG1, (errmsg_internal("legobase: not every memory node could be told of "
											 "this checkpoint")));
			break;
		}
		BufferAgentAssist(POLL_MS);
		AbsorbSyncRequests();
		if (ProcSignalBarrierPending)
			ProcessProcSignalBarrier();
	}
}

/* ---- the agent's side ---- */

uint64
ControlRecordSerial(void)
{
	uint64 serial;

	SpinLockAcquire(&shared->lock);
	serial = shared->serial;
	SpinLockRelease(&shared->lock);
	return serial;
}

/*
 * What pg_control names. The lock is held while the file is written and synced: then the agent does not wait. The redo point it has
 * read last is the one that is being replaced, and so the right one.
 */
static XLogRecPtr
completed_redo(void)
{
	static XLogRecPtr completed;

	if (completed == InvalidXLogRecPtr)
		completed = shared->redo_at_start;
	if (LWLockConditionalAcquire(ControlFileLock, LW_SHARED))
	{
		completed = control_file->checkPointCopy.redo;
		LWLockRelease(ControlFileLock);
	}
	return completed;
}

/*
 * With a backup_label, pg_control may at first be ahead of where recovery begins, and of what the files have: it is believed after the
 * first checkpoint of this life, and nothing is named before.
 */
void
ControlRecordFill(lb_control *record)
{
	uint64 serial;

	memset(record, 0, sizeof(*record));
	SpinLockAcquire(&shared->lock);
	record->pending = shared->pending;
	serial = shared->serial;
	SpinLockRelease(&shared->lock);
	if (serial > 0 || !shared->backup_label)
		record->completed = completed_redo();
	if (serial == 0)
		record->pending = record->completed;
	record->tier1 = ControlRecordTier1();
	record->checksums = shared->checksums;
	memcpy(record->boot_id, shared->boot_id, sizeof(record->boot_id));
}

void
ControlRecordProgress(void)
{
	SpinLockAcquire(&shared->lock);
	shared->progress++;
	SpinLockRelease(&shared->lock);
}

void
ControlRecordTold(uint64 serial)
{
	SpinLockAcquire(&shared->lock);
	shared->told = Max(shared->told, serial);
	SpinLockRelease(&shared->lock);
}

void
ControlRecordSetTier1(XLogRecPtr lsn)
{
	pg_atomic_write_u64(&shared->tier1, lsn);
}

XLogRecPtr
ControlRecordTier1(void)
{
	return pg_atomic_read_u64(&shared->tier1);
}
