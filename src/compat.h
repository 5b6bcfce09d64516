/*
 * compat.h
 *	  Every difference between PostgreSQL versions that the extension knows of. No other file tests PG_VERSION_NUM.
 *
 * The storage-manager table is private to smgr.c, the table of sync handlers to sync.c; their layouts are written down here for each
 * supported major version. A new one is added by describing its tables, and checking against its source everything that t/README.md lists
 * as going behind the storage manager.
 */
#ifndef LEGOBASE_COMPAT_H
#define LEGOBASE_COMPAT_H

#include "access/clog.h"
#include "access/commit_ts.h"
#include "access/multixact.h"
#include "storage/fd.h"
#include "storage/md.h"
#include "storage/smgr.h"
#include "storage/sync.h"

#if PG_VERSION_NUM < 150011 || PG_VERSION_NUM >= 160000
#error \
	"legobase supports PostgreSQL 15, from 15.11 on (mdtruncate has had four arguments since then)"
#endif

#define LEGOBASE_PG_MAJOR 15

/* A function of the server that exists exactly if mdtruncate has the arguments that we were compiled for. */
#define MDTRUNCATE_WITNESS "smgrtruncate2"

/* f_smgr of smgr.c, PostgreSQL 15 */
typedef struct SmgrTable
{
	void (*smgr_init)(void);
	void (*smgr_shutdown)(void);
	void (*smgr_open)(SMgrRelation reln);
	void (*smgr_close)(SMgrRelation reln, ForkNumber forknum);
	void (*smgr_create)(SMgrRelation reln, ForkNumber forknum, bool isRedo);
	bool (*smgr_exists)(SMgrRelation reln, ForkNumber forknum);
	void (*smgr_unlink)(RelFileNodeBackend rnode, ForkNumber forknum, bool isRedo);
	void (*smgr_extend)(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer,
						bool skipFsync);
	bool (*smgr_prefetch)(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum);
	void (*smgr_read)(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer);
	void (*smgr_write)(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum, char *buffer,
					   bool skipFsync);
	void (*smgr_writeback)(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum,
						   BlockNumber nblocks);
	BlockNumber (*smgr_nblocks)(SMgrRelation reln, ForkNumber forknum);
	void (*smgr_truncate)(SMgrRelation reln, ForkNumber forknum, BlockNumber old_blocks,
						  BlockNumber nblocks);
	void (*smgr_immedsync)(SMgrRelation reln, ForkNumber forknum);
} SmgrTable;

/* What the table holds in an unmodified server. */
#define MD_SMGR_TABLE                                                                           \
	{                                                                                           \
		.smgr_init = mdinit, .smgr_shutdown = NULL, .smgr_open = mdopen, .smgr_close = mdclose, \
		.smgr_create = mdcreate, .smgr_exists = mdexists, .smgr_unlink = mdunlink,              \
		.smgr_extend = mdextend, .smgr_prefetch = mdprefetch, .smgr_read = mdread,              \
		.smgr_write = mdwrite, .smgr_writeback = mdwriteback, .smgr_nblocks = mdnblocks,        \
		.smgr_truncate = mdtruncate, .smgr_immedsync = mdimmedsync,                             \
	}

/* SyncOps of sync.c, PostgreSQL 15 */
typedef struct SyncHandler
{
	int (*sync_syncfiletag)(const FileTag *ftag, char *path);
	int (*sync_unlinkfiletag)(const FileTag *ftag, char *path);
	bool (*sync_filetagmatches)(const FileTag *ftag, const FileTag *candidate);
} SyncHandler;

/* What its table holds in an unmodified server. */
#define SYNC_TABLE                                                                           \
	{                                                                                        \
		[SYNC_HANDLER_MD] = {mdsyncfiletag, mdunlinkfiletag, mdfiletagmatches},              \
		[SYNC_HANDLER_CLOG] = {.sync_syncfiletag = clogsyncfiletag},                         \
		[SYNC_HANDLER_COMMIT_TS] = {.sync_syncfiletag = committssyncfiletag},                \
		[SYNC_HANDLER_MULTIXACT_OFFSET] = {.sync_syncfiletag = multixactoffsetssyncfiletag}, \
		[SYNC_HANDLER_MULTIXACT_MEMBER] = {.sync_syncfiletag = multixactmemberssyncfiletag}, \
	}

/* The elements of SMgrRelation->md_seg_fds[fork], private to md.c. */
typedef struct MdSegment
{
	File vfd;
	BlockNumber segno;
} MdSegment;

/* The kernel's descriptor of the segment with this block, or -1 if md does not have it open just now. */
static inline int
md_segment_descriptor(SMgrRelation reln, ForkNumber forknum, BlockNumber blocknum)
{
	BlockNumber segno = blocknum / RELSEG_SIZE;

	if (segno >= (BlockNumber) reln->md_num_open_segs[forknum])
		return -1;
	return FileGetRawDesc(((MdSegment *) reln->md_seg_fds[forknum])[segno].vfd);
}

/* In the data directory; the name is private to miscinit.c. */
#define SERVER_LOCK_FILE "postmaster.pid"

#endif /* LEGOBASE_COMPAT_H */
