/*
 * warm_up.c
 *	  Reading back what was in shared_buffers before a restart.
 *
 * The launcher reads the list, and for one database after another starts workers, which take chunks of it in turn. So pages come back in the
 * order of the list, hottest first. Only as many entries are looked at as there are buffers: of a larger pool's list the hottest pages come.
 * The launcher ends when all is read, or there is no free buffer any more: nothing is evicted for a page that nobody has asked for.
 *
 * Nobody shall have to wait for this. A worker reads a batch of one relation's pages in a transaction of its own, which takes its lock only if it
 * is to be had at once; and it leaves when somebody wants the database for himself (to drop it, say).
 *
 * Should reading these pages be what the server crashes by, it must not do so for ever: the launcher leaves a mark while it runs, which says how
 * many lives in a row have ended meanwhile.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/heapam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/shmem.h"
#include "storage/smgr.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relfilenodemap.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "lb_clock.h"
#include "lb_fault.h"
#include "settings.h"
#include "warm_list.h"
#include "warm_up.h"

#define CHUNK 1024 /* entries that a worker takes at a time */
#define BATCH 64   /* pages read in one transaction */
#define WORTH_A_WORKER (4 * CHUNK)
#define ERRORS_MAX 10 /* of one worker: then storage is in no state for this */
#define RETRY_MS 1000
#define HOLD_NS (UINT64_C(60) * 1000000000)
#define LIST_YOUNG_NS (UINT64_C(2) * 1000000000)
#define LIST_SLOW_NS (UINT64_C(1) * 1000000000)
#define MARK_FILE INSTANCE_FOLDER "/" INSTANCE_PREFIX "warming" /* its length: so many lives */
#define MARKS_MAX 2

typedef struct WarmUp
{
	slock_t lock; /* protects the next four */
	WarmUpState state;
	uint64 listed;
	TimestampTz started;
	TimestampTz finished;
	pg_atomic_uint64 read;
	pg_atomic_uint64 present;
	pg_atomic_uint64 handled;     /* entries that need not be looked at again */
	pg_atomic_uint64 write_after; /* lb_now_ns: the list may be written */
	bool launched;                /* the tier-1 checkpointer's alone */

	/* Written by the launcher while there is no worker. */
	Oid database;
	bool shared_catalogs;  /* these, too */
	uint64 limit;          /* entries of the list that matter */
	pg_atomic_uint64 next; /* the first one that no worker has taken yet */
} WarmUp;

/* What the list has of a database. */
typedef struct Share
{
	Oid database;
	bool exists;
	uint64 pages;
} Share;

typedef struct Shares
{
	int count;
	int room;
	Share *all;
} Shares;

static WarmUp *shared;
static BackgroundWorkerHandle *launcher; /* the tier-1 checkpointer's, while the launcher may run */
static uint64 list_written = 0;          /* lb_now_ns, by this process */
static uint64 list_took = 0;
static bool launcher_done = false;
static int errors = 0; /* of this worker */

Size
WarmUpShmemSize(void)
{
	return sizeof(WarmUp);
}

void
WarmUpShmemInit(void)
{
	bool found;

	shared = ShmemInitStruct("legobase warm-up", sizeof(WarmUp), &found);
	if (found)
		return;
	memset(shared, 0, sizeof(WarmUp));
	SpinLockInit(&shared->lock);
	pg_atomic_init_u64(&shared->read, 0);
	pg_atomic_init_u64(&shared->present, 0);
	pg_atomic_init_u64(&shared->handled, 0);
	pg_atomic_init_u64(&shared->write_after, PG_UINT64_MAX);
	pg_atomic_init_u64(&shared->next, 0);
}

void
WarmUpGetFigures(WarmUpFigures *figures)
{
	uint64 handled = pg_atomic_read_u64(&shared->handled);

	SpinLockAcquire(&shared->lock);
	figures->state = shared->state;
	figures->listed = shared->listed;
	figures->started = shared->started;
	figures->finished = shared->finished;
	SpinLockRelease(&shared->lock);
	figures->read = pg_atomic_read_u64(&shared->read);
	figures->present = pg_atomic_read_u64(&shared->present);
	/* A batch counts as handled when it has ended. */
	figures->skipped = handled - Min(handled, figures->read + figures->present);
}

