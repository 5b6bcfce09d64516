/*
 * page_fence.h
 *	  Fences: making sure that nothing of some pages is on its way to storage before their file changes (rule R8).
 *
 * A requester takes a request (PageFenceBegin), forgets the pages, and then waits for the fence (PageFenceWait). From Begin
 * on the loss of a node that has proved its storage is a PANIC, dirty pages or not: nobody could tell what it still writes.
 *
 *	  free -> begun		   requester (spinlock)
 *	  begun -> posted	   requester: the pages are forgotten
 *	  posted -> done	   agent: every proven node has answered FENCED
 *	  done -> free		   requester
 *	  begun -> free		   requester: there is nothing to be fenced after all
 *
 * Nothing here allocates or raises ERROR: it works in critical sections. An answer that does not come within the limit is a PANIC.
 */
#ifndef LEGOBASE_PAGE_FENCE_H
#define LEGOBASE_PAGE_FENCE_H

#include "lb_wire.h"
#include "page_directory.h"

extern Size PageFenceShmemSize(void);
extern void PageFenceShmemInit(void);

/* Requester. Begin waits, limited, for a request to be free. The selection is copied. */
extern int PageFenceBegin(const PageSelection *selection);
extern void PageFenceWait(int request);

/* Agent: is any request begun, posted, or not yet let go of? */
extern bool PageFenceAnyOpen(void);

/*
 * Agent: walk through posted requests. Starting with *at = -1, gives each posted request and its selection; false at the end. The
 * number of a request is used again only after it was done.
 */
extern bool PageFenceNextPosted(int *at, lb_fence *fence, uint64 *serial);

/* Agent: all nodes have answered for this posting (its serial number) of the request. */
extern void PageFenceDone(int request, uint64 serial);

#define FENCE_REQUESTS 64

#endif /* LEGOBASE_PAGE_FENCE_H */
