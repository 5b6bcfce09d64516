/*
 * checkpoint_sync.c
 *	  The tier-2 checkpoint: PostgreSQL's checkpoint waits until every page that was dirty in remote memory is durable in its file.
 *
 * The checkpointer syncs files by calling the handlers of a table in sync.c, for each file that somebody has asked to be synced. We
 * ask for a file that does not exist, and whose name no relation can have: with our function in that table, in front of mdsyncfiletag,
 * the checkpointer comes to us. The request that it works on is deleted when we return, so the next one must be another.
 *
 * Generations (docs/write_back.md, section 5): a page that becomes dirty belongs to the present one; a flip, which is allowed only when
 * nothing of the older one is dirty, makes the present one the older one. Whoever waits does it by this rule: what is dirty when
 * the wait begins, after n flips, belongs to generation n or the one before; it is durable as soon as there were n + 2 flips, or n + 1
 * and nothing of the older generation is dirty. Whoever waits also flips, so a checkpoint and several drains help each other on, and
 * a page that is changed all the time holds none of them up for more than two rounds of flushing.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "postmaster/startup.h"
#include "storage/procsignal.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "buffer_agent.h"
#include "checkpoint_sync.h"
#include "compat.h"
#include "control_record.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "legobase.h"
#include "node_table.h"
#include "page_directory.h"
#include "server_table.h"
#include "settings.h"
#include "write_back.h"

#define POLL_MS 10
#define FLUSH_REQUEST_NS UINT64_C(1000000000) /* a request may have met a broken connection */
#define ERROR_PATIENCE_NS \
	UINT64_C(5000000000)    /* a round that failed may be followed by one that does not */
#define STANDSTILL_MS 60000 /* at least: slow storage is no reason to give up */

#define SYNC_REQUESTS 2 /* segment numbers of the file that does not exist, used in turn */

typedef struct CheckpointSync
{
	slock_t lock;
	uint64 flips;
	CheckpointSyncFigures figures; /* all but last_time written by the checkpointer alone */
} CheckpointSync;

/* One wait, as it gets on. */
typedef struct Wait
{
	uint64 target;        /* the number of flips at which it ends at the latest */
	uint64 flips;         /* seen last */
	uint32 dirty;         /* of the older generation: the least seen since */
	uint64 progress_time; /* when one of the two has changed */
	uint64 activity;      /* of all nodes: what they have written and synced */
	uint64 activity_time; /* when that, too, has changed */
	uint64 request_time;  /* when flushing was asked for */
	uint64 errors[MAX_NODES];
} Wait;

static CheckpointSync *shared;

/* Agent: the first request was queued. The handler sees to all others. */
static bool registered;

Size
CheckpointSyncShmemSize(void)
{
	return sizeof(CheckpointSync);
}

void
CheckpointSyncShmemInit(void)
{
	bool found;

	registered = false;
	shared = ShmemInitStruct("legobase checkpoints", sizeof(CheckpointSync), &found);
	if (found)
		return;
	memset(shared, 0, sizeof(CheckpointSync));
	SpinLockInit(&shared->lock);
}

static uint64
flips_so_far(void)
{
	uint64 flips;

	SpinLockAcquire(&shared->lock);
	flips = shared->flips;
	SpinLockRelease(&shared->lock);
	return flips;
}

/* Flip, unless somebody else has done so since there were this many flips, or must not do it yet. */
static void
try_flip(uint64 flips)
{
	SpinLockAcquire(&shared->lock);
	if (shared->flips == flips && PageDirectoryOlderDirty() == 0)
	{
		PageDirectoryFlip();
		shared->flips++;
	}
	SpinLockRelease(&shared->lock);
}

static void
note_errors(uint64 errors[MAX_NODES])
{
	for (int node = 0; node < NodeTableCount(); node++)
	{
		FlushProgress progress;

		WriteBackGetFlushProgress(node, &progress);
		errors[node] = progress.error_number;
	}
}

