/*
 * slab_table.h
 *	  The slabs of remote memory that memory nodes have granted, and the free slots in them.
 *
 * The page directory's entries are cut into ranges of settings_slab_pages(); each range is backed by one slab of some node,
 * or by nothing. States of a slab:
 *
 *	  unused   -> active	agent: a node granted it
 *	  active   -> draining	agent: the pool shrinks, or the node is lost
 *	  draining -> unused	agent: all its slots are free; it was returned or is gone
 *
 * Only the agent changes states. Slots are taken only from active slabs. A slab is drained by making it draining and then
 * forgetting its entries (PageDirectoryForgetRange) again and again, until all are free: an entry that was reserved before may
 * still be linked once.
 */
#ifndef LEGOBASE_SLAB_TABLE_H
#define LEGOBASE_SLAB_TABLE_H

#include "lb_wire.h"

typedef enum SlabState
{
	SLAB_UNUSED,
	SLAB_ACTIVE,
	SLAB_DRAINING
} SlabState;

extern Size SlabTableShmemSize(void);
extern void SlabTableShmemInit(void);

/* Slabs in the table (used or not), entries in all of them, entries in one. */
extern uint32 SlabTableCount(void);
extern uint32 SlabTableEntries(void);
extern uint32 SlabTablePages(void);

/* Agent: back an unused slab by slab 'node_slab' of node 'node'; all its slots become free. False if none is unused. */
extern bool SlabTableAdd(int node, uint32 node_slab);

/* From PageDirectoryReset: no slab is used. */
extern void SlabTableReset(void);

/* Agent, while the gate is closed (pool_gate.h): make an active slab's free list anew, of the entries that have no references. */
extern void SlabTableRebuildFree(uint32 slab);

/* Agent: state changes. SlabTableRemove needs a draining slab whose slots are all free. */
extern void SlabTableDrain(uint32 slab);
extern bool SlabTableDrained(uint32 slab);
extern void SlabTableRemove(uint32 slab);

extern SlabState SlabTableState(uint32 slab);
extern SlabState SlabTableStateOfEntry(uint32 entry);

/* The node of an entry, and its slot there. Stable while the entry is pinned, reserved or linked. */
extern int SlabTableSlot(uint32 entry, lb_slot_ref *slot);
extern int SlabTableNodeOf(uint32 slab, uint32 *node_slab);

/* Slots in all active slabs: 0 means that there is no remote memory just now. */
extern uint32 SlabTableActivePages(void);

/* Agent: is more memory on its way? While it is, nobody needs to give pages up for others. */
extern void SlabTableSetGrowing(bool growing);
extern bool SlabTableGrowing(void);

/* Slots of a node: granted in active slabs, and free ones among them. Momentary figures. */
extern uint32 SlabTableNodePages(int node);
extern uint32 SlabTableNodeFree(int node);

/* Take a free slot of the node; INVALID_ENTRY if there is none. */
extern uint32 SlabTableTakeFree(int node);

/* Put an entry back. Only for page_directory.c: an entry becomes free when its last reference goes. */
extern void SlabTablePutFree(uint32 entry);

#endif /* LEGOBASE_SLAB_TABLE_H */
