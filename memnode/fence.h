/*
 * fence.h
 *	  Rule R8: nothing of some pages may go to storage any more (docs/write_back.md, section 6).
 */
#ifndef MEMNODE_FENCE_H
#define MEMNODE_FENCE_H

#include <stdbool.h>
#include "lb_wire.h"
#include "slot_table.h"

/* Is this page meant? */
extern bool fence_selects(const lb_fence *fence, const lb_page_tag *tag);

/*
 * Empty the slots of the pages that are meant: at least all that are dirty. Clean ones may stay where looking for them would
 * take long; they go nowhere. Returns how many were dirty.
 */
extern uint64_t fence_empty_slots(slot_table *table, const lb_fence *fence);

#endif /* MEMNODE_FENCE_H */