static void
write_list_after(uint64 time)
{
	pg_atomic_write_u64(&shared->write_after, time);
}

bool
WarmUpWriteList(void)
{
	static bool failed = false;
	uint64 began = lb_now_ns();
	lb_status status;
	LocalPage *pages;
	bool good;

	if (began < pg_atomic_read_u64(&shared->write_after))
		return true;
	pages =
		palloc_extended((Size) NBuffers * sizeof(LocalPage), MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	if (pages == NULL)
		good = lb_fail(&status, LB_SYSTEM, "out of memory for the list of pages in shared_buffers");
	else
	{
		uint32 count = LocalPoolListPages(pages);

		WarmListSort(pages, count);
		good = WarmListWrite(pages, count, &status);
		pfree(pages);
	}
	if (!good && !failed)
		ereport(LOG, (errmsg("legobase: %s", status.message),
					  errdetail("After the next restart these pages will not be read back.")));
	failed = !good;
	list_written = lb_now_ns();
	list_took = list_written - began;
	return good;
}

void
WarmUpWriteFinalList(void)
{
	if (list_written == 0 ||
		(lb_now_ns() - list_written > LIST_YOUNG_NS && list_took <= LIST_SLOW_NS))
		(void) WarmUpWriteList();
}

/* --- the launcher ------------------------------------------------------------------------------------------------ */

static void
describe_worker(BackgroundWorker *worker, const char *name, const char *function)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_name, name, BGW_MAXLEN);
	strlcpy(worker->bgw_type, name, BGW_MAXLEN);
	strlcpy(worker->bgw_library_name, "legobase", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
}

static void
log_too_few(const char *what)
{
	ereport(LOG, (errmsg("legobase: too few background workers for reading back shared_buffers"),
				  errdetail("%s", what),
				  errhint("Consider increasing the configuration parameter \"%s\".",
						  "max_worker_processes")));
}

static bool
start_launcher(void)
{
	static bool refused = false;
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	BackgroundWorker worker;
	bool started;

	describe_worker(&worker, "legobase warm-up launcher", "WarmUpLauncherMain");
	started = RegisterDynamicBackgroundWorker(&worker, &launcher);
	MemoryContextSwitchTo(caller);
	if (!started && !refused)
		log_too_few("It begins when there is room for one.");
	refused = !started;
	return started;
}

/* A launcher that ran has said when the list may be written. One that could not be started (forked) has not. */
static void
look_at_launcher(void)
{
	pid_t pid;

	if (launcher == NULL || GetBackgroundWorkerPid(launcher, &pid) != BGWH_STOPPED)
		return;
	if (pg_atomic_read_u64(&shared->write_after) == PG_UINT64_MAX)
		write_list_after(lb_now_ns() + HOLD_NS);
	pfree(launcher);
	launcher = NULL;
}

bool
WarmUpStart(void)
{
	if (shared->launched)
	{
		look_at_launcher();
		return true;
	}
	if (warm_workers == 0)
		write_list_after(lb_now_ns() + HOLD_NS);
	else if (!start_launcher())
		return false;
	shared->launched = true;
	return true;
}

static void
begin(uint64 listed)
{
	SpinLockAcquire(&shared->lock);
	shared->state = WARM_UP_RUNNING;
	shared->listed = listed;
	shared->started = GetCurrentTimestamp();
	SpinLockRelease(&shared->lock);
}

static void
end(void)
{
	TimestampTz now = GetCurrentTimestamp();

	pg_atomic_write_u64(&shared->handled, shared->listed);
	SpinLockAcquire(&shared->lock);
	if (shared->state == WARM_UP_RUNNING)
	{
		shared->state = WARM_UP_DONE;
		shared->finished = now;
	}
	SpinLockRelease(&shared->lock);
}

static void
remove_mark(void)
{
	if (unlink(MARK_FILE) != 0 && errno != ENOENT && errno != ENOTDIR)
		ereport(LOG, (errcode_for_file_access(),
					  errmsg("legobase: could not remove file \"%s\": %m", MARK_FILE)));
}

