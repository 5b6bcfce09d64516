/*
 * lb_net.h
 *	  Sockets: resolving, listening, connecting, passing descriptors. All sockets are close-on-exec; those for TCP have
 *	  TCP_NODELAY and keepalive on.
 */
#ifndef LB_NET_H
#define LB_NET_H

#include <stddef.h>
#include <sys/socket.h>
#include "lb_uri.h"

typedef struct lb_address
{
	struct sockaddr_storage storage;
	socklen_t length;
} lb_address;

/*
 * Find the address for a URI. A numeric host is never looked up. A host name is looked up with getaddrinfo, which blocks
 * for as long as the system's resolver takes: only the buffer agent and the memory node's start may pass names.
 */
extern bool lb_net_resolve(const lb_uri *uri, bool for_listening, lb_address *address,
						   lb_status *status);

/* The same for connecting, but of several addresses of a host the one with this number, modulo how many there are. */
extern bool lb_net_resolve_nth(const lb_uri *uri, unsigned number, lb_address *address,
							   lb_status *status);

/*
 * Listen. For a Unix socket: a leftover file that nobody answers on is replaced; one that is answered is "in use"; the
 * new one has mode 0600. Returns a non-blocking descriptor, or -1. *bound gets the address with the real port.
 */
extern int lb_net_listen(const lb_uri *uri, const lb_address *address, lb_address *bound,
						 lb_status *status);

/* Start a non-blocking connect; it is complete when the descriptor is writable and lb_net_connected() says so. -1: failed. */
extern int lb_net_connect_start(const lb_address *address, lb_status *status);

/* After writability: did the connect succeed? */
extern bool lb_net_connected(int fd, lb_status *status);

/* Connect within the time limit (a deadline of lb_now_ns); the descriptor is left non-blocking. -1: failed. */
extern int lb_net_connect(const lb_address *address, uint64_t deadline_ns, lb_status *status);

/*
 * After a send or receive that failed with errno ("send" or "receive" is the what of the message): LB_CLOSED if the peer
 * or the way to it is gone, else LB_SYSTEM. False, like lb_fail.
 */
extern bool lb_net_fail_transfer(lb_status *status, const char *what);

#endif /* LB_NET_H */
