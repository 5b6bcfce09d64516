/*
 * local_pool.c
 *	  Questions to shared_buffers, the local buffer pool, and the flushing of one of its pages.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/instrument.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"

#include "local_pool.h"

#define PERMANENT (BM_VALID | BM_PERMANENT)
#define TO_FLUSH (BM_VALID | BM_PERMANENT | BM_DIRTY)

StaticAssertDecl(sizeof(LocalPage) == 24, "a LocalPage is written to files as it is");

bool
LocalPoolHolds(const lb_page_tag *tag)
{
	RelFileNode rnode = {tag->tablespace, tag->database, tag->relation};
	BufferTag buffer_tag;
	uint32 hash;
	LWLock *lock;
	bool holds;

	INIT_BUFFERTAG(buffer_tag, rnode, (ForkNumber) tag->fork, tag->block);
	hash = BufTableHashCode(&buffer_tag);
	lock = BufMappingPartitionLock(hash);
	if (!LWLockConditionalAcquire(lock, LW_SHARED))
		return true;
	holds = BufTableLookup(&buffer_tag, hash) >= 0;
	LWLockRelease(lock);
	return holds;
}

bool
LocalPoolHasRoom(void)
{
	return have_free_buffer();
}

uint32
LocalPoolListPages(LocalPage *pages)
{
	uint32 count = 0;

	for (int i = 0; i < NBuffers; i++)
	{
		BufferDesc *header = GetBufferDescriptor(i);
		uint32 state = pg_atomic_read_u32(&header->state);
		BufferTag tag;

		if ((state & PERMANENT) != PERMANENT)
			continue;
		state = LockBufHdr(header);
		tag = header->tag;
		UnlockBufHdr(header, state);
		if ((state & PERMANENT) != PERMANENT)
			continue;
		pages[count].tag = (lb_page_tag){.tablespace = tag.rnode.spcNode,
										 .database = tag.rnode.dbNode,
										 .relation = tag.rnode.relNode,
										 .fork = (uint32) tag.forkNum,
										 .block = tag.blockNum};
		pages[count++].usage = BUF_STATE_GET_USAGECOUNT(state);
	}
	return count;
}

/*
 * Without the headers' locks: a page is marked dirty before its WAL record is inserted, and who has seen the insert position (by its lock) behind
 * that record sees the mark.
 */
uint32
LocalPoolListDirty(Buffer *buffers)
{
	uint32 count = 0;

	for (int i = 0; i < NBuffers; i++)
	{
		uint32 state = pg_atomic_read_u32(&GetBufferDescriptor(i)->state);

		if ((state & TO_FLUSH) == TO_FLUSH)
			buffers[count++] = i + 1;
	}
	return count;
}

/* Pin it, if it has such a page. That does not raise its usage count: ReadRecentBuffer leaves it alone at a process's first pin. */
static bool
pin_dirty(Buffer buffer, BufferTag *tag)
{
	BufferDesc *header = GetBufferDescriptor(buffer - 1);
	uint32 state = pg_atomic_read_u32(&header->state);

	if ((state & TO_FLUSH) != TO_FLUSH)
		return false;
	state = LockBufHdr(header);
	*tag = header->tag;
	UnlockBufHdr(header, state);

	/* Another page has it by now, or the next moment: then the one meant was written. */
	return (state & TO_FLUSH) == TO_FLUSH &&
		   ReadRecentBuffer(tag->rnode, tag->forkNum, tag->blockNum, buffer);
}

LocalFlush
LocalPoolFlush(Buffer buffer, XLogRecPtr durable, XLogRecPtr *lsn)
{
	int64 written = pgBufferUsage.shared_blks_written;
	LocalFlush result = LOCAL_CLEAN;
	BufferTag tag;

	if (!pin_dirty(buffer, &tag))
		return LOCAL_CLEAN;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	/* Who sets a hint bit sets it under a share lock, too. */
	*lsn = BufferGetLSNAtomic(buffer);
	if (!XLogRecPtrIsInvalid(durable) && *lsn > durable)
		result = LOCAL_WAL_FIRST;
	else
		FlushOneBuffer(buffer);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);

	/*
	 * The caller may be a process that hears of no invalidations: what it remembers of a relation's files would go on when another relation has got
	 * the number. While the page is pinned, its relation can't be dropped; so nothing is remembered for longer.
	 */
	smgrclosenode((RelFileNodeBackend){.node = tag.rnode, .backend = InvalidBackendId});
	ReleaseBuffer(buffer);

	if (pgBufferUsage.shared_blks_written != written)
		result = LOCAL_FLUSHED;
	return result;
}
