/*
 * remote_smgr.c
 *	  The storage manager that PostgreSQL sees: md, with remote memory between shared_buffers and the files.
 *
 * A page that is written goes to remote memory alone if it can be written back (docs/write_back.md). Everything else is written
 * through: it goes to the file, exactly as md would have it, and remote memory gets a copy of the same bytes. Of a page
 * without a dirty version the file is always current, and a remote copy may be dropped at any time. What has to be
 * right is that no remote copy is ever older than the file:
 *
 * - Before a page of the file changes (write, extend, truncate, unlink) the directory forgets it, so nobody finds the old
 *	 copy once the file is new. After the write the new copy is linked, or the page forgotten again: then a copy is
 *	 also gone that was read from the file in between.
 * - A page read from the file is linked only if its stamp still holds: no change has begun since before the read.
 *
 * PostgreSQL's buffer manager reads and writes a page under locks that exclude all this for pages of shared_buffers; but
 * pg_prewarm, for one, reads without them.
 *
 * All this holds from the moment on when the directory knows what memory nodes have: every function that looks at the directory or at files
 * first waits for that (PoolGateWait).
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlogutils.h"
#include "common/relpath.h"
#include "miscadmin.h"

#include "buffer_agent.h"
#include "checkpoint_sync.h"
#include "comm_buffer.h"
#include "legobase.h"
#include "lb_clock.h"
#include "lb_fault.h"
#include "node_client.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_fence.h"
#include "page_fetch.h"
#include "page_push.h"
#include "pool_gate.h"
#include "read_ahead.h"
#include "redo_skip.h"
#include "remote_smgr.h"
#include "settings.h"
#include "slab_table.h"
#include "smgr_table.h"
#include "stats.h"
#include "write_back.h"

/* Temporary relations never become remote; without shared memory (single-user mode) nothing does. */
static inline bool
is_remote(const RelFileNodeBackend *rnode)
{
	return legobase_in_use() && !RelFileNodeBackendIsTemp(*rnode);
}

static inline lb_page_tag
page_tag(const RelFileNode *rnode, ForkNumber forknum, BlockNumber blocknum)
{
	lb_page_tag tag = {.tablespace = rnode->spcNode,
					   .database = rnode->dbNode,
					   .relation = rnode->relNode,
					   .fork = (uint32) forknum,
					   .block = blocknum};

	return tag;
}

/*
 * The gate, for what only asks about files. The startup process does so before redo has begun (it prefetches for the first record): it gets an
 * answer without waiting then. A file may be extended later, never shortened, so at worst one page is not prefetched.
 */
static bool
wait_to_ask(void)
{
	if (AmStartupProcess() && !RedoSkipBegun())
		return false;
	PoolGateWait();
	return true;
}

static void
remote_read(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer)
{
	lb_page_tag tag;
	PageFetchResult found = PAGE_NOT_REMOTE;
	PageStamp stamp;
	uint64 start;
	uint64 elapsed;

	PoolGateWait();
	if (!is_remote(&reln->smgr_rnode))
	{
		mdread(reln, forknum, blocknum, buffer);
		return;
	}
	tag = page_tag(&reln->smgr_rnode.node, forknum, blocknum);
	/* Memory that is being given back may still have the newest versions of pages. */
	if (SlabTableActivePages() > 0 || PageDirectoryDirty() > 0)
		found = PageFetch(reln, &tag, buffer);
	if (found == PAGE_FETCHED)
		return;

	stamp = PageDirectoryStamp(&tag);
	(void) LB_FAULT("read.storage");
	start = lb_now_ns();
	mdread(reln, forknum, blocknum, buffer);
	elapsed = lb_now_ns() - start;
	(void) LB_FAULT("read.loaded");
	StatsCount(STAT_STORAGE_READS, 1);
	StatsReadTime(TIER_STORAGE, elapsed);
	if (elapsed >= COLD_READ_NS)
		NodeTableNoteStorageRead(elapsed);
	if (found == PAGE_NOT_REMOTE)
		PagePushRead(&tag, buffer, &stamp);
}

/*
 * Does the relation have an init fork? Then it is unlogged: WAL can't rebuild its pages (rule R3). The answer is remembered for one
 * relation, because pages are written in the order of relations by whoever writes many; closing the relation forgets it.
 */
static RelFileNode init_fork_known;
static bool init_fork_exists;

