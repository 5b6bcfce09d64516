/*
 * lb_status.c
 *	  Filling in an lb_status.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lb_status.h"

bool
lb_fail(lb_status *status, lb_code code, const char *format, ...)
{
	va_list args;

	status->code = code;
	status->wire_error = 0;
	va_start(args, format);
	vsnprintf(status->message, sizeof(status->message), format, args);
	va_end(args);
	return false;
}

bool
lb_fail_errno(lb_status *status, const char *format, ...)
{
	int saved_errno = errno;
	size_t room = sizeof(status->message) - 1;
	size_t length;
	char reason[128];
	va_list args;

	status->code = LB_SYSTEM;
	status->wire_error = 0;
	va_start(args, format);
	vsnprintf(status->message, sizeof(status->message), format, args);
	va_end(args);

	/* The reason matters more than the end of a long name: make room for it. */
	snprintf(reason, sizeof(reason), ": %s", strerror(saved_errno));
	length = strlen(status->message);
	if (length > room - strlen(reason))
		length = room - strlen(reason);
	strcpy(status->message + length, reason);
	errno = saved_errno;
	return false;
}
