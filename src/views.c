/*
 * views.c
 *	  The functions behind the views legobase_*, and those that users call. sql/legobase--1.0.sql declares them.
 *
 * Figures are taken one after the other while the server works on: sums of different figures agree exactly only when
 * nothing happens meanwhile.
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "checkpoint_sync.h"
#include "comm_buffer.h"
#include "legobase.h"
#include "node_table.h"
#include "page_directory.h"
#include "pool_gate.h"
#include "redo_skip.h"
#include "remote_smgr.h"
#include "settings.h"
#include "slab_table.h"
#include "stats.h"
#include "tier1_checkpointer.h"
#include "warm_up.h"
#include "write_back.h"

#define NS_PER_MS 1000000.0
#define NS_PER_US 1000.0
#define US_PER_MS 1000.0

#define DRAIN_POLL_MS 2

PG_FUNCTION_INFO_V1(legobase_summary);
PG_FUNCTION_INFO_V1(legobase_nodes);
PG_FUNCTION_INFO_V1(legobase_stat_io);
PG_FUNCTION_INFO_V1(legobase_checkpoints);
PG_FUNCTION_INFO_V1(legobase_recovery);
PG_FUNCTION_INFO_V1(legobase_warm_up);
PG_FUNCTION_INFO_V1(legobase_pages);
PG_FUNCTION_INFO_V1(legobase_latency);
PG_FUNCTION_INFO_V1(legobase_reset_stats);
PG_FUNCTION_INFO_V1(legobase_drain);
PG_FUNCTION_INFO_V1(legobase_evict);

static const char *const tier_names[TIERS] = {
	[TIER_COMM_BUFFER] = "comm_buffer",
	[TIER_REMOTE] = "remote",
	[TIER_STORAGE] = "storage",
};

static const StatCounter tier_reads[TIERS] = {
	[TIER_COMM_BUFFER] = STAT_COMM_BUFFER_HITS,
	[TIER_REMOTE] = STAT_REMOTE_HITS,
	[TIER_STORAGE] = STAT_STORAGE_READS,
};

static const StatCounter tier_writes[TIERS] = {
	[TIER_COMM_BUFFER] = STAT_COMM_BUFFER_WRITES,
	[TIER_REMOTE] = STAT_PUSHED_PAGES,
	[TIER_STORAGE] = STAT_STORAGE_WRITES,
};

static const char *const state_names[] = {
	[NODE_DOWN] = "down",
	[NODE_UP] = "up",
	[NODE_SUSPECT] = "suspect",
	[NODE_LOST] = "lost",
};

static const char *const phase_names[] = {
	[GATE_CLOSED] = "closed",
	[GATE_RELOADING] = "reloading",
	[GATE_OPEN] = "open",
};

static const char *const warm_up_names[] = {
	[WARM_UP_NONE] = "none",
	[WARM_UP_RUNNING] = "running",
	[WARM_UP_DONE] = "done",
};

/* One row being put together; columns are added from left to right. */
#define MAX_COLUMNS 22

typedef struct Row
{
	Datum values[MAX_COLUMNS];
	bool nulls[MAX_COLUMNS];
	int columns;
} Row;

static void
add_value(Row *row, Datum value)
{
	Assert(row->columns < MAX_COLUMNS);
	row->values[row->columns] = value;
	row->nulls[row->columns++] = false;
}

static void
add_null(Row *row)
{
	Assert(row->columns < MAX_COLUMNS);
	row->values[row->columns] = (Datum) 0;
	row->nulls[row->columns++] = true;
}

static void
add_count(Row *row, uint64 count)
{
	add_value(row, Int64GetDatum((int64) count));
}

/* A position in WAL, or a time; null if there is none. */
static void
add_lsn(Row *row, XLogRecPtr lsn)
{
	if (XLogRecPtrIsInvalid(lsn))
		add_null(row);
	else
		add_value(row, LSNGetDatum(lsn));
}

static void
add_time(Row *row, TimestampTz time)
{
	if (time == 0)
		add_null(row);
	else
		add_value(row, TimestampTzGetDatum(time));
}

static void
add_milliseconds(Row *row, uint64 us)
{
	add_value(row, Float8GetDatum((double) us / US_PER_MS));
}

static void
add_text(Row *row, const char *text)
{
	add_value(row, CStringGetTextDatum(text));
}

/*
 * The functions exist in any database with the extension, but the shared memory that they look at only if the library was
 * there when the server started, and not in single-user mode.
 */