static bool
has_init_fork(SMgrRelation reln)
{
	if (!RelFileNodeEquals(init_fork_known, reln->smgr_rnode.node))
	{
		init_fork_exists = mdexists(reln, INIT_FORKNUM);
		init_fork_known = reln->smgr_rnode.node;
	}
	return init_fork_exists;
}

static void
forget_init_fork(void)
{
	memset(&init_fork_known, 0, sizeof(init_fork_known));
}

/* Rule R3: only what WAL can rebuild may be in remote memory alone. */
static bool
write_back(SMgrRelation reln, const lb_page_tag *tag, char *buffer, bool skipFsync)
{
	return WriteBackActive() && !skipFsync && !XLogRecPtrIsInvalid(PageGetLSN(buffer)) &&
		   !has_init_fork(reln) && PagePushDirty(tag, buffer);
}

/*
 * Forget pages whose file is about to change. If some of them may be dirty, a memory node may be writing them, or be about to: then
 * wait until it has confirmed that nothing of them goes to storage any more (rule R8). The callers see to it that none of the pages is
 * written meanwhile.
 */
static uint64
forget_fenced(const PageSelection *selection)
{
	bool any_dirty = selection->by_relation && selection->by_database
						 ? PageDirectoryMayHoldDirty(&selection->from)
						 : PageDirectoryDirty() > 0;
	int request = any_dirty ? PageFenceBegin(selection) : -1;
	uint64 forgotten = PageDirectoryForgetSelected(selection);

	if (request >= 0)
		PageFenceWait(request);
	return forgotten;
}

/* How long a write waits for its page's older version to be flushed, at least. */
#define CLEAN_WAIT_MS 30000

static void
fail_write(const lb_page_tag *tag, int node)
{
	FlushProgress progress;

	WriteBackGetFlushProgress(node, &progress);
	ereport(
		ERROR,
		(errcode(ERRCODE_IO_ERROR),
		 errmsg("legobase: could not write block %u of relation %u/%u/%u, fork %u", tag->block,
				tag->tablespace, tag->database, tag->relation, tag->fork),
		 errdetail("An older version of it is in memory node \"%s\", which has not written it to "
				   "its file in time.%s%s",
				   NodeTableUri(node), progress.state.error[0] ? " It says: " : "",
				   progress.state.error)));
}

/*
 * A page goes to its file from here, but its present version is dirty in remote memory. Wait until that is durable: then nothing of it is
 * under way, and a checkpoint that waits for it has got what it waits for. (A fence would do for the first, not for the
 * second: the checkpoint would end before the file has anything.)
 */
static void
wait_until_clean(const lb_page_tag *tag)
{
	uint64 limit = lb_now_ns() + settings_dirty_wait_ms(CLEAN_WAIT_MS) * UINT64_C(1000000);
	int node;

	while ((node = PageDirectoryDirtyNode(tag)) >= 0)
	{
		if (lb_now_ns() > limit && !AmStartupProcess())
			fail_write(tag, node);
		WriteBackRequestFlush();
		BufferAgentAssist(1);
	}
}

typedef void (*MdWriteFunction)(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
								char *buffer, bool skipFsync);

