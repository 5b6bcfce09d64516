/*
 * buffer_agent.c
 *	  The buffer agent: the background worker that talks to the memory nodes.
 *
 * One loop around one WaitEventSet. Nothing in it blocks, except the resolver for nodes that are named by host name.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "buffer_agent.h"
#include "comm_buffer.h"
#include "embedded_node.h"
#include "lb_clock.h"
#include "node_link.h"
#include "node_table.h"
#include "page_directory.h"
#include "pool_size.h"
#include "settings.h"
#include "slab_table.h"

#define RESTART_SECONDS 5
#define TICK_MS 200        /* between looks at time limits */
#define STANDSTILL_MS 500  /* a longer pause between two ticks is our own, not the nodes' */
#define BUSY_TICK_MS 10    /* while slots are being drained, or a node is suspect */
#define RELEASE_SCAN 65536 /* entries looked at in one tick for slots to release */

static Instance instance;
static NodeLink links[MAX_NODES];
static int link_count;

/* The agent ends, by a signal or an error: nobody may go on as if pushes were taken. */
static void
agent_exit(int code, Datum arg)
{
	CommBufferSetAgent(NULL);
	for (int i = 0; i < link_count; i++)
		NodeLinkShutdown(&links[i]);
}

static void
end_as_failed(uint32 entry)
{
	PageDirectoryPushEnded(entry, false);
}

/* Make all slabs unused that an agent before us has left. False while some of their slots are in use. */
static bool
drain_all(void)
{
	uint32 pages = SlabTablePages();
	bool drained = true;

	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		if (SlabTableState(slab) == SLAB_ACTIVE)
			SlabTableDrain(slab);
		if (SlabTableState(slab) != SLAB_DRAINING)
			continue;
		(void) PageDirectoryForgetRange(slab * pages, (slab + 1) * pages);
		if (SlabTableDrained(slab))
			SlabTableRemove(slab);
		else
			drained = false;
	}
	return drained;
}

/*
 * An agent before us may have ended in an error, and left pushes and slabs behind. A process that was about to queue a push
 * then may do it at any time later, so the queue is looked at again and again.
 */
static void
clear_leftovers(void)
{
	uint32 buffers[LB_BATCH_MAX];
	uint32 entries[LB_BATCH_MAX];

	for (;;)
	{
		while (CommBufferTakeQueued(LB_BATCH_MAX, buffers, entries) > 0)
			; /* they count as sent now */
		CommBufferRecover(end_as_failed);
		if (drain_all())
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, BUSY_TICK_MS,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ShutdownRequestPending)
			proc_exit(1);
	}
}

static void
initialize(void)
{
	const lb_uri *uris;
	lb_status status;

	/* Should a host name have to be looked up: a resolver that does not answer must not hold us up for long. */
	setenv("RES_OPTIONS", "timeout:1 attempts:1", 0);
	if (!InstanceLoad(&instance, &status))
		ereport(ERROR, (errcode(ERRCODE_IO_ERROR), errmsg("legobase: %s", status.message),
						errdetail("The identity of this instance is kept there. The server runs "
								  "without remote memory until it can be.")));
	clear_leftovers();
	link_count = NodeTableCount();
	if (settings_embedded())
		uris = embedded_node_uri();
	else
		settings_node_uris(&uris);
	for (int i = 0; i < link_count; i++)
	{
		NodeTableSetState(i, NODE_DOWN);
		NodeLinkInit(&links[i], i, &uris[i], &instance);
	}
	before_shmem_exit(agent_exit, (Datum) 0);
	CommBufferSetAgent(MyLatch);
}

/* Take what was queued by server processes to the links, and send it. */
static void
distribute_pushes(void)
{
	uint32 buffers[LB_BATCH_MAX];
	uint32 entries[LB_BATCH_MAX];
	uint32 count;

	while ((count = CommBufferTakeQueued(LB_BATCH_MAX, buffers, entries)) > 0)
	{
		for (uint32 i = 0; i < count; i++)
		{
			lb_slot_ref slot;

			NodeLinkQueuePush(&links[SlabTableSlot(entries[i], &slot)], buffers[i], entries[i]);
		}
	}
	for (int i = 0; i < link_count; i++)
		NodeLinkSendPushes(&links[i]);
}

static void
send_releases(lb_release_batch batches[])
{
	for (int i = 0; i < link_count; i++)
	{
		if (batches[i].count > 0)
			NodeLinkRelease(&links[i], &batches[i]);
		batches[i].count = 0;
	}
}

