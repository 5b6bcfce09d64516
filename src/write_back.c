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
	bool fsync_at_start;
	pg_atomic_uint32 proven_nodes;
	pg_atomic_uint32 flush_wanted;
	NodeFlushing nodes[MAX_NODES];
} WriteBack;

static WriteBack *shared;

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
	shared->fsync_at_start = enableFsync;
	pg_atomic_init_u32(&shared->proven_nodes, 0);
	pg_atomic_init_u32(&shared->flush_wanted, 0);
	for (int i = 0; i < MAX_NODES; i++)
	{
		pg_atomic_init_u32(&shared->nodes[i].proven, 0);
		SpinLockInit(&shared->nodes[i].lock);
	}
}

bool
WriteBackFsyncAtStart(void)
{
	return shared->fsync_at_start;
}

bool
WriteBackPossible(const char **reason)
{
	const char *why = NULL;

	if (write_mode == WRITE_MODE_WRITETHROUGH)
		why = "legobase.write_mode is writethrough";
	else if (!shared->fsync_at_start)
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

bool
WriteBackNoteFlushState(int node, const lb_flush_state *state)
{
	NodeFlushing *flushing = &shared->nodes[node];
	uint64 now = lb_now_ns();
	bool sync_failed;

	SpinLockAcquire(&flushing->lock);
	sync_failed = new_sync_failure(flushing, state);
	flushing->progress.error_number += new_failures(flushing, state);
	flushing->progress.pages_per_second = new_rate(flushing, state, now);
	flushing->progress.state = *state;
	flushing->heard = true;
	flushing->time_ns = now;
	SpinLockRelease(&flushing->lock);
	return sync_failed;
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
