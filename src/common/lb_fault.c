/*
 * lb_fault.c
 *	  Fault points: parsing of specifications, and what happens at a point.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lb_fault.h"

bool lb_fault_armed = false;

#ifdef LB_FAULT_POINTS

#define SPECIFICATION_MAX 500 /* bytes */
#define POINTS_MAX 16
#define NAME_MAX_LENGTH 63
#define WAIT_MAX_MS 600000

typedef enum fault_action
{
	FAULT_KILL,
	FAULT_STOP,
	FAULT_FAIL,
	FAULT_WAIT
} fault_action;

typedef struct fault_point
{
	char name[NAME_MAX_LENGTH + 1];
	fault_action action;
	uint32_t wait_ms; /* FAULT_WAIT */
	uint32_t only_at; /* the Nth time, or 0: every time */
	uint32_t reached; /* atomic */
} fault_point;

typedef struct fault_plan
{
	int count;
	fault_point points[POINTS_MAX];
} fault_plan;

static fault_plan plan;

/* A decimal number from 1 (or 0) to max that fills the text. */
static bool
parse_number(const char *text, uint32_t min, uint32_t max, uint32_t *number)
{
	char *end;
	unsigned long value;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno != 0 || *end != '\0' || value < min || value > max)
		return false;
	*number = (uint32_t) value;
	return true;
}

static bool
parse_action(const char *text, fault_point *point)
{
	if (strcmp(text, "kill") == 0)
		point->action = FAULT_KILL;
	else if (strcmp(text, "stop") == 0)
		point->action = FAULT_STOP;
	else if (strcmp(text, "fail") == 0)
		point->action = FAULT_FAIL;
	else if (strncmp(text, "wait:", 5) == 0)
	{
		point->action = FAULT_WAIT;
		return parse_number(text + 5, 0, WAIT_MAX_MS, &point->wait_ms);
	}
	else
		return false;
	return true;
}

/* One name=action[@N]; text is cut up in place. */
static bool
parse_point(char *text, fault_point *point, lb_status *status)
{
	char *action = strchr(text, '=');
	char *at;
	size_t name_length;

	memset(point, 0, sizeof(*point));
	if (action == NULL)
		return lb_fail(status, LB_INVALID, "fault point \"%s\" has no action", text);
	*action++ = '\0';
	name_length = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789._-");
	if (name_length == 0 || name_length > NAME_MAX_LENGTH || text[name_length] != '\0')
		return lb_fail(status, LB_INVALID, "\"%s\" is not the name of a fault point", text);
	memcpy(point->name, text, name_length);

	at = strchr(action, '@');
	if (at != NULL)
	{
		*at++ = '\0';
		if (!parse_number(at, 1, UINT32_MAX, &point->only_at))
			return lb_fail(status, LB_INVALID, "fault point \"%s\": bad count \"%s\"", text, at);
	}
	if (!parse_action(action, point))
		return lb_fail(status, LB_INVALID, "fault point \"%s\": bad action \"%s\"", text, action);
	return true;
}

static bool
parse_plan(const char *specification, fault_plan *result, lb_status *status)
{
	char copy[SPECIFICATION_MAX + 1];
	char *next = copy;

	memset(result, 0, sizeof(*result));
	if (specification == NULL || specification[0] == '\0')
		return true;
	if (strlen(specification) > SPECIFICATION_MAX)
		return lb_fail(status, LB_INVALID, "fault points take at most %d bytes", SPECIFICATION_MAX);
	strcpy(copy, specification);
	while (next != NULL)
	{
		char *text = next;

		next = strchr(text, ',');
		if (next != NULL)
			*next++ = '\0';
		if (result->count == POINTS_MAX)
			return lb_fail(status, LB_INVALID, "more than %d fault points", POINTS_MAX);
		if (!parse_point(text, &result->points[result->count], status))
			return false;
		result->count++;
	}
	return true;
}

bool
lb_fault_set(const char *specification, lb_status *status)
{
	fault_plan parsed;

	if (!parse_plan(specification, &parsed, status))
		return false;
	plan = parsed;
	lb_fault_armed = plan.count > 0;
	return true;
}

bool
lb_fault_check(const char *specification, lb_status *status)
{
	fault_plan parsed;

	return parse_plan(specification, &parsed, status);
}

static void
sleep_ms(uint32_t ms)
{
	struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long) (ms % 1000) * 1000000};

	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		continue;
}

bool
lb_fault_reached(const char *name)
{
	bool fail = false;

	for (int i = 0; i < plan.count; i++)
	{
		fault_point *point = &plan.points[i];
		uint32_t reached;

		if (strcmp(point->name, name) != 0)
			continue;
		reached = __atomic_add_fetch(&point->reached, 1, __ATOMIC_RELAXED);
		if (point->only_at != 0 && reached != point->only_at)
			continue;
		switch (point->action)
		{
			case FAULT_KILL:
				kill(getpid(), SIGKILL);
				break;
			case FAULT_STOP:
				kill(getpid(), SIGSTOP);
				break;
			case FAULT_FAIL:
				fail = true;
				break;
			case FAULT_WAIT:
				sleep_ms(point->wait_ms);
				break;
		}
	}
	return fail;
}

#else /* !LB_FAULT_POINTS */

bool
lb_fault_check(const char *specification, lb_status *status)
{
	if (specification == NULL || specification[0] == '\0')
		return true;
	return lb_fail(status, LB_INVALID,
				   "this build has no fault points (build with FAULT_POINTS=1)");
}

bool
lb_fault_set(const char *specification, lb_status *status)
{
	return lb_fault_check(specification, status);
}

#endif /* LB_FAULT_POINTS */