/* A file's pages become clean when it is synced, which may take long; that a node is at it shows earlier. */
static uint64
nodes_activity(void)
{
	uint64 activity = 0;

	for (int node = 0; node < NodeTableCount(); node++)
	{
		FlushProgress progress;

		WriteBackGetFlushProgress(node, &progress);
		activity +=
			progress.state.write_calls + progress.state.syncs + progress.state.flushed_pages;
	}
	return activity;
}

static void
begin_wait(Wait *wait)
{
	wait->flips = flips_so_far();
	wait->target = wait->flips + 2;
	wait->dirty = PageDirectoryOlderDirty();
	wait->progress_time = wait->activity_time = wait->request_time = lb_now_ns();
	wait->activity = nodes_activity();
	note_errors(wait->errors);
	WriteBackRequestFlush();
}

/* Is all that was dirty at the beginning durable now? */
static bool
ended(const Wait *wait)
{
	uint64 flips = flips_so_far();

	/* Flips only go up: when the older generation is looked at, it is the one meant here, or a later one. */
	return flips >= wait->target || (flips == wait->target - 1 && PageDirectoryOlderDirty() == 0) ||
		   PageDirectoryDirty() == 0;
}

/* An ERROR of the startup process is the end of the server: it goes on waiting. */
static int
failure_level(void)
{
	return AmStartupProcess() ? LOG : ERROR;
}

static void
give_up_for_error(int node, const FlushProgress *progress)
{
	NodeRow *row = palloc(sizeof(NodeRow));

	NodeTableGetRow(node, row);
	ereport(failure_level(),
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("legobase: a memory node could not write changed pages to storage"),
			 errdetail("Memory node \"%s\": %s.", row->uri, progress->state.error),
			 errhint("The pages stay in remote memory, and WAL is kept, until they can be "
					 "written. Checkpoints are "
					 "tried again.")));
}

/* Storage that fails is reported as soon as it can be told from a failure that passes; whatever else is in the way, later. */
static void
check_progress(Wait *wait)
{
	uint64 now = lb_now_ns();
	uint64 flips = flips_so_far();
	uint32 dirty = PageDirectoryOlderDirty();
	int limit_ms = settings_dirty_wait_ms(STANDSTILL_MS);
	uint64 activity = nodes_activity();

	if (flips != wait->flips || dirty < wait->dirty)
	{
		wait->flips = flips;
		wait->dirty = dirty;
		wait->progress_time = wait->activity_time = now;
	}
	if (activity != wait->activity)
	{
		wait->activity = activity;
		wait->activity_time = now;
	}
	if (now - wait->progress_time < ERROR_PATIENCE_NS)
		return;
	for (int node = 0; node < NodeTableCount(); node++)
	{
		FlushProgress progress;

		WriteBackGetFlushProgress(node, &progress);
		if (progress.error_number != wait->errors[node] && progress.state.error[0] != '\0')
		{
			give_up_for_error(node, &progress);
			note_errors(wait->errors);
			wait->progress_time = now;
		}
	}
	if (now - wait->activity_time >= (uint64) limit_ms * 1000000)
		ereport(
			failure_level(),
			(errcode(ERRCODE_IO_ERROR),
			 errmsg("legobase: memory nodes have written no changed page to storage for %d seconds",
					limit_ms / 1000),
			 errdetail("%u pages are waiting.", PageDirectoryDirty()),
			 errhint("See legobase_nodes, and the logs of the memory nodes. WAL is kept until the "
					 "pages are "
					 "written; checkpoints are tried again.")));
	if (now - wait->activity_time >= (uint64) limit_ms * 1000000)
		wait->activity_time = now;
}

/* What this kind of process has to do all the time, in a wait too. */
static void
serve_others(void)
{
	if (AmCheckpointerProcess())
	{
		AbsorbSyncRequests();
		if (ProcSignalBarrierPending)
			ProcessProcSignalBarrier();
	}
	else if (AmStartupProcess())
		HandleStartupProcInterrupts();
	else
		CHECK_FOR_INTERRUPTS();
}