/* One byte more. It is not synced: what a host's crash leaves of it does not matter. */
static void
add_mark(void)
{
	int fd = BasicOpenFile(MARK_FILE, O_WRONLY | O_CREAT | O_APPEND | PG_BINARY);

	if (fd < 0 || write(fd, "+", 1) != 1)
		ereport(LOG, (errcode_for_file_access(),
					  errmsg("legobase: could not write file \"%s\": %m", MARK_FILE)));
	if (fd >= 0)
		close(fd);
}

/* Have the last lives all ended while they were warming up? Then not this time; otherwise leave the mark. */
static bool
may_warm_up(void)
{
	struct stat mark;

	if (stat(MARK_FILE, &mark) != 0 || mark.st_size < MARKS_MAX)
	{
		add_mark();
		return true;
	}
	ereport(LOG, (errmsg("legobase: what was in shared_buffers is not read back this time, because "
						 "the server crashed %d times in a row while it was",
						 (int) mark.st_size)));
	return false;
}

/* The launcher was interrupted, perhaps because the server stops: the list that it could not read to the end must survive that. */
static void
launcher_exit(int code, Datum arg)
{
	if (launcher_done)
		return;
	end();
	remove_mark();
	write_list_after(lb_now_ns() + HOLD_NS);
}

static Share *
share_of(Shares *shares, Oid database)
{
	/* Neighbours in the list are mostly of one database. */
	static int last = 0;

	if (last < shares->count && shares->all[last].database == database)
		return &shares->all[last];
	for (last = 0; last < shares->count; last++)
	{
		if (shares->all[last].database == database)
			return &shares->all[last];
	}
	if (shares->count == shares->room)
	{
		shares->room = Max(16, 2 * shares->room);
		shares->all = shares->all ? repalloc(shares->all, shares->room * sizeof(Share))
								  : palloc(shares->room * sizeof(Share));
	}
	shares->count++;
	shares->all[last] = (Share){.database = database};
	return &shares->all[last];
}

/* Pages of each database. Shared catalogs are nobody's: whoever comes first reads them. */
static void
count_shares(const WarmList *list, uint64 limit, Shares *shares)
{
	LocalPage *pages = palloc(CHUNK * sizeof(LocalPage));

	for (uint64 from = 0; from < limit; from += CHUNK)
	{
		uint32 count = (uint32) Min(CHUNK, limit - from);

		CHECK_FOR_INTERRUPTS();
		if (!WarmListRead(list, from, count, pages))
			break;
		for (uint32 i = 0; i < count; i++)
		{
			if (OidIsValid(pages[i].tag.database))
				share_of(shares, pages[i].tag.database)->pages++;
		}
	}
	pfree(pages);
}

static int
compare_shares(const void *left, const void *right)
{
	const Share *a = left;
	const Share *b = right;

	if (a->pages != b->pages)
		return a->pages > b->pages ? -1 : 1;
	return 0;
}

/* Which of the databases are still there? A worker could not connect to the others. */
static void
find_databases(Shares *shares)
{
	Relation relation;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		for (int i = 0; i < shares->count; i++)
		{
			if (shares->all[i].database == database->oid)
				shares->all[i].exists = !database_is_invalid_form(database);
		}
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
}

