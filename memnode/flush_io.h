/*
 * flush_io.h
 *	  Writing and syncing with several requests in flight, through io_uring, or one after the other with pwritev and
 *	  fdatasync where io_uring is not to be had (forbidden by seccomp or the sysctl kernel.io_uring_disabled).
 *
 * For one thread at a time. Knows nothing of pages and files: the flush worker does.
 */
#ifndef MEMNODE_FLUSH_IO_H
#define MEMNODE_FLUSH_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include "lb_status.h"

#define FLUSH_IO_DEPTH 16  /* requests in flight at most, of any kind */
#define FLUSH_IO_VECTOR 32 /* buffers in one write */

typedef enum flush_io_kind
{
	FLUSH_IO_AUTO,
	FLUSH_IO_URING,
	FLUSH_IO_PLAIN
} flush_io_kind;

/* Belongs to the flush_io from submit until wait returns it. */
typedef struct flush_request
{
	int fd;
	bool sync; /* fdatasync; else write */
	struct iovec vector[FLUSH_IO_VECTOR];
	int vector_count;
	off_t offset;
	ssize_t result; /* bytes written (0 for a sync), or -errno */
} flush_request;

typedef struct flush_io flush_io;

/* What each way of doing it provides; both structs of flush_io begin with a pointer to it. */
typedef struct flush_io_operations
{
	const char *name;
	int depth; /* requests in flight at most */
	void (*submit)(flush_io *io, flush_request *request);
	flush_request *(*wait)(flush_io *io);
	void (*close)(flush_io *io);
} flush_io_operations;

struct flush_io
{
	const flush_io_operations *operations;
};

/*
 * Null with a filled status on failure. FLUSH_IO_AUTO: io_uring, or else plain; then *fallback (may be null) says why not
 * io_uring, and is LB_OK otherwise.
 */
extern flush_io *flush_io_open(flush_io_kind kind, lb_status *fallback, lb_status *status);

/* Hand over a request, at most operations->depth at a time. It begins now or in the next flush_io_wait. */
static inline void
flush_io_submit(flush_io *io, flush_request *request)
{
	io->operations->submit(io, request);
}

/* Wait for any one of the requests in flight; there must be one. Requests may finish in any order. */
static inline flush_request *
flush_io_wait(flush_io *io)
{
	return io->operations->wait(io);
}

/* Nothing may be in flight. */
static inline void
flush_io_close(flush_io *io)
{
	io->operations->close(io);
}

#endif /* MEMNODE_FLUSH_IO_H */
