/*
 * raw_frame.h
 *	  Frames as arrays of bytes, for tests that send them in pieces, damaged or in the wrong order.
 */
#ifndef RAW_FRAME_H
#define RAW_FRAME_H

#include "lb_wire.h"

typedef struct raw_frame
{
	size_t length;
	uint8_t bytes[LB_HEADER_SIZE + LB_BODY_MAX + LB_BULK_MAX];
} raw_frame;

/* A frame with this body and so many pages of bulk, page i filled with bytes of first_fill + i. On the heap: free it. */
extern raw_frame *raw_frame_make(lb_frame_type type, uint64_t sequence, const void *body,
								 size_t body_length, int pages, uint8_t first_fill);

/* The descriptors that this process has open. */
extern int count_open_descriptors(void);

/* Those of them that a program started by this process would get. */
extern int count_inheritable_descriptors(void);

#endif /* RAW_FRAME_H */
