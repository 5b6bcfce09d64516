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
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pidfile.h"
#include "utils/wait_event.h"

#include "buffer_agent.h"
#include "checkpoint_sync.h"
#include "comm_buffer.h"
#include "compat.h"
#include "control_record.h"
#include "embedded_node.h"
#include "lb_clock.h"
#include "node_link.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_fence.h"
#include "pool_reload.h"
#include "pool_size.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"
#include "write_back.h"

#define RESTART_SECONDS 1
#define TICK_MS 200        /* between looks at time limits */
#define STANDSTILL_MS 500  /* a longer pause between two ticks is our own, not the nodes' */
#define BUSY_TICK_MS 10    /* while slots are being drained, or a node is suspect */
#define RELEASE_SCAN 65536 /* entries looked at in one tick for slots to release */
#define FLUSH_MS 20 /* between looks at what flushing waits for, while somebody waits for it */
#define FLUSH_WISH_MS 1500 /* who waits asks each second */

static Instance instance;
static NodeLink links[MAX_NODES];
static int link_count;
static MemoryContext loop_context;
static bool is_agent = false;
static uint64 next_tick;

/*
 * The agent ends, by a signal or an error. Everything stays as it is, in shared memory and at the nodes: its successor, or
 * the checkpointer at shutdown, goes on with it.
 */
static void
agent_exit(int code, Datum arg)
{
	for (int i = 0; i < link_count; i++)
		NodeLinkShutdown(&links[i]);
	/* Last: from here on the checkpointer may be the agent, and give comm buffers to other pages. */
	CommBufferSetAgent(NULL);
}

static void
recover_push(uint32 buffer, uint32 entry)
{
	lb_slot_ref slot;

	NodeLinkRecoverPush(&links[SlabTableSlot(entry, &slot)], buffer, entry);
}

/* Become the agent. False if the identity of this instance is not to be had. */
static bool
become_agent(lb_status *status)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	const lb_uri *uris;
	bool good;
	bool life_wanted;

	/* Should a host name have to be looked up: a resolver that does not answer must not hold us up for long. */
	setenv("RES_OPTIONS", "timeout:1 attempts:1", 0);
	good = InstanceLoad(&instance, status);
	if (good)
	{
		link_count = NodeTableCount();
		if (settings_embedded())
			uris = embedded_node_uri();
		else
			settings_node_uris(&uris);
		life_wanted = PoolReloadBegin(IsBackgroundWorker);
		for (int i = 0; i < link_count; i++)
			NodeLinkInit(&links[i], i, &uris[i], &instance, life_wanted);
		CommBufferRecover(recover_push);
		before_shmem_exit(agent_exit, (Datum) 0);
		CommBufferSetAgent(MyLatch);
		loop_context = AllocSetContextCreate(TopMemoryContext, "legobase buffer agent",
											 ALLOCSET_DEFAULT_SIZES);
		is_agent = true;
	}
	MemoryContextSwitchTo(caller);
	return good;
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

/* Send the fences that server processes have asked for, and tell those whose fence every node has confirmed. */
static void
send_fences(void)
{
	lb_fence fence;
	uint64 serial;
	int request = -1;

	while (PageFenceNextPosted(&request, &fence, &serial))
	{
		bool confirmed = true;

		for (int i = 0; i < link_count; i++)
			confirmed = NodeLinkFence(&links[i], request, serial, &fence) && confirmed;
		if (confirmed)
			PageFenceDone(request, serial);
	}
}

/* Have the nodes flush, while somebody waits for it. True while it has to be looked at again soon. */
static bool
request_flushing(uint64 now)
{
	static uint64 wanted_until;
	bool wanted = WriteBackFlushWanted();

	/* Processes come to know of a new mode one after the other: some still write back after the flush that was asked for then. */
	wanted = wanted || (write_mode == WRITE_MODE_WRITETHROUGH && PageDirectoryDirty() > 0);
	if (wanted)
	{
		WriteBackFlushDone();
		wanted_until = now + FLUSH_WISH_MS * UINT64_C(1000000);
	}
	else /* not for what has become dirty since */
		wanted = now < wanted_until && PageDirectoryOlderDirty() > 0;
	for (int i = 0; i < link_count; i++)
	{
		if (wanted)
			NodeLinkWishFlush(&links[i], now);
		NodeLinkFlush(&links[i], now);
	}
	return now < wanted_until;
}

