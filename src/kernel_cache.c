/*
 * kernel_cache.c
 *	  Reading a page of a relation file if, and only if, the operating system has it in its cache.
 */
#include "postgres.h"

#include <sys/uio.h>

#include "access/xlogutils.h"
#include "miscadmin.h"

#include "compat.h"
#include "kernel_cache.h"
#include "node_table.h"

/* While pages are rarely found, one of so many is looked for. */
#define LOOK_ONCE_IN 32

static bool unsupported = false;

static bool
worth_looking(void)
{
	static uint32 reads = 0;

	return NodeTableKernelCacheHits() > KERNEL_CACHE_LOOKS / 2 || reads++ % LOOK_ONCE_IN == 0;
}

void
KernelCachePrepare(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum)
{
	/* In recovery the file may not exist yet, and reading it would create it: nothing to be done here. */
	if (InRecovery || CritSectionCount > 0 || unsupported)
		return;
	if (blocknum / RELSEG_SIZE >= (BlockNumber) reln->md_num_open_segs[forknum])
		(void) mdnblocks(reln, forknum);
}

static bool
read_cached(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, void *buffer,
			size_t length)
{
	int fd = unsupported || !worth_looking() ? -1 : md_segment_descriptor(reln, forknum, blocknum);
	struct iovec piece = {.iov_base = buffer, .iov_len = length};
	off_t offset = (off_t) (blocknum % RELSEG_SIZE) * BLCKSZ;
	ssize_t got;

	if (fd < 0)
		return false;
	got = preadv2(fd, &piece, 1, offset, RWF_NOWAIT);
	if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		unsupported = true;
	NodeTableNoteKernelCacheLook(got == (ssize_t) length);
	return got == (ssize_t) length;
}

bool
KernelCacheRead(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer)
{
	return read_cached(reln, forknum, blocknum, buffer, BLCKSZ);
}

bool
KernelCacheHolds(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum)
{
	char byte;

	return read_cached(reln, forknum, blocknum, &byte, 1);
}
