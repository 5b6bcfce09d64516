/*
 * settings.h
 *	  The configuration parameters legobase.*
 */
#ifndef LEGOBASE_SETTINGS_H
#define LEGOBASE_SETTINGS_H

#include "lb_uri.h"

#define MAX_NODES 32 /* memory nodes one server can use */

typedef enum KernelCacheReads
{
	KERNEL_CACHE_READS_OFF,
	KERNEL_CACHE_READS_AUTO
} KernelCacheReads;

typedef enum WriteMode
{
	WRITE_MODE_AUTO, /* write back where a memory node has proved that it sees the data directory */
	WRITE_MODE_WRITETHROUGH, /* every page is written to its file by the server */
	WRITE_MODE_WRITEBACK     /* as auto; says so when it can't be done */
} WriteMode;

typedef enum RedoMode
{
	REDO_SKIP,   /* skip what the pages in remote memory have already */
	REDO_PLAIN,  /* redo everything */
	REDO_COMPARE /* redo everything, and compare with the pages in remote memory */
} RedoMode;

/* Fixed at server start */
extern char *memory_nodes_setting;
extern int embedded_memory_mb;
extern int max_remote_pool_size_mb; /* as set: -1 means "by the kind of node" */
extern bool take_over;
extern int redo_mode; /* RedoMode */
extern int warm_workers;

/* Changed by reload */
extern int remote_pool_size_mb; /* as set: -1 means "the maximum" */
extern int node_timeout_ms;
extern int write_mode; /* WriteMode */
extern char *fence_command;
extern int tier1_interval_ms; /* 0: off */

/* Per session */
extern bool debug_compare;
extern int kernel_cache_reads; /* KernelCacheReads */
extern int read_ahead_pages;

/*
 * Define all parameters and reserve the prefix. Once, from _PG_init; needs shared_preload_libraries. From then on
 * PostgreSQL's parameter fsync can't be turned off in a server that was started with it on (WriteBackFsyncAtStart).
 */
extern void settings_define(void);

/* Is the memory node started by the extension itself? */
extern bool settings_embedded(void);

/* The pages that the directory has room for, and those wanted just now; multiples of the slab size. */
extern uint32 settings_max_pages(void);
extern uint32 settings_wanted_pages(void);

/* Pages in a slab: the same for all nodes; see settings.c for how it is chosen. */
extern uint32 settings_slab_pages(void);

/*
 * How long a memory node with dirty pages is waited for whose connection broke, in milliseconds, before it is given up: one that is silent; or that
 * answers, and has the pages, but can't be joined yet (only over rdma).
 */
extern int settings_resume_ms(bool answering);

/* How long somebody waits for such a page: at_least_ms, and longer than it can take until its node is back or given up. */
extern int settings_dirty_wait_ms(int at_least_ms);

/* The parsed memory_nodes; how many. In embedded mode 0. */
extern int settings_node_uris(const lb_uri **uris);

#endif /* LEGOBASE_SETTINGS_H */