/* mdwrite or mdextend; what is pushed is what was written. */
static void
write_through(MdWriteFunction md_function, SMgrRelation reln, ForkNumber forknum,
			  BlockNumber blocknum, char *buffer, bool skipFsync)
{
	lb_page_tag tag;
	uint32 comm_buffer;
	char *source;
	uint64 start;

	if (!is_remote(&reln->smgr_rnode))
	{
		md_function(reln, forknum, blocknum, buffer, skipFsync);
		return;
	}
	tag = page_tag(&reln->smgr_rnode.node, forknum, blocknum);
	wait_until_clean(&tag);
	comm_buffer = PagePushPrepare(buffer);
	source = comm_buffer == INVALID_COMM_BUFFER ? buffer : CommBufferPage(comm_buffer);
	PageDirectoryForget(&tag);
	(void) LB_FAULT("write.forgotten");

	/* md may log, and logging serves interrupts: a FATAL then would keep the comm buffer for ever. */
	HOLD_INTERRUPTS();
	start = lb_now_ns();
	PG_TRY();
	{
		md_function(reln, forknum, blocknum, source, skipFsync);
	}
	PG_CATCH();
	{
		PageDirectoryForget(&tag);
		if (comm_buffer != INVALID_COMM_BUFFER)
			PagePushAbandon(comm_buffer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	StatsCount(STAT_STORAGE_WRITES, 1);
	StatsWriteTime(TIER_STORAGE, lb_now_ns() - start);

	(void) LB_FAULT("write.stored");
	if (comm_buffer != INVALID_COMM_BUFFER)
		PagePushWritten(&tag, comm_buffer);
	else
		PageDirectoryForget(&tag);
	RESUME_INTERRUPTS();
}

static void
remote_write(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer,
			 bool skipFsync)
{
	PoolGateWait();
	if (is_remote(&reln->smgr_rnode))
	{
		lb_page_tag tag = page_tag(&reln->smgr_rnode.node, forknum, blocknum);

		if (write_back(reln, &tag, buffer, skipFsync))
			return;
	}
	write_through(mdwrite, reln, forknum, blocknum, buffer, skipFsync);
}

static void
remote_extend(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer,
			  bool skipFsync)
{
	PoolGateWait();
	write_through(mdextend, reln, forknum, blocknum, buffer, skipFsync);
}

/* What is in remote memory need not be brought into the kernel's cache; what is far away is asked for ahead of time. */
static bool
remote_prefetch(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum)
{
	if (!wait_to_ask())
		return mdprefetch(reln, forknum, blocknum);
	if (is_remote(&reln->smgr_rnode) && SlabTableActivePages() > 0)
	{
		lb_page_tag tag = page_tag(&reln->smgr_rnode.node, forknum, blocknum);

		if (ReadAheadPrefetch(reln, &tag))
			return true;
	}
	return mdprefetch(reln, forknum, blocknum);
}

/*
 * All forks are truncated or removed under locks that keep others from reading the pages, and their buffers are gone already:
 * nobody can link one of them again between our forgetting and the change of the file.
 *
 * mdtruncate truncates the segments that are open, and takes the caller's word that all are. An interrupt between the caller's
 * look at the size and this call would have closed them (a barrier does), and the file would silently keep its tail. We serve
 * no interrupts in reads for that reason; should anybody else, better a PANIC (we are in a critical section), whose
 * redo truncates the file, than that.
 */
static void
check_segments_open(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks)
{
	if (InRecovery ||
		(old_blocks - 1) / RELSEG_SIZE < (BlockNumber) reln->md_num_open_segs[forknum])
		return;
	ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
					errmsg("segments of file \"%s\" were closed while it was about to be truncated",
						   relpath(reln->smgr_rnode, forknum))));
}

static void
remote_truncate(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks, BlockNumber nblocks)
{
	PoolGateWait();
	if (is_remote(&reln->smgr_rnode) && nblocks < old_blocks)
	{
		PageSelection selection = {.by_tablespace = true,
								   .by_database = true,
								   .by_relation = true,
								   .by_fork = true,
								   .from = page_tag(&reln->smgr_rnode.node, forknum, nblocks),
								   .end = old_blocks};

		(void) forget_fenced(&selection);
		(void) LB_FAULT("truncate.forgotten");
		check_segments_open(reln, forknum, old_blocks);
	}
	mdtruncate(reln, forknum, old_blocks, nblocks);
	(void) LB_FAULT("truncate.done");
}

/*
 * The blocks of a fork's files, so that each can be looked up; InvalidBlockNumber (look at all entries) if that can't be told.
 * Pages beyond the end of the file, or of forks that have none, are never in the directory.
 */
static BlockNumber
blocks_on_disk(const RelFileNodeBackend *rnode, ForkNumber forknum)
{
	BlockNumber blocks = 0;
	char *path;
	struct stat file;

	if (CritSectionCount > 0)
		return InvalidBlockNumber;
	path = relpath(*rnode, forknum);
	for (BlockNumber segment = 0; blocks == segment * RELSEG_SIZE; segment++)
	{
		char segment_path[MAXPGPATH];

		if (segment == 0)
			strlcpy(segment_path, path, MAXPGPATH);
		else
			snprintf(segment_path, MAXPGPATH, "%s.%u", path, segment);
		if (stat(segment_path, &file) != 0)
		{
			if (errno != ENOENT)
				blocks = InvalidBlockNumber;
			break;
		}
		blocks += file.st_size / BLCKSZ;
	}
	pfree(path);
	return blocks;
}

