/*
 * flush_tell.h
 *	  What the memory node tells agents about flushing: CLEAN, FENCED, FLUSH_STATE.
 *
 * CLEAN and FLUSH_STATE are sent unasked, and only while nothing else waits to be sent on the connection: so they never add up
 * to more than one frame in its output. The session wakes the flusher when the output is empty again.
 */
#ifndef MEMNODE_FLUSH_TELL_H
#define MEMNODE_FLUSH_TELL_H

#include <stdbool.h>
#include "tenant.h"

/* Tell what there is to tell, as far as there is room. True: there is more, and room too. May close the agent's session. */
extern bool flush_tell(tenant *tenant);

/* Is there something to be told at a later time? */
extern bool flush_tell_is_due(const tenant *tenant);

/* The round is over: answer the FENCEs that waited for it. May close the agent's session. */
extern void flush_tell_fenced(tenant *tenant);

#endif /* MEMNODE_FLUSH_TELL_H */