/* Start up to so many workers. Waits until there is room for one of them, at least, or nothing to read pages into. Returns how many. */
static int
start_workers(int wanted, BackgroundWorkerHandle **handles)
{
	static bool logged = false;
	BackgroundWorker worker;
	int started = 0;

	describe_worker(&worker, "legobase warm-up worker", "WarmUpWorkerMain");
	worker.bgw_notify_pid = MyProcPid;
	while (started == 0 && LocalPoolHasRoom())
	{
		while (started < wanted && RegisterDynamicBackgroundWorker(&worker, &handles[started]))
			started++;
		if (started < wanted && !logged)
		{
			log_too_few("It goes on with fewer.");
			logged = true;
		}
		if (started == 0)
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RETRY_MS,
							 PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	return started;
}

static void
warm_database(const Share *share, bool shared_catalogs, uint64 limit)
{
	int wanted = (int) Min(warm_workers, share->pages / WORTH_A_WORKER + 1);
	BackgroundWorkerHandle **handles = palloc(wanted * sizeof(BackgroundWorkerHandle *));
	int started;

	shared->database = share->database;
	shared->shared_catalogs = shared_catalogs;
	shared->limit = limit;
	pg_atomic_write_u64(&shared->next, 0);
	started = start_workers(wanted, handles);
	for (int i = 0; i < started; i++)
	{
		if (WaitForBackgroundWorkerShutdown(handles[i]) == BGWH_POSTMASTER_DIED)
			proc_exit(1);
		pfree(handles[i]);
	}
	pfree(handles);

	/* Did they end because the server stops? Then we are to stop as well. */
	CHECK_FOR_INTERRUPTS();
}

static void
log_result(uint64 began)
{
	WarmUpFigures figures;

	WarmUpGetFigures(&figures);
	ereport(LOG, (errmsg("legobase: " UINT64_FORMAT " of " UINT64_FORMAT
						 " pages were read back into shared_buffers in %.3f s (" UINT64_FORMAT
						 " were there, " UINT64_FORMAT " are gone or found no room)",
						 figures.read, figures.listed, (double) (lb_now_ns() - began) / 1e9,
						 figures.present, figures.skipped)));
}

static void
warm_up(const WarmList *list)
{
	uint64 began = lb_now_ns();
	uint64 limit = Min(list->count, (uint64) NBuffers);
	Shares shares = {0};
	bool first = true;

	begin(list->count);
	pg_atomic_fetch_add_u64(&shared->handled, list->count - limit);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(TopMemoryContext);
	count_shares(list, limit, &shares);
	find_databases(&shares);
	MemoryContextSwitchTo(TopMemoryContext);
	pg_qsort(shares.all, shares.count, sizeof(Share), compare_shares);
	for (int i = 0; i < shares.count; i++)
	{
		if (!shares.all[i].exists || !LocalPoolHasRoom())
			continue;
		warm_database(&shares.all[i], first, limit);
		first = false;
	}
	end();
	log_result(began);
}

void
WarmUpLauncherMain(Datum arg)
{
	WarmList list;
	lb_status status;
	bool skipped = false;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	before_shmem_exit(launcher_exit, (Datum) 0);
	switch (WarmListOpen(&list, true, &status))
	{
		case WARM_LIST_GOOD:
			if (list.count > 0)
				skipped = !may_warm_up();
			if (list.count > 0 && !skipped)
				warm_up(&list);
			WarmListClose(&list);
			break;
		case WARM_LIST_MISSING:
			break;
		case WARM_LIST_DAMAGED:
			ereport(LOG, (errmsg("legobase: %s", status.message),
						  errdetail("What was in shared_buffers is not read back.")));
			break;
	}
	launcher_done = true;
	remove_mark();
	write_list_after(skipped ? lb_now_ns() + HOLD_NS : 0);
}

/* --- a worker ---------------------------------------------------------------------------------------------------- */

/* Does somebody want the database for himself, or wait for it? We would be in the way as a session of it. */
static bool
database_is_wanted(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/* The relation that has these files; null if there is none any more, or its lock is not to be had at once. */
static Relation
open_relation(const lb_page_tag *tag)
{
	Oid oid = RelidByRelfilenode(tag->tablespace, tag->relation);
	Relation relation;

	if (!OidIsValid(oid) || !ConditionalLockRelationOid(oid, AccessShareLock))
		return NULL;
	relation = try_relation_open(oid, NoLock);
	if (relation == NULL)
		return NULL;
	if (relation->rd_node.relNode == tag->relation && relation->rd_node.dbNode == tag->database &&
		relation->rd_node.spcNode == tag->tablespace &&
		relation->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT)
		return relation;
	relation_close(relation, AccessShareLock);
	return NULL;
}

/* Ask for all pages before the first one is read: what comes from a memory node comes as one message. */
static void
read_pages(Relation relation, const LocalPage *pages, uint32 count)
{
	ForkNumber fork = (ForkNumber) pages[0].tag.fork;
	BlockNumber wanted[BATCH];
	BlockNumber blocks;
	int wanted_count = 0;

	if (fork < MAIN_FORKNUM || fork > MAX_FORKNUM || !smgrexists(RelationGetSmgr(relation), fork))
		return;
	blocks = RelationGetNumberOfBlocksInFork(relation, fork);
	for (uint32 i = 0; i < count; i++)
	{
		if (pages[i].tag.block >= blocks)
			continue;
		if (BufferIsValid(PrefetchBuffer(relation, fork, pages[i].tag.block).recent_buffer))
			pg_atomic_fetch_add_u64(&shared->present, 1);
		else
			wanted[wanted_count++] = pages[i].tag.block;
	}
	for (int i = 0; i < wanted_count && LocalPoolHasRoom(); i++)
	{
		CHECK_FOR_INTERRUPTS();
		ReleaseBuffer(ReadBufferExtended(relation, fork, wanted[i], RBM_NORMAL, NULL));
		pg_atomic_fetch_add_u64(&shared->read, 1);
	}
}

/* Pages of one fork of one relation. False if the worker has to leave. */
static bool
read_batch(const LocalPage *pages, uint32 count)
{
	bool wanted;
	Relation relation;

	StartTransactionCommand();
	wanted = database_is_wanted();
	relation = wanted ? NULL : open_relation(&pages[0].tag);
	if (relation != NULL)
	{
		read_pages(relation, pages, count);
		relation_close(relation, AccessShareLock);
	}
	CommitTransactionCommand();
	return !wanted;
}

/* A page that can't be read is no reason to leave the others. */
static bool
try_batch(const LocalPage *pages, uint32 count)
{
	volatile bool go_on = false;

	(void) LB_FAULT("warmup.read");
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	PG_TRY();
	{
		go_on = read_batch(pages, count);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(TopMemoryContext);
		FlushErrorState();
		RESUME_INTERRUPTS();
		go_on = ++errors < ERRORS_MAX;
	}
	PG_END_TRY();
	pg_atomic_fetch_add_u64(&shared->handled, count);
	return go_on;
}

/* How many of the pages, from the first on, are of the same fork of the same relation? */
static uint32
batch_length(const LocalPage *pages, uint32 count)
{
	uint32 length = 1;

	while (length < Min(count, BATCH) && pages[length].tag.relation == pages[0].tag.relation &&
		   pages[length].tag.fork == pages[0].tag.fork &&
		   pages[length].tag.database == pages[0].tag.database &&
		   pages[length].tag.tablespace == pages[0].tag.tablespace)
		length++;
	return length;
}

/* Keep those that are this worker's to read. */
static uint32
select_pages(LocalPage *pages, uint32 count)
{
	uint32 kept = 0;

	for (uint32 i = 0; i < count; i++)
	{
		Oid database = pages[i].tag.database;

		if (database == MyDatabaseId || (database == InvalidOid && shared->shared_catalogs))
			pages[kept++] = pages[i];
	}
	return kept;
}

/* Read the next chunk's pages. False when there is nothing more to do. */
static bool
read_chunk(const WarmList *list, LocalPage *pages)
{
	uint64 from = pg_atomic_fetch_add_u64(&shared->next, CHUNK);
	uint32 count;

	if (from >= shared->limit)
		return false;
	count = (uint32) Min(CHUNK, shared->limit - from);
	if (!WarmListRead(list, from, count, pages))
		return false;
	count = select_pages(pages, count);
	for (uint32 i = 0; i < count;)
	{
		uint32 length = batch_length(&pages[i], count - i);

		if (!LocalPoolHasRoom() || !try_batch(&pages[i], length))
			return false;
		i += length;
	}
	return true;
}

void
WarmUpWorkerMain(Datum arg)
{
	WarmList list;
	lb_status status;
	LocalPage *pages;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(shared->database, InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	if (WarmListOpen(&list, false, &status) != WARM_LIST_GOOD)
		return;
	pages = MemoryContextAlloc(TopMemoryContext, CHUNK * sizeof(LocalPage));
	while (list.count >= shared->limit && read_chunk(&list, pages))
		;
	WarmListClose(&list);
}
