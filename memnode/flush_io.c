/*
 * flush_io.c
 *	  io_uring, and pwritev with fdatasync.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "flush_io.h"

typedef struct uring_io
{
	flush_io io; /* must be first */
	struct io_uring ring;
} uring_io;

typedef struct plain_io
{
	flush_io io;            /* must be first */
	flush_request *request; /* the one in flight: submitted, done in wait */
} plain_io;

static void
uring_submit(flush_io *io, flush_request *request)
{
	uring_io *self = (uring_io *) io;
	struct io_uring_sqe *entry = io_uring_get_sqe(&self->ring); /* there is one: see depth */

	if (request->sync)
		io_uring_prep_fsync(entry, request->fd, IORING_FSYNC_DATASYNC);
	else
		io_uring_prep_writev(entry, request->fd, request->vector, (unsigned) request->vector_count,
							 (uint64_t) request->offset);
	io_uring_sqe_set_data(entry, request);
}

/*
 * Entering the kernel can fail for a signal or for want of memory. Then entries that are not yet submitted stay in the ring
 * and go along with the next attempt; what is in flight must be waited for in any case.
 */
static struct io_uring_cqe *
uring_next(struct io_uring *ring)
{
	static const struct timespec pause = {0, 1000000};
	struct io_uring_cqe *completion;

	for (;;)
	{
		int result = io_uring_submit_and_wait(ring, 1);

		if (io_uring_peek_cqe(ring, &completion) == 0)
			return completion;
		if (result < 0 && result != -EINTR)
			nanosleep(&pause, NULL);
	}
}

static flush_request *
uring_wait(flush_io *io)
{
	uring_io *self = (uring_io *) io;
	struct io_uring_cqe *completion = uring_next(&self->ring);
	flush_request *request = io_uring_cqe_get_data(completion);

	request->result = completion->res;
	io_uring_cqe_seen(&self->ring, completion);
	return request;
}

static void
uring_close(flush_io *io)
{
	uring_io *self = (uring_io *) io;

	io_uring_queue_exit(&self->ring);
	free(self);
}

static const flush_io_operations uring_operations = {
	.name = "io_uring",
	.depth = FLUSH_IO_DEPTH,
	.submit = uring_submit,
	.wait = uring_wait,
	.close = uring_close,
};

/* Making a ring may be allowed and entering it not: a request that does nothing shows it. */
static bool
uring_works(struct io_uring *ring, lb_status *status)
{
	struct io_uring_cqe *completion;
	int result;

	io_uring_prep_nop(io_uring_get_sqe(ring));
	do
		result = io_uring_submit_and_wait(ring, 1);
	while (result == -EINTR);
	if (result < 0)
	{
		errno = -result;
		return lb_fail_errno(status, "could not use io_uring");
	}
	if (io_uring_peek_cqe(ring, &completion) != 0)
		return lb_fail(status, LB_SYSTEM, "io_uring does not complete requests");
	io_uring_cqe_seen(ring, completion);
	return true;
}

static flush_io *
uring_open(lb_status *status)
{
	uring_io *self = calloc(1, sizeof(*self));
	int result;

	if (self == NULL)
	{
		lb_fail_errno(status, "could not set up io_uring");
		return NULL;
	}
	self->io.operations = &uring_operations;
	result = io_uring_queue_init(FLUSH_IO_DEPTH, &self->ring, 0);
	if (result < 0)
	{
		errno = -result;
		lb_fail_errno(status, "could not set up io_uring");
		free(self);
		return NULL;
	}
	if (!uring_works(&self->ring, status))
	{
		uring_close(&self->io);
		return NULL;
	}
	return &self->io;
}

static void
plain_submit(flush_io *io, flush_request *request)
{
	((plain_io *) io)->request = request;
}

static flush_request *
plain_wait(flush_io *io)
{
	flush_request *request = ((plain_io *) io)->request;

	if (request->sync)
		request->result = fdatasync(request->fd);
	else
		request->result =
			pwritev(request->fd, request->vector, request->vector_count, request->offset);
	if (request->result < 0)
		request->result = -errno;
	return request;
}

static void
plain_close(flush_io *io)
{
	free(io);
}

static const flush_io_operations plain_operations = {
	.name = "pwritev",
	.depth = 1,
	.submit = plain_submit,
	.wait = plain_wait,
	.close = plain_close,
};

static flush_io *
plain_open(lb_status *status)
{
	plain_io *self = calloc(1, sizeof(*self));

	if (self == NULL)
	{
		lb_fail_errno(status, "could not prepare flushing");
		return NULL;
	}
	self->io.operations = &plain_operations;
	return &self->io;
}

flush_io *
flush_io_open(flush_io_kind kind, lb_status *fallback, lb_status *status)
{
	lb_status reason = {0};
	flush_io *io = NULL;

	if (kind != FLUSH_IO_PLAIN)
		io = uring_open(&reason);
	if (io == NULL && kind == FLUSH_IO_URING)
	{
		*status = reason;
		return NULL;
	}
	if (fallback != NULL)
		*fallback = reason;
	return io != NULL ? io : plain_open(status);
}
