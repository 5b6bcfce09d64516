/*
 * lb_uri.h
 *	  The addresses of memory nodes: shm:///path/of/socket, tcp://host:port, rdma://host:port.
 */
#ifndef LB_URI_H
#define LB_URI_H

#include <stdint.h>
#include "lb_status.h"

typedef enum lb_transport
{
	LB_TRANSPORT_SHM, /* control over a Unix socket, data by shared memory */
	LB_TRANSPORT_TCP, /* control and data over TCP */
	LB_TRANSPORT_RDMA /* control over TCP, data by one-sided RDMA */
} lb_transport;

#define LB_URI_MAX 300 /* longest URI accepted, with the terminating zero */
#define LB_HOST_MAX 256

typedef struct lb_uri
{
	lb_transport transport;
	char host[LB_HOST_MAX]; /* tcp, rdma: host name or address, IPv6 without its brackets */
	uint16_t port;          /* tcp, rdma: 1 to 65535, or 0 when listening */
	char path[LB_HOST_MAX]; /* shm: the socket's path, at most 107 bytes, see lb_uri_parse */
	char text[LB_URI_MAX];  /* as written */
} lb_uri;

/*
 * Parse one URI. tcp and rdma need a port: there is no default, so that a mistyped one is noticed. IPv6 addresses
 * stand in brackets. Host "*" (any address) and port 0 (any port) are for listening only. The path of a socket is absolute
 * (shm:///path), or begins with "./" (shm://./path, relative to the process's working folder: a server's is its data
 * directory, whose absolute path may be longer than a socket's may be).
 * False with LB_INVALID and a message that names the offending part.
 */
extern bool lb_uri_parse(const char *text, bool for_listening, lb_uri *uri, lb_status *status);

/* "shm", "tcp" or "rdma". */
extern const char *lb_transport_name(lb_transport transport);

#endif /* LB_URI_H */
