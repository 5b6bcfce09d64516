/*
 * local_pool.c
 *	  Questions to shared_buffers, the local buffer pool.
 */
#include "postgres.h"

#include "storage/buf_internals.h"

#include "local_pool.h"

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
