/*
 * flush_worker.h
 *	  The thread that writes dirty pages to their files and makes them durable, a round at a time.
 *
 * The event loop's thread hands over a round (flush_round.h); the worker says through an eventfd that it is done. A round
 * belongs to the worker from flush_worker_submit until flush_worker_finished returns it: the other thread then touches
 * nothing but "stop". There is one round at a time, so that no two writes of one page overlap.
 */
#ifndef MEMNODE_FLUSH_WORKER_H
#define MEMNODE_FLUSH_WORKER_H

#include <stdbool.h>
#include "flush_io.h"
#include "flush_round.h"
#include "lb_status.h"

typedef struct flush_worker flush_worker;

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

/* Not while it has one: submitted, and not yet returned by flush_worker_finished. */
extern void flush_worker_submit(flush_worker *worker, flush_round *round);

/* The round that is finished, or null. Never blocks. */
extern flush_round *flush_worker_finished(flush_worker *worker);

#endif /* MEMNODE_FLUSH_WORKER_H */
