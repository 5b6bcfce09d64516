/*
 * placement.h
 *	  Where a page that is pushed goes: which node, which slot, and whose page makes room when all slots are taken.
 */
#ifndef LEGOBASE_PLACEMENT_H
#define LEGOBASE_PLACEMENT_H

extern Size PlacementShmemSize(void);
extern void PlacementShmemInit(void);

/*
 * Which of two nodes: "the power of two choices". Of two nodes picked at random, the one with more free slots: nearly as even as
 * asking all, at a fixed cost. free_slots[count]; a node without free slots is never chosen. -1 if none has any.
 */
extern int PlacementChooseNode(const uint32 *free_slots, int count, uint32 random);

/*
 * Take a slot for a page: a free one, or else that of a page the clock gives up. Returns the reserved entry, or
 * INVALID_ENTRY when there is no remote memory, when more of it is on its way, or when the clock found nothing within its
 * limit of steps. Never waits.
 */
extern uint32 PlacementTakeSlot(void);

/*
 * The same for a page that is written back: on a node that writes back; on this one, if its older version is dirty there (else
 * node = -1).
 */
extern uint32 PlacementTakeSlotDirty(int node);

#endif /* LEGOBASE_PLACEMENT_H */
