/*
 * storage_fence.h
 *	  Keeping memory nodes of a former life of this server from writing to its files (docs/write_back.md, section 4).
 *
 * The file pgsql_tmp_legobase/pgsql_tmp_fence has one line, "legobase fence " and 16 hexadecimal digits: an epoch. A node writes only
 * while it holds a shared fcntl lock on it, and only if its attachment's epoch is higher. The file is made once and
 * never replaced: the lock belongs to it.
 */
#ifndef LEGOBASE_STORAGE_FENCE_H
#define LEGOBASE_STORAGE_FENCE_H

#include "lb_status.h"

extern Size StorageFenceShmemSize(void);
extern void StorageFenceShmemInit(void);

/*
 * From the first entry of the storage-manager table, in every process: does the work in the startup process and in single-user
 * mode, before any redo; nothing in others. Waits, limited, for nodes that are in the middle of a round; FATAL if they do not end.
 * With no instance folder there is nothing to fence.
 */
extern void StorageFenceInit(void);

/* Agent: has the startup process fenced? Not before that may a node be attached to. */
extern bool StorageFenceRaised(void);

/*
 * Run legobase.fence_command for a node (%u: its URI, %h: its host or "localhost", %p: a process id or 0, %%: a percent sign).
 * True if it is empty or exited with 0. Limited in time; logs what happened.
 */
extern bool StorageFenceRunCommand(const char *uri, const char *host, int pid);

#endif /* LEGOBASE_STORAGE_FENCE_H */
