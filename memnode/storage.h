/*
 * storage.h
 *	  What the memory node sees of a compute node's data directory: the files of relations, the proof that it is the right
 *	  directory, and the fence that keeps former lives of the instance from writing (docs/write_back.md, sections 1 and 4).
 *
 * Nothing here creates, extends or changes a file.
 */
#ifndef MEMNODE_STORAGE_H
#define MEMNODE_STORAGE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "lb_page.h"
#include "lb_status.h"
#include "lb_wire.h"

/* PostgreSQL's RELSEG_SIZE: a relation's fork lies in files of this many blocks. */
#define STORAGE_SEGMENT_BLOCKS 131072

/* Both relative to the data directory. pgsql_tmp in the name keeps them out of base backups. */
#define STORAGE_NONCE_FILE "pgsql_tmp_legobase/pgsql_tmp_nonce"
#define STORAGE_FENCE_FILE "pgsql_tmp_legobase/pgsql_tmp_fence"

/* Bytes of a path in an lb_status, which has to have room for the reason. */
#define STORAGE_PATH_END 120

/* Do these two pages lie in one file? */
static inline bool
storage_same_file(const lb_page_tag *a, const lb_page_tag *b)
{
	return a->relation == b->relation && a->fork == b->fork &&
		   a->block / STORAGE_SEGMENT_BLOCKS == b->block / STORAGE_SEGMENT_BLOCKS &&
		   a->tablespace == b->tablespace && a->database == b->database;
}

/* A path for a message: all of it, or the end of a long one. */
static inline const char *
storage_path_end(const char *path)
{
	size_t length = strlen(path);

	return length > STORAGE_PATH_END ? path + length - STORAGE_PATH_END : path;
}

/*
 * The file that has this page. version_folder: the server's folder in each tablespace, needed only for pages that are
 * neither in pg_default nor in pg_global. False with LB_INVALID for forks that PostgreSQL does not have, for a
 * tablespace's page without a version folder, and for paths of PATH_MAX bytes and more.
 */
extern bool storage_page_path(const char *root, const char *version_folder, const lb_page_tag *tag,
							  char path[PATH_MAX], lb_status *status);

/*
 * Find the data directory of the instance: the one whose nonce file ("legobase nonce UUID NONCE", both 32 hex digits) has
 * this uuid. It is either one of the roots or a folder directly in one, so that a root can hold the data directories of
 * several instances. path: the data directory as this machine sees it. False with LB_INVALID if there is none, or
 * LB_SYSTEM if there is none and something could not be looked at; the message says where it was looked for.
 *
 * A copy of a data directory may have the uuid too. The newest nonce file counts: the agent has just written it, and will
 * refuse any other nonce. Two folders with the same nonce can't be told apart, which is an error.
 *
 * Never opens a fence file: see storage_fence_lock.
 */
extern bool storage_find(const char *const *roots, int count, const uint8_t uuid[LB_UUID_SIZE],
						 uint8_t nonce[LB_NONCE_SIZE], char path[PATH_MAX], lb_status *status);

typedef enum storage_fence_result
{
	STORAGE_FENCE_HELD,   /* this epoch may write until storage_fence_unlock */
	STORAGE_FENCE_BUSY,   /* somebody holds the lock exclusively, or it can't be read: try later */
	STORAGE_FENCE_TOO_OLD /* the epoch is not above the fence's: this attachment is over for good */
} storage_fence_result;

/*
 * Take the shared lock on root's fence file ("legobase fence EPOCH", 16 hex digits) without waiting for it, and compare.
 * With STORAGE_FENCE_HELD *fence is the descriptor to unlock; the others leave nothing locked and fill status, BUSY with
 * LB_SYSTEM or LB_INVALID, TOO_OLD with LB_REFUSED.
 *
 * The lock is a traditional one of fcntl, which belongs to the process, so that the compute node can learn from F_GETLK
 * who holds it. Such a lock goes away when the process closes *any* descriptor of that file: nothing else in this process
 * may ever open it, and no two locks on one file may be held. It goes away by itself only after every thread of the
 * process has ended, the kernel's workers of io_uring included: a killed node that is still writing still holds it.
 */
extern storage_fence_result storage_fence_lock(const char *root, uint64_t epoch, int *fence,
											   lb_status *status);
extern void storage_fence_unlock(int fence);

#endif /* MEMNODE_STORAGE_H */