/*
 * Tell nodes which slots hold nothing of worth any more, so that their figures are right. A part of the directory at each
 * tick; a slot that is used again before it was told needs no telling.
 */
static void
release_slots(void)
{
	static lb_release_batch batches[MAX_NODES];
	static uint32 position;
	uint32 total = SlabTableEntries();

	for (uint32 i = 0; i < Min(total, RELEASE_SCAN); i++, position++)
	{
		uint32 entry = position % total;
		uint64 version;
		lb_slot_ref slot;
		lb_release_batch *batch;
		int node;

		if (SlabTableStateOfEntry(entry) != SLAB_ACTIVE)
			continue;

		/* A node that is busy hears of it later: this must never fill up its connection. */
		node = SlabTableSlot(entry, &slot);
		if (!NodeLinkIdle(&links[node]))
			break;
		if (!PageDirectoryTakeRelease(entry, &version))
			continue;
		batch = &batches[node];
		batch->slots[batch->count] = slot;
		batch->versions[batch->count] = version;
		if (++batch->count == LB_BATCH_MAX)
			send_releases(batches);
	}
	send_releases(batches);
}

/* The time-driven part of the loop. Returns how long it may sleep. */
static long
tick(void)
{
	static uint64 last_tick;
	uint64 now = lb_now_ns();
	bool busy;

	if (last_tick != 0 && now > last_tick + STANDSTILL_MS * UINT64_C(1000000))
	{
		for (int i = 0; i < link_count; i++)
			NodeLinkForgive(&links[i], now - last_tick);
	}
	last_tick = now;
	for (int i = 0; i < link_count; i++)
		NodeLinkTick(&links[i], now);
	busy = PoolSizeTick(links, link_count, now);
	for (int i = 0; i < link_count; i++)
	{
		uint32 wanted_soon = links[i].state == LINK_DRAINING || links[i].state == LINK_CONNECTING ||
							 NodeTableState(i) == NODE_SUSPECT;

		busy = busy || wanted_soon || (links[i].state == LINK_WAITING && links[i].failures < 4);
	}
	return busy ? BUSY_TICK_MS : TICK_MS;
}

/* May a server process wake us for each page it queues? Not while every node has as many messages as it may have. */
static bool
can_send(void)
{
	for (int i = 0; i < link_count; i++)
	{
		if (NodeLinkCanSend(&links[i]))
			return true;
	}
	return false;
}

/* Sleep until there is something to do, and receive. */
static void
wait_for_work(long timeout_ms)
{
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, MAX_NODES + 2);
	WaitEvent events[MAX_NODES + 2];
	int count;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < link_count; i++)
	{
		uint32 wanted;
		pgsocket socket = NodeLinkSocket(&links[i], &wanted);

		if (socket != PGINVALID_SOCKET)
			AddWaitEventToSet(set, wanted, socket, NULL, &links[i]);
	}

	if (can_send() && CommBufferAgentSleeps(true))
		timeout_ms = 0;
	count = WaitEventSetWait(set, timeout_ms, events, lengthof(events), PG_WAIT_EXTENSION);
	(void) CommBufferAgentSleeps(false);
	FreeWaitEventSet(set);

	for (int i = 0; i < count; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (events[i].user_data)
			NodeLinkReady(events[i].user_data, events[i].events);
	}
}

void
BufferAgentMain(Datum arg)
{
	MemoryContext loop_context;
	uint64 next_tick = 0;
	uint64 next_release = 0;
	long interval = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	initialize();
	loop_context =
		AllocSetContextCreate(TopMemoryContext, "legobase buffer agent", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(loop_context);

	while (!ShutdownRequestPending)
	{
		uint64 now = lb_now_ns();

		MemoryContextReset(loop_context);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			next_tick = 0;
		}
		distribute_pushes();
		if (now >= next_tick)
		{
			interval = tick();
			next_tick = now + (uint64) interval * 1000000;
		}
		if (now >= next_release)
		{
			release_slots();
			next_release = now + UINT64_C(1000000000);
		}
		wait_for_work(Min(interval, lb_ms_until(next_tick)));
	}

	/* Not 0: whoever ends the agent by hand wants it restarted, and the postmaster knows when it shuts down. */
	proc_exit(1);
}

void
BufferAgentRegister(void)
{
	BackgroundWorker worker = {
		.bgw_flags = BGWORKER_SHMEM_ACCESS,
		.bgw_start_time = BgWorkerStart_PostmasterStart,
		.bgw_restart_time = RESTART_SECONDS,
	};

	strlcpy(worker.bgw_name, "legobase buffer agent", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "legobase buffer agent", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "legobase", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "BufferAgentMain", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
