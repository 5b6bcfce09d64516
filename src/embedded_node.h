/*
 * embedded_node.h
 *	  The memory node that the extension starts itself when no other is configured.
 *
 * It is a legobase-memnode like any other, on this host, reached through shared memory. It is a process of its own, in a session
 * of its own: it outlives a crash or a restart of the server, and ends itself when it was not used for a while. Its socket
 * and its log file are in the instance's folder in the data directory.
 */
#ifndef LEGOBASE_EMBEDDED_NODE_H
#define LEGOBASE_EMBEDDED_NODE_H

#include "lb_uri.h"

/*
 * Its URI. The path of the socket is relative to the data directory, where all server processes are: the absolute one may be
 * too long for a socket. It names the node's size, so that after a change of embedded_memory another node is started, and
 * the old one ends. The text has the absolute path, for people.
 */
extern const lb_uri *embedded_node_uri(void);

/* Start the process. False if it could not be started; that it runs shows when it can be connected to. */
extern bool embedded_node_start(lb_status *status);

#endif /* LEGOBASE_EMBEDDED_NODE_H */
