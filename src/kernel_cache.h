/*
 * kernel_cache.h
 *	  Reading a page of a relation file if, and only if, the operating system has it in its cache.
 *
 * preadv2 with RWF_NOWAIT copies what is cached and fails with EAGAIN instead of waiting for storage. But it does not just
 * look: what is missing the kernel begins to read, in the background. With files larger than memory each look in vain is a
 * useless read of storage, and pushes something out of the cache. So it is looked for only while it is found more often than
 * not, and else once in a while, to see if that has changed.
 *
 * Linux alone has this, and not all file systems support it; where it does not work nothing is ever found, and after the first
 * such answer it is not tried again.
 */
#ifndef LEGOBASE_KERNEL_CACHE_H
#define LEGOBASE_KERNEL_CACHE_H

#include "storage/smgr.h"

/*
 * Make sure that md has the block's segment open, which the two functions below need. May raise ERROR, as any read of the
 * relation would. Call it with nothing held.
 */
extern void KernelCachePrepare(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum);

/* Read the page. False if it is not cached as a whole, or not looked for; the buffer's content is then undefined. */
extern bool KernelCacheRead(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
							char *buffer);

/* Is it there? Without copying it. */
extern bool KernelCacheHolds(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum);

#endif /* LEGOBASE_KERNEL_CACHE_H */
