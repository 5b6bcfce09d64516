/*
 * tier1_checkpointer.c
 *	  The background worker that keeps remote memory close behind shared_buffers.
 *
 * A tier-1 checkpoint lists the dirty buffers, flushes them a few at a time, and waits for the memory nodes' answers. WAL that a page needs is
 * synced before the page is locked, for all such pages at once: whoever changes the page would wait for the sync, too.
 *
 * It runs when recovery has ended. Before that there is no WAL insert position; a hot standby redoes everything, and has no use for L1. Being
 * neither a backend nor one of the server's own processes, it takes part in no barrier and hears of no invalidation (LocalPoolFlush does
 * without). Errors are handled as the background writer does: let go of everything, wait a second, go on.
 */
#include "postgres.h"

#include <setjmp.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/smgr.h"
#include "storage/spin.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "comm_buffer.h"
#include "control_record.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "local_pool.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_push.h"
#include "settings.h"
#include "tier1_checkpointer.h"
#include "warm_up.h"
#include "write_back.h"

#define NS_PER_MS UINT64_C(1000000)
#define RESTART_SECONDS 1
#define INACTIVE_MS 1000 /* between looks whether there is something to do at all */
#define AFTER_ERROR_MS 1000
#define SLICE_MS 10
#define SLICE_PAGES 64
#define ROOM_MS 1   /* between looks for free comm buffers */
#define NODES_MS 20 /* ... whether the nodes answer again, and have flushed */
#define ANSWER_MS_MAX 10
#define GIVE_UP_TIMEOUTS 10 /* of legobase.node_timeout, without an answer */
#define LIST_MS 10000
#define LIST_COST \
	100 /* so many times as long as the writing of the list took, until the next one */

typedef struct Tier1
{
	slock_t lock;
	Tier1Figures figures; /* written by the worker alone */
} Tier1;

typedef enum Outcome
{
	COMPLETED,
	GIVEN_UP, /* answers, or free comm buffers, did not come, or no page could be flushed */
	DROPPED   /* no write-back any more, or the server stops */
} Outcome;

/* One tier-1 checkpoint. */
typedef struct Round
{
	uint64 began;
	uint64 spread; /* ns: the time over which the pages are spread */
	uint64 waited; /* ns, for answers */
	uint32 pages;  /* dirty ones */
	uint32 flushed;
	uint32 count;   /* listed, for this pass */
	uint32 done;    /* of these */
	uint32 later;   /* of these: put off until WAL is durable; the first ones in the list again */
	XLogRecPtr wal; /* what the ones put off need */
} Round;

static Tier1 *shared;
static MemoryContext round_context;
static Buffer *listed;     /* one for each buffer */
static uint32 *unanswered; /* one for each comm buffer */
static uint64 last_began;  /* of the last round */
static uint64 next_list;   /* when the warm list is due */

Size
Tier1ShmemSize(void)
{
	return sizeof(Tier1);
}

void
Tier1ShmemInit(void)
{
	bool found;

	shared = ShmemInitStruct("legobase tier-1 checkpointer", sizeof(Tier1), &found);
	if (found)
		return;
	memset(shared, 0, sizeof(Tier1));
	SpinLockInit(&shared->lock);
}

void
Tier1GetFigures(Tier1Figures *figures)
{
	SpinLockAcquire(&shared->lock);
	*figures = shared->figures;
	SpinLockRelease(&shared->lock);
}

static void
note_progress(const Round *round)
{
	SpinLockAcquire(&shared->lock);
	shared->figures.running_pages = round->pages;
	shared->figures.running_done = round->pages - (round->count - round->done) - round->later;
	SpinLockRelease(&shared->lock);
}

static void
note_failure(void)
{
	SpinLockAcquire(&shared->lock);
	shared->figures.failures++;
	SpinLockRelease(&shared->lock);
}

static void
note_end(const Round *round, Outcome outcome, XLogRecPtr lsn)
{
	TimestampTz now = GetCurrentTimestamp();
	uint64 elapsed = lb_now_ns() - round->began;

	SpinLockAcquire(&shared->lock);
	shared->figures.running_pages = 0;
	shared->figures.running_done = 0;
	shared->figures.pages += round->flushed;
	shared->figures.waited_us += round->waited / 1000;
	if (outcome == COMPLETED)
	{
		shared->figures.count++;
		shared->figures.lsn = lsn;
		shared->figures.last_time = now;
		shared->figures.last_us = elapsed / 1000;
	}
	SpinLockRelease(&shared->lock);
	if (outcome == GIVEN_UP)
		note_failure();
	if (outcome == COMPLETED)
		ereport(DEBUG1, (errmsg_internal("legobase: tier-1 checkpoint at %X/%X: %u of %u pages "
										 "flushed, %.3f s, %.3f s for answers",
										 LSN_FORMAT_ARGS(lsn), round->flushed, round->pages,
										 (double) elapsed / 1e9, (double) round->waited / 1e9)));
}

