/*
 * server.h
 *	  The memory node's event loop: listeners, signals, time, and work between events.
 */
#ifndef MEMNODE_SERVER_H
#define MEMNODE_SERVER_H

#include "options.h"

/* Serve until SIGTERM, SIGINT, or unused for long enough. Returns the exit code. Failures are in the log. */
extern int server_run(const options *options);

#endif /* MEMNODE_SERVER_H */