static void
wait_until_durable(bool checkpoint)
{
	Wait wait;

	if (PageDirectoryDirty() == 0)
		return;
	begin_wait(&wait);
	while (!ended(&wait))
	{
		if (wait.flips == wait.target - 2 && PageDirectoryOlderDirty() == 0)
		{
			if (checkpoint)
				(void) LB_FAULT("checkpoint.before_flip");
			try_flip(wait.flips);
			if (checkpoint)
				(void) LB_FAULT("checkpoint.flipped");
		}
		else
		{
			BufferAgentAssist(POLL_MS);
			serve_others();
		}
		check_progress(&wait);
		if (lb_now_ns() - wait.request_time >= FLUSH_REQUEST_NS)
		{
			WriteBackRequestFlush();
			wait.request_time = lb_now_ns();
		}
	}
}

void
CheckpointSyncDrain(void)
{
	wait_until_durable(false);
}

static bool
request_sync(uint32 segment)
{
	FileTag tag;

	/* All of it: tags are compared as bytes. No relation has number 0. */
	memset(&tag, 0, sizeof(tag));
	tag.handler = SYNC_HANDLER_MD;
	tag.segno = segment;
	return RegisterSyncRequest(&tag, SYNC_REQUEST, false);
}

bool
CheckpointSyncRegister(void)
{
	if (!registered)
		registered = request_sync(0);
	return registered;
}

static bool
is_ours(const FileTag *tag)
{
	return tag->rnode.relNode == InvalidOid && tag->rnode.dbNode == InvalidOid &&
		   tag->rnode.spcNode == InvalidOid && tag->segno < SYNC_REQUESTS;
}

static void
note_begin(void)
{
	SpinLockAcquire(&shared->lock);
	shared->figures.waiting = true;
	SpinLockRelease(&shared->lock);
}

static void
note_end(bool succeeded, uint64 waited_ns)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&shared->lock);
	shared->figures.waiting = false;
	shared->figures.waited_us += waited_ns / 1000;
	if (succeeded)
	{
		shared->figures.count++;
		shared->figures.last_time = now;
	}
	else
		shared->figures.failures++;
	SpinLockRelease(&shared->lock);
}

/*
 * In the checkpointer, all dirty buffers were written. Returns only if everything they held is durable; an ERROR makes the
 * checkpoint fail, and the requests stay, so that the next one comes here too.
 */
static int
sync_remote_pages(const FileTag *tag, char *path)
{
	uint64 began = lb_now_ns();
	uint32 dirty = PageDirectoryDirty();

	strlcpy(path, "pages in remote memory", MAXPGPATH); /* the checkpointer may log it */
	(void) request_sync((tag->segno + 1) %
						SYNC_REQUESTS); /* the checkpointer has no queue to itself */
	note_begin();
	PG_TRY();
	{
		wait_until_durable(true);
	}
	PG_CATCH();
	{
		note_end(false, lb_now_ns() - began);
		PG_RE_THROW();
	}
	PG_END_TRY();
	note_end(true, lb_now_ns() - began);
	(void) LB_FAULT("checkpoint.clean");

	/* Also if nothing was dirty: the nodes have clean pages. */
	ControlRecordTellCheckpoint();
	(void) LB_FAULT("checkpoint.told");
	ereport(DEBUG1, (errmsg_internal(
						"legobase: checkpoint waited %.3f s for %u dirty pages in remote memory",
						(double) (lb_now_ns() - began) / 1e9, dirty)));
	return 0;
}

static int
sync_file(const FileTag *tag, char *path)
{
	return is_ours(tag) ? sync_remote_pages(tag, path) : mdsyncfiletag(tag, path);
}

void
CheckpointSyncInstall(void)
{
	static const SyncHandler server_table[] = SYNC_TABLE;
	SyncHandler ours = server_table[SYNC_HANDLER_MD];
	ServerTable table = server_table_find("sync-handler", server_table, sizeof(server_table));

	StaticAssertStmt(SYNC_HANDLER_MD == 0, "the first handler of the table is replaced");
	ours.sync_syncfiletag = sync_file;
	server_table_overwrite(&table, &ours, sizeof(ours));
}

void
CheckpointSyncGetFigures(CheckpointSyncFigures *figures)
{
	SpinLockAcquire(&shared->lock);
	*figures = shared->figures;
	SpinLockRelease(&shared->lock);
}