static void
remote_unlink(RelFileNodeBackend rnode, ForkNumber forknum, bool isRedo)
{
	PoolGateWait();
	if (is_remote(&rnode))
	{
		PageSelection selection = {.by_tablespace = true,
								   .by_database = true,
								   .by_relation = true,
								   .by_fork = forknum != InvalidForkNumber,
								   .from = page_tag(&rnode.node, forknum, 0),
								   .end = InvalidBlockNumber};

		if (selection.by_fork && PageDirectoryMayHoldFork(&selection.from))
			selection.end = blocks_on_disk(&rnode, forknum);
		(void) forget_fenced(&selection);
		(void) LB_FAULT("unlink.forgotten");
	}
	mdunlink(rnode, forknum, isRedo);
}

static void
remote_close(SMgrRelation reln, ForkNumber forknum)
{
	smgr_table_reached();

	/* A barrier closes all files of all processes, also of idle ones: the agent sends one when slabs were returned. */
	if (legobase_in_use())
		NodeClientUnmapReturned();
	forget_init_fork();
	mdclose(reln, forknum);
}

void
RemoteForgetDatabase(Oid database, Oid tablespace)
{
	PageSelection selection = {.by_database = true,
							   .by_tablespace = OidIsValid(tablespace),
							   .from = {.tablespace = tablespace, .database = database}};

	if (legobase_in_use())
		(void) forget_fenced(&selection);
}

uint64
RemoteForgetRelation(RelFileNode rnode)
{
	PageSelection selection = {.by_tablespace = true,
							   .by_database = true,
							   .by_relation = true,
							   .clean_only = true,
							   .from = page_tag(&rnode, MAIN_FORKNUM, 0)};

	return PageDirectoryForgetSelected(&selection);
}

/*
 * What the caller wants durable are pages that it wrote past shared_buffers, which are in the file. Should others of the relation be
 * in remote memory alone, they have to come to the file first.
 */
static void
remote_immedsync(SMgrRelation reln, ForkNumber forknum)
{
	PoolGateWait();
	if (is_remote(&reln->smgr_rnode))
	{
		lb_page_tag tag = page_tag(&reln->smgr_rnode.node, forknum, 0);

		if (PageDirectoryMayHoldDirty(&tag))
			CheckpointSyncDrain();
	}
	mdimmedsync(reln, forknum);
}

static bool
remote_exists(SMgrRelation reln, ForkNumber forknum)
{
	(void) wait_to_ask();
	return mdexists(reln, forknum);
}

static BlockNumber
remote_nblocks(SMgrRelation reln, ForkNumber forknum)
{
	(void) wait_to_ask();
	return mdnblocks(reln, forknum);
}

/*
 * A file that is made anew must never meet an old remote copy, wherever that came from: nothing should be there, and the counter says so
 * nearly always. Redo creates, before it reads or writes a page, files that mostly exist: their pages stay.
 */
static void
forget_before_create(SMgrRelation reln, ForkNumber forknum, bool isRedo)
{
	PageSelection selection = {.by_tablespace = true,
							   .by_database = true,
							   .by_relation = true,
							   .by_fork = true,
							   .from = page_tag(&reln->smgr_rnode.node, forknum, 0),
							   .end = InvalidBlockNumber};

	if (!PageDirectoryMayHoldFork(&selection.from) || reln->md_num_open_segs[forknum] > 0)
		return;
	if (!mdexists(reln, forknum))
		(void) forget_fenced(&selection);
	else if (!isRedo) /* mdcreate will complain, and expects no open file */
		mdclose(reln, forknum);
}

static void
remote_create(SMgrRelation reln, ForkNumber forknum, bool isRedo)
{
	PoolGateWait();
	if (is_remote(&reln->smgr_rnode))
		forget_before_create(reln, forknum, isRedo);
	mdcreate(reln, forknum, isRedo);
}

const SmgrTable remote_smgr_table = {
	.smgr_init = mdinit,
	.smgr_shutdown = NULL,
	.smgr_open = mdopen,
	.smgr_close = remote_close,
	.smgr_create = remote_create,
	.smgr_exists = remote_exists,
	.smgr_unlink = remote_unlink,
	.smgr_extend = remote_extend,
	.smgr_prefetch = remote_prefetch,
	.smgr_read = remote_read,
	.smgr_write = remote_write,
	.smgr_writeback = mdwriteback,
	.smgr_nblocks = remote_nblocks,
	.smgr_truncate = remote_truncate,
	.smgr_immedsync = remote_immedsync,
};
