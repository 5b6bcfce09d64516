/*
 * hello.h
 *	  The first frame of a session: who may come in, and as what.
 */
#ifndef MEMNODE_HELLO_H
#define MEMNODE_HELLO_H

#include "session.h"

/* Answers with WELCOME or ERROR. False: the connection is broken. */
extern bool hello_handle(session *session, const lb_frame *frame);

#endif /* MEMNODE_HELLO_H */
