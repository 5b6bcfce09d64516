/*
 * status_client.h
 *	  legobase-memnode --status: ask a running memory node for its figures.
 */
#ifndef MEMNODE_STATUS_CLIENT_H
#define MEMNODE_STATUS_CLIENT_H

#include "lb_uri.h"

/* Prints one "name: value" a line, within 5 seconds. */
extern bool status_print(const lb_uri *uri, lb_status *status);

#endif /* MEMNODE_STATUS_CLIENT_H */
