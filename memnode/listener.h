/*
 * listener.h
 *	  Where the memory node accepts connections.
 */
#ifndef MEMNODE_LISTENER_H
#define MEMNODE_LISTENER_H

#include <stdbool.h>
#include <sys/types.h>
#include "lb_net.h"
#include "node.h"

typedef struct listener
{
	node *node;
	const lb_uri *uri;
	int fd;
	struct event *event;
	bool paused;                     /* the system refused; tried again by listener_resume */
	char bound_uri[LB_URI_MAX + 16]; /* with the real port */
	lb_address bound;
	dev_t socket_device; /* shm: which file is ours */
	ino_t socket_inode;
} listener;

/* Bind and listen. Connections wait until listener_resume. */
extern bool listener_open(listener *listener, node *node, const lb_uri *uri, lb_status *status);

/* Accept (again), unless it already does. */
extern void listener_resume(listener *listener);

/* Also removes the socket's file, if it is still ours. */
extern void listener_close(listener *listener);

/* The descriptor that is given up for a moment to refuse a connection when no other is left. */
extern bool listener_reserve_fd(lb_status *status);
extern void listener_free_reserve_fd(void);

#endif /* MEMNODE_LISTENER_H */
