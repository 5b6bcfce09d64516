/*
 * lb_status.h
 *	  How code shared by the extension and the memory node reports failure.
 *
 * Shared code never logs, exits, longjmps or allocates through PostgreSQL: it returns false (or a null
 * pointer) and fills an lb_status, which the caller turns into ereport() or a line on standard error.
 */
#ifndef LB_STATUS_H
#define LB_STATUS_H

#include <stdbool.h>

typedef enum lb_code
{
	LB_OK = 0,
	LB_TIMEOUT,   /* the time limit of the operation passed */
	LB_CANCELLED, /* the caller's interrupt callback asked to stop */
	LB_CLOSED,    /* the peer closed the connection, or it was reset */
	LB_SYSTEM,    /* a system call failed; the message has strerror's text */
	LB_INVALID,   /* bad input: a URI, an option, an argument */
	LB_PROTOCOL,  /* the peer sent something the protocol forbids */
	LB_REFUSED    /* the peer answered with an ERROR frame; wire_error says which */
} lb_code;

typedef struct lb_status
{
	lb_code code;
	int wire_error;    /* an lb_wire_error when code is LB_REFUSED, else 0 */
	char message[256]; /* one line, no full stop, no newline */
} lb_status;

/* Fill *status and return false, so that callers can write "return lb_fail(...)". */
extern bool lb_fail(lb_status *status, lb_code code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with ": " and strerror(errno) added, and the code LB_SYSTEM. errno is kept. */
extern bool lb_fail_errno(lb_status *status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif /* LB_STATUS_H */
