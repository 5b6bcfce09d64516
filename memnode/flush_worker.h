/*
 * flush_worker.h
 *	  The thread that writes dirty pages to their files and makes them durable.
 *
 * The event loop's thread hands over a *round*: pages, copied, sorted by file and block. The worker takes the fence's lock,
 * checks the epoch, opens each file, writes (neighbours in one call), syncs, closes, unlocks, and says that it is done
 * through an eventfd. There is one round at a time, so that no two writes of one page overlap (docs/write_back.md,
 * section 3). A round belongs to the worker from flush_worker_submit until flush_worker_finished returns it: the other
 * thread then touches nothing but "stop".
 */
#ifndef MEMNODE_FLUSH_WORKER_H
#define MEMNODE_FLUSH_WORKER_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "flush_io.h"
#include "lb_page.h"
#include "lb_status.h"
#include "lb_wire.h"

typedef struct flush_worker flush_worker;

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

/* All zero, agent_fd -1; null without memory. Freed by flush_round_free (null is allowed), which closes agent_fd. */
extern flush_round *flush_round_create(uint32_t capacity);
extern void flush_round_free(flush_round *round);

/* For qsort: by tablespace, database, relation, fork, block. */
extern int flush_page_compare(const void *a, const void *b);

/*
 * Start the thread. kind: FLUSH_IO_AUTO takes io_uring where the kernel allows it; if it does not, *fallback (which may be
 * null) says why, for the log, and is LB_OK otherwise. Null with a filled status on failure.
 */
extern flush_worker *flush_worker_start(flush_io_kind kind, lb_status *fallback, lb_status *status);

/* Stop the round under way, wait for the thread, free. A round that is with the worker is freed too. */
extern void flush_worker_stop(flush_worker *worker);

/* Readable when a round is finished. Don't read it: flush_worker_finished does. */
extern int flush_worker_event_fd(const flush_worker *worker);

/* "io_uring" or "pwritev". */
extern const char *flush_worker_io_name(const flush_worker *worker);

/* Is a round with the worker: submitted and not yet returned by flush_worker_finished? */
extern bool flush_worker_busy(const flush_worker *worker);

/* Not while it is busy. */
extern void flush_worker_submit(flush_worker *worker, flush_round *round);

/* The round that is finished, or null. Never blocks. */
extern flush_round *flush_worker_finished(flush_worker *worker);

#endif /* MEMNODE_FLUSH_WORKER_H */
