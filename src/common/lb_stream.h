/*
 * lb_stream.h
 *	  A buffered, non-blocking stream of frames over a connected socket; the same on both sides of the control channel, and
 *	  in the memory node also for the tcp data plane. It knows nothing of what frames mean.
 *
 * Life: init with a connected or connecting descriptor, queue and flush to write, fill and next to read, close. A stream
 * is used by one thread. After any function returned false the stream is broken and only close is allowed.
 *
 * Memory: the input buffer starts small and grows to the size of the frame that is being received, never beyond
 * LB_HEADER_SIZE + LB_BODY_MAX + LB_BULK_MAX, and only after the header was checked; it shrinks again when idle, so that
 * a thousand idle connections cost little. The output queue is limited by output_limit: a peer that does not read is
 * a reason to close, not to grow (lb_stream_send then fails with LB_TIMEOUT).
 */
#ifndef LB_STREAM_H
#define LB_STREAM_H

#include <sys/uio.h>
#include "lb_status.h"
#include "lb_wire.h"

typedef struct lb_stream lb_stream;

typedef struct lb_frame
{
	lb_header header;
	const uint8_t *body; /* header.body_length bytes, valid until the next call with this stream */
	const uint8_t *bulk; /* header.bulk_length bytes, likewise */
	int fd; /* a descriptor that came with the frame, or -1; now the caller's to close */
} lb_frame;

/* Takes over fd. Null with a status when memory is short (fd is closed then too). */
extern lb_stream *lb_stream_create(int fd, size_t output_limit, lb_status *status);
extern void lb_stream_close(lb_stream *stream);
extern int lb_stream_fd(const lb_stream *stream);

/*
 * Add a frame to the output and try to send at once. bulk: LB_BATCH_MAX or fewer pieces, sent from where they lie as far as
 * the socket takes them at once and copied only where it does not. pass_fd: a descriptor to send along on a Unix socket
 * (the caller keeps its own), or -1.
 */
extern bool lb_stream_send(lb_stream *stream, lb_frame_type type, uint64_t sequence,
						   const void *body, size_t body_length, const struct iovec *bulk,
						   int bulk_count, int pass_fd, lb_status *status);

/* Send what is queued, as far as the socket takes it. */
extern bool lb_stream_flush(lb_stream *stream, lb_status *status);
extern bool lb_stream_wants_write(const lb_stream *stream);

/*
 * Receive what is there. LB_CLOSED at end of file. While a complete frame waits to be taken nothing is received, so a
 * peer can't make the buffer grow: call lb_stream_next until it returns 0 before waiting for the socket again.
 * accept_bulk: the largest bulk this side takes at this moment (0 before a session is accepted).
 */
extern bool lb_stream_fill(lb_stream *stream, size_t accept_bulk, lb_status *status);

/* The next complete frame. 1: *frame is filled. 0: none yet. -1: what came is not a frame (LB_PROTOCOL). */
extern int lb_stream_next(lb_stream *stream, lb_frame *frame, lb_status *status);

#endif /* LB_STREAM_H */