static void
require_loaded(void)
{
	if (!legobase_is_loaded())
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("legobase must be loaded via shared_preload_libraries"),
			 errhint("Add \"legobase\" to \"shared_preload_libraries\" and restart the server.")));
	if (!legobase_in_use())
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("legobase is not in use in single-user mode")));
}

/* Begin a set-returning function: its rows go to the ReturnSetInfo that is returned. */
static ReturnSetInfo *
begin_rows(FunctionCallInfo fcinfo)
{
	require_loaded();
	InitMaterializedSRF(fcinfo, 0);
	return (ReturnSetInfo *) fcinfo->resultinfo;
}

/* Hand the row out, and make it empty for the next one. */
static void
put_row(ReturnSetInfo *result, Row *row)
{
	Assert(row->columns == result->setDesc->natts);
	tuplestore_putvalues(result->setResult, result->setDesc, row->values, row->nulls);
	row->columns = 0;
}

/* What happens just now, whatever is set. */
static const char *
effective_write_mode(void)
{
	if (settings_wanted_pages() == 0)
		return "disabled";
	return WriteBackActive() ? "writeback" : "writethrough";
}

static int
nodes_up(void)
{
	int up = 0;

	for (int node = 0; node < NodeTableCount(); node++)
	{
		if (NodeTableState(node) == NODE_UP)
			up++;
	}
	return up;
}

static uint64
pool_pages(void)
{
	uint64 pages = 0;

	for (int node = 0; node < NodeTableCount(); node++)
		pages += SlabTableNodePages(node);
	return pages;
}

Datum
legobase_summary(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	uint64 remote = StatsGet(STAT_REMOTE_HITS);
	uint64 comm_buffer = StatsGet(STAT_COMM_BUFFER_HITS);
	uint64 storage = StatsGet(STAT_STORAGE_READS);
	uint64 reads = remote + comm_buffer + storage;
	Row row = {.columns = 0};

	add_text(&row, effective_write_mode());
	add_value(&row, Int32GetDatum(NodeTableCount()));
	add_value(&row, Int32GetDatum(nodes_up()));
	add_count(&row, pool_pages());
	add_count(&row, PageDirectoryUsed());
	add_count(&row, PageDirectoryDirty());
	add_count(&row, remote);
	add_count(&row, comm_buffer);
	add_count(&row, storage);
	if (reads > 0)
		add_value(&row, Float8GetDatum((double) (remote + comm_buffer) / (double) reads));
	else
		add_null(&row);
	add_count(&row, StatsGet(STAT_PUSHED_PAGES));
	add_count(&row, StatsGet(STAT_DROPPED_PUSHES));
	add_count(&row, StatsGet(STAT_EVICTED_PAGES));
	add_count(&row, StatsGet(STAT_CHECKSUM_FAILURES));
	add_count(&row, StatsGet(STAT_COMPARE_MISMATCHES));
	add_value(&row, TimestampTzGetDatum(StatsResetTime()));
	add_count(&row, StatsGet(STAT_WRITTEN_BACK));
	add_count(&row, StatsGet(STAT_FENCES));
	put_row(result, &row);
	return (Datum) 0;
}

/*
 * An error's text comes from the agent, a memory node or the C library, and was cut to fit: it need not be valid in this
 * database's encoding.
 */
static void
add_error(Row *row, char *text)
{
	if (text[0] == '\0')
	{
		add_null(row);
		return;
	}
	if (!pg_verify_mbstr(GetDatabaseEncoding(), text, strlen(text), true))
	{
		for (char *at = text; *at; at++)
		{
			if (IS_HIGHBIT_SET(*at))
				*at = '?';
		}
	}
	add_text(row, text);
}

static void
add_percentile(Row *row, const uint64 *counts, double percentile)
{
	double ns = lb_histogram_percentile(counts, percentile);

	if (ns > 0)
		add_value(row, Float8GetDatum(ns / NS_PER_US));
	else
		add_null(row);
}