/* How busy storage is with reads, as this server feels it: nodes hold their flushing back accordingly. */
static void
report_storage_load(void)
{
	static uint64 last_reads;
	static uint64 last_ns;
	uint64 reads = StatsGet(STAT_STORAGE_READS);
	uint64 ns = StatsGetReadTime(TIER_STORAGE);
	lb_storage_load load = {.reads = 0};

	/* Less than before: the statistics were reset. */
	if (reads > last_reads && ns >= last_ns)
	{
		load.reads = (uint32) Min(reads - last_reads, PG_UINT32_MAX);
		load.read_us = (uint32) Min((ns - last_ns) / (reads - last_reads) / 1000, PG_UINT32_MAX);
	}
	last_reads = reads;
	last_ns = ns;
	for (int i = 0; i < link_count; i++)
		NodeLinkStorageLoad(&links[i], &load);
}

/* Name checkpoints to the nodes. Returns in how many milliseconds there is more to do, at most wait_ms. */
static long
tell_checkpoints(uint64 now, long wait_ms)
{
	uint64 serial = ControlRecordSerial();
	bool told = true;

	for (int i = 0; i < link_count; i++)
	{
		int due_ms = NodeLinkTell(&links[i], now);

		if (due_ms >= 0)
			wait_ms = Min(wait_ms, due_ms);
		told = told && NodeLinkTold(&links[i], serial);
	}
	if (told)
		ControlRecordTold(serial);
	return wait_ms;
}

/* Processes that read over tcp what should be read by rdma may not say so themselves. */
static void
report_fallbacks(void)
{
	char reason[NODE_ERROR_MAX];

	for (int i = 0; i < link_count; i++)
	{
		if (NodeTableTakeFallback(i, reason))
			ereport(LOG, (errmsg("legobase: memory node \"%s\" is read over TCP by some processes",
								 NodeTableUri(i)),
						  errdetail("No RDMA connection could be made: %s.", reason),
						  errhint("legobase_nodes.tcp_fallbacks counts them. Each tries again "
								  "within a minute.")));
	}
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
	report_fallbacks();
	for (int i = 0; i < link_count; i++)
	{
		/* At shutdown there is no use in a node that has nothing of ours. */
		if (IsBackgroundWorker || links[i].state != LINK_WAITING)
			NodeLinkTick(&links[i], now);
	}
	busy = !PoolReloadRunning() && PoolSizeTick(links, link_count, now);
	for (int i = 0; i < link_count; i++)
	{
		bool wanted_soon = links[i].state == LINK_DRAINING || links[i].state == LINK_CONNECTING ||
						   links[i].state == LINK_RESUMING || links[i].state == LINK_RELOADING ||
						   NodeTableState(i) == NODE_SUSPECT;

		busy = busy || wanted_soon || (links[i].state == LINK_WAITING && links[i].failures < 4);
	}
	return busy ? BUSY_TICK_MS : TICK_MS;
}

/*
 * How many pages may server processes queue before they wake us? 0: as many as they like, while every node has as many messages as it may have.
 * *timeout_ms: when that has to be asked again.
 */
static uint32
pages_to_wake_at(long *timeout_ms)
{
	uint32 least = 0;

	for (int i = 0; i < link_count; i++)
	{
		uint64 until;
		uint32 pages = NodeLinkPagesAwaited(&links[i], &until);

		if (until != 0)
			*timeout_ms = Min(*timeout_ms, lb_ms_until(until));
		if (pages > 0 && (least == 0 || pages < least))
			least = pages;
	}
	return least;
}

static void
add_sockets(WaitEventSet *set, NodeLink *link)
{
	LinkSocket sockets[LINK_SOCKETS_MAX];
	int count = NodeLinkSockets(link, sockets);

	for (int i = 0; i < count; i++)
		AddWaitEventToSet(set, sockets[i].events, sockets[i].socket, NULL, link);
}

/* Sleep until there is something to do, and receive. */
static void
wait_for_work(long timeout_ms)
{
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, LINK_SOCKETS_MAX * MAX_NODES + 2);
	WaitEvent events[LINK_SOCKETS_MAX * MAX_NODES + 2];
	uint32 wake_at = pages_to_wake_at(&timeout_ms);
	int count;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	/* The checkpointer finds that out by itself: exit_without_postmaster(). */
	if (IsBackgroundWorker)
		AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < link_count; i++)
		add_sockets(set, &links[i]);

	if (wake_at > 0 && CommBufferAgentSleeps(wake_at))
		timeout_ms = 0;
	count = WaitEventSetWait(set, timeout_ms, events, lengthof(events), PG_WAIT_EXTENSION);
	(void) CommBufferAgentSleeps(0);
	FreeWaitEventSet(set);

	for (int i = 0; i < count; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (events[i].user_data)
			NodeLinkReady(events[i].user_data, events[i].events);
	}
}

