/*
 * lb_data_plane_socket.h
 *	  What the data planes have in common: a blocking socket whose waits end at a deadline, and within about 10 ms when
 *	  the caller's callback asks for it. Private to lb_data_plane*.c.
 *
 * The socket blocks, in slices of 10 ms (SO_RCVTIMEO, SO_SNDTIMEO): the usual read is one send and one receive, with
 * neither a poll nor a look at the clock. A receive with a time limit also ends at a signal, even at those that
 * restart system calls, so that a cancelled query is noticed at once.
 */
#ifndef LB_DATA_PLANE_SOCKET_H
#define LB_DATA_PLANE_SOCKET_H

#include <sys/uio.h>
#include "lb_data_plane.h"

extern const lb_data_plane_ops lb_data_plane_shm;
extern const lb_data_plane_ops lb_data_plane_tcp;

/* Connect and introduce ourselves. The descriptor, or -1. */
extern int lb_data_plane_socket_open(const lb_data_plane *plane, const lb_address *address,
									 const lb_hello *hello, uint64_t deadline_ns,
									 lb_status *status);

/* Send a frame without bulk. */
extern bool lb_data_plane_socket_send(const lb_data_plane *plane, int fd, lb_frame_type type,
									  uint64_t sequence, const void *body, size_t body_length,
									  uint64_t deadline_ns, lb_status *status);

/*
 * Receive until the pieces are full, or less when a slice or a signal ended the wait: the number of bytes, at least 1;
 * or -1. passed_fd: where to put a descriptor that came along, or null if none may.
 */
extern ssize_t lb_data_plane_socket_receive(const lb_data_plane *plane, int fd,
											struct iovec *pieces, int count, int *passed_fd,
											uint64_t deadline_ns, lb_status *status);

/* May we go on waiting? False with LB_CANCELLED or LB_TIMEOUT. */
extern bool lb_data_plane_may_wait(const lb_data_plane *plane, uint64_t deadline_ns,
								   lb_status *status);

/*
 * Receive the answer to a request: a frame of this type and sequence, without bulk. body: LB_BODY_MAX bytes.
 * LB_REFUSED if it is an ERROR, LB_PROTOCOL if anything else. passed_fd: as above, -1 if none came.
 */
extern bool lb_data_plane_socket_answer(const lb_data_plane *plane, int fd, lb_frame_type type,
										uint64_t sequence, uint8_t *body, size_t *body_length,
										int *passed_fd, uint64_t deadline_ns, lb_status *status);

/* Turn the body of an ERROR frame into LB_REFUSED, or LB_PROTOCOL if it is malformed. False. */
extern bool lb_data_plane_refused(const uint8_t *body, size_t length, lb_status *status);

#endif /* LB_DATA_PLANE_SOCKET_H */
