/*
 * flush_round.h
 *	  A round of flushing: pages, copied, that are written to their files and made durable (docs/write_back.md, section 3).
 *
 * The fence's lock is taken and the epoch compared; each file is opened, written (neighbours in one call) and synced; at
 * last the lock goes. Files are independent: one that fails does not keep the others from becoming durable. Within a
 * file it is all or nothing: its pages are durable if all its writes and then its sync succeeded, because a sync that
 * failed can't be made good by another one (R7), only by writing everything again.
 *
 * No file is created or extended: a page beyond a file's end, or without a file, is a failure of that file, of which
 * nothing is written. Before each write the stop flag and the agent's connection are looked at.
 */
#ifndef MEMNODE_FLUSH_ROUND_H
#define MEMNODE_FLUSH_ROUND_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "flush_io.h"
#include "lb_page.h"
#include "lb_status.h"
#include "lb_wire.h"

typedef struct flush_page
{
	lb_page_tag tag;
	const uint8_t *data; /* LB_PAGE_SIZE bytes; stays as it is until the round comes back */
	bool durable;        /* out: written and its file synced, with success */
} flush_page;

typedef enum flush_outcome
{
	FLUSH_DONE,   /* every page is durable */
	FLUSH_FAILED, /* pages of some or all files are not; "error" is of the first that failed */
	FLUSH_STOPPED, /* asked to stop, or the agent's connection is gone; nothing was written after that was seen */
	FLUSH_FENCED /* the epoch is too old; nothing was written, and this attachment may never write again */
} flush_outcome;

typedef struct flush_round
{
	/* what the caller fills in */
	char root[PATH_MAX];                            /* the data directory (storage_find) */
	char version_folder[LB_VERSION_FOLDER_MAX + 1]; /* of STORAGE */
	uint64_t epoch;                                 /* the attachment's */
	int agent_fd; /* a duplicate of the agent's socket, which flush_round_free closes; or -1 */
	uint32_t count;
	void *owner; /* the caller's, not looked at */

	/* Set at any time, by any thread, to end the round soon; before a round is submitted, it writes nothing at all. */
	atomic_bool stop;

	/* results */
	flush_outcome outcome;
	lb_status error; /* of FLUSH_FAILED, FLUSH_STOPPED and FLUSH_FENCED */

	/*
	 * A sync failed. The kernel tells a failed write once, and forgets it: on a machine that both nodes share, pages
	 * that the *server* wrote to this file may be lost too, and its own sync will then succeed. The server has to treat it as
	 * its own failed sync (R7).
	 */
	bool sync_failed;
	uint32_t pages_written; /* successfully, durable or not */
	uint32_t pages_durable;
	uint32_t write_calls;
	uint32_t syncs; /* files synced successfully */
	uint64_t elapsed_ns;

	uint32_t capacity;
	flush_page pages[]; /* ascending by flush_page_compare, none twice */
} flush_round;

/* All zero but agent_fd, which is -1; null without memory. Freed by flush_round_free (null is allowed), which closes agent_fd. */
extern flush_round *flush_round_create(uint32_t capacity);
extern void flush_round_free(flush_round *round);

/* For qsort: by tablespace, database, relation, fork, block. */
extern int flush_page_compare(const void *a, const void *b);

/* Do it all, in the calling thread, and fill in the results. Once for each round: they are zero before. */
extern void flush_round_run(flush_round *round, flush_io *io);

#endif /* MEMNODE_FLUSH_ROUND_H */
