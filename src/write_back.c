/*
 * write_back.c
 *	  May pages be written back just now? What all processes of the server know about it.
 *
 * Whether a node is proven is read for each page that is written, so these are atomics. What nodes say of their flushing is
 * copied under a spinlock.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "lb_clock.h"
#include "settings.h"
#include "write_back.h"

typedef struct NodeFlushing
{
	pg_atomic_uint32 proven;
	slock_t lock; /* for what follows */
	FlushProgress progress;
	bool heard;     /* since the node was proven */
	uint64 time_ns; /* of the last message */
} NodeFlushing;

typedef struct WriteBack
{
	pg_atomic_uint32 proven_nodes;
	pg_atomic_uint32 flush_wanted;
	pg_atomic_uint32 panic_asked; /* by the startup process, of the agent ... */
	char panic_reason[400];       /* ... for this */
	NodeFlushing nodes[MAX_NODES];
} WriteBack;

static WriteBack *shared;

/*
 * The postmaster's, and inherited: the logging collector asks too, at a reload, and it has no shared memory. It is taken when shared memory is
 * made, which after a crash finds what was in force before: it can't have been turned off meanwhile.
 */
static bool fsync_at_start;

Size
WriteBackShmemSize(void)
{
	return sizeof(WriteBack);
}

void
WriteBackShmemInit(void)
{
	bool found;

	shared = ShmemInitStruct("legobase write-back", sizeof(WriteBack), &found);
	if (found)
		return;
	memset(shared, 0, sizeof(WriteBack));
	fsync_at_start = enableFsync;
	pg_atomic_init_u32(&shared->proven_nodes, 0);
	pg_atomic_init_u32(&shared->flush_wanted, 0);
	pg_atomic_init_u32(&shared->panic_asked, 0);
	for (int i = 0; i < MAX_NODES; i++)
	{
		pg_atomic_init_u32(&shared->nodes[i].proven, 0);
		SpinLockInit(&shared->nodes[i].lock);
	}
}

bool
WriteBackFsyncAtStart(void)
{
	return fsync_at_start;
}

bool
WriteBackPossible(const char **reason)
{
	const char *why = NULL;

	if (write_mode == WRITE_MODE_WRITETHROUGH)
		why = "legobase.write_mode is writethrough";
	else if (!fsync_at_start)
		why = "fsync was off when the server started";
	else if (wal_level == WAL_LEVEL_MINIMAL)
		why = "wal_level is minimal";
	if (reason)
		*reason = why;
	return why == NULL;
}

bool
WriteBackActive(void)
{
	return pg_atomic_read_u32(&shared->proven_nodes) != 0 && write_mode != WRITE_MODE_WRITETHROUGH;
}

bool
WriteBackNode(int node)
{
	return pg_atomic_read_u32(&shared->nodes[node].proven) != 0;
}

void
WriteBackSetNode(int node, bool proven)
{
	NodeFlushing *flushing = &shared->nodes[node];

	if (WriteBackNode(node) == proven)
		return;
	if (proven)
	{
		SpinLockAcquire(&flushing->lock);
		flushing->heard = false;
		SpinLockRelease(&flushing->lock);
	}
	pg_atomic_write_u32(&flushing->proven, proven ? 1 : 0);
	if (proven)
		pg_atomic_fetch_add_u32(&shared->proven_nodes, 1);
	else
		pg_atomic_fetch_sub_u32(&shared->proven_nodes, 1);
}

/*
 * Rounds that failed since the last message. The node's count goes on over our restarts, and begins anew with the node's: the
 * first message is compared with nothing.
 */
static uint64
new_failures(const NodeFlushing *flushing, const lb_flush_state *state)
{
	if (flushing->heard && state->failures >= flushing->progress.state.failures)
		return state->failures - flushing->progress.state.failures;
	return state->error[0] != '\0' ? 1 : 0;
}

/* Over about four messages. Nodes send them each second while they write: a longer pause says nothing about how fast they can. */
#define PAUSE_NS UINT64_C(2500000000)

static double
new_rate(const NodeFlushing *flushing, const lb_flush_state *state, uint64 now)
{
	double rate = flushing->progress.pages_per_second;
	double sample;

	if (!flushing->heard || now <= flushing->time_ns || now - flushing->time_ns > PAUSE_NS ||
		state->flushed_pages <= flushing->progress.state.flushed_pages)
		return rate;
	sample = (double) (state->flushed_pages - flushing->progress.state.flushed_pages) * 1e9 /
			 (double) (now - flushing->time_ns);
	return rate == 0 ? sample : rate + (sample - rate) / 4;
}

/* The same for syncs. In the first message it is surely a new one if nothing failed before. */
static bool
new_sync_failure(const NodeFlushing *flushing, const lb_flush_state *state)
{
	if (flushing->heard && state->sync_failures >= flushing->progress.state.sync_failures)
		return state->sync_failures > flushing->progress.state.sync_failures;
	return state->error[0] != '\0' && state->sync_failures > 0 && state->failures == 1;
}

FlushNews
WriteBackNoteFlushState(int node, const lb_flush_state *state)
{
	NodeFlushing *flushing = &shared->nodes[node];
	uint64 now = lb_now_ns();
	FlushNews news = FLUSH_NEWS_NONE;

	SpinLockAcquire(&flushing->lock);
	if (flushing->heard && state->damaged_pages > flushing->progress.state.damaged_pages)
		news = FLUSH_NEWS_DAMAGED;
	else if (new_sync_failure(flushing, state))
		news = FLUSH_NEWS_SYNC_FAILED;
	flushing->progress.error_number += new_failures(flushing, state);
	flushing->progress.pages_per_second = new_rate(flushing, state, now);
	flushing->progress.state = *state;
	flushing->heard = true;
	flushing->time_ns = now;
	SpinLockRelease(&flushing->lock);
	return news;
}

void
WriteBackGetFlushProgress(int node, FlushProgress *progress)
{
	NodeFlushing *flushing = &shared->nodes[node];

	SpinLockAcquire(&flushing->lock);
	*progress = flushing->progress;
	SpinLockRelease(&flushing->lock);
}

void
WriteBackRequestFlush(void)
{
	if (pg_atomic_exchange_u32(&shared->flush_wanted, 1) == 0)
		CommBufferWakeAgent();
}

bool
WriteBackFlushWanted(void)
{
	return pg_atomic_read_u32(&shared->flush_wanted) != 0;
}

void
WriteBackFlushDone(void)
{
	pg_atomic_exchange_u32(&shared->flush_wanted, 0);
}

static void
panic(const char *reason)
{
	ereport(PANIC,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("legobase: %s", reason),
			 errdetail("The server restarts by itself and recovers from WAL. Nothing that was "
					   "committed is lost."),
			 errhint("Look at the logs of the memory nodes, and at their machines.")));
}

void
WriteBackPanic(const char *reason)
{
	if (!AmStartupProcess())
		panic(reason);
	strlcpy(shared->panic_reason, reason, sizeof(shared->panic_reason));
	pg_memory_barrier();
	pg_atomic_write_u32(&shared->panic_asked, 1);
	CommBufferWakeAgent();
	for (;;)
		BufferAgentAssist(100);
}

void
WriteBackPanicIfAsked(void)
{
	if (pg_atomic_read_u32(&shared->panic_asked) == 0)
		return;
	pg_memory_barrier();
	panic(shared->panic_reason);
}
