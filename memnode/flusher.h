/*
 * flusher.h
 *	  The flush daemon: it has dirty pages written to their files, and tells the agents (docs/write_back.md, section 3).
 *
 * All of it runs in the event loop's thread but the writing itself, which flush_worker does. There is one round at a time in
 * the whole process; tenants that have something to flush take turns. A round is filled in small pieces: page by page its
 * newest version is looked up in the index and copied, and its slot becomes WRITING. What happens to the slot from then
 * on does not concern the round: the copy is written, and found durable or not.
 *
 *	  decision (flush_policy) -> pass (flush_pass) -> rounds -> CLEAN to the agent
 */
#ifndef MEMNODE_FLUSHER_H
#define MEMNODE_FLUSHER_H

#include <stdbool.h>
#include "lb_status.h"
#include "lb_wire.h"
#include "options.h"

struct node;
struct session;
struct tenant;

typedef struct flusher flusher;

/* Null with a status if it can't be had. Without storage there is no worker, and nothing is ever proven. */
extern flusher *flusher_start(struct node *node, lb_status *status);

/* Stops the round that is under way. Null is allowed. */
extern void flusher_stop(flusher *flusher);

/* There may be something to do or to tell: it is done soon. */
extern void flusher_wake(flusher *flusher);

/* A tenant's pages were published; dirty says which, as the flag of their pushes. */
extern void flusher_note_dirty(flusher *flusher, struct tenant *tenant, const lb_page_tag *tag);

/* The tenant's agent is gone. */
extern void flusher_detach(flusher *flusher, struct tenant *tenant);

/*
 * FENCE: nothing of these pages will be told of as clean any more. True: nothing of them is under way to storage; else the
 * answer, with this sequence, is sent when the round is over. No more than FENCES_MAX may wait.
 */
extern bool flusher_fence(flusher *flusher, struct tenant *tenant, const lb_fence *fence,
						  uint64_t sequence);

#endif /* MEMNODE_FLUSHER_H */
