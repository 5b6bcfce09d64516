/*
 * pool_reload.h
 *	  Going on with the pages that a former life of the server has left at the memory nodes: docs/recovery.md, sections 3 and 4.
 *
 *	  listing	  each link asks its node; slots are put into the directory as they are listed (node_reload.c)
 *	  surveying	  all links are settled: pages that nobody could flush are discarded, the others are grouped by relation fork
 *	  checking	  the files of each fork are looked at, and extended
 *	  releasing	  what was discarded is released, slabs that hold nothing are given up
 *	  (open)	  links that have listed something are attached, and the gate is opened
 *
 * All in the agent's process, while the gate is closed. An error, of a file say, ends the agent: its successor finds the gate in
 * RELOADING, and begins with nothing.
 */
#ifndef LEGOBASE_POOL_RELOAD_H
#define LEGOBASE_POOL_RELOAD_H

#include "node_link.h"

/*
 * A process becomes the agent; before any link is made. True: links are to ask for the pages of the former life, and PoolReloadStep is
 * called until it has opened the gate. False: the gate is open. may: this is the worker, not the checkpointer at shutdown.
 */
extern bool PoolReloadBegin(bool may);

/* Is it still going on? Nothing may be flushed, pushed or granted meanwhile. */
extern bool PoolReloadRunning(void);

/* One step. Returns in how many milliseconds the next one is due, unless something comes from a node before. */
extern long PoolReloadStep(NodeLink *links, int count, uint64 now);

/*
 * The data directory is older than what some node has: its history is another one, and no page of it is to be kept, wherever it is.
 */
extern void PoolReloadDiscardAll(void);

#endif /* LEGOBASE_POOL_RELOAD_H */
