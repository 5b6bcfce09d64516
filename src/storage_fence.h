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

#include "instance.h"
#include "lb_status.h"

extern Size StorageFenceShmemSize(void);
extern void StorageFenceShmemInit(void);

/*
 * From shmem_startup_hook: in the postmaster, at its start and after each crash, when no process of the server's former life is left and
 * none of the next one has been started; and in single-user mode. (The table's smgr_init would be the startup process's own place, but
 * the compiler has replaced that call by a direct one of mdinit.) Waits, limited, for nodes that are in the middle of a
 * round; FATAL if they do not end. With no instance folder there is nothing to fence.
 */
extern void StorageFenceRaise(void);

/*
 * From _PG_init, in the postmaster: if another server has taken the data directory over, its lock file is not removed when this one ends, as
 * PostgreSQL itself would do.
 */
extern void StorageFenceInstall(void);

/* Agent: was the fence raised? If that was not possible no node may be attached to. */
extern bool StorageFenceRaised(void);

/*
 * Agent: raise the instance's epoch above at_least and store it, before an attachment. PANIC if another server has raised the fence since
 * we did (rule R10). False with a status if it can't be done just now.
 */
extern bool StorageFenceRaiseEpoch(Instance *instance, uint64 at_least, lb_status *status);

/*
 * Run legobase.fence_command for a node (%u: its URI, %h: its host or "localhost", %p: a process id or 0, %%: a percent sign).
 * True if it is empty or exited with 0. Limited in time; logs what happened.
 */
extern bool StorageFenceRunCommand(const char *uri, const char *host, int pid);

#endif /* LEGOBASE_STORAGE_FENCE_H */