/* Sleep, and take notice of new settings. No pin and no lock is held. */
static void
nap(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

static bool
too_long_since(uint64 time)
{
	return lb_now_ns() - time > (uint64) node_timeout_ms * GIVE_UP_TIMEOUTS * NS_PER_MS;
}

/* Half of the comm buffers are left to server processes, whose evictions would have to wait. */
static bool
has_room(void)
{
	return CommBufferFree() > CommBufferCount() / 2;
}

/*
 * Would a flush end soon? A page that is dirty on a node can go nowhere else, and waits, locked, while that node does not answer. Without a node to go
 * to, or when too much is dirty, pages go to their files, and their older versions have to go there first.
 */
static bool
nodes_take_pages(void)
{
	bool any = false;

	for (int i = 0; i < NodeTableCount(); i++)
	{
		bool up = NodeTableState(i) == NODE_UP;

		if (!up && PageDirectoryDirtyOfNode(i) > 0)
			return false;
		any = any || (up && WriteBackNode(i));
	}
	return any && !PagePushTooManyDirty();
}

/* In how many milliseconds to look again whether pages may be flushed; 0: they may. */
static long
hold_ms(void)
{
	if (!nodes_take_pages())
		return NODES_MS;
	return has_room() ? 0 : ROOM_MS;
}

/* How many of the pages should have been flushed by now? At least one more than none. */
static uint32
due(const Round *round)
{
	uint64 elapsed = lb_now_ns() - round->began;

	if (elapsed >= round->spread)
		return round->count;
	return (uint32) ((double) elapsed / round->spread * round->count) + 1;
}

/*
 * Flush some of the pages, up to this many done. In the first pass those whose WAL is not durable are put off: they move to the
 * front of the list.
 */
static void
flush_slice(Round *round, uint32 until, bool first_pass)
{
	XLogRecPtr durable = first_pass ? GetFlushRecPtr(NULL) : InvalidXLogRecPtr;

	until = Min(Min(until, round->count), round->done + SLICE_PAGES);
	while (round->done < until && hold_ms() == 0 && !ShutdownRequestPending)
	{
		Buffer buffer = listed[round->done];
		XLogRecPtr lsn;

		if (LB_FAULT("tier1.flush"))
			ereport(ERROR, (errmsg("legobase: fault point \"%s\"", "tier1.flush")));
		switch (LocalPoolFlush(buffer, durable, &lsn))
		{
			case LOCAL_FLUSHED:
				round->flushed++;
				break;
			case LOCAL_WAL_FIRST:
				listed[round->later++] = buffer;
				round->wal = Max(round->wal, lsn);
				break;
			case LOCAL_CLEAN:
				break;
		}
		round->done++;
	}
}

/* Flush all listed pages: in time with the clock, as long as nobody has to wait for that. */
static Outcome
flush_listed(Round *round, bool first_pass)
{
	uint64 progress = lb_now_ns();

	while (round->done < round->count)
	{
		uint32 until = first_pass ? due(round) : round->count;
		uint32 done = round->done;

		if (ShutdownRequestPending || !WriteBackActive())
			return DROPPED;
		flush_slice(round, until, first_pass);
		note_progress(round);
		if (round->done > done)
			progress = lb_now_ns();
		else if (too_long_since(progress))
			return GIVEN_UP;
		if (round->done < until)
			nap(hold_ms());
		else if (round->done < round->count)
			nap(SLICE_MS);
	}
	return COMPLETED;
}

static Outcome
flush_dirty(Round *round)
{
	Outcome outcome = flush_listed(round, true);

	if (outcome != COMPLETED || round->later == 0)
		return outcome;
	XLogFlush(round->wal);
	round->count = round->later;
	round->done = round->later = 0;
	return flush_listed(round, false);
}

/*
 * Wait until every push that was linked before now has been answered. What was flushed by us, and what others flushed since the round began, is
 * among them.
 */
static Outcome
wait_for_answers(Round *round)
{
	uint64 began = lb_now_ns();
	uint64 version = PageDirectoryNextVersion();
	uint32 count = 0;
	long ms = 1;

	pg_memory_barrier();
	for (uint32 i = 0; i < CommBufferCount(); i++)
	{
		if (CommBufferMayHoldOlder(i, version))
			unanswered[count++] = i;
	}
	while (count > 0 && !ShutdownRequestPending && !too_long_since(began))
	{
		uint32 left = 0;

		nap(ms);
		ms = Min(2 * ms, ANSWER_MS_MAX);
		for (uint32 i = 0; i < count; i++)
		{
			if (CommBufferMayHoldOlder(unanswered[i], version))
				unanswered[left++] = unanswered[i];
		}
		count = left;
	}
	round->waited = lb_now_ns() - began;
	if (count == 0)
		return COMPLETED;
	return ShutdownRequestPending ? DROPPED : GIVEN_UP;
}

static void
checkpoint(void)
{
	Round round = {.began = lb_now_ns(), .spread = (uint64) tier1_interval_ms * NS_PER_MS / 2};
	XLogRecPtr lsn = GetXLogInsertRecPtr();
	Outcome outcome;

	last_began = round.began;
	round.count = round.pages = LocalPoolListDirty(listed);
	outcome = flush_dirty(&round);
	if (outcome == COMPLETED)
		outcome = wait_for_answers(&round);
	if (outcome == COMPLETED)
	{
		(void) LB_FAULT("tier1.acknowledged");
		ControlRecordSetTier1(lsn);
		(void) LB_FAULT("tier1.told");
	}
	note_end(&round, outcome, lsn);
	pgstat_report_wal(false);
}

/* The writing itself must stay cheap, however large shared_buffers is. */
static void
write_list(void)
{
	uint64 began = lb_now_ns();
	uint64 now;

	(void) WarmUpWriteList();
	now = lb_now_ns();
	next_list = now + Max(LIST_MS * NS_PER_MS, (now - began) * LIST_COST);
}

/* Do what is due; returns how long there is nothing to do. */
static long
serve(void)
{
	uint64 next = next_list;
	bool warm_up_started = WarmUpStart();

	MemoryContextReset(round_context);
	if (lb_now_ns() >= next_list)
		write_list();
	if (tier1_interval_ms > 0)
	{
		uint64 interval = (uint64) tier1_interval_ms * NS_PER_MS;
		uint64 round_due = last_began + interval;

		if (!WriteBackActive())
			return INACTIVE_MS;
		if (lb_now_ns() >= round_due)
		{
			checkpoint();
			round_due = last_began + interval;
		}
		next = Min(next, round_due);
	}
	return Max(1, Min(lb_ms_until(next), warm_up_started ? LIST_MS : INACTIVE_MS));
}

/* What an aborted transaction would do, as far as this process can have anything. */
static void
let_go(void)
{
	error_context_stack = NULL;
	HOLD_INTERRUPTS();
	EmitErrorReport();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	AbortBufferIO();
	UnlockBuffers();
	ReleaseAuxProcessResources(false);
	AtEOXact_Buffers(false);
	AtEOXact_SMgr();
	AtEOXact_Files(false);
	AtEOXact_HashTables(false);
	MemoryContextSwitchTo(round_context);
	FlushErrorState();
	MemoryContextReset(round_context);
	RESUME_INTERRUPTS();
	smgrcloseall();

	note_failure();
	note_progress(&(Round){.count = 0});
	nap(AFTER_ERROR_MS);
}

void
Tier1CheckpointerMain(Datum arg)
{
	sigjmp_buf after_error;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	CreateAuxProcessResourceOwner();
	listed = MemoryContextAllocHuge(TopMemoryContext, (Size) NBuffers * sizeof(Buffer));
	unanswered = MemoryContextAlloc(TopMemoryContext, CommBufferCount() * sizeof(uint32));
	round_context = AllocSetContextCreate(TopMemoryContext, "legobase tier-1 checkpointer",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(round_context);
	next_list = lb_now_ns() + LIST_MS * NS_PER_MS;
	if (sigsetjmp(after_error, 1) != 0)
		let_go();
	PG_exception_stack = &after_error;

	while (!ShutdownRequestPending)
		nap(serve());
	WarmUpWriteFinalList();

	/* Not 0: whoever ends it by hand wants it restarted, and the postmaster knows when it shuts down. */
	proc_exit(1);
}

void
Tier1Register(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS,
		.bgw_start_time = BgWorkerStart_RecoveryFinished,
		.bgw_restart_time = RESTART_SECONDS,
	};

	strlcpy(worker.bgw_name, "legobase tier-1 checkpointer", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "legobase tier-1 checkpointer", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "legobase", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "Tier1CheckpointerMain", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