/* The agent's work: do what there is to do, then sleep until there is more, at most so long. */
static void
serve(long wait_ms)
{
	static uint64 next_second = 0;
	static long interval = 0;
	uint64 now = lb_now_ns();
	MemoryContext caller = MemoryContextSwitchTo(loop_context);

	MemoryContextReset(loop_context);
	if (ControlRecordKept())
		(void) CheckpointSyncRegister(); /* until there is room for it */
	WriteBackPanicIfAsked();
	distribute_pushes();
	send_fences();
	if (now >= next_tick)
	{
		interval = tick();
		next_tick = now + (uint64) interval * 1000000;
	}
	if (PoolReloadRunning())
		wait_ms = Min(wait_ms, PoolReloadStep(links, link_count, now));
	else
	{
		if (now >= next_second)
		{
			release_slots();
			report_storage_load();
			next_second = now + UINT64_C(1000000000);
		}
		if (request_flushing(now))
			wait_ms = Min(wait_ms, FLUSH_MS);
		wait_ms = tell_checkpoints(now, wait_ms);
	}
	wait_for_work(Min(wait_ms, lb_ms_until(next_tick)));
	MemoryContextSwitchTo(caller);
}

/* Does the postmaster end the server? It tells nobody but the readers of its lock file. */
static bool
server_stops(void)
{
	FILE *file = AllocateFile(SERVER_LOCK_FILE, PG_BINARY_R);
	char line[MAXPGPATH];
	int number = 0;

	if (file == NULL)
		return false;
	while (number < LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof(line), file))
		number++;
	FreeFile(file);
	return number == LOCK_FILE_LINE_PM_STATUS &&
		   strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
}

/* Is there a process that may write or drop pages? Not counting the checkpointer, which helps itself (BufferAgentAssist). */
static bool
others_work(void)
{
	bool found = false;
	int count = pgstat_fetch_stat_numbackends();

	for (int i = 1; i <= count && !found; i++)
	{
		switch (pgstat_fetch_stat_local_beentry(i)->backendStatus.st_backendType)
		{
			case B_BACKEND:
			case B_AUTOVAC_WORKER:
			case B_BG_WORKER:
			case B_BG_WRITER:
			case B_STARTUP:
				found = true;
				break;
			default:
				break;
		}
	}
	pgstat_clear_backend_activity_snapshot();
	return found;
}

/*
 * All background workers get their SIGTERM together with the server's other processes, of which some then abort transactions, and
 * drop files: who waits for a fence then must not wait in vain. So the agent is the last to go.
 */
static bool
may_end(void)
{
	return ShutdownRequestPending && !PoolReloadRunning() && !(server_stops() && others_work());
}

void
BufferAgentMain(Datum arg)
{
	lb_status status;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	if (!become_agent(&status))
	{
		(void) PoolReloadBegin(false); /* nobody need wait for what can't be had */
		ereport(ERROR, (errcode(ERRCODE_IO_ERROR), errmsg("legobase: %s", status.message),
						errdetail("The identity of this instance is kept there. The server runs "
								  "without remote memory until it can be.")));
	}

	while (!may_end())
	{
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			next_tick = 0;
		}
		serve(ShutdownRequestPending ? BUSY_TICK_MS : TICK_MS);
	}

	/* Not 0: whoever ends the agent by hand wants it restarted, and the postmaster knows when it shuts down. */
	proc_exit(1);
}

/* Is this the checkpointer of a server that shuts down, and the agent gone? Then this process becomes it, once. */
static bool
is_stand_in(void)
{
	static bool failed = false;
	lb_status status;

	if (is_agent)
		return true;
	if (failed || !AmCheckpointerProcess() || !ShutdownRequestPending || CommBufferHasAgent())
		return false;
	failed = !become_agent(&status);
	if (failed)
		ereport(LOG, (errmsg("legobase: %s", status.message),
					  errdetail("The checkpointer can't talk to memory nodes without it.")));
	return !failed;
}

/* Without a postmaster the agent ends, and nobody starts another: what is waited for never comes, and the next server waits for us. */
void
exit_without_postmaster(void)
{
	if (!IsUnderPostmaster || PostmasterIsAlive())
		return;
	if (CritSectionCount > 0)
		ereport(PANIC, (errcode(ERRCODE_ADMIN_SHUTDOWN),
						errmsg("legobase: the postmaster ended while pages were being removed")));
	proc_exit(1);
}

void
BufferAgentAssist(int wait_ms)
{
	exit_without_postmaster();
	if (CritSectionCount == 0 && is_stand_in())
		serve(wait_ms);
	else
		pg_usleep(wait_ms * 1000L);
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
