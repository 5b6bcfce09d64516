/*
 * log.c
 *	  The memory node's log. A line that can't be written is lost: the node goes on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "lb_clock.h"
#include "log.h"

#define LINE_MAX_BYTES 1000
#define LIMITED_PER_SECOND 10

static int log_fd = STDERR_FILENO;

static const char *const level_names[] = {
	[LOG_NOTE] = "LOG", [LOG_WARNING] = "WARNING", [LOG_ERROR] = "ERROR"};

bool
log_to_file(const char *path, lb_status *status)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return lb_fail_errno(status, "cannot open log file \"%s\"", path);
	log_fd = fd;
	return true;
}

void
log_close(void)
{
	if (log_fd != STDERR_FILENO)
		close(log_fd);
	log_fd = STDERR_FILENO;
}

static size_t
write_prefix(char *line, size_t size, log_level level)
{
	struct timeval now;
	struct tm parts;
	char day[32];
	char zone[16];

	gettimeofday(&now, NULL);
	localtime_r(&now.tv_sec, &parts);
	strftime(day, sizeof(day), "%Y-%m-%d %H:%M:%S", &parts);
	strftime(zone, sizeof(zone), "%Z", &parts);
	return (size_t) snprintf(line, size, "%s.%03d %s [%d] %s:  ", day, (int) (now.tv_usec / 1000),
							 zone, (int) getpid(), level_names[level]);
}

static void
write_line(log_level level, const char *format, va_list args)
{
	char line[LINE_MAX_BYTES];
	size_t start = write_prefix(line, sizeof(line), level);
	int text = vsnprintf(line + start, sizeof(line) - start, format, args);
	size_t length = start + (text < 0 ? 0 : (size_t) text);

	if (length > sizeof(line) - 1)
		length = sizeof(line) - 1;
	for (size_t i = start; i < length; i++)
		if ((unsigned char) line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[length++] = '\n';
	while (write(log_fd, line, length) < 0 && errno == EINTR)
		;
}

void
log_line(log_level level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	write_line(level, format, args);
	va_end(args);
}

void
log_limited(log_level level, const char *format, ...)
{
	static uint64_t second;
	static unsigned written;
	static unsigned left_out;
	uint64_t now = lb_now_ns() / UINT64_C(1000000000);
	va_list args;

	if (now != second)
	{
		if (left_out > 0)
			log_line(LOG_WARNING, "%u lines about refused or broken connections left out",
					 left_out);
		second = now;
		written = 0;
		left_out = 0;
	}
	if (written == LIMITED_PER_SECOND)
	{
		left_out++;
		return;
	}
	written++;
	va_start(args, format);
	write_line(level, format, args);
	va_end(args);
}