Datum
legobase_nodes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	NodeRow *figures = palloc(sizeof(NodeRow));
	FlushProgress *progress = palloc(sizeof(FlushProgress));
	Row row = {.columns = 0};

	for (int node = 0; node < NodeTableCount(); node++)
	{
		uint32 granted = SlabTableNodePages(node);

		NodeTableGetRow(node, figures);
		WriteBackGetFlushProgress(node, progress);
		add_value(&row, Int32GetDatum(node));
		add_error(&row, figures->uri);
		add_text(&row, lb_transport_name(figures->transport));
		add_text(&row, state_names[figures->state]);
		if (figures->incarnation != 0)
			add_text(&row, psprintf("%016" INT64_MODIFIER "x", figures->incarnation));
		else
			add_null(&row);
		add_count(&row, figures->capacity_pages);
		/* Two figures that change independently: never show less than nothing. */
		add_count(&row, granted - Min(granted, SlabTableNodeFree(node)));
		add_count(&row, PageDirectoryDirtyOfNode(node));
		add_count(&row, figures->reads);
		add_percentile(&row, figures->latency, 50);
		add_percentile(&row, figures->latency, 99);
		add_count(&row, figures->pushes);
		add_count(&row, figures->push_messages);
		add_count(&row, figures->work_requests);
		add_count(&row, figures->doorbells);
		add_count(&row, figures->completions);
		add_count(&row, figures->tcp_fallbacks);
		add_error(&row, figures->last_error[0] ? figures->last_error : progress->state.error);
		put_row(result, &row);
	}
	return (Datum) 0;
}

Datum
legobase_stat_io(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	Row row = {.columns = 0};

	for (int tier = 0; tier < TIERS; tier++)
	{
		add_text(&row, tier_names[tier]);
		add_count(&row, StatsGet(tier_reads[tier]));
		add_value(&row, Float8GetDatum(StatsGetReadTime(tier) / NS_PER_MS));
		add_count(&row, StatsGet(tier_writes[tier]));
		add_value(&row, Float8GetDatum(StatsGetWriteTime(tier) / NS_PER_MS));
		if (tier == TIER_STORAGE)
			add_count(&row, StatsGet(STAT_KERNEL_CACHE_READS));
		else
			add_null(&row);
		put_row(result, &row);
	}
	return (Datum) 0;
}

/*
 * How far the next checkpoint would have to go: the pages that have to come to storage first, how fast that goes in all nodes
 * together, and how long it will take if it goes on like this.
 */
static void
add_pages_waiting(Row *row)
{
	uint32 pages = PageDirectoryDirty();
	double rate = 0;

	for (int node = 0; node < NodeTableCount(); node++)
	{
		FlushProgress progress;

		WriteBackGetFlushProgress(node, &progress);
		rate += progress.pages_per_second;
	}
	add_count(row, pages);
	add_count(row, (uint64) pages * BLCKSZ);
	if (rate > 0)
		add_value(row, Float8GetDatum(rate));
	else
		add_null(row);
	if (rate > 0 || pages == 0)
		add_value(row, Float8GetDatum(pages == 0 ? 0 : pages / rate));
	else
		add_null(row);
}

/* What the checkpoints have waited for storage, since server start. */
static void
add_waits(Row *row)
{
	CheckpointSyncFigures figures;

	CheckpointSyncGetFigures(&figures);
	add_value(row, BoolGetDatum(figures.waiting));
	add_milliseconds(row, figures.waited_us);
	add_count(row, figures.failures);
}

/*
 * Tier 1 is the tier-1 checkpointer's work: all changes up to its position are in remote memory or in the files. Its pages are
 * those of the pass that is under way; that waits when they all are flushed and some are not answered for.
 */
static void
put_tier1(ReturnSetInfo *result, XLogRecPtr now)
{
	Tier1Figures figures;
	uint32 left;
	Row row = {.columns = 0};

	Tier1GetFigures(&figures);
	left = figures.running_pages - Min(figures.running_done, figures.running_pages);
	add_value(&row, Int32GetDatum(1));
	add_lsn(&row, figures.lsn);
	if (XLogRecPtrIsInvalid(figures.lsn))
		add_null(&row);
	else
		add_count(&row, now > figures.lsn ? now - figures.lsn : 0);
	add_count(&row, figures.count);
	add_time(&row, figures.last_time);
	add_count(&row, left);
	add_count(&row, (uint64) left * BLCKSZ);
	add_null(&row); /* it is paced: what it could do is not known */
	add_null(&row);
	add_value(&row, BoolGetDatum(figures.running_pages > 0 && left == 0));
	add_milliseconds(&row, figures.waited_us);
	add_count(&row, figures.failures);
	put_row(result, &row);
}

/*
 * Tier 2 is PostgreSQL's own checkpoint. Its position is the redo point, up to which everything is in the files; its count is
 * the one of pg_stat_bgwriter, requested and timed ones together.
 */
