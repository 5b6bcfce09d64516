/*
 * log.h
 *	  The memory node's log: one line per thing that happened, on standard error or appended to a file.
 */
#ifndef MEMNODE_LOG_H
#define MEMNODE_LOG_H

#include "lb_status.h"

typedef enum log_level
{
	LOG_NOTE,
	LOG_WARNING,
	LOG_ERROR
} log_level;

/* Append to this file from now on (created with mode 0600). False with LB_SYSTEM: lines still go to standard error. */
extern bool log_to_file(const char *path, lb_status *status);
extern void log_close(void);

/* Control characters in the text are replaced, because parts of it come from peers. */
extern void log_line(log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * For lines that any stranger can cause: at most 10 a second are written, and the number of those left out is noted as
 * soon as lines are written again.
 */
extern void log_limited(log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif /* MEMNODE_LOG_H */
