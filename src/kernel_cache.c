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

static bool unsupported = false;

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
	int fd = unsupported ? -1 : md_segment_descriptor(reln, forknum, blocknum);
	struct iovec piece = {.iov_base = buffer, .iov_len = length};
	off_t offset = (off_t) (blocknum % RELSEG_SIZE) * BLCKSZ;
	ssize_t got;

	if (fd < 0)
		return false;
	got = preadv2(fd, &piece, 1, offset, RWF_NOWAIT);
	if (got < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
		unsupported = true;
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
