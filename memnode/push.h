/*
 * push.h
 *	  PUSH: pages are pulled into slots, verified, published, acknowledged.
 *
 * Over shm and tcp that is one call. Over rdma it is two: push_handle begins to pull and returns; when the pages are there
 * push_finish does the rest. In between the session has a push_under_way:
 *
 *	  none ──push_handle──> under way ──push_finish──> none
 *	                            └──(failed, too late, the session ends): push_forget──> none, the slots stay empty
 */
#ifndef MEMNODE_PUSH_H
#define MEMNODE_PUSH_H

#include "session.h"

typedef struct push_under_way push_under_way;

/* Handles a PUSH. False: close the session. */
extern bool push_handle(session *session, const lb_frame *frame);

/* All pages of the PUSH that is under way were pulled. False: close the session. */
extern bool push_finish(session *session);

/* Nothing writes to its slots any more. No PUSH need be under way. */
extern void push_forget(session *session);

/* Of one that is under way: has it taken too long? */
extern bool push_is_late(const session *session, uint64_t now_ns);

/* This process stood still for a while: the time begins anew. No PUSH need be under way. */
extern void push_forgive(session *session, uint64_t now_ns);

#endif /* MEMNODE_PUSH_H */
