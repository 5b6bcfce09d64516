/*
 * request.h
 *	  What settled sessions ask for.
 */
#ifndef MEMNODE_REQUEST_H
#define MEMNODE_REQUEST_H

#include "session.h"

/* Handles one frame of a settled session, whose descriptor stays the caller's. False: close the session. */
extern bool request_handle(session *session, const lb_frame *frame);

/* A grant is complete: answer the SLAB_REQUEST. Closes the agent's session if that can't be sent. */
extern void request_answer_grant(tenant *tenant);

/* PUSH, in push.c. */
extern bool push_handle(session *session, const lb_frame *frame);

#endif /* MEMNODE_REQUEST_H */
