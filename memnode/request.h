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

/* A body that the protocol forbids: the session is refused. */
extern bool request_malformed(session *session, const lb_frame *frame);

/* In reload.c. */
extern bool control_handle(session *session, const lb_frame *frame);
extern bool reload_handle(session *session, const lb_frame *frame);

/* In flush_request.c. */
extern bool storage_handle(session *session, const lb_frame *frame);
extern bool flush_handle(session *session, const lb_frame *frame);
extern bool fence_handle(session *session, const lb_frame *frame);
extern bool slab_keep_handle(session *session, const lb_frame *frame);
extern bool storage_load_handle(session *session, const lb_frame *frame);

/* In rdma_request.c. */
extern bool rdma_open_handle(session *session, const lb_frame *frame);
extern bool slab_keys_handle(session *session, const lb_frame *frame);

#endif /* MEMNODE_REQUEST_H */