static void
put_tier2(ReturnSetInfo *result, XLogRecPtr now)
{
	PgStat_CheckpointerStats *checkpointer = pgstat_fetch_stat_checkpointer();
	ControlFileData *control;
	bool crc_ok;
	XLogRecPtr redo;
	Row row = {.columns = 0};

	LWLockAcquire(ControlFileLock, LW_SHARED);
	control = get_controlfile(DataDir, &crc_ok);
	LWLockRelease(ControlFileLock);
	if (!crc_ok)
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("the checksum of the server's control file is wrong")));
	redo = control->checkPointCopy.redo;

	add_value(&row, Int32GetDatum(2));
	add_value(&row, LSNGetDatum(redo));
	add_count(&row, now > redo ? now - redo : 0);
	add_count(&row, checkpointer->timed_checkpoints + checkpointer->requested_checkpoints);
	add_value(&row, TimestampTzGetDatum(time_t_to_timestamptz(control->checkPointCopy.time)));
	add_pages_waiting(&row);
	add_waits(&row);
	put_row(result, &row);
}

Datum
legobase_checkpoints(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	XLogRecPtr now = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetXLogInsertRecPtr();

	put_tier1(result, now);
	put_tier2(result, now);
	return (Datum) 0;
}

static void
add_reload(Row *row)
{
	ReloadFigures figures;

	PoolGateGetFigures(&figures);
	add_text(row, phase_names[PoolGatePhase()]);
	add_value(row, Int32GetDatum((int32) figures.nodes));
	add_value(row, Int32GetDatum((int32) figures.nodes_kept));
	add_count(row, figures.pages_listed);
	add_count(row, figures.pages_kept);
	add_count(row, figures.pages_dirty);
	add_count(row, figures.pages_discarded);
	add_count(row, figures.blocks_extended);
	add_lsn(row, figures.tier1);
	add_time(row, figures.started);
	add_milliseconds(row, figures.elapsed_us);
}

static void
add_redo(Row *row)
{
	RedoFigures figures;

	RedoSkipGetFigures(&figures);
	add_text(row, figures.running ? "running" : figures.finished ? "finished" : "none");
	add_count(row, figures.records);
	add_count(row, figures.skipped);
	add_count(row, figures.bytes);
	add_count(row, figures.bytes_skipped);
	add_count(row, figures.compared);
	add_count(row, figures.different);
	add_lsn(row, figures.start);
	add_lsn(row, figures.end);
	add_time(row, figures.started);
	add_milliseconds(row, figures.elapsed_us);
}

/* How this life of the server began: what was kept of remote memory, and what redo did. */
Datum
legobase_recovery(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	Row row = {.columns = 0};

	add_reload(&row);
	add_redo(&row);
	put_row(result, &row);
	return (Datum) 0;
}

Datum
legobase_warm_up(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	WarmUpFigures figures;
	uint64 settled;
	Row row = {.columns = 0};

	WarmUpGetFigures(&figures);
	settled = figures.read + figures.present + figures.skipped;
	add_text(&row, warm_up_names[figures.state]);
	add_count(&row, figures.listed);
	add_count(&row, figures.read);
	add_count(&row, figures.present);
	add_count(&row, figures.skipped);
	/* The figures may be a moment apart from each other. */
	if (figures.listed > 0)
		add_value(&row, Float8GetDatum(Min(100.0 * settled / figures.listed, 100.0)));
	else
		add_null(&row);
	add_time(&row, figures.started);
	add_time(&row, figures.finished);
	put_row(result, &row);
	return (Datum) 0;
}

static void
put_page(ReturnSetInfo *result, uint32 entry, const PageDirectoryRow *page)
{
	lb_slot_ref slot;
	int node = SlabTableSlot(entry, &slot);
	Row row = {.columns = 0};

	add_value(&row, ObjectIdGetDatum(page->tag.tablespace));
	add_value(&row, ObjectIdGetDatum(page->tag.database));
	add_value(&row, ObjectIdGetDatum(page->tag.relation));
	add_value(&row, Int16GetDatum((int16) page->tag.fork));
	add_count(&row, page->tag.block);
	add_value(&row, Int32GetDatum(node));
	add_count(&row, slot.slab);
	add_count(&row, slot.page);
	add_count(&row, page->version);
	add_value(&row, Int32GetDatum((int32) page->usage));
	add_value(&row, Int32GetDatum((int32) page->pins));
	add_text(&row, page->in_flight ? "in flight" : "remote");
	add_value(&row, BoolGetDatum(page->dirty));
	put_row(result, &row);
}

