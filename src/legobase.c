/*
 * legobase.c
 *	  Loading the extension: settings, shared memory, hooks, background workers.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "buffer_agent.h"
#include "checkpoint_sync.h"
#include "comm_buffer.h"
#include "control_record.h"
#include "ddl_hooks.h"
#include "legobase.h"
#include "node_table.h"
#include "page_directory.h"
#include "page_fence.h"
#include "placement.h"
#include "pool_gate.h"
#include "redo_skip.h"
#include "remote_smgr.h"
#include "settings.h"
#include "slab_table.h"
#include "smgr_table.h"
#include "stats.h"
#include "storage_fence.h"
#include "tier1_checkpointer.h"
#include "warm_up.h"
#include "write_back.h"

PG_MODULE_MAGIC;

void _PG_init(void);

/* What lies in shared memory. In this order: the directory's slots are handed out by the slab table. */
static const struct
{
	Size (*size)(void);
	void (*init)(void);
} shared_items[] = {
	{NodeTableShmemSize, NodeTableShmemInit},
	{PageDirectoryShmemSize, PageDirectoryShmemInit},
	{SlabTableShmemSize, SlabTableShmemInit},
	{CommBufferShmemSize, CommBufferShmemInit},
	{PlacementShmemSize, PlacementShmemInit},
	{StatsShmemSize, StatsShmemInit},
	{WriteBackShmemSize, WriteBackShmemInit},
	{PageFenceShmemSize, PageFenceShmemInit},
	{CheckpointSyncShmemSize, CheckpointSyncShmemInit},
	{StorageFenceShmemSize, StorageFenceShmemInit},
	{PoolGateShmemSize, PoolGateShmemInit},
	{ControlRecordShmemSize, ControlRecordShmemInit},
	{RedoSkipShmemSize, RedoSkipShmemInit},
	{Tier1ShmemSize, Tier1ShmemInit},
	{WarmUpShmemSize, WarmUpShmemInit},
};

static shmem_request_hook_type next_shmem_request_hook;
static shmem_startup_hook_type next_shmem_startup_hook;
static bool loaded = false;
static bool in_use = false;

bool
legobase_is_loaded(void)
{
	return loaded;
}

bool
legobase_in_use(void)
{
	return in_use;
}

static void
request_shared_memory(void)
{
	if (next_shmem_request_hook)
		next_shmem_request_hook();
	for (int i = 0; i < lengthof(shared_items); i++)
		RequestAddinShmemSpace(shared_items[i].size());
	RequestNamedLWLockTranche(DIRECTORY_LOCKS, DIRECTORY_PARTITIONS);
}

static void
set_up_shared_memory(void)
{
	if (next_shmem_startup_hook)
		next_shmem_startup_hook();

	/* Single-user mode has no agent, and so no remote memory: md alone serves it. */
	if (IsPostmasterEnvironment)
	{
		LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
		for (int i = 0; i < lengthof(shared_items); i++)
			shared_items[i].init();
		LWLockRelease(AddinShmemInitLock);
		in_use = true;
	}
	StorageFenceRaise();
}

void
_PG_init(void)
{
	/* CREATE EXTENSION loads the library too; without the rest of this, its functions say what is missing. */
	if (!process_shared_preload_libraries_in_progress)
		return;

	settings_define();
	smgr_table_replace(&remote_smgr_table);
	CheckpointSyncInstall();
	ddl_hooks_install();
	RedoSkipInstall();
	StorageFenceInstall();
	next_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	next_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = set_up_shared_memory;
	BufferAgentRegister();
	Tier1Register();
	loaded = true;
}
