/*
 * flushing.h
 *	  What the memory node knows of the flushing of one tenant's dirty pages. The flusher acts on it.
 */
#ifndef MEMNODE_FLUSHING_H
#define MEMNODE_FLUSHING_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "clean_queue.h"
#include "flush_pace.h"
#include "flush_pass.h"
#include "flush_policy.h"
#include "flush_survey.h"
#include "lb_wire.h"

/* FENCEs that may wait for the same round. */
#define FENCES_MAX 256

typedef struct flushing
{
	/* Of this attachment. */
	bool proven;         /* its data directory was found here */
	bool confirmed;      /* ... and the agent goes on from that: the nonce was the right one */
	bool barred;         /* a later life of the server has raised the fence: never again */
	char root[PATH_MAX]; /* the data directory */
	char version_folder[LB_VERSION_FOLDER_MAX + 1]; /* in its tablespaces */
	bool requested;                                 /* a FLUSH is not yet satisfied ... */
	bool requested_again; /* ... and another one came after the pass for it had begun */
	uint32_t fence_count;
	uint64_t fences[FENCES_MAX]; /* sequences of those that wait for the end of the round */

	/* What the agent is to be told. */
	clean_queue clean;
	bool untold; /* nobody knows which FLUSHED slots it was told of: once storage is proven ... */
	bool retelling; /* ... it is told of all of them, from here on */
	uint32_t retell_slab;
	uint32_t retell_page;
	bool
		tell_turn; /* a round failed, or succeeded for the first time since, and that was not told */
	uint64_t told_ns;    /* when the last FLUSH_STATE was sent; 0: none yet */
	lb_flush_state told; /* ... and what it said */

	/* Of the pages. */
	bool in_round; /* its pages are in the round that is under way */
	uint64_t turn; /* the number of its last round among all tenants' */
	flush_pass pass;
	bool pass_requested;    /* it is for a FLUSH ... */
	bool pass_failed;       /* ... and is to be repeated: not all of it became durable */
	uint64_t not_before_ns; /* after a failed round */
	flush_policy policy;
	flush_pace pace;
	flush_survey survey;
	lb_flush_state figures; /* dirty_pages is filled in when it is told */
} flushing;

/* All zero before. */
extern void flushing_init(flushing *flushing);
extern void flushing_free(flushing *flushing);

/* The agent is gone: nothing is flushed until the next one has asked for its storage. */
extern void flushing_detach(flushing *flushing);

/* Which figures the agent gets. */
extern lb_flush_state flushing_state(const flushing *flushing, const slot_table *slots);

/* What the flush policy decides on just now. */
extern flush_decision flushing_decide(flushing *flushing, const flush_policy_options *options,
									  const slot_table *slots, uint64_t granted_pages,
									  uint32_t now_s);

/* FLUSH: everything that is dirty now is wanted. */
extern void flushing_request(flushing *flushing, const slot_table *slots);

/* The pass is over, or is to make place for another one. complete: all of its pages had their turn. */
extern void flushing_end_pass(flushing *flushing, const slot_table *slots, bool complete);

/* Tell the agent of all slots that are FLUSHED, from the first one on: "untold" is settled. */
extern void flushing_begin_retelling(flushing *flushing);

/* The next pages that the agent is to be told of; false: none, or none has been found yet while retelling. */
extern bool flushing_next_clean(flushing *flushing, const slot_table *slots, lb_clean *batch);

#endif /* MEMNODE_FLUSHING_H */