Datum
legobase_pages(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	uint32 pages_in_slab = SlabTablePages();

	for (uint32 slab = 0; slab < SlabTableCount(); slab++)
	{
		CHECK_FOR_INTERRUPTS();
		if (SlabTableState(slab) == SLAB_UNUSED)
			continue;
		for (uint32 page = 0; page < pages_in_slab; page++)
		{
			uint32 entry = slab * pages_in_slab + page;
			PageDirectoryRow figures;

			if (PageDirectoryGetRow(entry, &figures))
				put_page(result, entry, &figures);
		}
	}
	return (Datum) 0;
}

/* The buckets that are not empty. node: -1 if the histogram is that of a tier. */
static void
put_histogram(ReturnSetInfo *result, const char *tier, int node, const uint64 *counts)
{
	Row row = {.columns = 0};

	for (int bucket = 0; bucket < LB_HISTOGRAM_BUCKETS; bucket++)
	{
		uint64 upper = lb_histogram_upper_ns(bucket);

		if (counts[bucket] == 0)
			continue;
		add_text(&row, tier);
		if (node >= 0)
		{
			add_value(&row, Int32GetDatum(node));
			add_text(&row, lb_transport_name(NodeTableTransport(node)));
		}
		else
		{
			add_null(&row);
			add_null(&row);
		}
		add_value(&row,
				  Float8GetDatum(upper == UINT64_MAX ? INFINITY : (double) upper / NS_PER_US));
		add_count(&row, counts[bucket]);
		put_row(result, &row);
	}
}

/*
 * By tier, and of tier "remote" once more by node, without what was read ahead: how long the page was on its way when somebody
 * waited for it from the start.
 */
Datum
legobase_latency(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = begin_rows(fcinfo);
	NodeRow *figures = palloc(sizeof(NodeRow));

	for (int tier = 0; tier < TIERS; tier++)
	{
		uint64 counts[LB_HISTOGRAM_BUCKETS];

		StatsGetHistogram(tier, counts);
		put_histogram(result, tier_names[tier], -1, counts);
	}
	for (int node = 0; node < NodeTableCount(); node++)
	{
		NodeTableGetRow(node, figures);
		put_histogram(result, "node", node, figures->latency);
	}
	return (Datum) 0;
}

Datum
legobase_reset_stats(PG_FUNCTION_ARGS)
{
	require_loaded();
	StatsReset();
	PG_RETURN_VOID();
}

/* Is this entry still being pushed, in the version that it had then? */
static bool
still_in_flight(uint32 entry, uint64 version)
{
	PageDirectoryRow row;

	return PageDirectoryGetRow(entry, &row) && row.in_flight && row.version == version;
}

/*
 * Wait until all that was in flight when the function was called is remote, or forgotten, and then until all that was dirty is in
 * the files. Others may write more meanwhile: the pass over the directory waits for those it comes across, once each, so
 * that it ends on a busy server too.
 */
Datum
legobase_drain(PG_FUNCTION_ARGS)
{
	require_loaded();
	for (uint32 entry = 0; entry < SlabTableEntries(); entry++)
	{
		PageDirectoryRow row;

		if (entry % SlabTablePages() == 0)
			CHECK_FOR_INTERRUPTS();
		if (!PageDirectoryGetRow(entry, &row) || !row.in_flight)
			continue;
		while (still_in_flight(entry, row.version))
		{
			CommBufferWakeAgent();
			WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, DRAIN_POLL_MS,
					  PG_WAIT_EXTENSION);
			ResetLatch(MyLatch);
			CHECK_FOR_INTERRUPTS();
		}
	}
	CheckpointSyncDrain();
	PG_RETURN_VOID();
}

/*
 * Forget the pages of one relation, all forks; the relation itself is not touched. Returns how many there were. What is dirty is
 * brought to the file first; if it is changed again meanwhile, it stays.
 */
Datum
legobase_evict(PG_FUNCTION_ARGS)
{
	Oid oid = PG_GETARG_OID(0);
	Relation relation;
	uint64 forgotten;

	require_loaded();

	/* The lock keeps the relation from getting other files, so that no other relation can be meant in the end. */
	relation = try_relation_open(oid, AccessShareLock);
	if (relation == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", oid)));
	if (!RELKIND_HAS_STORAGE(relation->rd_rel->relkind))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("relation \"%s\" has no pages", RelationGetRelationName(relation)),
						errdetail_relkind_not_supported(relation->rd_rel->relkind)));
	CheckpointSyncDrain();
	forgotten = RemoteForgetRelation(relation->rd_node);
	relation_close(relation, AccessShareLock);
	PG_RETURN_INT64((int64) forgotten);
}
